"""A table large enough that a missing index shows, on the small server, and the runbook with bounds that suit it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from demo.database_faults import wait_until
from demo.postgres import Postgres
from demo.slow_faults import STATEMENT, large_table, user
from flows.slow_queries import slow_queries
from runbook.ledger import ledger
from runbook.model import Fix, FixState, Mode, Report
from runbook.run import ACTED
from tasks.statements import KEY, read_statements

ROWS = 200_000
MADE = "runbook_LoginAttempt_userId"
BOUNDS: dict[str, Any] = {
    "slow_ms": 4,
    "min_calls": 5,
    "active_seconds": 0,
    "wait_seconds": 0,
    "window_seconds": 0.3,
}


def make_table(server: Postgres) -> None:
    """The large table, once for a module."""
    with psycopg.connect(server.url(), autocommit=True) as owner:
        if owner.execute("SELECT to_regclass('\"LoginAttempt\"')").fetchone() == (None,):
            large_table(server, ROWS)


@contextlib.contextmanager
def clean(server: Postgres) -> Iterator[Postgres]:
    """The large table without indexes, nothing counted of any statement, and a role that may build an index."""
    make_table(server)
    wipe(server)
    server.lend_owner()
    yield server
    server.take_owner_back()
    wipe(server)


def wipe(server: Postgres) -> None:
    """Drop every index that a test or a runbook made, and forget every statement."""
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        owner.execute("DROP TABLE IF EXISTS bloat")
        for (name,) in owner.execute(
            """SELECT indexname FROM pg_indexes WHERE indexname LIKE 'runbook%' OR indexname LIKE 'test%'"""
        ).fetchall():
            owner.execute(f'DROP INDEX "{name}"')
        owner.execute("SELECT pg_stat_statements_reset()")


async def watched(server: Postgres, statement: str = STATEMENT, times: int = 6) -> None:
    """A window in which the app ran ``statement`` so many times, ready to be read."""
    await read_statements(0)
    with psycopg.connect(server.url(user="app"), autocommit=True) as app:
        for call in range(times):
            app.execute(statement, [user(call)] if "%s" in statement else None)


async def run(mode: Mode = Mode.auto, **bounds: Any) -> Report:
    """The runbook with bounds that suit a small table."""
    return await slow_queries.fn(mode=mode, **BOUNDS | bounds)


def acted(report: Report) -> list[tuple[str, FixState]]:
    """What was really tried, and what came of it."""
    return [(fix.action, fix.state) for fix in report.fixes if fix.state in ACTED]


def only(report: Report, action: str) -> Fix:
    """The one fix of this kind."""
    (found,) = [fix for fix in report.fixes if fix.action == action]
    return found


class Background:
    """A session that runs statements in a thread of its own; closed only once that thread has let go of it."""

    def __init__(self, url: str, statements: Sequence[str]) -> None:
        self._connection = psycopg.connect(url, autocommit=True, application_name="other")
        self._statements, self.pid = statements, self._connection.info.backend_pid
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with contextlib.suppress(psycopg.Error):
            for one in self._statements:
                self._connection.execute(one)

    def close(self) -> None:
        """Cancel what it runs and end the session."""
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe()
        self._thread.join()
        self._connection.close()


def background(server: Postgres, *statements: str, until: str, role: str = "app") -> Background:
    """A session that runs these in the background; returns once the query ``until`` says true."""
    session = Background(server.url(user=role), statements)

    def begun() -> bool:
        with psycopg.connect(server.url(), autocommit=True) as watcher:
            return watcher.execute(until).fetchone() == (True,)

    wait_until(begun, until)
    return session


def forget_window() -> None:
    """No earlier reading to compare with."""
    with ledger().write() as connection:
        connection.exec_driver_sql("DELETE FROM memo WHERE key = ?", (KEY,))
