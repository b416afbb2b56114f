"""Channels by Apprise: real HTTP and real SMTP, down and slow; nothing is lost, nobody is held up, no secret shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.paging_servers import Fault, PlainHook
from demo.smtp_server import SmtpServer
from runbook import memory, outbox
from runbook.mask import mask
from runbook.settings import settings
from tasks import notify, paging
from tasks.paging import deliver
from tests.alert_parts import World, make_world
from tests.tasks.test_paging import SICK, late, raised, resolved


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(paging, "SLACK_WAIT", 0.0)
    with make_world(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def hook(world: World) -> Iterator[PlainHook]:
    with PlainHook() as running:
        world.set(**running.env())
        yield running


def name_of(kind: str) -> str:
    return next(name for name in paging.channels() if name.startswith(f"{kind}-"))


def well(world: World) -> None:
    """As if the time a sick channel is left alone had passed."""
    for name in paging.channels():
        memory.remember(world.book, f"paging/{name}", {"tries": 0, "error": "", "free_ms": 0})


async def test_a_page_is_told_acknowledged_and_ended(world: World, hook: PlainHook) -> None:
    raised(world)
    raised(world, SICK._replace(key="alert:disk", title="disk"))
    await deliver()
    outbox.acknowledge(world.book, SICK.key, "ann")
    await deliver()
    resolved(world)
    resolved(world, "alert:disk")
    await deliver()
    assert [one["type"] for one in hook.messages] == ["failure", "info", "success"]
    first = hook.messages[0]
    assert "errors <40/min>" in first["title"] and "(and 1 more)" in first["title"]
    assert "runbook ack alert:disk" in first["message"] and "by ann" in hook.messages[1]["message"]


async def test_a_service_that_is_down_holds_up_nobody_and_loses_nothing(world: World, hook: PlainHook) -> None:
    hook.faults.append(Fault(1, 500))
    raised(world)
    told = await deliver()
    assert told.sent[name_of("json")] == 0 and told.sent["pagerduty"] == told.sent["slack"] == 1
    assert "RUNBOOK_NOTIFY_URLS" in told.failed[0]
    await deliver()
    assert hook.asked == 1  # it is left alone for a while
    well(world)
    resolved(world)
    await deliver()
    assert [one["type"] for one in hook.messages] == ["failure", "success"]
    assert len(world.slack.messages) == 2


async def test_a_service_that_hangs_costs_only_its_time(world: World, hook: PlainHook) -> None:
    hook.faults.append(Fault(1, seconds=3.0))
    raised(world)
    began = time.monotonic()
    told = await deliver(seconds=0.5)
    assert time.monotonic() - began < 3.0
    assert told.sent["slack"] == 1 and "json" in told.failed[0]
    well(world)
    await deliver()
    assert len(hook.messages) == 1


async def test_nobody_there_at_all(world: World) -> None:
    world.set(RUNBOOK_NOTIFY_URLS="json://127.0.0.1:9/x?cto=1")
    raised(world)
    told = await deliver()
    assert told.sent["slack"] == 1 and "did not take the message" in told.failed[0]


async def test_what_is_no_apprise_url_is_named_and_its_secret_is_not(world: World) -> None:
    world.set(RUNBOOK_NOTIFY_URLS="tgram://bot-token-0123456789")
    raised(world)
    told = await deliver()
    assert "RUNBOOK_NOTIFY_URLS" in told.failed[0] and "0123456789" not in told.failed[0]
    assert told.sent["pagerduty"] == 1


async def test_by_mail(world: World) -> None:
    with SmtpServer() as smtp:
        port = int(smtp.env()["SMTP_PORT"])
        to = f"mailto://127.0.0.1:{port}?from=runbook@app.example&to=oncall@app.example,boss@app.example&mode=insecure"
        world.set(RUNBOOK_NOTIFY_URLS=to)
        raised(world)
        told = await deliver()
    assert told.sent[name_of("mailto")] == 1, told.failed


async def test_it_gets_louder_there_too(world: World, hook: PlainHook) -> None:
    raised(world)
    for _ in range(6):
        await deliver()
        late(world)
    louder = [one for one in hook.messages if "nobody has answered" in one["message"]]
    assert len(louder) == paging.ESCALATIONS and len(hook.messages) == 1 + paging.ESCALATIONS


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("json://a mailto://u:p@h?to=a@b.example,c@d.example", ["json", "mailto"]),
        ("json://a, json://b\nntfy://c", ["json", "json", "ntfy"]),
    ],
)
def test_pure_several_urls(world: World, text: str, names: list[str]) -> None:
    world.set(RUNBOOK_NOTIFY_URLS=text)
    assert [name.partition("-")[0] for name in notify.urls()] == names
    assert len(settings().notify_urls) == len(names)


def test_no_url_of_a_channel_is_ever_shown(world: World) -> None:
    world.set(RUNBOOK_NOTIFY_URLS="slack://TokenA/TokenB json://user:hunter22@h")
    said = mask("slack://TokenA/TokenB refused; hunter22")
    assert "TokenA" not in said and "hunter22" not in said
