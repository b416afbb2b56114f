"""The gate: takes a plan, gives a Permit. Everything that may stop an act is asked here, before any hand opens."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Sequence

from runbook import approval, undo
from runbook.errors import RunbookError
from runbook.ledger import now_ms
from runbook.model import Fix, FixState, Mode, Share, plan_hash
from runbook.permit import Permit
from runbook.policy import Facts, Verdict, decide
from runbook.run import Run
from runbook.settings import caps

GRANT_MS = 10 * 60 * 1000
"""How long a grant may wait for its hand."""


async def ask(
    run: Run,
    plan: Sequence[Fix],
    *,
    share: Share | None,
    again: Callable[[], Awaitable[Sequence[Fix]]] | None = None,
    by_hand: bool = False,
) -> Permit:
    """Grant what may be done of ``plan`` and write every decision to the ledger; an empty plan grants nothing.

    ``share`` is how much of the population is sick: past a bound nothing is done. None says that there is none; it has
    no default, so that no runbook forgets it. ``again`` reads and plans once more while the granted targets are locked:
    what is not planned the same way any more is given back. ``by_hand`` says that a person named these very fixes on
    the command line, which is an approval; the mode's ceiling, the caps and the red button stay.
    Raises ``LedgerError`` when a fact cannot be read: no facts, no permit.
    """
    if not plan:
        return Permit(run.ledger, ())
    said = approval.Approval()
    if by_hand:
        said = approval.Approval({fix.key for fix in plan}, getpass.getuser(), "named on the command line")
    elif run.mode is Mode.approve:
        said = await approval.ask(run, plan)
    permit = Permit(run.ledger, _decide_and_write(run, plan, share, said))
    if again is not None and permit.fixes:
        permit = await _recheck(permit, again)
    return permit


def _decide_and_write(run: Run, plan: Sequence[Fix], share: Share | None, said: approval.Approval) -> list[Fix]:
    ledger, identity, granted = run.ledger, plan_hash(plan), []
    with ledger.write() as connection:
        ledger.expire_grants(connection)
        facts = Facts(
            runbook=run.runbook,
            run_id=run.id,
            mode=run.mode,
            now_ms=now_ms(),
            stopped=ledger.stopped(connection),
            history=ledger.history(connection, run.id),
            open_targets=ledger.open_targets(connection),
            taken_back=undo.taken_back(connection),
            approved=said.keys,
            refusal=said.refusal,
            share=share,
            caps=caps(),
        )
        if said.by:
            ledger.note(connection, "approval", said.as_json() | {"plan_hash": identity}, run_id=run.id)
        for verdict in decide(plan, facts):
            decided = _as_decided(verdict, run.mode)
            recorded = ledger.record(connection, run.id, run.runbook, decided, identity, GRANT_MS)
            if recorded is None:
                lost = decided.model_copy(update={"state": FixState.refused, "why": "another run holds this target"})
                ledger.record(connection, run.id, run.runbook, lost, identity, GRANT_MS)
            elif verdict.granted:
                granted.append(recorded)
    return granted


def _as_decided(verdict: Verdict, mode: Mode) -> Fix:
    if mode is Mode.observe:
        return verdict.fix  # planned, shown, and no more than that
    state = FixState.granted if verdict.granted else FixState.refused
    why = verdict.fix.why if verdict.granted else verdict.why
    return verdict.fix.model_copy(update={"state": state, "why": why})


async def _recheck(permit: Permit, again: Callable[[], Awaitable[Sequence[Fix]]]) -> Permit:
    try:
        fresh = {fix.key for fix in await again()}
    except BaseException as error:
        said = str(error) if isinstance(error, RunbookError) else type(error).__name__
        for fix in permit.fixes:
            permit.refuse(fix, f"could not be read again: {said}")
        raise
    kept = []
    for fix in permit.fixes:
        if fix.key in fresh:
            kept.append(fix)
        else:
            permit.refuse(fix, "the target changed since it was read")
    return Permit(permit.ledger, kept)
