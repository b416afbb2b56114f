"""The generations runbook on real parts: a provider over HTTP, an app that hides failures, a flag file, a queue."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import select, update

from demo.openai_server import OWN, SPARE, OpenAIServer
from demo.prefect_server import ROOT
from deployments.undoing import undo
from runbook import gate, memory
from runbook.model import Fix, FixState, Mode, Outcome
from runbook.permit import Permit
from runbook.run import Run
from runbook.schema import fix as fix_table
from tests.flows import generation_parts as parts
from tests.flows.generation_parts import World, clean_environment, env, of, text

servers, world = parts.servers, parts.world  # fixtures

FLIP, REVERT, REQUEUE = "use_fallback_model", "use_primary_model", "requeue_generation"
PROVEN, FAILED = FixState.proven, FixState.failed


def states(fixes: list[Fix]) -> list[FixState]:
    return [fix.state for fix in fixes]


def time_passes(world: World) -> None:
    """The fallback's time is up: its end in the ledger lies in the past."""
    with world.ledger.write() as connection:
        row = connection.execute(select(fix_table).where(fix_table.c.action == FLIP)).mappings().one()
        want = row["want"] | {"until_ms": row["decided_at_ms"]}
        connection.execute(update(fix_table).where(fix_table.c.id == row["id"]).values(want=want))


# -- the whole story --------------------------------------------------------------------------------------------------


async def test_a_retired_model_is_replaced_and_what_was_lost_is_made_once(world: World) -> None:
    world.ai.models.remove(OWN)
    names = [f"gen_{i:03d}" for i in range(6)]
    assert {world.generator.generate(name) for name in names} == {"template"}
    report = await world.run()
    assert report.outcome is Outcome.fixed, text(report)
    assert states(of(report, FLIP)) == [PROVEN] and world.flag == SPARE
    assert states(of(report, REQUEUE)) == [PROVEN] * 6
    assert sorted(world.generator.written) == names and world.queued == names
    assert "does not list it" in report.findings[0].detail
    again = await world.run()
    assert again.outcome is Outcome.healthy and again.fixes == [], text(again)
    assert "the fallback model is in force" in text(again)
    world.ai.models.append(OWN)  # back again: the app uses its own model
    back = await world.run()
    assert back.outcome is Outcome.fixed and states(of(back, REVERT)) == [PROVEN], text(back)
    assert world.flag == OWN and world.queued == names
    assert (await world.run()).outcome is Outcome.healthy


async def test_a_healthy_world_costs_one_sample_and_is_left_alone(world: World) -> None:
    world.generator.generate("gen_fine")
    report = await world.run()
    assert report.outcome is Outcome.healthy and report.exit_code == 0
    assert (report.findings, report.fixes, report.notices) == ([], [], [])
    assert world.ai.asked == {OWN: 2}
    assert memory.series(world.ledger, "ai_requests_left_share", 0)[0][1] == 0.9
    assert memory.series(world.ledger, "ai_failed_share", 0)[0][1] == 0


async def test_observe_shows_the_plan_and_changes_nothing(world: World) -> None:
    world.ai.models.remove(OWN)
    world.generator.generate("gen_lost")
    report = await world.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed and states(of(report, FLIP)) == [FixState.planned]
    assert world.flag == OWN and world.queued == []


@pytest.mark.parametrize(
    ("kind", "seconds", "said"),
    [
        ("gone", 0.0, "the model is retired"),
        ("500", 0.0, "server errors"),
        ("503", 0.0, "server errors"),
        ("slow", 3.0, "no answer in time"),
        ("drop", 0.0, "cannot be reached"),
        ("half", 0.0, "cannot be reached"),
        ("garbage", 0.0, "no completion"),
        ("page", 0.0, "no completion"),
        ("empty", 0.0, "without a single token"),
        ("rate", 0.02, "rate limited, and still so"),
    ],
)
async def test_every_lasting_failure_of_the_model_is_named_and_got_around(
    world: World, kind: str, seconds: float, said: str
) -> None:
    world.ai.fault(kind, seconds=seconds)
    report = await world.run()
    assert said in report.findings[0].detail and not report.findings[0].page
    assert report.outcome is Outcome.fixed and states(of(report, FLIP)) == [PROVEN], text(report)
    assert world.flag == SPARE and world.generator.generate("gen_after") == "written"


