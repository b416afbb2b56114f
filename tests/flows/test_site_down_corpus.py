"""Must-not corpus: what only looks like a reason to act, on real parts; nothing is pointed, switched or written."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.deploy_server import BAD, GOOD
from runbook.model import FixState
from tests.flows import site_parts
from tests.flows.site_parts import World, text

parts, world = site_parts.parts, site_parts.world  # fixtures
CASES = tomllib.loads((Path(__file__).parents[1] / "corpus" / "site_down.toml").read_text("utf-8"))["case"]
ACTED = {FixState.applied, FixState.proven, FixState.failed, FixState.intended}


def arrange(world: World, case: dict[str, Any]) -> None:
    """The world of one case."""
    if "bad_deployment" in case:
        world.bad_deployment(case["bad_deployment"])
    if "good_deployment" in case:
        world.vercel.deploy("dpl_fine", minutes_ago=case["good_deployment"])
    if "migration" in case:
        world.migration(**case["migration"])
    if "ai" in case:
        world.ai.fault(case["ai"])
    if case.get("pending"):
        world.vercel.deploy("dpl_next", minutes_ago=0, state="BUILDING")
    if case.get("rolled_back"):
        world.bad_deployment(2)
        world.vercel.bad.add(GOOD)
        world.vercel._point(GOOD)
    if "maintenance" in case:
        world.vercel.maintenance.write_text(case["maintenance"])
    if "vendor_incident" in case:
        world.pages.vendor_incident(**case["vendor_incident"])
    if "key_pages" in case:
        world.set(RUNBOOK_KEY_PAGES=case["key_pages"])
    if "shown" in case:
        world.pages._show("statuspage", case["shown"], "investigating", "…")
    for back in case.get("errors_minutes", []):
        at = (datetime.now(UTC) - timedelta(minutes=back)).isoformat().replace("+00:00", "Z")
        for number in range(5):
            world.app.log("error", "page_render_failed", time=at, attempt=number)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_what_only_looks_like_a_reason_is_left_alone(world: World, case: dict[str, Any]) -> None:
    arrange(world, case)
    live, shown = world.vercel.live, len(world.pages.shown["statuspage"])
    world.monkeypatch.setattr("flows.site_down._runbooks", _none)
    report = await world.run()
    assert (world.vercel.moves, world.vercel.live) == ([], live)
    assert world.vercel.live == BAD or "bad_deployment" not in case
    assert world.vercel.maintenance.read_text() == case.get("maintenance", "off")
    assert world.vercel.instances.read_text() == "2"
    assert len(world.pages.shown["statuspage"]) == shown
    assert not {fix.state for fix in report.fixes} & ACTED
    assert case["told"] in text(report), text(report)
    assert world.keys() == ([] if case.get("quiet") else ["site-down"])


async def _none(*_: object) -> None:
    """The other runbooks have their own corpora."""
