"""The whole runbook on real processes that really grow, and a restart command that really ends them."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo import memory_fleet
from flows.memory_pressure import memory_pressure
from runbook import gate, memory, settings
from runbook.ledger import ledger
from runbook.model import Fix, FixState, Mode, Outcome, Report, Risk
from runbook.permit import Permit
from tasks import heap_snapshot, processes, restarts
from tasks.pressure import Restart
from tests.flows.memory_parts import Fleet, cgroup_of, fleet, line, remember, remember_use, run, started_again

__all__ = ["fleet"]
ROOT = Path(__file__).resolve().parents[2]
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")


def done(report: Report) -> list[tuple[str, FixState]]:
    return [(fix.action, fix.state) for fix in report.fixes]


def said(report: Report, words: str) -> bool:
    return any(words in notice for notice in report.notices)


async def live(**bounds: Any) -> Report:
    small: dict[str, Any] = {"limit_mb": 150, "looks": 40, "look_seconds": 0.15, "window_seconds": 5}
    return await memory_pressure.fn(mode=Mode.auto, **small | {"warm_up_seconds": 0, "hold_seconds": 0} | bounds)


@needs_node
async def test_a_node_process_that_leaks_is_restarted_and_one_that_warms_up_is_not(fleet: Fleet) -> None:
    with memory_fleet.Fleet() as node:
        fleet.set(**node.env())
        leaky, warm = node.instances
        old, others = leaky.pid, (warm.pid, node.stranger.pid)
        leaky.ask("/leak")
        warm.ask("/warm")
        node.stranger.ask("/leak")
        report = await live()
        assert report.outcome is Outcome.fixed, report
        assert done(report) == [("take_snapshot", FixState.proven), ("restart_instance", FixState.proven)]
        assert leaky.pid != old
        assert leaky.answers()
        assert (warm.pid, node.stranger.pid) == others
        (snapshot,) = node.snapshots
        assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
        assert snapshot.read_bytes().rstrip().endswith(b"]}")
        assert said(report, "holds customers' data")


async def test_the_first_at_its_limit_is_restarted_and_no_other_in_the_same_run(fleet: Fleet) -> None:
    later, sooner = fleet.leaking(140), fleet.leaking(160)
    old = sooner.pid, later.pid
    report = await run()
    assert len(report.findings) == 2
    assert done(report) == [("restart_instance", FixState.proven)]
    assert fleet.log() == [str(old[0])]
    assert (sooner.starts, later.starts, later.pid) == (2, 1, old[1])
    assert report.outcome is Outcome.unsolved  # one still leaks
    again = await run()
    assert (done(again), later.starts) == ([], 1)
    assert said(again, "an instance was restarted 0 min ago")


async def test_a_leak_is_gone_after_the_restart(fleet: Fleet) -> None:
    sick, well = fleet.leaking(), fleet.add()
    report = await run()
    assert report.outcome is Outcome.fixed, report
    assert "leaks 2.3 MB a minute (for 40 min" in report.findings[0].detail
    assert (sick.starts, well.starts) == (2, 1)
    names = memory.names(ledger(), 0)
    assert {"memory_used_share", "app_memory_mb"} <= set(names)
    assert (await run()).outcome is Outcome.healthy


async def test_observe_shows_the_plan_and_changes_nothing(fleet: Fleet) -> None:
    sick = fleet.leaking()
    report = await run(Mode.observe)
    assert (report.outcome, done(report)) == (Outcome.observed, [("restart_instance", FixState.planned)])
    assert (sick.starts, fleet.log()) == (1, [])


async def test_the_limit_of_the_cgroup_counts_less_the_cache_it_can_give_back(fleet: Fleet) -> None:
    sick = fleet.leaking()
    cgroup_of(fleet, current_mb=195, cache_mb=40)
    report = await run(limit_mb=0)
    assert "reaches the 200 MB of cgroup" in report.findings[0].detail
    assert "in 20 min" in report.findings[0].detail
    assert (report.outcome, sick.starts) == (Outcome.fixed, 2)


async def test_a_full_limit_without_a_leak_is_told_and_nothing_is_restarted(fleet: Fleet) -> None:
    steady = fleet.add()
    steady.hold(170)
    remember(steady.seen().id, line(40, 170, 170))
    remember_use(f"process {steady.pid}", [0.85] * 40)
    report = await run()
    assert [one.subject for one in report.findings] == [f"process {steady.pid}"]
    assert "NODE_OPTIONS=--max-old-space-size=150" in report.findings[0].detail
    assert (done(report), steady.starts) == ([], 1)


async def test_kills_of_the_kernel_are_counted_from_the_last_run_on(fleet: Fleet) -> None:
    fleet.add()
    folder = cgroup_of(fleet, current_mb=50, kills=7)
    assert (await run(limit_mb=0)).outcome is Outcome.healthy  # seven of before anybody looked say nothing
    (folder / "memory.events").write_text("oom_kill 9\n")
    report = await run(limit_mb=0)
    assert "the kernel killed 2 processes" in report.findings[0].detail
    assert (await run(limit_mb=0)).outcome is Outcome.healthy


async def test_heap_deaths_in_the_log_are_found_once_and_many_page(fleet: Fleet) -> None:
    fleet.add()
    log = fleet.folder / "app.log"
    log.touch()
    fleet.set(APP_LOG=log)
    assert (await run()).outcome is Outcome.healthy
    now = datetime.now(UTC).isoformat()
    text = f"{now} FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n"
    up = f'{{"level":"info","time":"{now}","msg":"server_started"}}\n'  # a raw block ends where the next line begins
    log.write_text(text + up)
    (first,) = (await run()).findings
    assert (first.subject, first.page) == ("app log", False)
    assert (await run()).outcome is Outcome.healthy
    with log.open("a") as more:
        more.write("".join(text.replace("Reached heap limit", f"Limit {n}") + up for n in range(2)))
    (second,) = (await run()).findings
    assert second.page, second


async def test_an_app_that_is_not_there_is_told_and_pages_when_it_does_not_answer(fleet: Fleet) -> None:
    (quiet,) = (await run()).findings
    fleet.status = 503
    (down,) = (await run()).findings
    assert (quiet.page, down.page) == (False, True)
    assert "RUNBOOK_APP_MATCH" in down.detail


@pytest.mark.parametrize("name", ["RUNBOOK_RESTART_COMMAND", "RUNBOOK_HEALTH_URL"])
async def test_what_is_not_configured_is_named_and_the_leak_is_told_all_the_same(fleet: Fleet, name: str) -> None:
    sick = fleet.leaking()
    fleet.patch.delenv(name)
    settings.forget()
    report = await run()
    assert said(report, name)
    assert (len(report.findings), done(report), sick.starts) == (1, [], 1)


async def test_without_a_pattern_it_is_not_configured(fleet: Fleet) -> None:
    fleet.patch.delenv("RUNBOOK_APP_MATCH")
    settings.forget()
    report = await run()
    assert report.not_configured
    assert "RUNBOOK_APP_MATCH" in report.reason


async def test_a_command_that_fails_is_no_restart(fleet: Fleet) -> None:
    sick = fleet.leaking()
    fleet.set(RUNBOOK_RESTART_COMMAND='sh -c "echo no such instance; exit 3"')
    report = await run()
    assert (report.outcome, done(report)) == (Outcome.unsolved, [("restart_instance", FixState.failed)])
    assert sick.starts == 1


async def test_one_that_does_not_come_back_well_is_not_proven_and_holds_up_the_next(fleet: Fleet) -> None:
    fleet.leaking()
    fleet.patch.setattr(restarts, "PROVE_SECONDS", 0.5)
    fleet.status = 500
    report = await run()
    assert (report.outcome, done(report)) == (Outcome.unsolved, [("restart_instance", FixState.failed)])
    next_one = fleet.leaking()
    fleet.patch.setattr("tasks.memory_watch.restarts.past_restarts", lambda *_: [_half_an_hour_ago()])
    report = await run()
    assert said(report, "a person must look first")
    assert (done(report), next_one.starts) == ([], 1)


async def test_neither_an_older_process_nor_one_above_the_mark_took_its_place(fleet: Fleet) -> None:
    there = fleet.add()
    there.hold(60)
    one = there.seen()
    fleet.patch.setattr(restarts, "PROVE_SECONDS", 0)
    boot = one.id.partition(":")[0]

    async def proof(newest: int, below_mb: int) -> tuple[bool | None, str]:
        expect = {"id": f"{boot}:1:1", "pid": 1, "instance": "", "newest": newest}
        want = {"below_mb": below_mb}
        fix = Fix(action="x", target="x", risk=Risk.guarded, why="", undo="", expect=expect, want=want)
        found = await restarts.look_up_restart(fix)
        return found.held, found.seen

    assert await proof(one.started, 200) == (False, "pid 1 is gone and nothing took its place")
    held, said = await proof(one.started - 1, 50)
    assert (held, "not below 50 MB" in said) == (False, True)
    assert (await proof(one.started - 1, 200))[0] is True


def _half_an_hour_ago() -> Restart:
    return Restart(minutes_ago=30, proven=False)


async def test_one_that_was_replaced_meanwhile_is_given_back(fleet: Fleet) -> None:
    sick, decide = fleet.leaking(), gate.ask

    async def late(*words: Any, **more: Any) -> Permit:
        os.kill(sick.pid, 9)
        await asyncio.to_thread(started_again, sick)
        return await decide(*words, **more)

    fleet.patch.setattr(gate, "ask", late)
    report = await run()
    (fix,) = report.fixes
    assert (fix.state, fix.why) == (FixState.refused, "the target changed since it was read")
    assert (sick.starts, fleet.log()) == (2, [])


async def test_one_that_was_replaced_before_the_hand_acts_is_not_restarted_again(fleet: Fleet) -> None:
    sick, apply = fleet.leaking(), Permit.apply

    async def late(permit: Permit, *words: Any, **more: Any) -> None:
        os.kill(sick.pid, 9)
        await asyncio.to_thread(started_again, sick)
        await apply(permit, *words, **more)

    fleet.patch.setattr(Permit, "apply", late)
    report = await run()
    assert (done(report), sick.starts, fleet.log()) == ([("restart_instance", FixState.refused)], 2, [])


async def test_two_runs_at_once_restart_once(fleet: Fleet) -> None:
    sick = fleet.leaking()
    await asyncio.gather(run(), run())
    assert (sick.starts, len(fleet.log())) == (2, 1)


async def test_the_command_is_given_the_name_its_supervisor_has_for_the_process(fleet: Fleet) -> None:
    sick = fleet.leaking()
    (fleet.folder / "pm2").write_text(
        f"""#!/bin/sh
