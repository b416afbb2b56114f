"""The emergency on real parts: a bad deployment pointed back, everything down at once, and who is told of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.deploy_server import BAD, GOOD
from demo.paging_servers import Fault
from demo.site_faults import status
from deployments.undoing import undo
from runbook import gate, incidents, postmortem, schema
from runbook.model import Fix, FixState, Mode, Outcome
from runbook.permit import Permit
from runbook.run import Run
from tasks import reminder
from tests.flows import site_parts
from tests.flows.site_parts import World, closed_port, fix_of, of, text

parts, world = site_parts.parts, site_parts.world  # fixtures
ROOT = Path(__file__).resolve().parents[2]


# -- a bad deployment -------------------------------------------------------------------------------------------------


async def test_a_bad_deployment_is_pointed_back_and_people_are_told_once(world: World) -> None:
    world.bad_deployment()
    assert status(world.app.url) == 500
    report = await world.run()
    assert report.outcome is Outcome.fixed, text(report)
    assert of(report, "roll_back") == [FixState.proven]
    assert (world.vercel.live, status(world.app.url)) == (GOOD, 200)
    assert world.vercel.moves == [("rollback", GOOD)]
    assert world.pagerduty.opened == ["site-down"] and world.pagerduty.incidents == {}
    assert "war-room" in world.slack.text and "over" in world.slack.text
    assert world.pages.shown["statuspage"] == []  # public words need a person
    assert of(report, "post_status") == [FixState.refused]
    assert "Some of our pages" in world.page().text


async def test_observe_shows_the_plan_and_points_nothing(world: World) -> None:
    world.bad_deployment()
    report = await world.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed
    assert of(report, "roll_back") == [FixState.planned]
    assert of(report, "start_maintenance") == [FixState.planned]
    assert (world.vercel.live, world.vercel.moves) == (BAD, [])
    assert world.vercel.maintenance.read_text() == "off"


async def test_a_rollback_is_undone_and_not_once_somebody_deployed_since(world: World) -> None:
    world.bad_deployment()
    done = fix_of(await world.run(), "roll_back")
    report = await undo(world.book, done.id)
    assert report.outcome is Outcome.undone and world.vercel.live == BAD
    assert world.vercel.moves[-1] == ("promote", BAD)


async def test_an_undo_is_refused_after_a_later_deployment(world: World) -> None:
    world.bad_deployment()
    done = fix_of(await world.run(), "roll_back")
    world.vercel.deploy("dpl_mended", minutes_ago=0)
    report = await undo(world.book, done.id)
    assert report.outcome is not Outcome.undone and world.vercel.live == "dpl_mended"
    assert "dpl_mended is live by now" in report.fixes[0].why


async def test_a_rollback_that_does_not_help_is_not_called_fixed(world: World) -> None:
    world.bad_deployment()
    world.vercel.bad.add(GOOD)
    report = await world.run()
    assert report.outcome in {Outcome.unsolved, Outcome.refused} and report.exit_code != 0
    assert of(report, "start_maintenance") == [FixState.refused]  # a person's
    assert world.pagerduty.incidents == {"site-down": "triggered"}


async def test_an_alias_that_never_moves_is_no_proof(world: World) -> None:
    world.bad_deployment()
    world.vercel.stuck = True
    world.monkeypatch.setattr("tasks.rollback.PROVE_SECONDS", 0.2)
    report = await world.run()
    assert of(report, "roll_back") == [FixState.failed] and report.outcome is Outcome.unsolved


@pytest.mark.parametrize("refuse", [402, 409, 422])
async def test_vercel_saying_no_is_a_failed_fix(world: World, refuse: int) -> None:
    world.bad_deployment()
    world.vercel.refuse = refuse
    report = await world.run()
    assert of(report, "roll_back") == [FixState.failed] and world.vercel.live == BAD


KILLED = """
import asyncio, os, signal
from flows.site_down import site_down
from tasks import rollback

point = rollback._point

async def killed(action, wanted):
    if {after}:
        await point(action, wanted)
    os.kill(os.getpid(), signal.SIGKILL)

