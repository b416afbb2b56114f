"""A small world for the payments runbook: PostgreSQL, the Stripe and app stand-ins, and settings that point at them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo import population
from demo.app import App
from demo.postgres import Postgres
from demo.seed import seed
from demo.stripe_server import Fault, StripeServer
from flows.failed_payments import failed_payments
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, FixState, Report
from runbook.settings import forget
from tasks import stripe_api

KEY = "sk_test_payments0123456789"
SECRET = "whsec_payments_0123456789"
SUBSCRIPTION = ("GET", "/v1/subscriptions/{id}")
PROVEN = FixState.proven
LIST = ("GET", "/v1/subscriptions")
PAY = ("POST", "/v1/invoices/{id}/pay")
SMALL = 2_000
DRIFTED = {23: "past_due", 363: "canceled", 850: "unpaid"}
"""Numbers of active subscriptions and what Stripe says of them in ``sick``."""


class Seeded:
    """One server whose seeded databases are copied in an instant, by size."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._templates: dict[int, str] = {}

    def fresh(self, subscriptions: int) -> str:
        """The name of a new database with so many subscriptions."""
        name = f"app_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as owner:
            if subscriptions not in self._templates:
                template = f"seeded_{subscriptions}"
                owner.execute(f"CREATE DATABASE {template} OWNER app")
                seed(self.postgres.url(template), users=subscriptions, subscriptions=subscriptions)
                self._templates[subscriptions] = template
            owner.execute(f"CREATE DATABASE {name} TEMPLATE {self._templates[subscriptions]} OWNER app")
        return name


@dataclass
class World:
    """What one test looks after."""

    stripe: StripeServer
    app: App
    database: str
    folder: Path

    async def run(self, **parameters: Any) -> Report:
        """The runbook, without Prefect and without a pause before it looks again."""
        report: Report = await failed_payments.fn(**({"hold_seconds": 0} | parameters))
        return report

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """As the superuser."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def status(self, i: int) -> str | None:
        return self.statuses()[population.row_id(i)]

    def statuses(self) -> dict[str, str | None]:
        return dict(self.sql('SELECT id, status FROM "Subscription"'))

    def set_row(self, i: int, status: str | None) -> None:
        self.sql('UPDATE "Subscription" SET status = %s WHERE id = %s', status, population.row_id(i))

    def fault(self, match: str, kind: str, **more: Any) -> None:
        self.stripe.faults.append(Fault(match, kind, **more))

    @property
    def ledger(self) -> Ledger:
        return ledger()


def settled(report: Report, action: str) -> dict[FixState, int]:
    """How the fixes of one action ended."""
    counts: dict[FixState, int] = {}
    for fix in of(report, action):
        counts[fix.state] = counts.get(fix.state, 0) + 1
    return counts


def of(report: Report, action: str) -> list[Fix]:
    return [fix for fix in report.fixes if fix.action == action]


def env(world: World, user: str = "runbook") -> dict[str, str]:
    """The settings of a process that looks after ``world``."""
    return {
        "DATABASE_URL": world.database.replace("postgres@", f"{user}@", 1) + "?connection_limit=5&schema=public",
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_BASE": world.stripe.url,
        "APP_URL": world.app.url,
        "APP_LOG": str(world.app.log_path),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{world.folder}/ledger.db",
        "RUNBOOK_MODE": "auto",
        "RUNBOOK_LICENCE_DAYS": "0",
    }


@contextmanager
def make_world(seeded: Seeded, folder: Path, monkeypatch: pytest.MonkeyPatch, subscriptions: int) -> Iterator[World]:
    """A fresh world in which nothing is wrong, with this process's settings pointing at it."""
    name = seeded.fresh(subscriptions)
    app_url = seeded.postgres.url(name, user="app")
    with (
        StripeServer(subscriptions, test_keys={KEY}, webhook_secret=SECRET) as stripe,
        App(app_url, SECRET, log_path=folder / "app.log") as app,
    ):
        stripe.store.add_endpoint(f"{app.url}/api/subscription/webhook")
        world = World(stripe, app, seeded.postgres.url(name), folder)
        monkeypatch.chdir(folder)
        for key in [key for key in os.environ if key.startswith(("RUNBOOK_", "STRIPE_", "DATABASE_"))]:
            monkeypatch.delenv(key)
        for key, value in env(world).items():
            monkeypatch.setenv(key, value)
        forget()
        yield world
    forget()


@pytest.fixture(scope="module")
def seeded() -> Iterator[Seeded]:
    with Postgres() as postgres:
        yield Seeded(postgres)


@pytest.fixture
def world(seeded: Seeded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with make_world(seeded, tmp_path, monkeypatch, SMALL) as made:
        yield made


@pytest.fixture
def sick(world: World) -> World:
    for i, status in DRIFTED.items():
        world.stripe.store.set_status(i, status)
    return world


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up soon, for what never answers in time: what else is slow is a busy machine."""
    monkeypatch.setattr(stripe_api, "TIMEOUT_SECONDS", 1.0)
    stripe_api._client.cache_clear()
    yield
    stripe_api._client.cache_clear()


def rows() -> dict[str, str]:
    return {population.row_id(i): status for i, status in DRIFTED.items()}
