"""A person in a real terminal: what is shown, what counts as yes, and that it is written down."""

from __future__ import annotations

import getpass
import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import select

from runbook import gate, settings
from runbook.approval import ApprovalForm, as_markdown, understood
from runbook.ledger import ledger
from runbook.model import Finding, Fix, Mode, Risk, plan_hash
from runbook.questions import EXPIRED
from runbook.run import Run
from runbook.schema import entry
from tests.runbook.parts import RUNBOOK, rows

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import asyncio, sys
from runbook import gate
from runbook.model import Mode, Risk
from runbook.questions import EXPIRED
from runbook.run import Run
from tests.runbook.parts import FINDING, RUNBOOK, rows

async def go():
    async with Run(RUNBOOK, Mode.approve) as run:
        run.found([FINDING])
        permit = await gate.ask(run, rows(5, Risk.person), share=None)
    print("granted", len(permit.fixes), [fix.why for fix in run.report.fixes][:1], flush=True)

asyncio.run(go())
"""


@pytest.fixture(autouse=True)
def may_act(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings.forget()


def in_a_terminal(answer: str) -> tuple[str, str]:
    """What the program says and shows to a person who types ``answer``."""
    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asked:
        os.close(inner)
        os.write(outer, answer.encode())
        said, shown = asked.communicate(timeout=60)
        os.close(outer)
    return said, shown


CTRL_D = "\x04"


@pytest.mark.parametrize(("answer", "granted"), [("Yes \n", 5), ("no\n", 0), ("y\n", 0), (CTRL_D, 0)])
def test_a_person_in_a_terminal_decides(answer: str, granted: int) -> None:
    said, shown = in_a_terminal(answer)
    me = getpass.getuser()
    assert f"granted {granted}" in said, shown
    assert (f"refused by {me}" in said) is (granted == 0)
    assert "- set **row 0** (person): it is wrong. Undo: swap" in shown
    assert "- rows: are old" in shown
    with ledger().read() as connection:
        (row,) = connection.execute(select(entry).where(entry.c.kind == "approval")).mappings()
    assert (row["body"]["by"], len(row["body"]["approved"])) == (me, granted)
    assert row["body"]["plan_hash"] == plan_hash(rows(5))


class Late(io.StringIO):
    """A person at a terminal who says yes after the question is over."""

    def isatty(self) -> bool:
        return True

    def readline(self, _size: int | None = -1) -> str:  # type: ignore[override]
        now = time.time_ns
        time.time_ns = lambda: now() + settings.settings().runbook_approval_seconds * 1_000_000_000 + 1_000_000
        return "yes\n"


async def test_a_yes_that_comes_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", time.time_ns)
    monkeypatch.setattr("sys.stdin", Late())
    async with Run(RUNBOOK, Mode.approve) as run:
        permit = await gate.ask(run, rows(2, Risk.person), share=None)
    assert not permit.fixes
    assert [fix.why for fix in run.result().fixes] == [EXPIRED] * 2


async def test_what_a_person_is_shown_is_whole_and_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "canary-value-1234")
    settings.forget()
    plan = rows(60, Risk.person)
    async with Run(RUNBOOK, Mode.approve) as run:
        run.findings.append(Finding(subject="rows", detail="told canary-value-1234 to someone@example.com"))
        shown = as_markdown(run, plan)
    assert "canary" not in shown
    assert "someone" not in shown
    assert f"**{RUNBOOK}** asks to do 60 fixes: plan `{plan_hash(plan)}`, run `{run.id}`." in shown
    assert "… and 10 more" in shown
    assert "(in 900 s) nothing is done." in shown
    assert f"{RUNBOOK} 0 of 20 in this run" in shown


def form(decision: Literal["approve", "refuse"], plan: Sequence[Fix], of: Sequence[Fix]) -> ApprovalForm:
    return ApprovalForm(
        decision=decision,
        approved=[f"{one.target} {one.action} {one.key}" for one in of],
        by="somebody",
        plan=plan_hash(plan),
    )


def test_the_rows_a_person_left_are_approved_and_no_other() -> None:
    plan = rows(5, Risk.person)
    assert understood(form("approve", plan, plan[:2]), plan).keys == {plan[0].key, plan[1].key}
    assert not understood(form("approve", plan, []), plan).keys
    assert not understood(form("approve", plan[:4], plan[4:]), plan[:4]).keys


def test_an_answer_is_good_for_the_plan_it_was_given_to() -> None:
    shown, drifted = rows(5, Risk.person), rows(4, Risk.person)
    said = understood(form("approve", shown, shown), drifted)
    assert not said.keys and said.refusal == "refused by somebody"
    assert not understood(form("refuse", shown, shown), shown).keys
