"""Asking a person: a paused run with a form under Prefect, a question in a terminal, a refusal where neither is."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from runbook import questions
from runbook.ledger import now_ms
from runbook.mask import mask
from runbook.model import Fix, Json, plan_hash
from runbook.policy import Facts, used
from runbook.process import ASKING
from runbook.settings import caps, settings

if TYPE_CHECKING:
    from runbook.run import Run

SHOWN = 50
"""How many fixes are spelled out; the form has a row for each."""


@dataclass(frozen=True)
class Approval:
    """What a person said: which fixes (by key), who, why; ``refusal`` is why none were."""

    keys: Collection[str] = ()
    by: str = ""
    reason: str = ""
    refusal: str = ""

    def as_json(self) -> dict[str, Json]:
        """The form the ledger keeps."""
        return {"by": self.by, "reason": self.reason, "approved": sorted(self.keys), "refusal": self.refusal}


class ApprovalForm(RunInput):
    """The form a paused run shows."""

    decision: Literal["refuse", "approve"] = Field("refuse", description="Nothing is done unless you approve.")
    approved: list[str] = Field(default_factory=list, description="Delete the rows that must not be done.")
    by: str = Field(min_length=1, description="Your name, for the ledger.")
    reason: str = Field("", description="Why, for whoever reads the ledger later.")
    plan: str = Field("", description="Identity of the plan shown above; leave it as it is.")


async def ask(run: Run, plan: Sequence[Fix]) -> Approval:
    """Show ``plan`` to a person and return what they said; good for exactly this plan."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        if context.flow_run.parent_task_run_id is not None or context.flow_run.deployment_id is None:
            return Approval(refusal="a person must approve: start this runbook's own deployment with mode approve")
        return await _ask_in_prefect(run, plan, str(context.flow_run.id))
    if sys.stdin is not None and sys.stdin.isatty():
        ASKING.set()
        try:
            return await asyncio.to_thread(_ask_in_terminal, run, plan)
        finally:
            ASKING.clear()
    return Approval(refusal="a person must approve and nobody is here: run it in a terminal or from the Prefect UI")


async def _ask_in_prefect(run: Run, plan: Sequence[Fix], flow_run: str) -> Approval:
    unattended = _unattended()
    if unattended and not run.goes_on and (why := questions.why_not_ask(run.ledger, run.runbook, plan)):
        return Approval(refusal=why)
    identity, seconds = plan_hash(plan), settings().runbook_approval_seconds
    form = ApprovalForm.with_initial_data(
        description=as_markdown(run, plan), approved=[_row(fix) for fix in plan], plan=identity
    )
    run.asks = questions.Question(flow_run, identity, now_ms() + seconds * 1000, unattended)
    # The key is the plan: after a resume a plan that has drifted is a new question, the same one is an answer, once.
    said = await suspend_flow_run(  # type: ignore[misc]  # dispatched: a coroutine inside a running loop
        wait_for_input=form, timeout=seconds, key=questions.key(run.ledger, run.id, identity)
    )
    run.asks = None
    if questions.is_expired(run.ledger, flow_run, identity):
        return Approval(by=said.by, reason=said.reason, refusal=questions.EXPIRED)
    return understood(said, plan)


def _unattended() -> bool:
    """True for a run that a schedule or an event has made, in which nobody waits to be asked."""
    context = FlowRunContext.get()
    one = context.flow_run if context is not None else None
    automatic = one is not None and one.created_by is not None and one.created_by.type == "AUTOMATION"
    return one is not None and (automatic or bool(one.auto_scheduled))


def understood(said: ApprovalForm, plan: Sequence[Fix]) -> Approval:
    """What an answer means for ``plan``: an answer to another plan, or of rows that are not in it, approves nothing."""
    if said.decision != "approve" or said.plan != plan_hash(plan):
        return Approval(by=said.by, reason=said.reason, refusal=f"refused by {said.by}{_because(said.reason)}")
    rows = {row.rpartition(" ")[2] for row in said.approved}
    return Approval({fix.key for fix in plan if fix.key in rows}, said.by, said.reason)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _ask_in_terminal(run: Run, plan: Sequence[Fix]) -> Approval:
    print(as_markdown(run, plan), file=sys.stderr)
    print(
        f"Type yes to let runbook do these {len(plan)}, anything else to refuse: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    by, until_ms = getpass.getuser(), now_ms() + settings().runbook_approval_seconds * 1000
    if sys.stdin.readline().strip().lower() != "yes":
        return Approval(by=by, refusal=f"refused by {by}")
    if now_ms() > until_ms:
        return Approval(by=by, refusal=questions.EXPIRED)
    return Approval({fix.key for fix in plan}, by, "typed yes in a terminal")


def _row(fix: Fix) -> str:
    return f"{fix.target} {fix.action} {fix.key}"


def as_markdown(run: Run, plan: Sequence[Fix]) -> str:
    """The plan with its evidence, caps and expiry, as a person reads it before deciding.

    A list, not a table: the dialog of the Prefect UI is too narrow for one.
    """
    seconds = settings().runbook_approval_seconds
    until = datetime.fromtimestamp(now_ms() // 1000 + seconds, UTC).strftime("%H:%M:%S UTC")
    lines = [
        f"**{run.runbook}** asks to do {len(plan)} {'fix' if len(plan) == 1 else 'fixes'}: plan `{plan_hash(plan)}`, "
        f"run `{run.id}`. Without an answer by {until} (in {seconds} s) nothing is done.",
        "",
        *(f"- {fix.action} **{fix.target}** ({fix.risk}): {fix.why}. Undo: {fix.undo}" for fix in plan[:SHOWN]),
    ]
    if len(plan) > SHOWN:
        lines.append(f"- … and {len(plan) - SHOWN} more: each has its row below")
    lines += ["", "Found:", "", *(f"- {finding.subject}: {finding.detail}" for finding in run.findings)]
    lines += ["", f"Caps used: {'; '.join(used(plan, _facts(run)))}."]
    return str(mask("\n".join(lines)))


def _facts(run: Run) -> Facts:
    with run.ledger.read() as connection:
        history = run.ledger.history(connection, run.id)
    return Facts(run.runbook, run.id, run.mode, now_ms(), None, history, (), caps=caps())
