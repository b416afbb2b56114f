"""Takes one fix back: the inverse fix, through the same gate, by compare-and-set."""

from __future__ import annotations

from sqlalchemy import select

import flows
from runbook import gate
from runbook.errors import BadSetting
from runbook.ledger import Ledger, as_fix
from runbook.model import Finding, FixState, Mode, Outcome, Report
from runbook.permit import Hand
from runbook.run import Run
from runbook.schema import fix as fix_table


async def undo(ledger: Ledger, fix_id: str) -> Report:
    """Undo fix ``fix_id``; refuses when it was never done, cannot be undone, or its target has changed since."""
    with ledger.read() as connection:
        row = connection.execute(select(fix_table).where(fix_table.c.id == fix_id)).mappings().first()
    if row is None:
        raise BadSetting(fix_id, "the ledger holds no such fix", "runbook ledger --since 7d lists them")
    done, hands = as_fix(row), _hands(row["runbook"])
    if done.state not in {FixState.proven, FixState.applied}:
        raise BadSetting(fix_id, f"is {done.state}, so there is nothing to undo", f"runbook show {fix_id}")
    inverse = hands[done.action].undo
    if inverse is None:
        raise BadSetting(fix_id, f"{done.action} cannot be undone by a machine", done.undo)
    back = inverse(done).model_copy(update={"id": "", "state": FixState.planned})
    async with Run(row["runbook"], Mode.auto, pages=False) as run:
        run.found([Finding(subject=done.target, detail=f"undo of {fix_id} ({done.action}) asked for by a person")])
        permit = await gate.ask(run, [back], by_hand=True)
        await permit.apply(hands)
        if any(ledger.state(one.id) is FixState.proven for one in permit.fixes):
            ledger.move(fix_id, [done.state], FixState.undone, {"by": permit.fixes[0].id})
            run.remains([])
            put_right = hands[done.action].undone
            for text in await put_right(done) if put_right else ():
                run.notice(text)
    report = run.report or Report(id=run.id, runbook=row["runbook"], mode=run.mode, outcome=Outcome.refused)
    undone = report.outcome is Outcome.fixed
    return report.model_copy(update={"outcome": Outcome.undone}) if undone else report


def _hands(runbook: str) -> dict[str, Hand]:
    hands: dict[str, Hand] = flows.module(runbook).HANDS
    return hands
