"""Sealing: one entry stands in for all that is old, the chain goes on, and nothing that still counts is forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Connection, Select, delete, func, select

from runbook.chain import SEALED
from runbook.errors import BadSetting
from runbook.ledger import Ledger, now_ms
from runbook.model import Json
from runbook.rowcheck import CARRIED, RUN, of_fix, of_run
from runbook.schema import OPEN_STATES, entry, finding, fix, incident, incident_item, link, page, run
from runbook.settings import settings

DAY_MS = 86_400_000
FLOOR_DAYS = 31
"""Caps, cooldowns, the breaker, what a person took back and the rule of 30 days for bounces look back less far."""


def seal(ledger: Ledger, before_ms: int) -> Mapping[str, Json]:
    """Let one entry stand in for all that is older than ``before_ms``; what it says, empty where nothing was.

    A stop that stands is noted anew, and what an open fix belongs to, or a licence may rest on, is never old. Raises
    ``BadSetting`` for what is younger than 31 days: guards still read it.
    """
    if before_ms > now_ms() - FLOOR_DAYS * DAY_MS:
        problem = f"nothing younger than {FLOOR_DAYS} days: caps, cooldowns and what a person undid are read from it"
        raise BadSetting("a seal takes", problem, f"runbook seal --older {FLOOR_DAYS}d")
    edge = min(before_ms, now_ms() - settings().runbook_licence_days * DAY_MS)
    with ledger.write() as connection:
        summed = _summary(connection, edge)
        if summed:
            ledger.note(connection, SEALED, summed)
            _keep_stop(ledger, connection, summed["to_seq"])
            _forget(connection, summed)
            _carry(ledger, connection)
    return summed


def _summary(connection: Connection, before_ms: int) -> Mapping[str, Json]:
    open_runs = select(fix.c.run_id).where(fix.c.state.in_(OPEN_STATES))
    begun = connection.execute(select(func.min(run.c.started_at_ms)).where(run.c.id.in_(open_runs))).scalar_one()
    edge = before_ms if begun is None else min(before_ms, begun)
    young = connection.execute(select(func.min(entry.c.seq)).where(entry.c.at_ms >= edge)).scalar_one()
    rule = select(link.c.seq, link.c.hash).order_by(link.c.seq.desc()).limit(1)
    last = connection.execute(rule if young is None else rule.where(link.c.seq < young)).first()
    if last is None:
        return {}
    outcomes = connection.execute(select(run.c.runbook, run.c.outcome).where(run.c.id.in_(_old(last.seq))))
    states = connection.execute(select(fix.c.action, fix.c.state).where(fix.c.run_id.in_(_old(last.seq))))
    kept = select(func.count()).select_from(run).where(run.c.id.not_in(_old(last.seq)))
    return {
        "to_seq": last.seq,
        "last_hash": last.hash,
        "before_ms": edge,
        "runs": dict(Counter(f"{one.runbook} {one.outcome}" for one in outcomes)),
        "fixes": dict(Counter(f"{one.action} {one.state}" for one in states)),
        "kept": connection.execute(kept).scalar_one(),
    }


def _old(to_seq: int) -> Select[tuple[str]]:
    """Runs of which no entry is younger, neither their own nor one of their fixes'."""
    own = select(entry.c.run_id).where(entry.c.seq > to_seq, entry.c.run_id.is_not(None))
    of_fixes = select(fix.c.run_id).join(entry, entry.c.fix_id == fix.c.id).where(entry.c.seq > to_seq)
    return select(run.c.id).where(run.c.id.not_in(own.union(of_fixes)))


def _keep_stop(ledger: Ledger, connection: Connection, to_seq: int) -> None:
    rule = select(entry).where(entry.c.kind.in_(["stop", "start"])).order_by(entry.c.seq.desc()).limit(1)
    last = connection.execute(rule).mappings().first()
    if last is not None and last["kind"] == "stop" and last["seq"] <= to_seq:
        ledger.note(connection, "stop", {"since_ms": last["at_ms"]} | last["body"])


def _forget(connection: Connection, summed: Mapping[str, Json]) -> None:
    gone = list(connection.execute(_old(summed["to_seq"])).scalars())
    for at in range(0, len(gone), 500):  # a database takes only so many values in one statement
        for table, column in ((finding, finding.c.run_id), (fix, fix.c.run_id), (run, run.c.id)):
            connection.execute(delete(table).where(column.in_(gone[at : at + 500])))
    closed = select(incident.c.id).where(incident.c.closed_at_ms < summed["before_ms"])
    connection.execute(delete(incident_item).where(incident_item.c.incident_id.in_(closed)))
    connection.execute(delete(incident).where(incident.c.closed_at_ms < summed["before_ms"]))
    of_open = select(incident_item.c.page_seq).where(incident_item.c.page_seq.is_not(None))
    connection.execute(delete(page).where(page.c.resolved_at_ms < summed["before_ms"], page.c.seq.not_in(of_open)))
    for one in (link, entry):
        connection.execute(delete(one).where(one.c.seq <= summed["to_seq"]))


def _carry(ledger: Ledger, connection: Connection) -> None:
    """Say once more of each row that stays what only a sealed entry said."""
    begun = select(entry.c.run_id).where(entry.c.kind.in_([RUN, CARRIED]), entry.c.run_id.is_not(None))
    for row in connection.execute(select(run).where(run.c.id.not_in(begun.where(entry.c.fix_id.is_(None))))).mappings():
        ledger.note(connection, CARRIED, of_run(dict(row)), run_id=row["id"])
    decided = select(entry.c.fix_id).where(entry.c.run_id.is_not(None), entry.c.fix_id.is_not(None))
    for row in connection.execute(select(fix).where(fix.c.id.not_in(decided))).mappings():
        ledger.note(connection, CARRIED, of_fix(dict(row)), run_id=row["run_id"], fix_id=row["id"])
