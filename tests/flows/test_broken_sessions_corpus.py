"""Everything in tests/corpus/broken_sessions.toml is put before the runbook, and none of it is touched."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from demo import session_faults as faults
from tests.flows import sessions_parts as parts
from tests.flows.sessions_parts import World

postgres, world = parts.postgres, parts.world  # fixtures
CORPUS = tomllib.loads((Path(__file__).parents[1] / "corpus" / "broken_sessions.toml").read_text("utf-8"))
ONE = 50


def happens(world: World, what: str) -> None:
    """Who tries to log in while the runbook looks."""
    match what:
        case "attack":
            faults.attack(world.app, ONE)
        case "hammer":
            faults.slips(world.app, ONE, minutes_ago=40, times=12)
        case "stuffing":
            for i in range(100, 112):
                faults.fail_login(world.app, i, "203.0.113.9", minutes_ago=i % 7 + 1)
        case "distributed":
            for i in range(100, 115):
                faults.fail_login(world.app, i, f"203.0.113.{i}", minutes_ago=5)
        case "locked":
            for i in range(100, 112):
                world.lock(i, minutes_ago=-9)


@pytest.mark.parametrize("one", CORPUS["account"], ids=lambda one: one["name"])
async def test_no_account_is_touched(world: World, one: dict[str, Any]) -> None:
    until = one.get("until") or (faults.at(minutes=one["ended"]) if "ended" in one else None)
    faults.set_accounts(world.postgres, {ONE: (one["failed"], until)})
    happens(world, one.get("log", ""))
    before = world.accounts()
    report = await world.run()
    assert world.accounts() == before, one["why"]
    assert report.fixes == []


@pytest.mark.parametrize("one", CORPUS["sessions"], ids=lambda one: one["name"])
async def test_no_session_is_touched(world: World, one: dict[str, Any]) -> None:
    faults.add_sessions(world.postgres, "kept", 5, days=one["days"])
    before = world.sessions()
    report = await world.run()
    assert world.sessions() == before and len(before) == 5, one["why"]
    assert report.fixes == []


async def test_the_same_account_is_reset_once_nothing_speaks_for_it(world: World) -> None:
    """So that the tests above mean something."""
    world.lock(ONE)
    await world.run()
    assert world.account(ONE) == (0, None)
