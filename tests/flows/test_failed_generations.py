"""The generations runbook on real parts: a provider over HTTP, an app that hides failures, a flag file, a queue."""

from __future__ import annotations

import pytest

from demo.openai_server import OWN, SPARE
from deployments.undoing import undo
from runbook.model import FixState, Mode, Outcome
from tests.flows import generation_parts as parts
from tests.flows.generation_parts import World, of, text

world = parts.world  # fixture

FLIP, REVERT, REQUEUE = "use_fallback_model", "use_primary_model", "requeue_generation"


async def test_a_retired_model_is_replaced_and_what_was_lost_is_made(world: World) -> None:
    world.ai.models.remove(OWN)
    names = [f"gen_{i:03d}" for i in range(6)]
    assert {world.generator.generate(name) for name in names} == {"template"}
    report = await world.run()
    assert report.outcome is Outcome.fixed, text(report)
    assert [fix.state for fix in of(report, FLIP)] == [FixState.proven] and world.flag == SPARE
    assert [fix.state for fix in of(report, REQUEUE)] == [FixState.proven] * 6
    assert sorted(world.generator.written) == names and world.queued == names
    assert "does not list it" in report.findings[0].detail
    again = await world.run()
    assert again.outcome is Outcome.healthy and again.fixes == [], text(again)
    assert "the fallback model is in force" in text(again)
    assert world.queued == names
