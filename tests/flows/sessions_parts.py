"""A small app for the sign-in runbook: its accounts, its log, its NextAuth endpoints, and settings that point at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo import session_faults as faults
from demo.app import App
from demo.postgres import Postgres
from demo.seed import seed
from flows.broken_sessions import broken_sessions
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, FixState, Mode, Report
from runbook.settings import forget

USERS = 300
SECRET = "q7Vb2kXw9ZtR4mN8cLf3HsYpD6gJ1aEu"
PROVEN = FixState.proven
ACCOUNTS = (
    'SELECT id, "failedLoginAttempts", "lockedUntil"::text FROM "User" WHERE "failedLoginAttempts" > 0 ORDER BY 1'
)
CLEAN = """
TRUNCATE "Session";
UPDATE "User" SET "failedLoginAttempts" = 0, "lockedUntil" = NULL
 WHERE "failedLoginAttempts" > 0 OR "lockedUntil" IS NOT NULL
"""


@dataclass
class World:
    """What one test looks after."""

    postgres: Postgres
    app: App

    async def run(self, mode: Mode = Mode.auto, **parameters: Any) -> Report:
        """The runbook, without Prefect and without a pause before it looks again."""
        given: dict[str, Any] = {"mode": mode, "hold_seconds": 0} | parameters
        return await broken_sessions.fn(**given)

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """As the superuser."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def lock(self, i: int, failed: int = 5, minutes_ago: float = 20) -> tuple[int, str | None]:
        """Lock an account until so many minutes ago; its image."""
        faults.set_accounts(self.postgres, {i: (failed, faults.at(minutes=minutes_ago))})
        return self.account(i)

    def account(self, i: int) -> tuple[int, str | None]:
        return faults.account(self.postgres, i)

    def accounts(self) -> list[tuple[Any, ...]]:
        """Every account with failed logins, as it is."""
        return self.sql(ACCOUNTS)

    def sessions(self) -> list[tuple[Any, ...]]:
        return self.sql('SELECT id, "sessionToken", "userId", expires::text FROM "Session" ORDER BY id')

    @property
    def ledger(self) -> Ledger:
        return ledger()


def of(report: Report, action: str) -> list[Fix]:
    return [fix for fix in report.fixes if fix.action == action]


def states(report: Report, action: str) -> list[FixState]:
    return [fix.state for fix in of(report, action)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        seed(server.url(), users=USERS, subscriptions=10)
        yield server


@pytest.fixture
def world(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Nothing is wrong, and this process's settings point at it."""
    with App(postgres.url(user="app"), "whsec_sessions_0123456789", log_path=tmp_path / "app.log") as app:
        world = World(postgres, app)
        for statement in CLEAN.split(";"):
            world.sql(statement)
        for key in [key for key in os.environ if key.startswith(("RUNBOOK_", "NEXTAUTH_", "APP_", "DATABASE_"))]:
            monkeypatch.delenv(key)
        settings = {
            "RUNBOOK_HOME": str(tmp_path),
            "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
            "RUNBOOK_MODE": "auto",
            "RUNBOOK_LICENCE_DAYS": "0",
            "DATABASE_URL": postgres.url(user="runbook") + "?connection_limit=5&schema=public",
            "APP_URL": app.url,
            "APP_LOG": str(app.log_path),
            "NEXTAUTH_URL": app.url,
            "NEXTAUTH_SECRET": SECRET,
        }
        for key, value in settings.items():
            monkeypatch.setenv(key, value)
        forget()
        yield world
    forget()
