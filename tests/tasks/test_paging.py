"""Telling people: at least once, in order, in the forms PagerDuty and Slack take, whatever becomes of those."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.paging_servers import Fault
from runbook import memory, outbox
from runbook.ledger import now_ms
from runbook.outbox import Call, Page, Severity
from runbook.process import this_process
from tasks import paging
from tasks.paging import deliver
from tests.alert_parts import World, make_world

HOUR_MS = 3_600_000
SICK = Call("alert:error-rate", Severity.critical, "errors <40/min> & more", "read `app.log` & <it>")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(paging, "SLACK_WAIT", 0.0)
    with make_world(tmp_path, monkeypatch) as made:
        yield made


def raised(world: World, call: Call = SICK) -> None:
    with world.book.write() as connection:
        outbox.raise_page(connection, call, "alert-watch")


def resolved(world: World, key: str = SICK.key) -> None:
    with world.book.write() as connection:
        outbox.resolve(connection, key)


def late(world: World) -> None:
    """As if everybody had been told an hour ago."""
    for one in outbox.pages(world.book):
        for channel, progress in one.sent.items():
            outbox.mark(world.book, [one.seq], channel, {"at_ms": progress["at_ms"] - HOUR_MS})


def actions(world: World) -> list[str]:
    return [one["event_action"] for one in world.pagerduty.messages]


async def test_a_page_goes_to_both_channels_once(world: World) -> None:
    raised(world)
    assert (await deliver()).sent == {"pagerduty": 1, "slack": 1}
    raised(world)
    assert (await deliver()).sent == {"pagerduty": 0, "slack": 0}
    (event,) = world.pagerduty.messages
    assert event["dedup_key"] == SICK.key and event["payload"]["severity"] == "critical"
    assert "errors &lt;40/min&gt; &amp; more" in world.slack.text and "<it>" not in world.slack.text


async def test_acknowledged_and_resolved_are_told_too(world: World) -> None:
    raised(world)
    await deliver()
    outbox.acknowledge(world.book, SICK.key, "ann <b>")
    await deliver()
    resolved(world)
    await deliver()
    assert actions(world) == ["trigger", "acknowledge", "resolve"] and world.pagerduty.incidents == {}
    assert "acknowledged by ann &lt;b&gt;" in world.slack.text and "over" in world.slack.text


async def test_nobody_answers_and_it_gets_louder_to_an_end(world: World) -> None:
    raised(world)
    for _ in range(6):
        await deliver()
        late(world)
    assert world.slack.text.count("<!channel>") == paging.ESCALATIONS
    assert len(world.pagerduty.opened) == 1 and actions(world) == ["trigger"] * (1 + paging.ESCALATIONS)


async def test_who_acknowledged_is_left_in_peace(world: World) -> None:
    raised(world)
    await deliver()
    outbox.acknowledge(world.book, SICK.key, "ann")
    for _ in range(3):
        await deliver()
        late(world)
    assert "<!channel>" not in world.slack.text


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_channel_that_is_down_holds_nobody_up_and_loses_nothing(world: World, status: int) -> None:
    world.pagerduty.faults.append(Fault(1, status))
    raised(world)
    told = await deliver()
    assert told.sent == {"pagerduty": 0, "slack": 1} and str(status) in told.failed[0]
    await deliver()
    assert world.pagerduty.asked == 1  # it is left alone for a while
    world.channels_well()
    resolved(world)
    await deliver()
    assert actions(world) == ["trigger", "resolve"]  # late, but never lost
    assert len(world.slack.messages) == 2


async def test_a_lost_answer_is_told_again_and_is_one_incident(world: World) -> None:
    world.pagerduty.faults.append(Fault(1, 503, taken=True))
    raised(world)
    await deliver()
    world.channels_well()
    await deliver()
    assert actions(world) == ["trigger", "trigger"] and world.pagerduty.opened == [SICK.key]


async def test_a_channel_that_hangs_costs_only_its_time(world: World) -> None:
    world.slack.faults.append(Fault(1, seconds=2.0))
    raised(world)
    told = await deliver(seconds=0.3)
    assert told.sent["pagerduty"] == 1 and "slack" in told.failed[0]


async def test_a_message_one_channel_refuses_does_not_hold_up_the_next(world: World) -> None:
    world.pagerduty.faults.append(Fault(1, 400))
    raised(world)
    raised(world, SICK._replace(key="alert:disk"))
    told = await deliver()
    assert len(world.pagerduty.messages) == 1 and "PAGERDUTY_ROUTING_KEY" in told.failed[0]
    assert world.pagerduty.opened == [SICK.key]  # told under the name of the incident's first page


async def test_two_deliverers_at_once_tell_once(world: World) -> None:
    raised(world)
    await asyncio.gather(*(deliver() for _ in range(5)))
    assert len(world.pagerduty.messages) == 1 and len(world.slack.messages) == 1


async def test_a_deliverer_that_was_killed_holds_nobody_up(world: World) -> None:
    raised(world)
    host, _, _ = this_process().rsplit(":", 2)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    held = {"tries": 0, "error": "", "free_ms": now_ms() + HOUR_MS, "owner": f"{host}:{gone.stdout.strip()}:?"}
    memory.remember(world.book, "paging/pagerduty", held)
    memory.remember(world.book, "paging/slack", held | {"owner": this_process()})
    assert (await deliver()).sent == {"pagerduty": 1, "slack": 0}


async def test_many_pages_of_one_incident_are_one_slack_message_and_ring_once(world: World) -> None:
    for number in range(8):
        raised(world, SICK._replace(key=f"alert:{number}"))
    await deliver()
    assert len(world.slack.messages) == 1 and world.slack.text.count("rotating_light") == 8
    assert len(world.pagerduty.messages) == 8 and world.pagerduty.opened == ["alert:0"]


async def test_an_incident_is_escalated_acknowledged_and_ended_once(world: World) -> None:
    for name in "abc":
        raised(world, SICK._replace(key=name))
    await deliver()
    late(world)
    resolved(world, "a")
    await deliver()
    assert actions(world) == ["trigger"] * 4 and world.slack.text.count("<!channel>") == 1
    outbox.acknowledge(world.book, "c", "ann")
    await deliver()
    assert actions(world)[4:] == ["acknowledge"] and world.slack.text.count("acknowledged") == 1
    resolved(world, "b")
    await deliver()
    assert world.pagerduty.incidents == {"a": "acknowledged"}  # c is still there
    resolved(world, "c")
    await deliver()
    await deliver()
    assert actions(world)[5:] == ["resolve"] and world.pagerduty.incidents == {}


async def test_what_comes_after_somebody_answered_rings_again(world: World) -> None:
    raised(world)
    await deliver()
    outbox.acknowledge(world.book, SICK.key, "ann")
    raised(world, SICK._replace(key="alert:disk"))
    await deliver()
    assert world.pagerduty.opened == [SICK.key, "alert:disk"]
    (incident,) = {one.incident for one in outbox.pages(world.book)}
    outbox.acknowledge(world.book, incident, "ann")
    assert {one.state for one in outbox.pages(world.book)} == {"acknowledged"}


async def test_what_comes_after_all_was_over_rings_again(world: World) -> None:
    for name in "ab":
        raised(world, SICK._replace(key=name))
    resolved(world, "a")
    resolved(world, "b")
    raised(world, SICK._replace(key="a"))
    await deliver()
    assert actions(world) == ["trigger", "trigger", "resolve", "trigger"] and world.pagerduty.incidents == {
        "a": "triggered"
    }


async def test_without_a_channel_the_page_waits(world: World) -> None:
    world.set(PAGERDUTY_ROUTING_KEY="", SLACK_WEBHOOK_URL="")
    raised(world)
    assert (await deliver()).sent == {}
    world.set(**world.slack.env())
    await deliver()
    assert len(world.slack.messages) == 1


def page(**more: object) -> Page:
    base = {"seq": 1, "key": "k", "source": "s", "run_id": None, "severity": "critical", "title": "t", "text": ""}
    times = {"times": 1, "missed": 0, "opened_at_ms": 0, "seen_at_ms": 0}
    states: dict[str, object] = {"acked_at_ms": None, "acked_by": None, "resolved_at_ms": None, "sent": {}}
    return Page.model_validate(base | times | states | more)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("trigger", 1)),
        ({"resolved_at_ms": 5}, ("trigger", 1)),  # it was never told: it is told, and then that it is over
        ({"sent": {"c": {"level": 1, "at_ms": 0}}}, ("trigger", 2)),
        ({"sent": {"c": {"level": 1, "at_ms": 950}}}, None),
        ({"sent": {"c": {"level": 1, "at_ms": 0}}, "severity": "warning"}, None),
        ({"sent": {"c": {"level": 4, "at_ms": 0}}}, None),
        ({"sent": {"c": {"level": 1, "at_ms": 0}}, "acked_at_ms": 5}, ("acknowledge", 1)),
        ({"sent": {"c": {"level": 1, "at_ms": 0, "acked": True}}, "acked_at_ms": 5}, None),
        ({"sent": {"c": {"level": 2, "at_ms": 0}}, "resolved_at_ms": 5}, ("resolve", 2)),
        ({"sent": {"c": {"level": 1, "resolved": True}}, "resolved_at_ms": 5}, None),
        ({"sent": {"c": {"due_ms": 2000}}}, None),
    ],
)
def test_pure_what_is_due(more: dict[str, object], expected: tuple[str, int] | None) -> None:
    found = paging.due(page(**more), "c", 1000, 100)
    assert (None if found is None else (found.action, found.level)) == expected
