"""What a person took back: said before it is done, so that it counts whatever becomes of the process that does it."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from runbook.ledger import DONE_STATES, Ledger, now_ms
from runbook.model import FixState
from runbook.policy import HOURS_24
from runbook.schema import entry, fix

UNDOING = "undoing"
NOT_DONE = (FixState.refused.value, FixState.failed.value)


def intend(ledger: Ledger, fix_id: str, inverse_id: str) -> None:
    """Write that ``inverse_id``, granted and not yet begun, takes ``fix_id`` back."""
    with ledger.write() as connection:
        ledger.note(connection, UNDOING, {"by": inverse_id}, fix_id=fix_id)


def finish(ledger: Ledger, inverse_id: str) -> None:
    """Call undone what the proven ``inverse_id`` took back; nothing where it is the inverse of nothing."""
    with ledger.read() as connection:
        rows = connection.execute(select(entry.c.fix_id, entry.c.body).where(entry.c.kind == UNDOING)).all()
    for row in rows:
        if row.body["by"] == inverse_id:
            ledger.move(row.fix_id, [FixState.applied, FixState.proven], FixState.undone, {"by": inverse_id})


def taken_back(connection: Connection) -> set[str]:
    """Targets on which a person undid something in the last 24 hours, or may have, and nothing was done since."""
    said = select(entry.c.fix_id, entry.c.body).where(entry.c.kind.in_([UNDOING, FixState.undone.value]))
    rows = connection.execute(said.where(entry.c.at_ms > now_ms() - HOURS_24).order_by(entry.c.seq)).all()
    named = select(fix.c.id, fix.c.seq, fix.c.state).where(fix.c.id.in_([row.body.get("by") for row in rows]))
    inverses = {one.id: one for one in connection.execute(named)} if rows else {}
    tried = [(row.fix_id, inverses.get(row.body.get("by"))) for row in rows]
    by = {id_: inverse for id_, inverse in tried if inverse is None or inverse.state not in NOT_DONE}
    undone = connection.execute(select(fix).where(fix.c.id.in_(by))).mappings().all() if by else []
    done = fix.c.target.in_({row["target"] for row in undone}) & fix.c.state.in_(DONE_STATES)
    last = select(fix.c.target, func.max(fix.c.seq)).where(done).group_by(fix.c.target)
    latest = {row[0]: row[1] for row in connection.execute(last)} if undone else {}
    # What was done between an act and its undo, on the same target, is no reason to do it again.
    since = {row["id"]: inverse.seq if (inverse := by[row["id"]]) else row["seq"] for row in undone}
    return {row["target"] for row in undone if latest.get(row["target"], 0) <= since[row["id"]]}
