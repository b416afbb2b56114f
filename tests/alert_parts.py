"""A small world for the alerts: a log, an access log, a control group, and people who can be told."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.alert_faults import at
from demo.paging_servers import PagerDuty, Slack
from demo.sentry_server import Sentry
from demo.serving import Served
from flows.alert_watch import Row, Watch, alert_watch
from runbook import memory, outbox
from runbook.ledger import Ledger, ledger
from runbook.settings import Settings, forget


@dataclass
class Events:
    """A port that takes Prefect's events; ``status`` is what it answers."""

    status: int = 204
    taken: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        if self.status < 300:
            self.taken += await request.json()
        return Response(status_code=self.status) if self.status == 204 else JSONResponse({}, self.status)

    @property
    def wanted(self) -> list[str]:
        """The runbooks that were asked for, in order."""
        assert all(one["event"] == "runbook.wanted" for one in self.taken)
        return [one["resource"]["prefect.resource.id"].removeprefix("runbook.") for one in self.taken]


@dataclass
class World:
    """What one test looks at."""

    folder: Path
    pagerduty: PagerDuty
    slack: Slack
    sentry: Sentry
    events: Events
    monkeypatch: pytest.MonkeyPatch

    @property
    def log(self) -> Path:
        return self.folder / "app.log"

    @property
    def access(self) -> Path:
        return self.folder / "access.log"

    @property
    def book(self) -> Ledger:
        return ledger()

    def set(self, **env: str) -> None:
        for name, value in env.items():
            self.monkeypatch.setenv(name, value)
        forget()

    def with_sentry(self) -> None:
        self.set(**self.sentry.env())

    async def watch(self, **parameters: Any) -> dict[str, Row]:
        """One look, as the rows of each alert by its name."""
        found: Watch = await alert_watch.fn(**parameters)
        self.last = found
        return {row.alert: row for row in found.rows}

    def open_pages(self) -> list[str]:
        """The keys of the pages that are open."""
        return [one.key for one in outbox.pages(self.book) if not one.resolved_at_ms]

    def channels_well(self) -> None:
        """As if the time a sick channel is left alone had passed."""
        for name in ("pagerduty", "slack"):
            memory.remember(self.book, f"paging/{name}", {"tries": 0, "error": "", "free_ms": 0})

    def cgroup(self, current: int, inactive_file: int, most: str) -> Path:
        """A folder as cgroup v2 has it."""
        folder = self.folder / "cgroup"
        folder.mkdir(exist_ok=True)
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive_file}\nactive_file 2\n")
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.events").write_text("oom 0\noom_kill 0\n")
        self.set(RUNBOOK_CGROUP=str(folder), RUNBOOK_CGROUP_ROOT=str(self.folder))
        return folder


def minute() -> int:
    return int(time.time()) // 60


def away_from_the_minute() -> None:
    """Wait out the last second of a minute: what a test writes belongs to the minute it is judged in."""
    while time.time() % 60 > 58:
        time.sleep(0.1)


def write_json(log: Path, at_minute: int, count: int, name: str, level: str = "error", **fields: Any) -> None:
    """``count`` JSON lines within one minute."""
    with log.open("a", encoding="utf-8") as out:
        for one in range(count):
            out.write(
                json.dumps({"level": level, "time": at(at_minute, one * 50 / count), "msg": name, **fields}) + "\n"
            )


@contextlib.contextmanager
def make_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in which nothing is wrong and everybody can be told."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    events = Events()
    served = Served(Starlette(routes=[Route("/api/events", events.take, methods=["POST"])]))
    served.start()
    with PagerDuty() as pagerduty, Slack() as slack, Sentry() as sentry:
        world = World(folder, pagerduty, slack, sentry, events, monkeypatch)
        world.log.touch()
        world.set(
            RUNBOOK_HOME=str(folder),
            RUNBOOK_LEDGER_URL=f"sqlite:///{folder}/ledger.db",
            RUNBOOK_MODE="auto",
            RUNBOOK_LICENCE_DAYS="0",
            APP_LOG=str(world.log),
            **pagerduty.env(),
            **slack.env(),
        )
        world.cgroup(100, 0, "1000")
        away_from_the_minute()
        with temporary_settings({PREFECT_API_URL: f"{served.url}/api"}):
            yield world
    served.stop()
    forget()
