"""The watch on real parts: logs that really hold errors, ports that take pages and events, and each of them away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import flows
from demo.alert_faults import access_lines, log_lines
from demo.paging_servers import Fault
from flows import alert_watch
from flows.alert_watch import STATES
from runbook import memory, outbox
from runbook.alarm import State
from runbook.ledger import now_ms
from runbook.schema import entry
from tasks import access_log, log_rates, paging
from tasks.log_rates import attack
from tests.alert_parts import World, make_world, minute, write_json

PAGE = "alert:error-rate"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(paging, "SLACK_WAIT", 0.0)
    with make_world(tmp_path, monkeypatch) as made:
        yield made


def errors(world: World, *back: int, each: int = 8, name: str = "boom") -> None:
    for one in back:
        write_json(world.log, minute() - one, each, name)


def slow_api(world: World) -> None:
    world.set(ACCESS_LOG=str(world.access))
    for back in (1, 2, 3):
        access_lines(world.access, minute() - back, 40, 3.0, f"/api/classes/{back}")
        access_lines(world.access, minute() - back, 40, 0.1, "/api/users")


def aged(world: World, alert: str, **more: Any) -> None:
    """The alert as it would stand later: what is remembered of it is changed."""
    states = memory.recall(world.book, STATES)
    states[alert] |= more
    memory.remember(world.book, STATES, states)


# -- errors that last -------------------------------------------------------------------------------------------------


async def test_errors_that_last_are_one_page_and_end_with_it(world: World) -> None:
    errors(world, 2, 3, 4)
    rows = await world.watch()
    assert rows["error-rate"].state is State.firing and "boom 24" in rows["error-rate"].said
    for _ in range(3):
        await world.watch()
    assert world.events.wanted == ["site-down"]
    assert world.pagerduty.opened == [PAGE] and len(world.slack.messages) == 1
    # The same minutes by a looser threshold: all of them are well.
    rows = await world.watch(errors_per_minute=100)
    assert rows["error-rate"].state is State.ok
    assert world.pagerduty.incidents == {} and "over" in world.slack.text
    assert world.open_pages() == []
    with world.book.read() as connection:
        kinds = [row.body["is"] for row in connection.execute(entry.select().where(entry.c.kind == "alert"))]
    assert kinds == ["firing", "ok"]


async def test_one_bad_minute_tells_nobody(world: World) -> None:
    errors(world, 2, each=90)
    assert (await world.watch())["error-rate"].state is State.pending
    assert world.pagerduty.messages == [] and world.slack.messages == []


async def test_a_restart_forgets_nothing(world: World) -> None:
    errors(world, 2, 3, 4)
    since = (await world.watch())["error-rate"].since_ms
    world.book.engine.dispose()
    assert (await world.watch())["error-rate"].since_ms == since


async def test_two_watches_at_once_are_one(world: World) -> None:
    errors(world, 2, 3, 4)
    await asyncio.gather(world.watch(), world.watch(), world.watch())
    assert world.pagerduty.opened == [PAGE] and len(world.slack.messages) == 1


async def test_with_pagerduty_down_the_page_waits_for_it(world: World) -> None:
    world.pagerduty.faults.append(Fault(1, 503))
    errors(world, 2, 3, 4)
    await world.watch()
    assert world.pagerduty.opened == [] and len(world.slack.messages) == 1
    world.channels_well()
    await world.watch()
    assert world.pagerduty.opened == [PAGE] and len(world.slack.messages) == 1


# -- silence is never health ------------------------------------------------------------------------------------------


async def test_a_log_that_cannot_be_read_is_unknown_then_paged_then_seen_again(world: World) -> None:
    assert (await world.watch())["error-rate"].state is State.ok
    world.log.rename(world.folder / "elsewhere")
    assert (await world.watch())["error-rate"].state is State.unknown
    assert world.open_pages() == []
    aged(world, "error-rate", seen_ms=now_ms() - 11 * 60_000)
    rows = await world.watch()
    assert rows["error-rate"].state is State.unknown and "APP_LOG" in rows["error-rate"].said
    assert f"{PAGE}:blind" in world.open_pages() and f"{PAGE}:blind" in world.pagerduty.opened
    (world.folder / "elsewhere").rename(world.log)
    assert (await world.watch())["error-rate"].state is State.ok
    assert f"{PAGE}:blind" not in world.open_pages()


async def test_a_firing_alert_that_cannot_be_seen_goes_on_firing(world: World) -> None:
    errors(world, 2, 3, 4)
    await world.watch()
    world.log.unlink()
    assert (await world.watch())["error-rate"].state is State.firing
    assert world.open_pages() == [PAGE]


async def test_what_is_not_configured_is_named_and_told_to_nobody(world: World) -> None:
    world.set(APP_LOG="", PAGERDUTY_ROUTING_KEY="", SLACK_WEBHOOK_URL="")
    rows = await world.watch()
    unset = {name: row.said for name, row in rows.items() if row.state is State.unset}
    assert set(unset) == {"error-rate", "database-latency", "payment-failures", "auth-failures", "api-p95"}
    assert "APP_LOG" in unset["error-rate"] and "PAGERDUTY_ROUTING_KEY" in world.last.notes[0]


async def test_one_hanging_source_holds_no_other_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_watch, "EACH_SECONDS", 3.0)
    world.with_sentry()
    world.sentry.slow = 10.0
    errors(world, 2, 3, 4)
    rows = await world.watch()
    assert rows["error-rate"].state is State.unknown and "no answer" in rows["error-rate"].said
    assert rows["memory"].state is State.ok and rows["auth-failures"].state is State.ok


async def test_a_database_that_is_away_is_unknown(world: World) -> None:
    world.set(DATABASE_URL="postgresql://app@127.0.0.1:9/app")
    rows = await world.watch()
    assert rows["database-latency"].state is State.unknown and "DATABASE_URL" in rows["database-latency"].said


# -- Sentry -----------------------------------------------------------------------------------------------------------


async def test_sentry_sees_what_the_log_does_not(world: World) -> None:
    world.with_sentry()
    for back in (1, 2, 3):
        world.sentry.errors[minute() - back] = 30
    world.sentry.add_issue("APP-7", "TypeError in checkout", 90)
    rows = await world.watch()
    assert rows["error-rate"].state is State.firing and "APP-7 (90)" in rows["error-rate"].said


@pytest.mark.parametrize(("status", "word"), [(401, "SENTRY_AUTH_TOKEN"), (403, "scope"), (404, "slugs"), (503, "503")])
async def test_a_sick_sentry_leaves_the_log_to_be_counted(world: World, status: int, word: str) -> None:
    world.with_sentry()
    world.sentry.fault = status
    errors(world, 2, 3, 4)
    rows = await world.watch()
    assert rows["error-rate"].state is State.firing and word in rows["error-rate"].said


@pytest.mark.parametrize("body", ["[]", '{"data": [[1]]}', "<html>", '{"data": "x"}'])
async def test_sentry_talking_nonsense_alone_is_unknown(world: World, body: str) -> None:
    world.with_sentry()
    world.set(APP_LOG="")
    world.sentry.body = body
    assert (await world.watch())["error-rate"].state is State.unknown


# -- runbooks are started ---------------------------------------------------------------------------------------------


async def test_a_firing_alert_asks_for_its_runbooks_once_a_cooldown(world: World) -> None:
    slow_api(world)
    rows = await world.watch()
    assert rows["api-p95"].state is State.firing and "/api/classes/:id" in rows["api-p95"].said
    known = [name for name in ("slow-queries", "pool-exhaustion") if name in flows.names()]
    await world.watch()
    assert world.events.wanted == known
    for name in known:
        key = f"wanted/api-p95/{name}"
        was = memory.recall(world.book, key)
        memory.remember(world.book, key, was | {"at_ms": was["at_ms"] - 16 * 60_000})
    await world.watch()
    assert world.events.wanted == known * 2
    assert len({one["id"] for one in world.events.taken}) == len(known) * 2


async def test_with_prefect_away_the_wish_is_told_next_time(world: World) -> None:
    slow_api(world)
    world.events.status = 503
    await world.watch()
    assert world.events.wanted == [] and "PREFECT_API_URL" in world.last.notes[0]
    assert world.pagerduty.opened == ["alert:api-p95"]  # people are told all the same
    world.events.status = 204
    await world.watch()
    assert "pool-exhaustion" in world.events.wanted


# -- the other sources ------------------------------------------------------------------------------------------------


async def test_failed_sign_ins_by_their_shape(world: World) -> None:
    for back in (1, 2):
        for number in range(12):
            write_json(
                world.log, minute() - back, 1, "login_failed", "warn", ip="203.0.113.7", email=f"p{number}@example.com"
            )
    rows = await world.watch()
    assert rows["auth-failures"].state is State.firing
    assert "credential stuffing" in rows["auth-failures"].said and "203.0.113.0/24" in rows["auth-failures"].said
    assert "203.0.113.7" not in world.slack.text and "p1@" not in world.slack.text


def test_pure_one_user_from_many_addresses_is_a_target() -> None:
    many = [
        memory.LogEvent(
            name="login_failed", at_ms=0, level="warning", fields={"ip": f"203.0.113.{i}", "email": "a@b.c"}
        )
        for i in range(9)
    ]
    assert "targeted" in attack(many)[0]


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:0db8:0001:0002::/64"),
        ("nonsense", "unknown"),
    ],
)
def test_pure_networks_name_nobody(ip: str, expected: str) -> None:
    assert log_rates.network(ip) == expected


async def test_memory_near_its_bound_fires_after_four_minutes(world: World) -> None:
    world.cgroup(990, 10, "1000")
    assert (await world.watch())["memory"].state is State.pending
    now, points = (
        minute(),
        [{"minute": minute() - back, "value": 0.98, "over": True, "well": False} for back in (3, 2, 1)],
    )
    aged(world, "memory", points=points)
    rows = await world.watch()
    assert rows["memory"].state is State.firing and rows["memory"].value == "98.0%", now


async def test_no_cgroup_of_that_name_is_unknown(world: World) -> None:
    world.set(RUNBOOK_CGROUP="/nonexistent")
    rows = await world.watch()
    assert rows["memory"].state is State.unknown and "RUNBOOK_CGROUP" in rows["memory"].said


async def test_a_cgroup_that_cannot_be_read_is_not_judged_by_its_parent(world: World) -> None:
    inner = world.cgroup(500, 10, "1000") / "gone"
    world.set(RUNBOOK_CGROUP=str(inner))
    rows = await world.watch()
    assert rows["memory"].state is State.unknown and "RUNBOOK_CGROUP" in rows["memory"].said


async def test_an_app_that_does_not_answer_is_slow_not_unseen(world: World) -> None:
    world.set(APP_URL="http://127.0.0.1:9")
    assert (await world.watch())["api-p95"].state is State.pending


async def test_an_app_that_answers_is_probed(world: World) -> None:
    world.set(APP_URL=world.sentry.url)
    rows = await world.watch()
    assert rows["api-p95"].state is State.ok and "answered 404" in rows["api-p95"].said


def test_pure_access_lines_in_their_forms() -> None:
    lines = [
        '10.0.0.1 - - [02/Jan/2026:03:04:05 +0000] "GET /api/x/42?y=1 HTTP/1.1" 200 5 "-" "-" rt=1.500',
        '{"time":"2026-01-02T03:04:05Z","path":"/api/y/clh3q2k5x0000qzrmn831v7fp","durationMs":1500,"status":200}',
        '{"time_iso8601":"2026-01-02T03:04:05+00:00","request_uri":"/api/z","request_time":"1.5","status":"200"}',
        '{"time":"2026-01-02T03:04:05Z","path":"/api/socket","duration":90000,"status":101}',
        '10.0.0.1 - - [02/Jan/2026:03:04:05 +0000] "GET /page HTTP/1.1" 200 5 "-" "-" rt=9.9',
        '10.0.0.1 - - [garbage] "GET /api/old HTTP/1.1" 200 5 "-" "-"',
        "{not json",
        '{"path":"/api/no-time","ms":5}',
        "",
    ]
    found = list(access_log.parsed(lines))
    assert [(one.route, one.seconds) for one in found] == [("/api/x/:id", 1.5), ("/api/y/:id", 1.5), ("/api/z", 1.5)]
    assert {one.minute for one in found} == {29455384}


@pytest.mark.parametrize(("values", "expected"), [([1.0], 1.0), ([*range(1, 101)], 95), ([*range(1, 21)], 19)])
def test_pure_p95_is_a_sample(values: list[float], expected: float) -> None:
    assert access_log.p95(values) == expected


async def test_a_disk_that_fills_is_seen_before_it_is_full(world: World) -> None:
    (disk,) = await _disks()
    start = now_ms() - 40 * 60_000
    from runbook.schema import reading

    with world.book.write() as connection:
        for number in range(40):
            free = disk.free * (2 - number / 40)
            row = {"name": "disk_free_bytes:/", "at_ms": start + number * 60_000, "value": free}
            connection.execute(reading.insert().values(**row))
    rows = await world.watch()
    assert rows["disk"].state is State.pending and "is full in" in rows["disk"].said


async def _disks() -> Any:
    from tasks.host import read_disks

    return await read_disks()


async def test_a_slot_nobody_reads_alarms(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from demo.postgres import Postgres
    from tasks import disk_trend

    monkeypatch.setattr(disk_trend, "SLOT_BYTES", 1)
    with Postgres(extra="wal_level = logical\n") as server:
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute("SELECT pg_create_physical_replication_slot('dead', true)")
            owner.execute("CREATE TABLE filler AS SELECT generate_series(1, 1000)")
        world.set(DATABASE_URL=server.url(user="runbook"))
        rows = await world.watch()
        assert rows["disk"].state is State.pending and "nobody reads it" in rows["disk"].said


async def test_an_unanswered_question_of_another_run_is_delivered_by_the_watch(world: World) -> None:
    call = outbox.Call("pool-exhaustion:quota", outbox.Severity.critical, "somebody must look", "now")
    with world.book.write() as connection:
        outbox.raise_page(connection, call, "pool-exhaustion")
    await world.watch()
    assert world.pagerduty.opened == ["pool-exhaustion:quota"]


def test_the_demo_writes_lines_the_watch_reads(world: World) -> None:
    log_lines(world.log, range(minute() - 4, minute()), 8, "report_export_failed")
    rows = asyncio.run(world.watch())
    assert rows["error-rate"].state is State.firing
