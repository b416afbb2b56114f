"""Everything that looks like an alert and is none: no page, no event, on the real sources."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo import population
from demo.alert_faults import access_lines
from demo.alert_faults import at as moment
from demo.postgres import Postgres
from demo.stripe_objects import payment_intent
from demo.stripe_server import StripeServer
from flows.alert_watch import FOR
from runbook.alarm import Point, Rule, Sample, State, fresh, step
from tasks import disk_trend, latency
from tasks.declines import payment_sample
from tasks.latency import Calls, latency_sample, mean_between
from tests.alert_parts import World, make_world, minute, write_json

CORPUS: dict[str, list[dict[str, Any]]] = tomllib.loads(
    (Path(__file__).parents[1] / "corpus" / "alert_watch.toml").read_text("utf-8")
)
TRIGGERS = {"error-rate": 5, "database-latency": 500, "memory": 0.8, "disk": 0.1, "payment-failures": 0.05}
TRIGGERS |= {"auth-failures": 10, "api-p95": 2.0}
LIVE, TEST = "sk_live_0123456789", "sk_test_0123456789"


def cases(form: str) -> list[Any]:
    """The look-alikes that have this form, of every alert."""
    return [
        pytest.param(alert, case, id=f"{alert}: {case['name']}")
        for alert, of in CORPUS.items()
        for case in of
        if form in case
    ]


def rule(alert: str) -> Rule:
    need, of = FOR[alert]
    return Rule(name=alert, trigger=TRIGGERS[alert], need=need, of=of, below=alert == "disk")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with make_world(tmp_path, monkeypatch) as made:
        yield made


def test_every_alert_has_at_least_five() -> None:
    assert set(CORPUS) == set(FOR)
    assert all(2 * need > of for need, of in FOR.values())
    assert {alert for alert, of in CORPUS.items() if len(of) < 5} == set()


@pytest.mark.parametrize(("alert", "case"), cases("log"))
async def test_lines_that_are_no_alert(world: World, alert: str, case: dict[str, Any]) -> None:
    for one in case["log"]:
        at, level = minute() - one["back"], one.get("level", "error")
        write_json(world.log, at, one["count"], one["name"], level)
        if one.get("doubled"):
            with world.log.open("a") as log:
                for number in range(one["count"]):
                    time_, name = moment(at, number * 50 / one["count"]), one["name"]
                    word = {"warn": "WARNING"}.get(level, "ERROR")
                    log.write(f"[AUDIT-{word}] {name} {{\n  timestamp: '{time_}',\n  action: '{name}'\n}}\n")
    rows = await world.watch()
    assert rows[alert].state in {State.ok, State.pending}
    assert world.open_pages() == [] and world.events.taken == []


@pytest.mark.parametrize(("alert", "case"), cases("access"))
async def test_requests_that_are_no_alert(world: World, alert: str, case: dict[str, Any]) -> None:
    world.set(ACCESS_LOG=str(world.access))
    for one in case["access"]:
        path = one.get("path", "/api/classes")
        access_lines(world.access, minute() - one["back"], one["count"], one["seconds"], path)
    rows = await world.watch()
    assert rows[alert].state in {State.ok, State.pending, State.quiet}
    assert world.open_pages() == []


@pytest.mark.parametrize(("alert", "case"), cases("values"))
def test_pure_readings_that_are_no_alert(alert: str, case: dict[str, Any]) -> None:
    now = 1000 * 60_000
    alarm = fresh(alert, now)
    for value in case["values"]:
        point = () if value == "unseen" else [Point(minute=now // 60_000, value=value)]
        alarm = step(alarm, rule(alert), Sample(points=point, unseen="" if point else "it went away"), now, 10**9)
        assert alarm.state is not State.firing
        now += 60_000


@pytest.mark.parametrize(("alert", "case"), cases("cgroup"))
async def test_memory_that_is_no_alert(world: World, alert: str, case: dict[str, Any]) -> None:
    world.cgroup(**case["cgroup"])
    for _ in range(2):
        assert (await world.watch())[alert].state is State.ok


@pytest.mark.parametrize(("alert", "case"), cases("calls"))
def test_pure_statistics_that_are_no_alert(alert: str, case: dict[str, Any]) -> None:
    seen = [Calls(**one, at_ms=at * 60_000) for at, one in enumerate(case["calls"])]
    was, now = (seen[0], seen[1]) if len(seen) > 1 else (None, seen[0])
    assert mean_between(was, now) is None, alert


@pytest.mark.parametrize(("alert", "case"), cases("free"))
def test_pure_disks_that_do_not_fill(alert: str, case: dict[str, Any]) -> None:
    samples = [(at * 120_000, free * 2.0**30) for at, free in enumerate(case["free"])]
    hours = disk_trend.projected(samples)
    assert hours is None or hours > disk_trend.SOON_HOURS, alert


@pytest.mark.parametrize(("alert", "case"), cases("slot"))
def test_pure_slots_that_are_well(alert: str, case: dict[str, Any]) -> None:
    assert disk_trend.holding([disk_trend.Slot(**case["slot"])]) == [], alert


# -- payments, at a Stripe that keeps state ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stripe() -> Iterator[StripeServer]:
    with StripeServer(100, test_keys={TEST}, live_keys={LIVE}) as server:
        yield server


def fill(stripe: StripeServer, payments: dict[str, int]) -> None:
    stripe.store.intents.clear()
    now, numbers = int(time.time()), iter(range(10_000))

    def add(count: int, decline: str, age: int = 60, **more: object) -> None:
        for _ in range(count):
            number = next(numbers)
            intent = payment_intent(f"pi_{number:04d}", population.customer_id(number), 900, now - age, decline)
            stripe.store.intents[intent["id"]] = intent | more

    add(payments.get("paid", 0), "", status="succeeded", last_payment_error=None)
    add(payments.get("recovered", 0), "generic_decline", status="succeeded")
    add(payments.get("failed", 0), "insufficient_funds")
    add(payments.get("failed_long_ago", 0), "insufficient_funds", age=7200)
    add(payments.get("abandoned", 0), "", status="requires_payment_method", last_payment_error=None)
    add(payments.get("processing", 0), "", status="processing", last_payment_error=None)


def judged(sample: Sample) -> State:
    now = time.time_ns() // 1_000_000
    return step(fresh("payment-failures", now), rule("payment-failures"), sample, now, 10**9).state


@pytest.mark.parametrize(("alert", "case"), cases("payments"))
async def test_payments_that_are_no_alert(world: World, stripe: StripeServer, alert: str, case: dict[str, Any]) -> None:
    payments = dict(case["payments"])
    world.set(STRIPE_SECRET_KEY=TEST if payments.pop("test", False) else LIVE, STRIPE_API_BASE=stripe.url)
    fill(stripe, payments)
    assert judged(await payment_sample(test_payments=False)) in {State.ok, State.quiet, State.unset}, alert


async def test_payments_that_are_one(world: World, stripe: StripeServer) -> None:
    world.set(STRIPE_SECRET_KEY=LIVE, STRIPE_API_BASE=stripe.url)
    fill(stripe, {"paid": 47, "failed": 3, "abandoned": 200})
    sample = await payment_sample(test_payments=False)
    assert judged(sample) is State.pending and "insufficient_funds 3" in sample.said and "3 of 50" in sample.said


# -- the database -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        with psycopg.connect(running.url(), autocommit=True) as owner:
            owner.execute("CREATE EXTENSION pg_stat_statements")
        yield running


@pytest.fixture
def database(world: World, server: Postgres) -> Postgres:
    world.set(DATABASE_URL=server.url(user="runbook"))
    return server


def many(server: Postgres, sql: str, times: int) -> None:
    with psycopg.connect(server.url(user="app"), autocommit=True) as app:
        for _ in range(times):
            app.execute(sql)


@pytest.mark.parametrize(("alert", "case"), cases("sql"))
async def test_work_that_is_long_by_nature(database: Postgres, alert: str, case: dict[str, Any]) -> None:
    await latency_sample()
    many(database, "SELECT 1 AS quick", latency.LEAST_CALLS + 10)
    with psycopg.connect(database.url(user="app"), autocommit=True) as app:
        if case["sql"].startswith("COPY"):
            with app.cursor() as cursor, cursor.copy(case["sql"]) as copy:
                list(copy)
        else:
            app.execute(case["sql"])
    sample = await latency_sample()
    assert sample.evidence["mean_ms"] < 5, alert


async def test_a_slow_database_is_seen_as_it_is(database: Postgres) -> None:
    await latency_sample()
    many(database, "SELECT count(*) FROM generate_series(1, 100000)", latency.LEAST_CALLS + 5)
    sample = await latency_sample()
    assert sample.evidence["mean_ms"] > 2
    assert sample.points[0].value == pytest.approx(max(sample.evidence.values()), abs=0.1)


async def test_without_the_extension_the_round_trip_is_what_counts(world: World, server: Postgres) -> None:
    world.set(DATABASE_URL=server.url("postgres", user="runbook"))
    sample = await latency_sample()
    assert sample.points and "CREATE EXTENSION pg_stat_statements" in sample.said
