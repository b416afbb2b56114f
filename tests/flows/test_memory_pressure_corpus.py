"""Whatever only looks like a leak near its limit is left alone: each case on a real process of that size."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from runbook.ledger import ledger
from runbook.model import Fix, FixState, Risk
from tests.flows.memory_parts import Fleet, Member, fleet, line, remember, remember_use, run

__all__ = ["fleet"]
CASES = tomllib.loads((Path(__file__).parents[1] / "corpus" / "memory_pressure.toml").read_text())["case"]


def restarted() -> None:
    """A restart of a minute ago at most, as the ledger remembers it."""
    book = ledger()
    fix = Fix(action="restart_instance", target="x", risk=Risk.guarded, why="", undo="", state=FixState.granted)
    run_id = book.open_run("memory-pressure", "auto")
    with book.write() as connection:
        recorded = book.record(connection, run_id, "memory-pressure", fix, "", 60_000)
    assert recorded is not None
    book.move(recorded.id, [FixState.granted], FixState.intended, {}, fresh=True)
    book.move(recorded.id, [FixState.intended], FixState.proven, {})


def arrange(fleet: Fleet, case: dict[str, Any]) -> Member:
    history = [size for count, first, last in case["history"] for size in line(count, first, last)]
    one = fleet.add(case.get("command_suffix", ""))
    one.hold(round(history[-1]))
    id_ = fleet.id_of(one)
    if case.get("of_earlier_process"):
        boot, pid, start = id_.split(":")
        id_ = f"{boot}:{pid}:{int(start) - 100}"
    remember(id_, history)
    if minutes := case.get("full_for_minutes"):
        remember_use(f"process {one.pid}", [history[-1] / 200] * minutes)
    if case.get("deploy_lock"):
        (fleet.folder / "deploy.lock").touch()
        fleet.set(RUNBOOK_DEPLOY_LOCK=fleet.folder / "deploy.lock")
    if user := case.get("app_user"):
        fleet.set(RUNBOOK_APP_USER=user)
    if command := case.get("restart_command"):
        fleet.set(RUNBOOK_RESTART_COMMAND=command)
    if case.get("restarted_just_now"):
        restarted()
    if case.get("stopped"):
        ledger().press("stop", "a person looks at it")
    return one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].replace(" ", "-"))
async def test_it_is_left_alone(fleet: Fleet, case: dict[str, Any]) -> None:
    one = arrange(fleet, case)
    before = one.pid
    report = await run(warm_up_seconds=case.get("warm_up_seconds", 0))
    assert fleet.log() == []
    assert (one.pid, one.starts) == (before, 1)
    assert {fix.state for fix in report.fixes} <= {FixState.refused}
    if words := case.get("notice_or_finding"):
        told = [*report.notices, *(found.detail for found in report.findings)]
        assert any(words in text for text in told), told


async def test_the_same_process_with_a_leak_is_restarted(fleet: Fleet) -> None:
    one = arrange(fleet, {"history": [[40, 60, 150]]})
    await run()
    assert (one.starts, len(fleet.log())) == (2, 1)
