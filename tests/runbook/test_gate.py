"""The gate as flows meet it: modes, canary, drift, a person in a terminal, and what a run comes to."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runbook import gate, settings
from runbook.errors import BadSetting, NotConfigured, OutsideError
from runbook.ledger import Ledger, ledger
from runbook.model import Finding, Fix, FixState, Mode, Outcome, Proof, Report, Risk
from runbook.permit import Hand, Permit
from runbook.run import Run
from runbook.step import hand, reader
from tests.runbook.parts import a_fix

WORLD: dict[str, str] = {}
BROKEN: set[str] = set()
FINDING = Finding(subject="rows", detail="are old")


@hand("set {fix.target}")
async def set_row(fix: Fix, permit: Permit) -> None:
    with permit.attempt(fix) as attempt:
        if fix.target in BROKEN:
            raise OutsideError("world", "went away", "look")
        if WORLD.get(fix.target) != fix.expect["v"]:
            attempt.moved_on("not as it was read")
            return
        WORLD[fix.target] = fix.want["v"]


@reader("look up {fix.target}")
async def look_up(fix: Fix) -> Proof:
    if fix.target == "hidden":
        return Proof(held=None, seen="nothing")
    return Proof(held=WORLD.get(fix.target) == fix.want["v"], seen=str(WORLD.get(fix.target)))


HANDS = {"set": Hand(set_row, look_up)}


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> None:
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", ledger_url)
    settings.forget()
    BROKEN.clear()
    WORLD.clear()
    WORLD.update({f"row {i}": "old" for i in range(10)})


def rows(n: int, risk: Risk = Risk.auto) -> list[Fix]:
    return [a_fix(f"row {i}", risk=risk) for i in range(n)]


async def story(plan: Sequence[Fix], mode: Mode = Mode.auto, **more: object) -> Report:
    async with Run("a-runbook", mode) as run:
        run.found([FINDING])
        permit = await gate.ask(run, plan, **more)  # type: ignore[arg-type]
        await permit.apply(HANDS)
        left = [one for one in plan if WORLD.get(one.target) != "new"]
        run.remains([FINDING] if left else [])
    return run.result()


def states(report: Report) -> list[str]:
    return [fix.state.value for fix in report.fixes]


async def test_auto_fixes_and_proves() -> None:
    report = await story(rows(3))
    assert (report.outcome, report.exit_code, states(report)) == (Outcome.fixed, 0, ["proven"] * 3)


async def test_observe_shows_the_plan_and_changes_nothing() -> None:
    report = await story(rows(3), Mode.observe)
    assert (report.outcome, report.exit_code, states(report)) == (Outcome.observed, 3, ["planned"] * 3)
    assert set(WORLD.values()) == {"old"}


async def test_the_ceiling_lowers_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNBOOK_MODE")
    settings.forget()
    report = await story(rows(1))
    assert report.mode is Mode.observe
    assert "RUNBOOK_MODE is the ceiling" in report.notices[0]
    assert WORLD["row 0"] == "old"


async def test_the_red_button_refuses_everything() -> None:
    ledger().press("stop", "fire")
    report = await story(rows(2))
    assert (report.outcome, report.exit_code, states(report)) == (Outcome.refused, 3, ["refused"] * 2)
    assert "fire" in report.fixes[0].why


async def test_a_guarded_fix_goes_first_and_the_rest_only_after_its_proof() -> None:
    report = await story(rows(4, Risk.guarded))
    assert states(report) == ["proven"] * 4
    WORLD.update({f"row {i}": "old" for i in range(4)})
    WORLD["row 4"] = "old"
    BROKEN.add("row 4")
    report = await story([a_fix(f"row {i}", risk=Risk.guarded) for i in (4, 5, 6)])
    assert states(report) == ["failed", "refused", "refused"]
    assert "was not proven" in report.fixes[1].why
    assert (WORLD["row 5"], report.outcome, report.exit_code) == ("old", Outcome.unsolved, 4)


async def test_a_target_that_moved_on_is_left_alone() -> None:
    WORLD["row 1"] = "someone else's"
    report = await story(rows(3))
    assert states(report) == ["proven", "refused", "proven"]
    assert WORLD["row 1"] == "someone else's"


async def test_what_is_not_planned_again_under_the_lock_is_given_back() -> None:
    async def again() -> list[Fix]:
        return rows(1)

    report = await story(rows(2), again=again)
    assert states(report) == ["proven", "refused"]
    assert "changed since it was read" in report.fixes[1].why


async def test_when_it_cannot_be_read_again_everything_is_given_back() -> None:
    async def again() -> list[Fix]:
        raise OutsideError("world", "is gone", "look")

    report = await story(rows(2), again=again)
    assert states(report) == ["refused", "refused"]
    assert "world: is gone. Next: look" in report.reason
    assert report.exit_code == 2


async def test_an_outcome_nobody_can_see_stays_open_and_holds_its_target() -> None:
    WORLD["hidden"] = "old"
    report = await story([a_fix("hidden")])
    assert (states(report), report.outcome) == (["applied"], Outcome.unsolved)


async def test_an_interrupted_act_is_looked_up_and_not_tried_again() -> None:
    BROKEN.add("row 0")
    report = await story(rows(1))
    assert (states(report), report.exit_code) == (["failed"], 4)


async def test_a_person_must_be_there_to_approve() -> None:
    report = await story(rows(1), Mode.approve)
    assert states(report) == ["refused"]
    assert "a person must approve" in report.fixes[0].why


async def test_a_typed_error_is_one_line_and_a_refused_run() -> None:
    async with Run("a-runbook", Mode.auto) as run:
        raise BadSetting("DATABASE_URL", "is wrong", "correct it")
    report = run.result()
    assert (report.outcome, report.reason) == (Outcome.refused, "DATABASE_URL: is wrong. Next: correct it")
    assert report.exit_code == 2
    async with Run("a-runbook", Mode.auto) as run:
        raise NotConfigured("STRIPE_SECRET_KEY", "APP_URL")
    assert run.result().not_configured
    assert "STRIPE_SECRET_KEY, APP_URL" in run.result().reason


async def test_a_crash_is_recorded_and_goes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Run("a-runbook", Mode.auto) as run:
            _ = 1 / 0
    from sqlalchemy import select

    from runbook.schema import run as table

    with ledger().read() as connection:
        assert connection.execute(select(table.c.outcome).where(table.c.id == run.id)).scalar_one() == "crashed"


async def test_a_healthy_run() -> None:
    async with Run("a-runbook", Mode.auto) as run:
        pass
    assert (run.result().outcome, run.result().exit_code) == (Outcome.healthy, 0)


def test_two_runs_that_race_for_one_target_get_one_grant() -> None:
    def ask(_n: int) -> int:
        async def go() -> int:
            async with Run("a-runbook", Mode.auto) as run:
                run.found([FINDING])
                return len((await gate.ask(run, [a_fix("row 0")])).fixes)

        return asyncio.run(go())

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(ask, range(8))) == 1


ASK = textwrap.dedent("""
    import asyncio, os, sys
    sys.path.insert(0, os.getcwd())
    from runbook import gate
    from runbook.model import Finding, Mode
    from runbook.run import Run
    from tests.runbook.parts import a_fix

    async def go():
        async with Run("a-runbook", Mode(sys.argv[2])) as run:
            run.found([Finding(subject="rows", detail="are old")])
            permit = await gate.ask(run, [a_fix(f"{sys.argv[1]} {i}") for i in range(5)])
            print("granted", len(permit.fixes), flush=True)

    asyncio.run(go())