# -- the account ------------------------------------------------------------------------------------------------------


async def test_a_used_up_quota_is_asked_once_and_pages(world: World) -> None:
    world.ai.fault("quota")
    for i in range(6):
        world.generator.generate(f"gen_{i}")
    world.ai.asked.clear()
    report = await world.run(mode=Mode.observe)
    assert report.findings[0].page and "billing page" in report.findings[0].detail
    assert world.ai.asked == {OWN: 1}  # neither asked again, nor the fallback behind the same key
    assert report.fixes == [] and "same key's quota" in text(report)


async def test_a_quota_is_got_around_by_another_provider_once_it_is_borne_out_and_pages_all_the_same(
    world: World,
) -> None:
    with OpenAIServer(keys=("sk-other-0123456789",)) as other:
        world.set(RUNBOOK_AI_FALLBACK_BASE_URL=other.url, RUNBOOK_AI_FALLBACK_API_KEY="sk-other-0123456789")
        world.ai.fault("quota")
        first = await world.run()
        assert first.findings[0].page and first.fixes == [] and world.flag == OWN  # one sample is no proof
        second = await world.run()
        assert states(of(second, FLIP)) == [PROVEN] and world.flag == SPARE
        assert second.outcome is Outcome.unsolved and second.findings[0].page  # the bill is still to be paid
        assert "sk-other" not in second.model_dump_json()


async def test_a_key_with_a_line_feed_is_a_bad_setting(world: World) -> None:
    world.set(OPENAI_API_KEY="sk-demo\u00e9-0123456789")
    report = await world.run()
    assert report.outcome is Outcome.refused and "OPENAI_API_KEY" in report.reason and "demo\u00e9" not in report.reason


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_templates_behind_a_provider_that_answers_us_are_a_persons_case(world: World) -> None:
    slow = world.ai.fault("slow", seconds=0.3)
    for i in range(6):
        world.generator.generate(f"gen_{i}")
    world.ai.faults.remove(slow)
    report = await world.run(failed_least=6)
    assert "6 of 6 generations gave a template or nothing" in text(report) and "gives up sooner" in text(report)
    assert of(report, FLIP) == [] and world.flag == OWN
    assert states(of(report, REQUEUE)) == [PROVEN] * 6


async def test_an_app_that_succeeds_meanwhile_is_believed(world: World) -> None:
    world.ai.fault("rate", seconds=0.3)
    lines = world.app.log_path.read_text()
    world.app.log("info", "ai_success", generationId="gen_x")
    stamped = world.app.log_path.read_text().removeprefix(lines)
    world.app.log_path.write_text(stamped.replace('"time": "20', '"time": "29'))  # ahead: taken as now
    report = await world.run()
    assert of(report, FLIP) == [] and "the app itself succeeded" in text(report)


async def test_without_a_key_the_log_alone_is_read(world: World) -> None:
    world.set(OPENAI_API_KEY="")
    for i in range(6):
        world.app.log("error", "ai_generation_failed", generationId=f"gen_{i}", reason="timeout")
    report = await world.run()
    assert "6 of 6 generations" in text(report) and "not configured: OPENAI_API_KEY" in text(report)
    assert report.fixes == []
    world.set(APP_LOG="")
    report = await world.run()
    assert report.not_configured and "OPENAI_API_KEY" in report.reason


async def test_a_log_that_cannot_be_read_is_told_and_the_rest_goes_on(world: World) -> None:
    world.set(APP_LOG=str(world.folder / "nowhere.log"))
    world.ai.fault("500")
    report = await world.run()
    assert states(of(report, FLIP)) == [PROVEN] and "APP_LOG" in text(report)


