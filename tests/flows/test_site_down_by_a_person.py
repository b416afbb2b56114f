"""The emergency by a person's word, on real parts: the site shut and opened, the status page, one instance more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.deploy_server import GOOD
from deployments.undoing import undo
from flows.site_down import HANDS
from runbook import gate
from runbook.errors import BadSetting
from runbook.model import Fix, FixState, Mode, Outcome
from runbook.permit import Permit
from runbook.run import Run
from tasks import maintenance
from tests.flows import site_parts
from tests.flows.site_parts import World, of, text, yes

parts, world = site_parts.parts, site_parts.world  # fixtures
ROOT = Path(__file__).resolve().parents[2]


async def test_maintenance_by_a_person_is_switched_on_looked_at_and_off_again(world: World) -> None:
    world.bad_deployment()
    world.vercel.bad.add(GOOD)
    world.vercel.shuts_webhook = True
    world.monkeypatch.setattr("runbook.approval.ask", yes)
    report = await world.run(mode=Mode.approve)
    assert of(report, "start_maintenance") == [FixState.proven]
    assert world.vercel.maintenance.read_text() == "on"
    assert "exempt it" in text(report)
    assert world.pages.open_names() == ["Some of our pages are not working"]
    world.vercel.bad.clear()
    world.set(RUNBOOK_HEALTH_URL=f"{world.app.url}/api/auth/csrf")
    world.vercel.shuts_webhook = False
    report = await world.run(mode=Mode.approve)
    assert of(report, "end_maintenance") == [FixState.proven]
    assert world.vercel.maintenance.read_text() == "off"
    assert world.pages.open_names() == [] and world.pages.mails == 1
    assert world.pagerduty.incidents == {}


async def test_nothing_more_is_done_once_another_run_has_shut_the_site(world: World) -> None:
    world.vercel.needed = 3
    world.monkeypatch.setattr("runbook.approval.ask", yes)
    ask = gate.ask

    async def late(run: Run, plan: list[Fix], **more: Any) -> Permit:
        permit = await ask(run, plan, **more)
        world.vercel.maintenance.write_text("on")
        return permit

    world.monkeypatch.setattr(gate, "ask", late)
    report = await world.run(mode=Mode.approve)
    assert of(report, "post_status") == [FixState.proven] and of(report, "scale_app") == []
    assert world.vercel.instances.read_text() == "2"


async def test_maintenance_that_nobody_may_end_is_no_health(world: World) -> None:
    await shut(world)
    report = await world.run()  # in mode auto, with nobody to ask
    assert of(report, "end_maintenance") == [FixState.refused]
    assert report.outcome is Outcome.refused and "a person must end it" in text(report)


async def test_a_status_page_that_stays_open_is_told(world: World) -> None:
    await shut(world)
    world.vercel.maintenance.write_text("off")
    report = await world.run()
    assert of(report, "close_status") == [FixState.refused] and world.pagerduty.incidents
    assert report.outcome is Outcome.refused and "close it there" in text(report)


async def test_a_status_page_that_cannot_be_read_any_more_keeps_the_page_open(world: World) -> None:
    await shut(world)
    world.vercel.maintenance.write_text("off")
    ask = gate.ask

    async def gone(run: Run, plan: list[Fix], **more: Any) -> Permit:
        permit = await ask(run, plan, **more)
        world.pages.fault = 503 if any(fix.action == "close_status" for fix in plan) else 0
        return permit

    world.monkeypatch.setattr(gate, "ask", gone)
    report = await world.run(mode=Mode.approve)
    assert report.outcome is not Outcome.healthy and "may still show the incident: STATUSPAGE_API_BASE" in text(report)
    assert world.pagerduty.incidents
    world.pages.fault = 0
    world.monkeypatch.setattr(gate, "ask", ask)
    world.pages.shown["statuspage"][0]["status"] = "resolved"  # a person did
    await world.run(follow_up=True)
    assert world.pagerduty.incidents == {}


async def test_a_status_page_that_was_never_read_keeps_the_page_open(world: World) -> None:
    await shut(world)
    world.vercel.maintenance.write_text("off")
    world.pages.fault = 503
    report = await world.run(mode=Mode.approve)
    assert of(report, "close_status") == [] and "may still show the incident: STATUSPAGE_API_BASE" in text(report)
    assert "cannot see: stripe's status page: answered 503" in text(report)
    assert world.pagerduty.incidents


CLOSED = """
import asyncio, os, signal
from flows.site_down import site_down
from tasks import status_page

async def killed(*_given):
    os.kill(os.getpid(), signal.SIGKILL)

status_page._write = killed
from runbook import approval
from tests.flows.site_parts import yes

approval.ask = yes
asyncio.run(site_down.fn(mode="approve", window_seconds=0, each_seconds=0.1))
"""


async def test_a_process_killed_while_it_closes_the_status_page_comes_back_to_it(world: World) -> None:
    await shut(world)
    world.vercel.maintenance.write_text("off")
    words = [sys.executable, "-c", CLOSED]
    done = await asyncio.to_thread(subprocess.run, words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9
    report = await world.run(mode=Mode.approve)  # its target was tried twice within 15 minutes
    assert report.outcome is Outcome.refused and "close it there" in text(report)
    assert world.pagerduty.incidents
    world.pages.shown["statuspage"][0]["status"] = "resolved"  # a person did
    await world.run(follow_up=True)
    assert world.pagerduty.incidents == {}


async def shut(world: World) -> None:
    """The site is well again behind its maintenance page, the public is told that it is not."""
    world.bad_deployment()
    world.vercel.bad.add(GOOD)
    world.monkeypatch.setattr("runbook.approval.ask", yes)
    await world.run(mode=Mode.approve)
    world.vercel.bad.clear()
    assert world.vercel.maintenance.read_text() == "on" and world.pages.open_names()


async def test_one_instance_more_and_back(world: World) -> None:
    async with Run("site-down", Mode.auto, pages=False) as run:
        permit = await gate.ask(run, [maintenance.scale("2", "load")], by_hand=True, share=None)
        await permit.apply(HANDS)
    assert world.vercel.instances.read_text() == "3"
    await undo(world.book, permit.fixes[0].id)
    assert world.vercel.instances.read_text() == "2"
    await undo_refused(world, permit.fixes[0].id)


async def test_an_instance_is_not_taken_back_once_a_person_changed_their_number(world: World) -> None:
    async with Run("site-down", Mode.auto, pages=False) as run:
        permit = await gate.ask(run, [maintenance.scale("2", "load")], by_hand=True, share=None)
        await permit.apply(HANDS)
    world.vercel.instances.write_text("5")
    report = await undo(world.book, permit.fixes[0].id)
    assert report.outcome is Outcome.refused and "it says 5 by now" in report.fixes[0].why
    assert world.vercel.instances.read_text() == "5"


async def undo_refused(world: World, fix_id: str) -> None:
    with pytest.raises(BadSetting, match="undone"):
        await undo(world.book, fix_id)
