"""A small real server whose pool a test can fill, an environment that points at it, and clients that play the app."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.database_faults import Sessions, wait_until
from demo.postgres import Postgres
from demo.seed import seed
from flows.pool_exhaustion import pool_exhaustion
from runbook import settings
from runbook.model import Mode, Report
from tests.flows.mail_parts import servers  # noqa: F401 - started once for all files that use them

SLOTS = 20
"""Ordinary slots of the small server: 25 less 3 for superusers and 2 for roles with pg_use_reserved_connections."""

OTHERS = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')"


@pytest.fixture(scope="session")
def small_server() -> Iterator[Postgres]:
    with Postgres(max_connections=25) as server:
        seed(server.url(), users=300, subscriptions=10)
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute("CREATE DATABASE other OWNER app")
            owner.execute("CREATE ROLE watcher LOGIN IN ROLE pg_monitor, pg_use_reserved_connections")
            owner.execute("CREATE ROLE blind LOGIN IN ROLE pg_signal_backend, pg_use_reserved_connections")
        yield server


@pytest.fixture
def server(small_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """The small server with nobody on it, an empty ledger, and a runbook that may act."""
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    for name in ("RUNBOOK_DATABASE_URL", "PGBOUNCER_URL", "APP_LOG"):
        monkeypatch.delenv(name, raising=False)
    # As Prisma writes it: two parameters that libpq does not know.
    monkeypatch.setenv("DATABASE_URL", small_server.url(user="runbook") + "?connection_limit=5&schema=public")
    settings.forget()
    yield small_server
    settings.forget()
    empty(small_server)


def empty(server: Postgres) -> None:
    """Everybody off the server, and every setting of a test undone."""
    with psycopg.connect(server.url(), autocommit=True) as owner:
        for (gid,) in owner.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            owner.execute(f"ROLLBACK PREPARED '{gid}'")
        owner.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
        wait_until(lambda: (owner.execute(f"SELECT count(*) {OTHERS}").fetchone() or (1,))[0] == 0, "an empty server")
        owner.execute("ALTER ROLE app CONNECTION LIMIT -1")
        owner.execute("ALTER ROLE app RESET ALL")
        owner.execute("ALTER ROLE app IN DATABASE app RESET ALL")
        owner.execute("DROP TABLE IF EXISTS demo_churn")
        owner.execute("DROP INDEX IF EXISTS demo_idx")


Keep = Callable[[Sessions], Sessions]


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Closes at the end of the test what it was given."""
    with contextlib.ExitStack() as stack:

        def closing(made: Sessions) -> Sessions:
            stack.callback(made.close)
            return made

        yield closing


Client = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def client(server: Postgres) -> Iterator[Client]:
    """Opens a connection of the app; with ``sql`` it has run that and idles in its transaction."""
    opened: list[psycopg.Connection[Any]] = []

    def connect(sql: str = "", user: str = "app", dbname: str = "app", **other: Any) -> psycopg.Connection[Any]:
        other.setdefault("application_name", "web")
        connection = psycopg.connect(server.url(dbname, user), **other)
        opened.append(connection)
        if sql:
            connection.execute(sql)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def lives(server: Postgres, pid: int) -> bool:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        return owner.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None


def kills(server: Postgres, pid: int) -> int:
    """How often the server itself says that this backend was terminated by command."""
    log = (server.data / "server.log").read_text(errors="replace").splitlines()
    return sum(f"[{pid}]" in line and "terminating connection due to administrator command" in line for line in log)


async def run(mode: Mode = Mode.auto, **bounds: float) -> Report:
    """The runbook with bounds at which everything is old at once, so that no test has to wait for it."""
    zero = {"idle_seconds": 0, "active_seconds": 0, "wait_seconds": 0, "hold_seconds": 0}
    return await pool_exhaustion.fn(mode=mode, **zero | bounds)  # type: ignore[arg-type]
