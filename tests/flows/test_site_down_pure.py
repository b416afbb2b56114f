"""The verdict in tables: what was seen, and what is the matter; when errors began; what is rolled back."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.deploys import Deployment, Deploys, judge
from tasks.maintenance import Switch
from tasks.outage import Assessment, Cause, Lately, onset, screen, verdict
from tasks.rollback import Migrations
from tasks.site import Check, Page, Site, judge_probe
from tasks.vendors import PublicIncident, Standing, Vendor

NOW = 1_800_000_000_000
MINUTE = 60_000
OK, BLIND = Check(ok=True, said="4 of 20 connections in use"), Check(ok=None, said="nobody knows")
NO = Check(ok=False, said="refused")
WELL = Page(path="/", status=200, seconds=0.1)
BROKEN = Page(path="/", status=500, problem="answers 500")
SILENT = Page(path="/", problem="cannot be reached")
GATEWAY = Page(path="/", status=502, problem="answers 502")
UP, DOWN = Vendor(name="stripe", standing=Standing.up), Vendor(name="stripe", standing=Standing.down, said="failed")
AI_DOWN = Vendor(name="openai", standing=Standing.down, said="cannot be reached")
QUOTA = Vendor(name="openai", standing=Standing.refused, said="the quota is used up")
RED = PublicIncident(name="Elevated errors", impact="critical", started_at="2026-01-02T03:00:00Z")
MINOR = RED.model_copy(update={"impact": "minor"})
HOST_RED = Vendor(name="vercel", standing=Standing.unset, incidents=(RED,))


def site(page: Page = WELL, app: Check = OK, direct: Check = OK, used: float = 0.2, waiting: int = 0) -> Site:
    return Site(pages=(page,), through_app=app, directly=direct, used=used, waiting=waiting)


def deployed(minutes_ago: float, **more: Any) -> Deploys:
    at = NOW - round(minutes_ago * MINUTE)
    before = Deployment(id="dpl_good", at_ms=at - 86_400_000)
    return Deploys(live=Deployment(id="dpl_bad", at_ms=at), since_ms=at, before=before, **more)


def seen(where: Site, *vendors: Vendor, deploys: Deploys | None = None, **more: Any) -> Assessment:
    return Assessment(at_ms=NOW, site=where, vendors=vendors, deploys=deploys, **more)


ROWS: list[tuple[str, Assessment, Cause, bool]] = [
    ("all is well", seen(site(), UP), Cause.well, False),
    ("well after a deployment", seen(site(), UP, deploys=deployed(2)), Cause.well, False),
    ("an alert fires and all answers", seen(site(), UP, alerts={"error-rate": "9/min"}), Cause.well, False),
    ("one session waits and nobody notices", seen(site(waiting=1)), Cause.well, False),
    ("pages fail after a deployment", seen(site(BROKEN), UP, deploys=deployed(2)), Cause.deployment, True),
    (
        "pages fail and errors began after it",
        seen(site(BROKEN), deploys=deployed(20), onset_ms=NOW - 15 * MINUTE),
        Cause.deployment,
        True,
    ),
    ("the app dies on a deployment", seen(site(SILENT, BLIND), UP, deploys=deployed(1)), Cause.deployment, True),
    ("the app loses its database on a deployment", seen(site(app=NO), deploys=deployed(3)), Cause.deployment, True),
    (
        "a deployment and a full pool",
        seen(site(BROKEN, NO, used=1.0, waiting=9), UP, deploys=deployed(4)),
        Cause.deployment,
        True,
    ),
    ("quota used up and a deployment", seen(site(BROKEN), QUOTA, deploys=deployed(2)), Cause.deployment, True),
    ("an old deployment", seen(site(BROKEN), UP, deploys=deployed(600)), Cause.unknown, False),
    (
        "deployed after the errors began",
        seen(site(BROKEN), deploys=deployed(2), onset_ms=NOW - 20 * MINUTE),
        Cause.unknown,
        False,
    ),
    ("rolled back already", seen(site(BROKEN), deploys=deployed(2, rolled_back=True)), Cause.unknown, False),
    ("a vendor is down and a deployment", seen(site(BROKEN), DOWN, deploys=deployed(2)), Cause.vendor, False),
    ("a vendor is down and pages are well", seen(site(), DOWN, deploys=deployed(2)), Cause.vendor, False),
    ("quota used up", seen(site(), QUOTA), Cause.vendor, False),
    (
        "a vendor's page is red, its key works",
        seen(site(), UP.model_copy(update={"incidents": (RED,)})),
        Cause.well,
        False,
    ),
    ("the host's page is red and pages fail", seen(site(GATEWAY), HOST_RED, deploys=deployed(2)), Cause.vendor, False),
    ("the host's page is red and pages are well", seen(site(), HOST_RED), Cause.well, False),
    (
        "the host's page is a little red",
        seen(site(BROKEN), Vendor(name="vercel", standing=Standing.unset, incidents=(MINOR,)), deploys=deployed(2)),
        Cause.deployment,
        True,
    ),
    ("the database refuses", seen(site(BROKEN, NO, NO), UP), Cause.database, False),
    (
        "the database refuses after a deployment",
        seen(site(BROKEN, NO, NO), UP, deploys=deployed(2)),
        Cause.database,
        False,
    ),
    ("the database is full", seen(site(app=NO, used=1.0), UP), Cause.database, False),
    ("the app alone loses the database", seen(site(app=NO), UP), Cause.database, False),
    ("nobody answers behind the proxy", seen(site(GATEWAY, BLIND), UP), Cause.infrastructure, False),
    ("nobody answers at all", seen(site(SILENT, BLIND), UP), Cause.infrastructure, False),
    ("memory is short and pages fail", seen(site(BROKEN), alerts={"memory": "97%"}), Cause.infrastructure, False),
    ("we are cut off", seen(site(SILENT, BLIND, NO), DOWN, AI_DOWN, deploys=deployed(2)), Cause.infrastructure, False),
    ("pages fail and nothing tells why", seen(site(BROKEN), UP), Cause.unknown, False),
    ("nothing can be seen", seen(Site(pages=(), through_app=BLIND, directly=BLIND)), Cause.unknown, False),
    (
        "a maintenance somebody planned",
        seen(site(GATEWAY), UP, maintenance=Switch(name="maintenance", state="on"), deploys=deployed(2)),
        Cause.well,
        False,
    ),
]


@pytest.mark.parametrize(("name", "what", "cause", "back"), ROWS, ids=[row[0] for row in ROWS])
def test_pure_verdicts(name: str, what: Assessment, cause: Cause, back: bool) -> None:
    found = verdict(what)
    assert (found.cause, found.roll_back) == (cause, back), screen(what, found)
    assert found.well or found.because
    assert len(screen(what, found).splitlines()) <= 30, name


def test_pure_every_suspect_is_named_with_its_runbooks() -> None:
    where = site(BROKEN, NO, used=1.0)
    left = (Lately(runbook="undelivered-email", outcome="refused", said="3 blocks"),)
    found = verdict(seen(where, QUOTA, deploys=deployed(2), lately=left))
    assert [one.cause for one in found.suspects[:3]] == [Cause.deployment, Cause.vendor, Cause.database]
    assert found.runbooks == ("failed-generations", "pool-exhaustion", "slow-queries", "undelivered-email")


def test_pure_what_is_no_reason_is_said_beside() -> None:
    late = seen(site(BROKEN), deploys=deployed(2), onset_ms=NOW - 20 * MINUTE)
    assert "after the errors began" in " ".join(verdict(late).besides)
    between = seen(site(BROKEN), deploys=deployed(2), migrations=Migrations(names=("20260101_x",)))
    assert "20260101_x" in " ".join(verdict(between).besides)


@pytest.mark.parametrize(
    ("counts", "began"),
    [
        ({}, None),
        ({100: 2}, None),
        ({100: 5}, 100),
        ({98: 5, 99: 5, 100: 5}, 98),
        ({90: 9, 98: 5, 99: 5}, 98),  # an older burst is another matter
        ({95: 5, 98: 5}, 95),  # a pause of two minutes is none
        ({90: 50}, None),  # over for ten minutes
        ({97: 5}, 97),
        ({96: 5}, None),
    ],
)
def test_pure_errors_of_now_began_when(counts: dict[int, int], began: int | None) -> None:
    assert onset(counts, 100, 3) == began


@pytest.mark.parametrize(
    ("status", "ok"),
    [
        (200, True),
        (204, True),
        (500, False),
        (501, False),
        (502, None),
        (503, None),
        (400, None),
        (404, None),
        (429, None),
    ],
)
def test_pure_what_an_answer_says_of_the_database(status: int, ok: bool | None) -> None:
    assert judge_probe("/hook", status).ok is ok


def test_pure_the_history_of_deployments() -> None:
    found = [
        Deployment(id="new", at_ms=50, state="BUILDING"),
        Deployment(id="live", at_ms=40),
        Deployment(id="staged", at_ms=35, once_live=False),
        Deployment(id="failed", at_ms=34, state="ERROR"),
        Deployment(id="before", at_ms=30),
        Deployment(id="older", at_ms=20),
    ]
    judged = judge(found, "live")
    assert judged.before is not None
    assert (judged.before.id, judged.pending, judged.rolled_back) == ("before", "new", False)
    back = judge(found, "before", since_ms=60)
    assert (back.rolled_back, back.since_ms) == (True, 60)