echo '[{{"pid": {sick.pid}, "name": "web", "pm_id": 3, "pm2_env": {{"restart_time": 1, "exit_code": 0}}}}]'
"""
    )
    (fleet.folder / "pm2").chmod(0o755)
    fleet.set(
        PATH=f"{fleet.folder}:{os.environ['PATH']}",
        RUNBOOK_SUPERVISORS="pm2",
        RUNBOOK_RESTART_COMMAND=f"{fleet.folder}/restart {{pid}} {{instance}}",
    )
    old = sick.pid
    report = await run()
    (fix,) = report.fixes
    assert (fix.target, fix.state, fleet.log()) == ("instance pm2 web 3", FixState.proven, [f"{old} 3"])


@needs_node
async def test_a_snapshot_is_never_asked_of_a_process_that_took_the_pid_over(fleet: Fleet) -> None:
    with memory_fleet.Fleet() as node:
        fleet.set(**node.env())
        (one,) = [one for one in processes.find() if one.pid == node.instances[0].pid]
        boot, pid, start = one.id.split(":")
        assert "another process" in heap_snapshot._signal(f"{boot}:{pid}:{int(start) + 1}", one.pid)
        (deaf,) = [each for each in processes.find() if each.pid == node.instances[1].pid]
        assert "would end" in heap_snapshot._signal(deaf.id, deaf.pid)
        assert node.snapshots == []
        assert all(each.answers() for each in node.instances)


KILLED = """
import asyncio, os, signal
from flows.memory_pressure import memory_pressure
from tasks import commands

begin = commands.run

async def killed(*words, **values):
    if {after}:
        await begin(*words, **values)
    os.kill(os.getpid(), signal.SIGKILL)

commands.run = killed
asyncio.run(memory_pressure.fn(limit_mb=200, warm_up_seconds=0, hold_seconds=0))
"""


@pytest.mark.parametrize(("after", "looked"), [(False, FixState.failed), (True, FixState.proven)])
async def test_a_run_killed_while_it_acts_is_settled_by_looking(fleet: Fleet, after: bool, looked: FixState) -> None:
    sick = fleet.leaking()
    words = [sys.executable, "-c", KILLED.format(after=after)]
    assert (await asyncio.to_thread(subprocess.run, words, cwd=ROOT, check=False)).returncode == -9
    if after:
        started_again(sick)
    fleet.patch.setattr(restarts, "PROVE_SECONDS", 0.5 if not after else 30)
    report = await run()
    assert said(report, f"by looking: {looked}")
    assert (sick.starts, len(fleet.log()), done(report)) == ((2, 1, []) if after else (1, 0, []))