async def test_low_headroom_is_told_when_it_lasts(world: World) -> None:
    world.ai.left = 0.04
    assert (await world.run()).findings == [] == (await world.run()).findings
    report = await world.run()
    assert {one.subject for one in report.findings} == {"AI limit on requests", "AI limit on tokens"}


async def test_a_compatible_server_that_knows_the_older_name_only_is_understood(world: World) -> None:
    world.ai.old_names = True
    assert (await world.run()).outcome is Outcome.healthy


# -- the flag ---------------------------------------------------------------------------------------------------------


async def test_the_flag_is_turned_back_when_its_time_is_up_unless_the_own_model_is_seen_to_fail(world: World) -> None:
    world.ai.fault("500")
    await world.run(least_minutes=600)
    world.ai.faults.clear()
    early = await world.run(least_minutes=600)
    assert early.outcome is Outcome.healthy and world.flag == SPARE  # well again, but only just: it must not flap
    time_passes(world)
    world.ai.fault("500")
    report = await world.run(least_minutes=600)
    assert world.flag == SPARE and report.findings[0].page and "its time is up" in text(report)
    world.ai.faults.clear()
    world.ai.fault("500", times=1)  # not well, but not failing throughout either
    report = await world.run(least_minutes=600)
    assert states(of(report, REVERT)) == [PROVEN] and world.flag == OWN, text(report)


async def test_a_fallback_that_fails_too_is_given_up_as_soon_as_the_own_model_writes(world: World) -> None:
    world.ai.fault("500")
    await world.run(least_minutes=600)
    world.ai.fault("500", SPARE)
    report = await world.run(least_minutes=600)
    assert any(one.page and "no model writes now" in one.detail for one in report.findings) and world.flag == SPARE
    world.ai.faults = [one for one in world.ai.faults if SPARE in one.match]
    report = await world.run(least_minutes=600)
    assert states(of(report, REVERT)) == [PROVEN] and world.flag == OWN, text(report)


async def test_what_a_person_turned_back_and_on_again_is_theirs(world: World) -> None:
    world.ai.fault("500")
    await world.run()
    world.ai.faults.clear()
    world.ai.flag.write_text(OWN)
    await world.run()
    world.ai.flag.write_text(SPARE)
    report = await world.run()
    assert world.flag == SPARE and report.fixes == [] and "by a person's hand" in text(report)


@pytest.mark.parametrize("turned", ["", "gpt-by-hand"])
async def test_undo_turns_the_flag_back_and_refuses_after_a_person_turned_it(world: World, turned: str) -> None:
    world.ai.fault("500")
    (flip,) = of(await world.run(), FLIP)
    if turned:
        world.ai.flag.write_text(turned)
    report = await undo(world.ledger, flip.id)
    assert (report.outcome is Outcome.undone) is not bool(turned)
    assert world.flag == (turned or OWN)
    report = await world.run()
    assert world.flag == (turned or OWN), report


async def test_a_command_that_fails_is_believed_only_after_looking(world: World) -> None:
    world.ai.fault("500")
    world.set(RUNBOOK_AI_FALLBACK_COMMAND="sh -c 'echo no; exit 3'")
    report = await world.run()
    assert states(of(report, FLIP)) == [FAILED] and report.outcome is Outcome.unsolved and world.flag == OWN
    world.set(RUNBOOK_AI_FALLBACK_COMMAND=f"sh -c 'printf %s \"$0\" > {world.ai.flag}; exit 3' {{model}}")
    with world.ledger.write() as connection:
        connection.execute(update(fix_table).values(decided_at_ms=0))  # the caps of an earlier day
    report = await world.run()
    assert states(of(report, FLIP)) == [PROVEN] and world.flag == SPARE


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"RUNBOOK_AI_STATE_COMMAND": ""}, "not configured: RUNBOOK_AI_STATE_COMMAND"),
        ({"RUNBOOK_AI_FALLBACK_MODEL": ""}, "not configured: RUNBOOK_AI_FALLBACK_MODEL"),
        ({"RUNBOOK_AI_STATE_COMMAND": "false"}, "RUNBOOK_AI_STATE_COMMAND: ended with 1"),
        ({"RUNBOOK_AI_STATE_COMMAND": "no-such-program"}, "RUNBOOK_AI_STATE_COMMAND: no-such-program"),
    ],
)
async def test_without_a_way_to_turn_and_read_the_flag_the_failure_is_still_told(
    world: World, env: dict[str, str], told: str
) -> None:
    world.ai.models.remove(OWN)
    world.set(**env)
    report = await world.run()
    assert told in text(report) and "the model is retired" in text(report)
    assert report.fixes == [] and report.findings[0].page is ("not configured" in told)


