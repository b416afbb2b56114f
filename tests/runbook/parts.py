"""What the grammar's tests share: both kinds of ledger, and fixes of no particular runbook."""

from __future__ import annotations

from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Risk


def a_fix(target: str = "row 1", *, action: str = "set", risk: Risk = Risk.auto, was: str = "old") -> Fix:
    return Fix(
        action=action, target=target, risk=risk, why="it is wrong", undo="swap", expect={"v": was}, want={"v": "new"}
    )


def grant(book: Ledger, one: Fix, ttl_ms: int = 60_000, runbook: str = "a-runbook") -> Fix:
    """Write one granted fix, as the gate does."""
    run_id = book.open_run(runbook, "auto")
    with book.write(grant=True) as connection:
        granted = book.record(
            connection, run_id, runbook, one.model_copy(update={"state": FixState.granted}), "plan", ttl_ms
        )
    assert granted is not None
    return granted
