"""A small world for the mail runbook: the SendGrid, SMTP and app stand-ins, and settings that point at them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.app import App
from demo.mail_app import Mailer
from demo.mail_faults import log_reset
from demo.postgres import Postgres
from demo.seed import seed
from demo.sendgrid_server import LISTS, Fault, SendGridServer
from demo.smtp_server import SmtpServer
from flows.undelivered_email import undelivered_email
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, FixState, Report
from runbook.settings import forget
from tasks import sendgrid_api

BUSY = "4.7.0 try again later"
FOR_EVER = 10_000


@dataclass
class World:
    """What one test looks after."""

    sendgrid: SendGridServer
    smtp: SmtpServer
    app: App
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    async def run(self, **parameters: Any) -> Report:
        """The runbook, without Prefect and without a pause before it looks again."""
        report: Report = await undelivered_email.fn(**({"hold_seconds": 0} | parameters))
        return report

    def env(self, **values: str | None) -> None:
        """Settings of this process; None unsets one."""
        for name, value in values.items():
            if value is None:
                self.monkeypatch.delenv(name, raising=False)
            else:
                self.monkeypatch.setenv(name, value)
        forget()

    def without_smtp(self) -> None:
        """The app mails by SendGrid."""
        self.env(**dict.fromkeys(self.smtp.env()))
        self.app.mailer = Mailer(None, self.sendgrid)

    def fault(self, match: str, kind: str, **more: Any) -> None:
        self.sendgrid.faults.append(Fault(match, kind, **more))

    def block(self, address: str, hours: float = 48, reason: str = BUSY, status: str = "4.7.0") -> None:
        self.sendgrid.suppress("blocks", address, hours, reason, status)

    def failed(self, address: str, minutes: float = 10) -> None:
        log_reset(self.app, "failed", address, minutes)

    def rows(self) -> dict[str, set[str]]:
        """Who is on which list."""
        return {kind: set(self.sendgrid.lists[kind]) for kind in LISTS}

    def changes(self) -> list[tuple[str, str]]:
        """Requests that could change anything at SendGrid; a sandbox send is none."""
        changing = [line for line in self.sendgrid.requests if line[0] != "GET" and line != ("POST", "mail/send")]
        return [*changing, *(("POST", f"to {to}") for to in self.sendgrid.sent)]

    @property
    def ledger(self) -> Ledger:
        return ledger()


def of(report: Report, action: str) -> list[Fix]:
    return [fix for fix in report.fixes if fix.action == action]


def states(report: Report, action: str) -> list[FixState]:
    return [fix.state for fix in of(report, action)]


def env(world: World) -> dict[str, str]:
    """The settings of a process that looks after ``world``."""
    return {
        **world.sendgrid.env(),
        **world.smtp.env(),
        "APP_URL": world.app.url,
        "APP_LOG": str(world.app.log_path),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{world.folder}/ledger.db",
        "RUNBOOK_HOME": str(world.folder),
        "RUNBOOK_MODE": "auto",
        "RUNBOOK_LICENCE_DAYS": "0",
    }


Servers = tuple[SendGridServer, SmtpServer, App]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The three servers, and a database with a hundred users behind the app."""
    log = tmp_path_factory.mktemp("app") / "app.log"
    with Postgres() as postgres, SendGridServer() as sendgrid, SmtpServer() as smtp:
        seed(postgres.url(), users=100, subscriptions=10)
        with App(postgres.url(user="app"), "whsec_none", log_path=log) as app:
            yield sendgrid, smtp, app


@pytest.fixture
def world(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A fresh world in which nothing is wrong; the app mails by SMTP."""
    sendgrid, smtp, app = servers
    sendgrid.reset()
    smtp.reset()
    app.log_path, app.mailer = tmp_path / "app.log", Mailer(smtp, sendgrid)
    app.log_path.touch()
    made = World(sendgrid, smtp, app, tmp_path, monkeypatch)
    for key in [key for key in os.environ if key.startswith(("RUNBOOK_", "SENDGRID_", "SMTP_", "APP_"))]:
        monkeypatch.delenv(key)
    made.env(**env(made))
    yield made
    forget()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon, for what never answers in time: what else is slow is a busy machine."""
    monkeypatch.setattr(sendgrid_api, "TIMEOUT_SECONDS", 1.0)