async def test_a_generation_that_fails_again_is_not_queued_again(world: World) -> None:
    world.ai.fault("500", times=6)
    for i in range(3):
        world.generator.generate(f"gen_{i}")
    world.ai.faults[0].times = 0
    world.set(RUNBOOK_AI_REQUEUE_COMMAND=f"{world.ai.env()['RUNBOOK_AI_REQUEUE_COMMAND']} ")
    world.ai.fault("500", times=1).skip = 1  # our own sample passes, the first queued one fails
    report = await world.run()
    assert states(of(report, REQUEUE)) == [
        FAILED,
        FixState.refused,
        FixState.refused,
    ]  # guarded: the first was not proven
    again = await world.run()
    assert states(of(again, REQUEUE)) == [PROVEN, PROVEN] and world.queued == ["gen_0", "gen_1", "gen_2"]


async def test_a_generation_that_was_made_meanwhile_is_not_queued(world: World) -> None:
    world.ai.fault("500", times=6)
    for i in range(3):
        world.generator.generate(f"gen_{i}")
    world.ai.faults[0].times = 0
    asked = gate.ask

    async def meanwhile(run: Run, plan: list[Fix], **more: Any) -> Permit:
        permit = await asked(run, plan, **more)
        if any(fix.action == REQUEUE for fix in permit.fixes):
            world.generator.generate("gen_0")
        return permit

    world.monkeypatch.setattr(gate, "ask", meanwhile)
    report = await world.run()
    assert states(of(report, REQUEUE)) == [FixState.refused, PROVEN, PROVEN] and world.queued == ["gen_1", "gen_2"]


# -- a process that dies ----------------------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal, sys
from flows.failed_generations import failed_generations
from runbook.permit import Attempt
from tasks import commands

def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "after":
    Attempt.did = die
else:
    real = commands.run
    async def run(setting, **more):
        return die() if setting.endswith("FALLBACK_COMMAND") else await real(setting, **more)
    commands.run = run
asyncio.run(failed_generations.fn(samples=2, pause_seconds=0.01, hold_seconds=0))
"""


@pytest.mark.parametrize("when", ["after", "before"])
async def test_a_switch_cut_short_is_settled_by_looking(world: World, when: str) -> None:
    world.ai.models.remove(OWN)
    said = subprocess.run(
        [sys.executable, "-c", DIES, when],
        env=clean_environment() | env(world) | {"PYTHONPATH": str(ROOT)},
        cwd=world.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == -signal.SIGKILL, said.stderr.decode()[-2000:]
    assert world.flag == (SPARE if when == "after" else OWN)
    with world.ledger.read() as connection:
        assert world.ledger.open_targets(connection) == {"the app's AI model"}
    report = await world.run()
    assert any(one.startswith("settled") for one in report.notices)
    if when == "after":
        assert report.outcome is Outcome.healthy and world.flag == SPARE, text(report)
        world.ai.models.append(OWN)
        assert states(of(await world.run(), REVERT)) == [PROVEN] and world.flag == OWN  # it is known as ours
    else:
        assert states(of(report, FLIP)) == [FixState.refused] and world.flag == OWN  # at most one try in 15 minutes
        assert "cap of use_fallback_model" in of(report, FLIP)[0].why
