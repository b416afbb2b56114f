"""A small world for the limits runbook: the app stand-in with its limits and log, and a database of accounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, update
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from demo.app import App
from demo.limits_app import SETTINGS, Limiter, limiter
from demo.limits_faults import HOMES, OFFICE, reach_limit, sign_in
from demo.postgres import Postgres
from demo.seed import seed
from flows.rate_limited_users import rate_limited_users
from runbook import step
from runbook.ledger import ledger
from runbook.model import Fix, Report
from runbook.schema import fix, log_event
from runbook.settings import forget

PEOPLE = range(10, 18)
"""Who sits in the office."""

NEWCOMERS = range(900, 910)
"""Accounts made a minute ago."""


@dataclass
class World:
    """What one test looks after."""

    app: App
    limits: Limiter
    database: str
    folder: Path

    async def run(self, **parameters: Any) -> Report:
        """The runbook, without Prefect and without a pause before it looks again."""
        forget()
        report: Report = await rate_limited_users.fn(**({"hold_seconds": 0} | parameters))
        return report

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The admin calls that could change something."""
        return [one for one in self.limits.asked if one[0] != "GET"]

    def answer(self, match: str, kind: str, times: int = 10_000) -> None:
        """Let the app answer calls that begin with ``match`` badly, so many times."""
        left = [times]

        def answers(call: str) -> Response | None:
            if not call.startswith(match) or left[0] < 1:
                return None
            left[0] -= 1
            return BAD[kind]()

        self.limits.answers.append(answers)

    def sql(self, query: str, *values: object) -> None:
        """As the superuser."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(query, values)

    def age(self, hours: float) -> None:
        """Let every fix and every line of the log that was read be that much older."""
        by = round(hours * 3_600_000)
        with ledger().write() as connection:
            for row in connection.execute(select(fix)).mappings().all():
                want = {key: value - by if key == "until_ms" else value for key, value in row["want"].items()}
                moved = {name: row[name] and row[name] - by for name in ("decided_at_ms", "intended_at_ms")}
                moved["want"] = want
                connection.execute(update(fix).where(fix.c.id == row["id"]).values(moved))
            connection.execute(update(log_event).values(at_ms=log_event.c.at_ms - by))

    def busy_office(self, ip: str = OFFICE, people: range = PEOPLE) -> None:
        """Honest people of one office reach the limit."""
        sign_in(self.app, ip, people)
        reach_limit(self.limits, ip, people)


BAD: Mapping[str, Callable[[], Response]] = {
    "401": lambda: JSONResponse({"error": "unauthorized"}, 401),
    "404": lambda: HTMLResponse("<html>This page could not be found.</html>", 404),
    "429": lambda: JSONResponse({"error": "slow down"}, 429),
    "500": lambda: PlainTextResponse("Internal Server Error", 500),
    "503": lambda: PlainTextResponse("", 503),
    "302": lambda: Response(status_code=302, headers={"location": "/login"}),
    "html": lambda: HTMLResponse("<html>Sign in</html>"),
    "half": lambda: PlainTextResponse('{"trustedIPs": ["192.88'),
    "numbers": lambda: JSONResponse({"trustedIPs": [1, 2]}),
    "object": lambda: JSONResponse({"success": True}),
    "null": lambda: JSONResponse(None),
}
"""Every way the admin endpoints may answer badly."""


@pytest.fixture(scope="module")
def accounts() -> Iterator[str]:
    with Postgres() as postgres:
        seed(postgres.url(), users=300, subscriptions=10)
        with psycopg.connect(postgres.url(), autocommit=True) as owner:
            for i in NEWCOMERS:
                values = (f"user_{i:08d}", f"new{i}@example.com", datetime.now(UTC).replace(tzinfo=None))
                owner.execute('INSERT INTO "User" (id, email, "createdAt") VALUES (%s, %s, %s)', values)
        yield postgres.url()


@pytest.fixture
def world(accounts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Nobody is blocked; thirty people are signed in at home, and the log has shown a 404."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("RUNBOOK_", "DATABASE_", "APP_", "ADMIN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(step, "READ_TRIES", 1)
    with App("", "whsec_limits_0123456789", log_path=tmp_path / "app.log") as app:
        limits = limiter(app)
        limits.keeps_login_limits = True
        env = {
            **SETTINGS,
            "DATABASE_URL": accounts.replace("postgres@", "runbook@", 1),
            "APP_URL": app.url,
            "APP_LOG": str(app.log_path),
            "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
            "RUNBOOK_MODE": "auto",
            "RUNBOOK_LICENCE_DAYS": "0",
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        forget()
        for i, home in enumerate(HOMES):
            sign_in(app, home, range(100 + i, 101 + i))
        app.log("warn", "not_found", ip=HOMES[0], path="/favicon", status=404)
        yield World(app, limits, accounts, tmp_path)
    forget()


def of(report: Report, action: str) -> list[Fix]:
    """The fixes of one action."""
    return [one for one in report.fixes if one.action == action]