""")


def test_a_cap_holds_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runbook.toml").write_text("[caps.set]\nper_15min = 7\n")
    started = [
        subprocess.Popen([sys.executable, "-c", ASK, f"process {i}", "auto"], stdout=subprocess.PIPE, text=True)
        for i in range(5)
    ]
    granted = [int(one.communicate(timeout=60)[0].split()[-1]) for one in started]
    # A grant that nobody begins is given back once its process is gone, so the sum of what was tried counts, not this.
    assert max(granted) <= 5
    with ledger().read() as connection:
        held = [past for past in ledger().history(connection) if past.state is FixState.granted]
    assert len(held) <= 7


@pytest.mark.parametrize(("answer", "granted"), [("yes\n", 5), ("no\n", 0), ("\n", 0)])
def test_a_person_in_a_terminal_decides(answer: str, granted: int) -> None:
    outer, inner = pty.openpty()
    asked = subprocess.Popen(
        [sys.executable, "-c", ASK, "row", "approve"],
        stdin=inner,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(inner)
    os.write(outer, answer.encode())
    out, shown = asked.communicate(timeout=60)
    os.close(outer)
    assert f"granted {granted}" in out, shown
    assert "| set | row 0 | auto | it is wrong | swap |" in shown


def test_the_ledger_is_the_named_one(ledger_url: str) -> None:
    assert isinstance(ledger(), Ledger)
    assert ledger().engine.dialect.name == ("sqlite" if "sqlite" in ledger_url else "postgresql")
