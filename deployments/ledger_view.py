"""Looks into the ledger for a person: the runs of late, one id in full, what is open now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import func, select

import flows
from runbook import licence, rowcheck, schema, story
from runbook.errors import BadSetting
from runbook.ledger import Ledger, now_ms
from runbook.model import Json
from runbook.schema import entry, finding, fix, hook, incident_item, link, page, run

BATCH = 1_000
UNITS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def when(at_ms: int | None) -> str | None:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds") if at_ms else None


def _timed(row: dict[str, Json]) -> dict[str, Json]:
    return {key.removesuffix("_ms"): when(value) if key.endswith("_ms") else value for key, value in row.items()}


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
    """Everything the ledger holds of one id that any command prints: a run, a fix, an incident, a page or a webhook."""
    if id_.startswith("inc_"):
        return incident(ledger, id_)
    if id_.startswith(("fix_", "run_")):
        return _run_or_fix(ledger, id_)
    for table, column in ((hook, hook.c.id), (page, page.c.key)):
        with ledger.read() as connection:
            # A page's key is used again by the next incident: the newest is meant.
            rule = select(table).where(column == id_).order_by(table.c.seq.desc()).limit(1)
            row = connection.execute(rule).mappings().first()
            if row is None:
                continue
            found = _timed(dict(row))
            if table is page:
                of = select(incident_item.c.incident_id).where(incident_item.c.page_seq == row["seq"])
                found["incident"] = connection.execute(of).scalar_one_or_none()
            return found
    raise BadSetting(
        id_, "the ledger holds nothing of that id", "runbook ledger --since 7d lists runs, runbook pages pages"
    )


def incident(ledger: Ledger, id_: str) -> dict[str, Json]:
    """One incident: its symptoms and how each stands, and all that belongs to it."""
    told = story.gather(ledger, id_).model_dump(mode="json")
    own = told.pop("incident")
    until = told.pop("until_ms")
    kept = {name: told[name] for name in ("runs", "found", "tried", "answers", "pages", "notes", "deployed", "impact")}
    return _timed(own) | {"until": when(until)} | {name: _times(value) for name, value in kept.items()}


def _times(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _times(inner) for key, inner in _timed(value).items()}
    return [_times(inner) for inner in value] if isinstance(value, list) else value


def _run_or_fix(ledger: Ledger, id_: str) -> dict[str, Json]:
    """A run or a fix in full: evidence, decision, before and after, act, proof, undo."""
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
    """Every entry within ``since`` with its hash, oldest first, and the fix with the entry that decided it: what
    another tool needs to check the chain, and each ``image`` in it, by itself."""
    rule = select(entry, link.c.hash).outerjoin(link, link.c.seq == entry.c.seq).order_by(entry.c.seq).limit(BATCH)
    after, at = now_ms() - span_ms(since), 0
    while True:
        with ledger.read() as connection:
            rows = connection.execute(rule.where(entry.c.seq > at, entry.c.at_ms > after)).mappings().all()
            decided = {row["fix_id"]: row["seq"] for row in rows if row["fix_id"] and "image" in row["body"]}
            found = connection.execute(select(fix).where(fix.c.id.in_(decided))).mappings()
            fixes = {decided[row["id"]]: {name: row[name] for name in rowcheck.IMAGE} for row in found}
        for row in rows:
            yield dict(row) | ({"fix": fixes[row["seq"]]} if row["seq"] in fixes else {})
        if len(rows) < BATCH:
            return
        at = rows[-1]["seq"]


def place(ledger: Ledger) -> str:
    """Which database this ledger is, and when a run last began by it: a wrong one is to be noticed at once."""
    url = ledger.engine.url  # never as a URL: all of it is a secret, and would be masked
    server = f"PostgreSQL {url.database} on {url.host or 'a local socket'}:{url.port or 5432}"
    where = f"SQLite {url.database}" if url.get_backend_name() == "sqlite" else server
    with ledger.read() as connection:
        last = when(connection.execute(select(func.max(run.c.started_at_ms))).scalar())
    return f"{where}, last run {last}" if last else f"{where}, WHERE NO RUN EVER WAS: is it the one your runs use?"


def button(ledger: Ledger) -> dict[str, Json]:
    """The ledger, its red button, and every fix that is granted or under way."""
    with ledger.read() as connection:
        stopped = ledger.stopped(connection)
        rows = connection.execute(select(fix).where(fix.c.state.in_(schema.OPEN_STATES))).mappings()
        open_fixes = [{key: row[key] for key in ("id", "runbook", "action", "target", "state")} for row in rows]
    said = {"stopped": stopped is not None, "reason": stopped or "", "ledger": place(ledger)}
    return said | {"open_fixes": open_fixes}


def may_act_alone(ledger: Ledger) -> dict[str, Json]:
    """Which runbooks may act alone, and why the others may not."""
    return {name: _licence(licence.standing(ledger, name)) for name in flows.acting()}


def _licence(found: licence.Standing) -> str:
    if not found.valid:
        return f"no: {found.why}"
    return f"until {when(found.until_ms)}" if found.until_ms else found.why
