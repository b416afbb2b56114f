"""The whole stack on free loopback ports: PostgreSQL, Stripe and app stand-ins, Prefect server and worker."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import psycopg

from demo.app import App
from demo.deploy_server import Vercel
from demo.limits_app import SETTINGS as LIMIT_SETTINGS
from demo.memory_fleet import Fleet
from demo.openai_server import OpenAIServer
from demo.paging_servers import PagerDuty, Slack
from demo.population import SUBSCRIPTIONS, USERS
from demo.postgres import Postgres
from demo.prefect_server import Prefect, free_port, wait_for
from demo.scene import StandIn
from demo.seed import seed
from demo.sendgrid_server import SendGridServer
from demo.sentry_server import Sentry
from demo.signals import check, uninterrupted
from demo.smtp_server import SmtpServer
from demo.status_page_server import StatusPages
from demo.stripe_server import StripeServer

WEBHOOK_SECRET = "whsec_demo_0123456789abcdef"
NEXTAUTH_SECRET = "q7Vb2kXw9ZtR4mN8cLf3HsYpD6gJ1aEu"
STRIPE_KEY = "sk_test_demo_0123456789abcdef"
HOOKS_TOKEN = "demo-token-0123456789"

PROFILE = Path(__file__).with_name("runbook.toml")

Say = Callable[[str], None]
Kind = TypeVar("Kind")

STANDINS: tuple[Callable[[], StandIn], ...] = (
    PagerDuty,
    Slack,
    Sentry,
    OpenAIServer,
    SendGridServer,
    SmtpServer,
    Fleet,
    Vercel,
    StatusPages,
)
"""Vendors beside Stripe; a scene asks ``stack.standin(Kind)`` for its own."""


class Stack:
    """``with Stack(say)``: everything up and seeded on entry, everything gone on exit.

    Without ``prefect`` it has no server and no worker; its server is on a PostgreSQL of its own, since on SQLite it
    stalls when events come in quick succession. ``events`` adds the receiver of webhooks and the responder.
    """

    def __init__(
        self,
        say: Say,
        folder: Path | None = None,
        *,
        events: bool = False,
        prefect: bool = True,
        users: int = USERS,
        subscriptions: int = SUBSCRIPTIONS,
        standins: Sequence[Callable[[], StandIn]] = STANDINS,
    ) -> None:
        self.say, self.events, self.with_prefect, self._makers = say, events, prefect, standins
        self.users, self.subscriptions = users, subscriptions
        self._exit = contextlib.ExitStack()
        made = tempfile.TemporaryDirectory(prefix="runbook-demo-", ignore_cleanup_errors=True)
        self.folder = (folder or Path(self._exit.enter_context(made))).resolve()
        self.access_log, self.logs = self.folder / "access.log", self.folder / "logs"
        self.logs.mkdir(exist_ok=True)

    def __enter__(self) -> Stack:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _start(self) -> None:
        with self.step("PostgreSQL, with the app's tables"):
            self.postgres = self._enter(Postgres())
            seed(self.postgres.url(user="postgres"), self.users, self.subscriptions)
        with self.step("Stripe stand-in"):
            stripe = StripeServer(self.subscriptions, test_keys={STRIPE_KEY}, webhook_secret=WEBHOOK_SECRET)
            self.stripe = self._enter(stripe)
        with self.step("app stand-in"):
            self.app = self._enter(App(self.postgres.url(user="app"), WEBHOOK_SECRET, log_path=self.folder / "app.log"))
            self.stripe.store.add_endpoint(f"{self.app.url}/api/subscription/webhook")
        self.standins: list[StandIn] = []
        with self.step("vendors' stand-ins"):
            self.standins += [self._enter(make()) for make in self._makers]
        self.hooks_port = free_port()
        self.hooks_url = f"http://127.0.0.1:{self.hooks_port}"
        shutil.copy(PROFILE, self.folder / "runbook.toml")
        if self.with_prefect:
            self._start_prefect()

    def _enter(self, part: contextlib.AbstractContextManager[Kind]) -> Kind:
        """Start a part that ends with the stack; a Ctrl-C waits until it is known."""
        with uninterrupted():
            return self._exit.enter_context(part)

    def _start_prefect(self) -> None:
        with self.step("Prefect server, on a PostgreSQL of its own"):
            self.prefect = Prefect(self.folder, self.env(), self._prefect_database())
            self._exit.callback(self.prefect.stop)
            self.server = self.prefect.start_server()
        with self.step("deployments from prefect.yaml, and a worker"):
            self.prefect.deploy()
            self.worker = self.prefect.start_worker()
        if self.events:
            with self.step("receiver of webhooks, and the responder to events"):
                self.responder, self.ingress = self.start_responder(), self.start_ingress()

    def _prefect_database(self) -> str:
        server = self._enter(Postgres())
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute("CREATE DATABASE prefect")
        self.prefect_database_url = server.url("prefect")
        with psycopg.connect(self.prefect_database_url, autocommit=True) as owner:
            owner.execute("CREATE EXTENSION pg_trgm")
        return self.prefect_database_url.replace("postgresql://", "postgresql+asyncpg://")

    def start_ingress(self) -> subprocess.Popen[bytes]:
        """Start the receiver at ``hooks_url`` and return when it answers."""
        process = self.prefect.spawn("ingress", sys.executable, "-m", "ingress")
        wait_for(f"{self.hooks_url}/healthz", process, f"the receiver did not start; see {self.folder}/ingress.log")
        return process

    def start_responder(self) -> subprocess.Popen[bytes]:
        """Start the responder and return when it hears events."""
        log = self.folder / "responder.log"
        heard = log.read_text().count("ready:") if log.exists() else 0
        process = self.prefect.spawn("responder", sys.executable, "-m", "deployments.responder")
        deadline = time.monotonic() + 60
        while log.read_text().count("ready:") == heard:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the responder did not start; see {log}")
            time.sleep(0.1)
        return process

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what is being done and how long it took."""
        began = time.monotonic()
        self.say(f"  … {what}")
        check()
        yield
        check()
        self.say(f"  ✓ {what}  {time.monotonic() - began:.1f} s")

    def standin(self, kind: type[Kind]) -> Kind:
        """The one stand-in of this kind."""
        (found,) = (one for one in self.standins if isinstance(one, kind))
        return found

    def env(self) -> dict[str, str]:
        """The settings a runbook needs to look after this stack, by the names an app's ``.env`` has."""
        of_vendors = {name: value for one in self.standins for name, value in one.env().items()}
        return of_vendors | {
            "DATABASE_URL": self.postgres.url(user="runbook") + "?connection_limit=5&schema=public",
            "STRIPE_SECRET_KEY": STRIPE_KEY,
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "STRIPE_API_BASE": self.stripe.url,
            "APP_URL": self.app.url,
            "NEXTAUTH_URL": self.app.url,
            "NEXTAUTH_SECRET": NEXTAUTH_SECRET,
            "APP_LOG": str(self.app.log_path),
            "ACCESS_LOG": str(self.access_log),
            "RUNBOOK_DISK_PATHS": str(self.logs),
            "RUNBOOK_ARCHIVE_LOGS": f"{self.logs}/*.log.[0-9]*",
            **LIMIT_SETTINGS,
            "INGRESS_PORT": str(self.hooks_port),
            "INGRESS_ALERTMANAGER_TOKEN": HOOKS_TOKEN,
            "RUNBOOK_LEDGER_URL": f"sqlite:///{self.folder}/ledger.db",
            "RUNBOOK_MODE": "auto",
            "RUNBOOK_LICENCE_DAYS": "0",
            "RUNBOOK_HOME": str(self.folder),
        }
