"""What only looks like mail to be mended, as data: on real parts, nothing is done about any of it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from demo.mail_faults import log_reset
from tests.flows import mail_parts as parts
from tests.flows.mail_parts import World

world = parts.world  # a fixture
CORPUS = tomllib.loads(Path(__file__).parents[1].joinpath("corpus", "undelivered_email.toml").read_text("utf-8"))


@pytest.mark.parametrize("case", CORPUS["case"], ids=lambda case: case["name"])
async def test_a_look_alike_is_left_alone(world: World, case: dict[str, Any]) -> None:
    for row in case.get("rows", []):
        world.sendgrid.suppress(*row)
    world.sendgrid.groups = dict.fromkeys(case.get("groups", []), "news")
    for reset in case.get("resets", []):
        log_reset(world.app, *reset)
    with world.app.log_path.open("a") as log:
        log.writelines(f"{line}\n" for line in case.get("lines", []))
    before = world.rows()
    report = await world.run()
    assert report.fixes == [], case["why"]
    assert world.rows() == before and world.changes() == [] and world.smtp.mails == []
    if "lines" in case:
        assert report.findings == []
