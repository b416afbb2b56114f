"""A storm about one target is one event, whoever restarts in between; other targets are not held up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from demo.serving import Served
from ingress.app import create
from runbook import settings
from runbook.ledger import ledger
from tests.ingress.parts import Events, Receiver, until

PROFILE = """
[cooldown.pool-exhaustion]
once_within = 3600
[cooldown."generic.gathered"]
once_after = 1
[cooldown."generic.counted"]
threshold = 3
within = 3600
"""


class Restarted:
    """A receiver; ``again`` ends it and starts the next on the same ledger."""

    served: Served | None = None

    def __init__(self) -> None:
        self.again()

    def again(self) -> None:
        self.stop()
        self.served = Served(create(), 0)
        self.served.start()
        self.now = Receiver(self.served.url, ledger())

    def stop(self) -> None:
        if self.served is not None:
            self.served.stop()


@pytest.fixture
def receivers(environment: None, tmp_path: Path, prefect_events: Events) -> Iterator[Restarted]:
    (tmp_path / "runbook.toml").write_text(PROFILE)
    settings.forget()
    with temporary_settings({PREFECT_API_URL: prefect_events.url}):
        made = Restarted()
        yield made
        made.stop()


def wanted(receiver: Receiver, count: int, name: str = "pool-exhaustion") -> None:
    """So many different alerts that want this runbook."""
    stamp = time.time_ns()
    alerts = [
        {"status": "firing", "labels": {"alertname": "a", "runbook": name}, "startsAt": f"{stamp}-{n}"}
        for n in range(count)
    ]
    assert receiver.send("alertmanager", {"alerts": alerts}).status_code == 202


def told(events: Events, name: str) -> int:
    return sum(one["event"] == name or one["resource"]["prefect.resource.id"] == name for one in events.taken)


def test_a_storm_about_one_target_is_one_event_across_a_restart(receivers: Restarted, prefect_events: Events) -> None:
    prefect_events.status = 503
    wanted(receivers.now, 400)
    receivers.again()
    wanted(receivers.now, 400)
    wanted(receivers.now, 1, "failed-payments")
    prefect_events.status = 204
    until(lambda: told(prefect_events, "runbook.failed-payments"), "the other target")
    wanted(receivers.now, 100)
    receivers.again()
    wanted(receivers.now, 100)
    wanted(receivers.now, 1, "failed-payments")
    until(lambda: told(prefect_events, "runbook.failed-payments") == 2, "the other target")
    assert told(prefect_events, "runbook.pool-exhaustion") == 1
    until(lambda: "0 to tell" in _health(receivers.now), "an empty backlog")


def test_what_is_gathered_is_told_once_and_what_is_counted_when_enough(
    receivers: Restarted, prefect_events: Events
) -> None:
    for n in range(4):
        receivers.now.send("generic", {"id": f"a{n}", "event": "gathered", "resource": "x"})
    receivers.now.send("generic", {"id": "b0", "event": "counted", "resource": "x"})
    receivers.now.send("generic", {"id": "b1", "event": "counted", "resource": "y"})
    receivers.now.send("generic", {"id": "b2", "event": "counted", "resource": "x"})
    until(lambda: told(prefect_events, "generic.gathered"), "what was gathered")
    assert told(prefect_events, "generic.gathered") == 1
    assert told(prefect_events, "generic.counted") == 0
    until(lambda: _gauge(receivers.now, "runbook_hooks_held") == 3, "what is held")
    assert _gauge(receivers.now, "runbook_hook_backlog") == 0
    receivers.now.send("generic", {"id": "b3", "event": "counted", "resource": "x"})
    until(lambda: told(prefect_events, "generic.counted"), "the third")
    (only,) = [one for one in prefect_events.taken if one["event"] == "generic.counted"]
    assert only["resource"]["prefect.resource.id"] == "runbook.generic.x"


def _gauge(receiver: Receiver, name: str) -> float:
    lines = httpx.get(f"{receiver.url}/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.rsplit(" ", 1)[1])


def _health(receiver: Receiver) -> str:
    return httpx.get(f"{receiver.url}/healthz").text