rollback._point = killed
asyncio.run(site_down.fn(window_seconds=0))
"""


@pytest.mark.parametrize(("after", "moves"), [(True, 1), (False, 2)])
async def test_a_process_killed_while_it_points_is_settled_by_looking(world: World, after: bool, moves: int) -> None:
    world.bad_deployment()
    words = [sys.executable, "-c", KILLED.format(after=after)]
    done = await asyncio.to_thread(subprocess.run, words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9
    world.monkeypatch.setattr("tasks.rollback.PROVE_SECONDS", 1.0)
    report = await world.run()
    assert "by looking" in text(report)
    assert world.vercel.live == GOOD
    assert len(world.vercel.moves) == moves - (not after)
    assert world.pagerduty.opened == ["site-down"] and world.pagerduty.incidents == {}


async def test_a_site_that_fails_again_within_the_window_is_not_over(world: World) -> None:
    world.bad_deployment()
    seen, really = list[int](), world.vercel.page_status

    def flaps() -> int:
        if world.vercel.live == BAD:
            return really()
        seen.append(500 if len(seen) in {3, 4} else 200)  # twice: one lost answer is no outage
        return seen[-1]

    world.monkeypatch.setattr(world.vercel, "page_status", flaps)
    report = await world.run(window_seconds=2)
    assert seen[-1] == 200 and of(report, "roll_back") == [FixState.proven]
    assert report.outcome is not Outcome.fixed and world.pagerduty.incidents == {"site-down": "triggered"}
    await world.run(follow_up=True)
    assert world.pagerduty.incidents == {} and world.pagerduty.opened == ["site-down"]


async def test_a_migration_that_ends_while_it_is_decided_keeps_the_hand_closed(world: World) -> None:
    world.bad_deployment()
    ask = gate.ask

    async def late(run: Run, plan: list[Fix], **more: Any) -> Permit:
        permit = await ask(run, plan, **more)
        if permit.fixes:
            world.migration("20260101_late", minutes_ago=0)
        return permit

    world.monkeypatch.setattr(gate, "ask", late)
    report = await world.run()
    assert of(report, "roll_back") == [FixState.refused] and world.vercel.moves == []
    assert "20260101_late" in fix_of(report, "roll_back").why


async def test_people_are_told_while_it_is_still_being_looked_at(world: World) -> None:
    world.bad_deployment()
    world.sentry.slow = 4.0
    running = asyncio.create_task(world.run())
    while not world.pagerduty.opened:
        assert not running.done()
        await asyncio.sleep(0.05)
    assert world.pagerduty.messages[0]["payload"]["summary"] == "the site is down: / answers 500"  # no verdict yet
    report = await running
    assert report.outcome is Outcome.fixed, text(report)
    assert world.slack.text.count("runbook ack") == 1


# -- everything down at once ------------------------------------------------------------------------------------------


async def test_with_everything_down_it_says_what_it_cannot_see_and_still_pages(world: World) -> None:
    away = f"http://127.0.0.1:{closed_port()}"
    world.set(
        APP_URL=away,
        DATABASE_URL=f"postgresql://app@127.0.0.1:{closed_port()}/app",
        SLACK_WEBHOOK_URL=f"{away}/hook",
        STRIPE_API_BASE=away,
        OPENAI_BASE_URL=away,
        SENTRY_API_BASE=away,
        VERCEL_API_BASE=away,
        STATUSPAGE_API_BASE=away,
        APP_LOG=str(world.folder / "gone.log"),
        PREFECT_API_URL=f"{away}/api",
    )
    report = await world.run()
    assert report.outcome is not Outcome.fixed and report.findings[0].subject == "infrastructure"
    said = text(report)
    for name in ("VERCEL_API_BASE", "APP_LOG", "slack", "APP_URL", "own network"):
        assert name.lower() in said.lower(), said
    assert world.pagerduty.opened == ["site-down"]
    assert world.vercel.moves == []


async def test_with_pagerduty_down_slack_is_told_and_pagerduty_later(world: World) -> None:
    world.bad_deployment()
    world.vercel.bad.add(GOOD)
    world.pagerduty.faults.append(Fault(1, 503))
    report = await world.run()
    assert "the site is down" in world.slack.text and "PAGERDUTY" in text(report)
    world.channels_well()
    await world.run()
    assert world.pagerduty.opened == ["site-down"]
    assert world.slack.text.count("runbook ack site-down") == 1


async def test_nothing_to_look_at_is_not_configured(world: World) -> None:
    world.set(APP_URL="", DATABASE_URL="")
    report = await world.run()
    assert report.not_configured and "APP_URL" in report.reason
    assert world.keys() == []


# -- the incident as a whole ------------------------------------------------------------------------------------------


async def test_a_site_that_is_well_pages_nobody(world: World) -> None:
    report = await world.run()
    assert (report.outcome, world.keys()) == (Outcome.healthy, []), text(report)


async def test_a_follow_up_looks_only_while_something_is_open(world: World) -> None:
    assert await world.run(follow_up=True) is None
    world.bad_deployment()
    world.migration("20260101_between", minutes_ago=3)
    report = await world.run()
    assert report.outcome is Outcome.refused and "20260101_between" in text(report)
    world.vercel.deploy("dpl_mended", minutes_ago=0)  # a person rolled forward
    report = await world.run(follow_up=True)
    assert world.pagerduty.incidents == {} and world.pagerduty.opened == ["site-down"]
    assert await world.run(follow_up=True) is None


async def test_a_database_that_is_full_is_freed_by_its_runbook(world: World) -> None:
    from demo import database_faults as faults

    writers, filled = faults.idle_writers(world.postgres, 9), faults.fill_slots(world.postgres)
    try:
        world.monkeypatch.setattr("flows.pool_exhaustion.pool_exhaustion.fn", _eager())
        report = await world.run()
        assert "pool-exhaustion: fixed" in text(report), text(report)
        assert report.findings[0].subject == "database"
        assert report.outcome is Outcome.fixed
    finally:
        writers.close()
        filled.close()


def _eager() -> object:
    from functools import partial

    from flows.pool_exhaustion import pool_exhaustion

    return partial(pool_exhaustion.fn, idle_seconds=0, active_seconds=0, wait_seconds=0, hold_seconds=0)


async def test_a_disabled_endpoint_at_stripe_is_a_vendors_matter(world: World) -> None:
    for endpoint in world.stripe.store.endpoints.values():
        endpoint["status"] = "disabled"
    report = await world.run()
    assert report.findings[0].subject == "vendor" and "failed-payments: fixed" in text(report), text(report)
    assert report.outcome is Outcome.fixed
    assert world.vercel.moves == []


# -- what may be seen -------------------------------------------------------------------------------------------------


async def test_the_probe_leaves_no_trace_for_the_payments_runbook(world: World) -> None:
    from tasks.webhook_log import read_webhook_errors

    await world.run()
    assert "subscription_not_found_for_update" in world.app.log_path.read_text()
    assert await read_webhook_errors(0) == {}


async def test_without_the_right_to_read_migrations_a_person_decides(world: World) -> None:
    with psycopg.connect(world.postgres.url(), autocommit=True) as owner:
        owner.execute('REVOKE SELECT ON "_prisma_migrations" FROM runbook')
    world.bad_deployment()
    report = await world.run()
    assert of(report, "roll_back") == [FixState.refused] and world.vercel.live == BAD
    assert "needs a person" in fix_of(report, "roll_back").why


# -- what is learnt ---------------------------------------------------------------------------------------------------


async def test_the_incident_is_closed_and_its_postmortem_drafted_and_asked_for(world: World) -> None:
    world.bad_deployment()
    await world.run()
    (one,) = incidents.every(world.book)
    assert one.state == "closed" and one.sick == []
    text_ = postmortem.draft(world.book, one.id)
    for line in (BAD, "helped: proven", "page_render_failed", "paged: the site is down", "Owner: ____"):
        assert line in text_, text_
    assert not reminder.due(world.book)
    with world.book.write() as connection:
        connection.execute(schema.incident.update().values(closed_at_ms=one.opened_at_ms - reminder.DAY_MS))
    world.slack.messages.clear()
    world.slack.faults.append(Fault(1, 503))
    for _ in range(3):
        await world.run(follow_up=True)
    assert world.slack.text.count(f"runbook incident close {one.id} --postmortem") == 1
    incidents.close(world.book, one.id, "a person", "https://wiki.example/pm-1")
    world.slack.messages.clear()
    with world.book.write() as connection:
        connection.execute(schema.memo.delete().where(schema.memo.c.key == f"postmortem/{one.id}"))
    await world.run(follow_up=True)
    assert world.slack.messages == []
