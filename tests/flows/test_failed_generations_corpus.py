"""Must-not corpus: what only looks like a model that fails, on real parts; nothing is ever turned or queued for it."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runbook.model import FixState, Outcome
from tests.flows import generation_parts as parts
from tests.flows.generation_parts import World, of, text

servers, world = parts.servers, parts.world  # fixtures
CASES = tomllib.loads((Path(__file__).parents[1] / "corpus" / "failed_generations.toml").read_text("utf-8"))["case"]


def write(world: World, line: dict[str, Any]) -> None:
    """Log lines of the app, ``age`` minutes old."""
    at = (datetime.now(UTC) - timedelta(minutes=line.pop("age"))).isoformat().replace("+00:00", "Z")
    prefix = "other" if line.pop("other_ids", False) else "gen"
    ids = line.pop("ids", [f"{prefix}_{i:03d}" for i in range(line.pop("count", 0))])
    with world.app.log_path.open("a", encoding="utf-8") as log:
        for name in ids:
            log.write(json.dumps({"level": "info", "time": at, **line, "generationId": name}) + "\n")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_what_only_looks_broken_is_left_alone(world: World, case: dict[str, Any]) -> None:
    for fault in case.get("faults", []):
        world.ai.fault(**fault)
    for line in case.get("log", []):
        write(world, dict(line))
    world.ai.flag.write_text(flag := case.get("flag", world.flag))
    report = await world.run()
    assert world.flag == flag
    assert len(world.queued) == case.get("queued", 0)
    assert {fix.state for fix in report.fixes if fix.action != "requeue_generation"} <= {FixState.refused}
    assert of(report, "use_fallback_model") == of(report, "use_primary_model") == []
    told = case.get("told", "")
    assert told in text(report)
    assert (report.outcome is Outcome.healthy) is (case.get("healthy", not told)), text(report)
