"""Looks into the ledger for a person: the runs of late, one id in full, what is open now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import select

import flows
from runbook import licence, schema
from runbook.errors import BadSetting
from runbook.ledger import Ledger, now_ms
from runbook.model import Json
from runbook.schema import entry, finding, fix, link, run

BATCH = 1_000
UNITS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _when(at_ms: int | None) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds") if at_ms else None


def _timed(row: dict[str, Json]) -> dict[str, Json]:
    return {key.removesuffix("_ms"): _when(value) if key.endswith("_ms") else value for key, value in row.items()}


def span_ms(text: str) -> int:
    """A span of time as a person writes it (``90m``, ``24h``, ``7d``), in milliseconds."""
    parsed = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if parsed is None:
        raise BadSetting(repr(text), "is no span of time", "write 90m, 24h or 7d")
    return int(parsed[1]) * UNITS[parsed[2]]


def runs(ledger: Ledger, since: str) -> list[dict[str, Json]]:
    """The runs that began within ``since`` (``90m``, ``24h``, ``7d``), newest first, each with counts of its fixes."""
    after = now_ms() - span_ms(since)
    with ledger.read() as connection:
        found = connection.execute(
            select(run).where(run.c.started_at_ms > after).order_by(run.c.started_at_ms.desc(), run.c.id)
        ).mappings()
        rows = [_timed({key: row[key] for key in row if key not in {"report", "owner"}}) for row in found]
        for row in rows:
            states = [one.state for one in connection.execute(select(fix.c.state).where(fix.c.run_id == row["id"]))]
            row["fixes"] = {state: states.count(state) for state in sorted(set(states))}
    return rows


def as_text(rows: list[dict[str, Json]]) -> str:
    """Those runs, a line each."""
    lines = []
    for row in rows:
        fixes = ", ".join(f"{count} {state}" for state, count in row["fixes"].items()) or "no fixes"
        lines.append(f"{row['started_at']}  {row['id']}  {row['runbook']:<18} {row['outcome'] or 'running':<9} {fixes}")
    return "\n".join(lines) or "No runs in that time."


def one(ledger: Ledger, id_: str) -> dict[str, Json]:
    """Everything the ledger holds of one run, or of one fix: evidence, decision, before and after, act, proof, undo."""
    table, column = (fix, entry.c.fix_id) if id_.startswith("fix_") else (run, entry.c.run_id)
    with ledger.read() as connection:
        row = connection.execute(select(table).where(table.c.id == id_)).mappings().first()
        if row is None:
            raise BadSetting(id_, "the ledger holds no such run or fix", "runbook ledger --since 7d lists them")
        found = _timed({key: value for key, value in row.items() if key != "report"})
        run_id = id_ if table is run else row["run_id"]
        evidence = connection.execute(select(finding).where(finding.c.run_id == run_id)).mappings()
        found["findings"] = [_timed(dict(each)) for each in evidence]
        if table is run:
            listed = select(fix.c.id, fix.c.action, fix.c.target, fix.c.state, fix.c.why).where(fix.c.run_id == id_)
            found["fixes"] = [dict(each) for each in connection.execute(listed.order_by(fix.c.seq)).mappings()]
            found["notices"] = (row["report"] or {}).get("notices", [])
            found["reason"] = (row["report"] or {}).get("reason", "")
        asked = (entry.c.run_id == run_id) & (entry.c.kind == "approval")
        told = connection.execute(select(entry).where((column == id_) | asked).order_by(entry.c.seq)).mappings()
        found["entries"] = [_timed(dict(each)) for each in told]
    return found


def export(ledger: Ledger, since: str) -> Iterator[dict[str, Json]]:
    """Every entry within ``since`` with its hash, oldest first: what another tool needs to check the chain itself."""
    rule = select(entry, link.c.hash).outerjoin(link, link.c.seq == entry.c.seq).order_by(entry.c.seq).limit(BATCH)
    after, at = now_ms() - span_ms(since), 0
    while True:
        with ledger.read() as connection:
            rows = connection.execute(rule.where(entry.c.seq > at, entry.c.at_ms > after)).mappings().all()
        yield from map(dict, rows)
        if len(rows) < BATCH:
            return
        at = rows[-1]["seq"]


def status(ledger: Ledger) -> dict[str, Json]:
    """The red button, every fix that is granted or under way, and which runbooks may act alone."""
    with ledger.read() as connection:
        stopped = ledger.stopped(connection)
        rows = connection.execute(select(fix).where(fix.c.state.in_(schema.OPEN_STATES))).mappings()
        open_fixes = [{key: row[key] for key in ("id", "runbook", "action", "target", "state")} for row in rows]
    may = {name: _licence(licence.standing(ledger, name)) for name in flows.names()}
    return {"stopped": stopped is not None, "reason": stopped or "", "open_fixes": open_fixes, "may_act_alone": may}


def _licence(found: licence.Standing) -> str:
    if not found.valid:
        return f"no: {found.why}"
    return f"until {_when(found.until_ms)}" if found.until_ms else found.why
