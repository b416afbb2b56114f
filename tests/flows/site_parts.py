"""A small world for the emergency: an app with its database, hosting, vendors, status pages, and people to be told."""

from __future__ import annotations

import contextlib
import getpass
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.app import App
from demo.deploy_server import BAD, Vercel
from demo.openai_server import OpenAIServer
from demo.paging_servers import PagerDuty, Slack
from demo.postgres import Postgres
from demo.seed import grant, seed
from demo.sentry_server import Sentry
from demo.status_page_server import StatusPages
from demo.stripe_server import StripeServer
from flows.site_down import site_down
from runbook import memory, outbox
from runbook.approval import Approval
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, FixState, Report
from runbook.settings import Settings, forget
from tasks import paging, rollback, site, stripe_api

SECRET, STRIPE_KEY = "whsec_site_0123456789", "sk_test_site_0123456789"


@dataclass
class World:
    """What one test looks after."""

    postgres: Postgres
    app: App
    vercel: Vercel
    stripe: StripeServer
    ai: OpenAIServer
    sentry: Sentry
    pages: StatusPages
    pagerduty: PagerDuty
    slack: Slack
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    async def run(self, **parameters: Any) -> Report:
        """The emergency, without Prefect and without a window to wait for."""
        report: Report = await site_down.fn(**({"window_seconds": 0, "each_seconds": 0.1} | parameters))
        return report

    def set(self, **env: str) -> None:
        """Change settings; an empty one is unset."""
        for name, value in env.items():
            self.monkeypatch.setenv(name, value)
        forget()

    def bad_deployment(self, minutes_ago: float = 2, **more: Any) -> None:
        self.vercel.deploy(BAD, minutes_ago=minutes_ago, bad=True, about="faster start page", **more)

    def migration(self, name: str, minutes_ago: float, *, finished: bool = True) -> None:
        at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        with psycopg.connect(self.postgres.url(), autocommit=True) as owner:
            owner.execute(
                'INSERT INTO "_prisma_migrations" ("id", "checksum", "migration_name", "started_at", "finished_at") '
                "VALUES (%s, 'x', %s, %s, %s)",
                (name[:36], name, at, at if finished else None),
            )

    @property
    def book(self) -> Ledger:
        return ledger()

    def page(self) -> outbox.Page:
        """The newest page of the incident."""
        return [one for one in outbox.pages(self.book) if one.key == "site-down"][-1]

    def keys(self) -> list[str]:
        """The keys of every page, open or resolved of late."""
        return [one.key for one in outbox.pages(self.book)]

    def channels_well(self) -> None:
        """As if the time a sick channel is left alone had passed."""
        for name in ("pagerduty", "slack"):
            memory.remember(self.book, f"paging/{name}", {"tries": 0, "error": "", "free_ms": 0})


def of(report: Report, action: str) -> list[FixState]:
    return [fix.state for fix in report.fixes if fix.action == action]


def fix_of(report: Report, action: str) -> Fix:
    (found,) = [fix for fix in report.fixes if fix.action == action]
    return found


def text(report: Report) -> str:
    """All a person is told."""
    return "\n".join([f"{one.subject}: {one.detail}" for one in report.findings] + list(report.notices))


def closed_port() -> int:
    """A loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Parts = tuple[Postgres, App, Vercel, StripeServer, OpenAIServer, Sentry, StatusPages, PagerDuty, Slack]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(Postgres(max_connections=25))
        seed(postgres.url(), users=50, subscriptions=10)
        log = tmp_path_factory.mktemp("app") / "app.log"
        app = stack.enter_context(App(postgres.url(user="app"), SECRET, log_path=log))
        stripe = stack.enter_context(StripeServer(10, test_keys={STRIPE_KEY}, webhook_secret=SECRET))
        stripe.store.add_endpoint(f"{app.url}/api/subscription/webhook")
        made = (Vercel(), stripe, OpenAIServer(), Sentry(), StatusPages(), PagerDuty(), Slack())
        for one in made:
            if one is not stripe:
                stack.enter_context(one)
        yield postgres, app, *made


@pytest.fixture
def world(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in which nothing is wrong, with this process's settings pointing at it."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(paging, "SLACK_WAIT", 0.0)
    monkeypatch.setattr(site, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(stripe_api, "SDK_RETRIES", 0)
    monkeypatch.setattr(rollback, "STEP_SECONDS", 0.05)
    monkeypatch.setattr(rollback, "PROVE_SECONDS", 2.0)
    postgres, app, vercel, stripe, ai, sentry, pages, pagerduty, slack = parts
    app.log_path = tmp_path / "app.log"
    app.log_path.touch()
    app.hosting = vercel
    for one in (vercel, ai, pages):
        one.reset()
    sentry.fault, sentry.slow, sentry.body = 0, 0.0, ""
    sentry.errors.clear()
    for channel in (pagerduty, slack):
        channel.messages.clear()
        channel.faults.clear()
    pagerduty.incidents.clear()
    pagerduty.opened.clear()
    for endpoint in stripe.store.endpoints.values():
        endpoint["status"] = "enabled"
    with psycopg.connect(postgres.url(), autocommit=True) as owner:
        owner.execute('DELETE FROM "_prisma_migrations"')
        grant(owner)
    made = World(postgres, app, vercel, stripe, ai, sentry, pages, pagerduty, slack, tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    made.set(**env(made))
    yield made
    forget()


def env(world: World) -> dict[str, str]:
    """The settings of a process that looks after ``world``."""
    found: dict[str, str] = {}
    for one in (world.vercel, world.ai, world.sentry, world.pages, world.pagerduty, world.slack):
        found |= one.env()
    return found | {
        "DATABASE_URL": world.postgres.url(user="runbook") + "?connection_limit=5&schema=public",
        "APP_URL": world.app.url,
        "APP_LOG": str(world.app.log_path),
        "STRIPE_SECRET_KEY": STRIPE_KEY,
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_BASE": world.stripe.url,
        "RUNBOOK_WAR_ROOM_URL": "https://meet.example/war-room",
        "RUNBOOK_LEDGER_URL": f"sqlite:///{world.folder}/ledger.db",
        "RUNBOOK_HOME": str(world.folder),
        "RUNBOOK_MODE": "auto",
        "RUNBOOK_LICENCE_DAYS": "0",
    }


async def yes(_run: object, plan: Sequence[Fix]) -> Approval:
    """A person who agrees to everything, in place of ``approval.ask``."""
    return Approval({fix.key for fix in plan}, getpass.getuser(), "test")
