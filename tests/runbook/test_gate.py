"""The gate as flows meet it: modes, facts, drift, and who may say yes."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from runbook import gate, settings
from runbook.errors import NotPermitted, OutsideError
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Mode, Outcome, Report, Risk, Share, plan_hash
from runbook.run import Run
from runbook.schema import entry, fix
from tests.runbook.parts import FINDING, RUNBOOK, World, a_fix, grant, rows

pytestmark = pytest.mark.usefixtures("in_force")


async def story(world: World, plan: Sequence[Fix], mode: Mode = Mode.auto, **more: Any) -> Report:
    """A whole runbook: found, asked, applied, read again."""
    async with Run(RUNBOOK, mode) as run:
        run.found([FINDING])
        permit = await gate.ask(run, plan, **{"share": None} | more)
        await permit.apply(world.hands())
        run.remains([FINDING] if any(world.rows[one.target] != "new" for one in plan) else [])
    return run.result()


def states(report: Report) -> list[str]:
    return [one.state.value for one in report.fixes]


async def test_auto_fixes_and_proves(world: World) -> None:
    report = await story(world, rows(3))
    assert (report.outcome, report.exit_code, states(report)) == (Outcome.fixed, 0, ["proven"] * 3)


async def test_observe_shows_the_plan_and_changes_nothing(world: World) -> None:
    report = await story(world, rows(3), Mode.observe)
    assert (report.outcome, report.exit_code, states(report)) == (Outcome.observed, 3, ["planned"] * 3)
    assert [one.why for one in report.fixes] == ["it is wrong"] * 3
    assert world.acts == []


async def test_the_ceiling_lowers_the_mode(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNBOOK_MODE")
    settings.forget()
    report = await story(world, rows(1))
    assert (report.mode, states(report), world.acts) == (Mode.observe, ["planned"], [])
    assert "RUNBOOK_MODE is the ceiling" in report.notices[0]


async def test_a_plan_of_nothing_grants_nothing_and_writes_nothing(in_force: Ledger) -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        permit = await gate.ask(run, [], by_hand=True, share=None)
        with pytest.raises(NotPermitted), permit.attempt(a_fix()):
            raise AssertionError("entered")
    with in_force.read() as connection:
        assert connection.execute(select(fix)).all() == []
        kinds = set(connection.execute(select(entry.c.kind)).scalars())
        assert kinds <= {"run", "ended"}, "nobody is asked about nothing"
    assert run.result().outcome is Outcome.healthy


async def test_the_red_button_refuses_everything(world: World, in_force: Ledger) -> None:
    in_force.press("stop", "fire")
    report = await story(world, rows(2))
    assert (report.outcome, report.exit_code, states(report)) == (Outcome.refused, 3, ["refused"] * 2)
    assert "the red button is pressed: fire" in report.fixes[0].why
    in_force.press("start", "out")
    assert states(await story(world, rows(2))) == ["proven"] * 2


async def test_mass_failure_refuses_everything(world: World) -> None:
    report = await story(world, rows(2), share=Share(sick=51, of=100))
    assert states(report) == ["refused"] * 2
    assert "mass failure: 51 of 100" in report.fixes[0].why
    assert states(await story(world, rows(2), share=Share(sick=50, of=100))) == ["proven"] * 2


async def test_attempts_of_earlier_runs_count(world: World) -> None:
    for _turn in range(2):
        assert states(await story(world, rows(1))) == ["proven"]
        world.rows["row 0"] = "old"
    report = await story(world, rows(1))
    assert states(report) == ["refused"]
    assert "cap of row 0: 2 of 2 attempts used in 15 minutes" in report.fixes[0].why


async def test_failures_of_earlier_runs_break_the_runbook(world: World) -> None:
    world.turned_down = {"row 0", "row 1", "row 2"}
    assert states(await story(world, rows(3))) == ["failed"] * 3
    report = await story(world, [a_fix("row 5")])
    assert "3 attempts of this runbook failed in 15 minutes" in report.fixes[0].why


async def test_caps_of_the_profile_are_in_force(world: World, tmp_path: Path) -> None:
    (tmp_path / "runbook.toml").write_text("[caps.set]\nper_run = 1\n")
    settings.forget()
    report = await story(world, rows(3))
    assert states(report) == ["proven", "refused", "refused"]
    assert (report.outcome, report.exit_code) == (Outcome.refused, 3)


async def test_a_held_target_is_refused_until_it_is_free(world: World, in_force: Ledger) -> None:
    other = grant(in_force, a_fix("row 0"), runbook="another")
    report = await story(world, rows(2))
    assert states(report) == ["refused", "proven"]
    assert "another fix holds this target" in report.fixes[0].why
    in_force.move(other.id, [FixState.granted], FixState.refused, {"why": "given back"})
    assert states(await story(world, rows(1))) == ["proven"]


async def test_an_expired_grant_no_longer_holds_its_target(world: World, in_force: Ledger) -> None:
    grant(in_force, a_fix("row 0"), ttl_ms=-1)
    assert states(await story(world, rows(1))) == ["proven"]


async def test_a_target_that_moved_on_is_left_alone(world: World) -> None:
    world.rows["row 1"] = "someone else's"
    report = await story(world, rows(3))
    assert states(report) == ["proven", "refused", "proven"]
    assert world.rows["row 1"] == "someone else's"


# -- read again under the lock --------------------------------------------------------------------------------------


async def test_what_is_not_planned_again_the_same_way_is_given_back(world: World, in_force: Ledger) -> None:
    async def again() -> list[Fix]:
        with in_force.read() as connection:
            assert in_force.open_targets(connection) == {"row 0", "row 1", "row 2"}, "read under the lock"
        return [a_fix("row 0"), a_fix("row 1", was="something newer"), a_fix("row 9")]

    report = await story(world, rows(3), again=again)
    assert states(report) == ["proven", "refused", "refused"]
    assert [one.why for one in report.fixes[1:]] == ["the target changed since it was read"] * 2
    assert world.acts == ["row 0"]
    assert states(await story(world, rows(2)[1:])) == ["proven"], "free at once"


async def test_when_it_cannot_be_read_again_everything_is_given_back(world: World) -> None:
    async def again() -> list[Fix]:
        raise OutsideError("world", "is gone", "look")

    report = await story(world, rows(2), again=again)
    assert states(report) == ["refused", "refused"]
    assert (report.outcome, report.exit_code) == (Outcome.refused, 2)
    assert report.reason == "world: is gone. Next: look"
    assert world.acts == []


async def test_where_nothing_was_granted_nothing_is_read_again(world: World, in_force: Ledger) -> None:
    async def again() -> list[Fix]:
        raise AssertionError("there is nothing to read for")

    in_force.press("stop", "fire")
    assert states(await story(world, rows(2), again=again)) == ["refused"] * 2


# -- who may say yes ------------------------------------------------------------------------------------------------


async def test_a_persons_risk_is_refused_where_nobody_is_asked(world: World) -> None:
    report = await story(world, rows(2, Risk.person))
    assert states(report) == ["refused"] * 2
    assert "needs a person: run it with mode approve" in report.fixes[0].why


async def test_nobody_there_to_approve_is_a_refusal_with_a_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        report = await story(world, rows(1), Mode.approve)
    assert (states(report), report.exit_code, world.acts) == (["refused"], 3, [])
    assert "run it in a terminal or from the Prefect UI" in report.fixes[0].why


async def test_a_fix_that_a_person_named_is_approved_and_that_is_written(world: World, in_force: Ledger) -> None:
    plan = rows(1, Risk.person)
    assert states(await story(world, plan, by_hand=True)) == ["proven"]
    with in_force.read() as connection:
        (row,) = connection.execute(select(entry).where(entry.c.kind == "approval")).mappings()
    assert row["body"] == {
        "by": getpass.getuser(),
        "reason": "named on the command line",
        "approved": [plan[0].key],
        "refusal": "",
        "plan_hash": plan_hash(plan),
    }


async def test_by_hand_is_still_under_the_ceiling_the_caps_and_the_red_button(world: World, in_force: Ledger) -> None:
    assert states(await story(world, rows(1), Mode.observe, by_hand=True)) == ["planned"]
    in_force.press("stop", "fire")
    assert states(await story(world, rows(1), by_hand=True)) == ["refused"]
    in_force.press("start", "out")
    report = await story(world, [a_fix("row 0"), a_fix("row 0", action="other")], by_hand=True)
    assert states(report) == ["proven", "refused"]


async def test_what_a_person_took_back_is_refused_until_a_person_asks(world: World, in_force: Ledger) -> None:
    (done,) = (await story(world, [a_fix()])).fixes
    in_force.move(done.id, [FixState.proven], FixState.undone, {"by": "fix_of_the_undo"})
    world.rows["row 1"] = "older"
    anew = a_fix(was="older")  # whatever state its target is in by now
    report = await story(world, [anew])
    assert states(report) == ["refused"] and "a person undid an act on it" in report.fixes[0].why
    assert states(await story(world, [anew], by_hand=True)) == ["proven"]
