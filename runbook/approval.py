"""Asking a person: a paused run with a form under Prefect, a question in a terminal, a refusal where neither is."""

from __future__ import annotations

import asyncio
import getpass
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from runbook.mask import mask
from runbook.model import Fix, Json, plan_hash
from runbook.settings import settings

if TYPE_CHECKING:
    from runbook.run import Run


ASKING = threading.Event()
"""Set while a question stands in the terminal: nothing else is written there."""


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
    by: str = Field("", description="Your name, for the ledger.")
    reason: str = Field("", description="Why, for whoever reads the ledger later.")
    plan: str = Field("", description="Identity of the plan shown above; leave it as it is.")


async def ask(run: Run, plan: Sequence[Fix]) -> Approval:
    """Show ``plan`` to a person and return what they said; good for exactly this plan."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        if context.flow_run.parent_task_run_id is not None or context.flow_run.deployment_id is None:
            return Approval(refusal="a person must approve: start this runbook's own deployment with mode approve")
        return await _ask_in_prefect(run, plan)
    if sys.stdin is not None and sys.stdin.isatty():
        ASKING.set()
        try:
            return await asyncio.to_thread(_ask_in_terminal, run, plan)
        finally:
            ASKING.clear()
    return Approval(refusal="a person must approve and nobody is here: run it in a terminal or from the Prefect UI")


async def _ask_in_prefect(run: Run, plan: Sequence[Fix]) -> Approval:
    identity = plan_hash(plan)
    form = ApprovalForm.with_initial_data(
        description=as_markdown(run, plan), approved=[_row(fix) for fix in plan], plan=identity
    )
    # The key is the plan: after a resume a plan that has drifted is a new question, the same one is an answer.
    said = await suspend_flow_run(  # type: ignore[misc]  # dispatched: a coroutine inside a running loop
        wait_for_input=form, timeout=settings().runbook_approval_seconds, key=f"approve-{identity}"
    )
    if said is None or said.decision != "approve" or said.plan != identity:
        by = getattr(said, "by", "") or "a person in the Prefect UI"
        return Approval(by=by, reason=getattr(said, "reason", ""), refusal=f"refused by {by}")
    rows = {row.split(" ", 1)[0] for row in said.approved}
    return Approval({fix.key for fix in plan if fix.key in rows}, said.by or "a person in the Prefect UI", said.reason)


def _ask_in_terminal(run: Run, plan: Sequence[Fix]) -> Approval:
    print(as_markdown(run, plan), file=sys.stderr)
    print(
        f"Type yes to let runbook do these {len(plan)}, anything else to refuse: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    by = getpass.getuser()
    if sys.stdin.readline().strip().lower() != "yes":
        return Approval(by=by, refusal=f"refused by {by}")
    return Approval({fix.key for fix in plan}, by, "typed yes in a terminal")


def _row(fix: Fix) -> str:
    return f"{fix.key} {fix.action} {fix.target}"


def as_markdown(run: Run, plan: Sequence[Fix]) -> str:
    """The plan with its evidence, caps and expiry, as a person reads it before deciding."""
    lines = [f"**{run.runbook}** asks to do {len(plan)} fixes. Plan `{plan_hash(plan)}`, run `{run.id}`.", ""]
    lines += [f"- {finding.subject}: {finding.detail}" for finding in run.findings]
    lines += ["", "| action | target | risk | why | undo |", "|---|---|---|---|---|"]
    lines += [f"| {fix.action} | {fix.target} | {fix.risk} | {fix.why} | {fix.undo} |" for fix in plan[:50]]
    if len(plan) > 50:
        lines.append(f"| … | {len(plan) - 50} more | | | |")
    lines += ["", f"Without an answer in {settings().runbook_approval_seconds} s nothing is done."]
    return str(mask("\n".join(lines)))
