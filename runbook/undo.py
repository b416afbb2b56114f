"""What a person took back: said before it is done, so that it counts whatever becomes of the process that does it."""

from __future__ import annotations

from sqlalchemy import Connection, select

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
    vain = select(fix.c.id).where(fix.c.id.in_([row.body.get("by") for row in rows]), fix.c.state.in_(NOT_DONE))
    not_done = set(connection.execute(vain).scalars()) if rows else set()
    inverse = {row.fix_id: row.body.get("by") for row in rows if row.body.get("by") not in not_done}
    undone = connection.execute(select(fix).where(fix.c.id.in_(inverse))).mappings().all() if inverse else []
    done = fix.c.target.in_({row["target"] for row in undone}) & fix.c.state.in_(DONE_STATES)
    later = connection.execute(select(fix).where(done)).mappings().all() if undone else []
    return {
        row["target"]
        for row in undone
        if not any(
            one["target"] == row["target"] and one["seq"] > row["seq"] and one["id"] != inverse[row["id"]]
            for one in later
        )
    }
