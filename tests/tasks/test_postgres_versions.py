"""Every reader of the database, and a fix of each of its runbooks, on every PostgreSQL that is to be had here.

The one that pip installed, those of Debian in /usr/lib/postgresql, and the folders named in ``RUNBOOK_TEST_PG_BINS``.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import psycopg
import pytest

from demo.database_faults import blocked_app, idle_writers, wait_until
from demo.postgres import Postgres, binaries
from demo.seed import seed
from demo.slow_faults import index, large_table
from flows.pool_exhaustion import pool_exhaustion
from runbook import settings
from runbook.model import FixState
from tasks.catalog import read_catalog
from tasks.plans import read_plans, try_index
from tasks.privileges import read_privileges
from tasks.sessions import read_pool
from tasks.slowness import Trial
from tasks.statements import Statement
from tests.flows.slow_parts import MADE, acted, run, watched

MAJORS = (13, 14, 15, 16, 17, 18)
SLOW = 'SELECT "id" FROM "LoginAttempt" WHERE "userId" = $1 AND "ok" = $2 LIMIT $3'
HYPOPG = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hypopg')"


@lru_cache(maxsize=1)
def folders() -> dict[int, Path]:
    """The programs of each major version, as ``postgres --version`` says it."""
    named = [Path(one) for one in os.environ.get("RUNBOOK_TEST_PG_BINS", "").split(os.pathsep) if one]
    found: dict[int, Path] = {}
    for folder in [binaries(), *sorted(Path("/usr/lib/postgresql").glob("*/bin")), *named]:
        with contextlib.suppress(OSError):
            said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
            found.setdefault(int(re.findall(r"\d+", said)[0]), folder)
    return found


@pytest.fixture(scope="module", params=MAJORS)
def running(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    folder = folders().get(request.param)
    if folder is None:
        pytest.skip(f"PostgreSQL {request.param} is not on this machine: name its bin folder in RUNBOOK_TEST_PG_BINS")
    with Postgres(max_connections=25, programs=None if folder == binaries() else folder) as server:
        assert server.version_num // 10_000 == request.param
        seed(server.url(), users=50, subscriptions=10)
        large_table(server, 100_000)
        server.lend_owner()
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute('GRANT SELECT ON "LoginAttempt" TO runbook')  # else only its owner's statements are planned
        yield server


@pytest.fixture
def server(running: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    monkeypatch.setenv("DATABASE_URL", running.url(user="runbook"))
    for name in ("RUNBOOK_DATABASE_URL", "PGBOUNCER_URL", "APP_LOG"):
        monkeypatch.delenv(name, raising=False)
    settings.forget()
    yield running
    settings.forget()


async def test_every_reader_reads(server: Postgres) -> None:
    rights = await read_privileges()
    assert (rights.version, rights.monitor, rights.signal) == (server.version_num, True, True)
    assert (rights.reserved is None) == (server.version_num < 160_000)
    assert (await read_pool()).server.of == 25 - 3 - (2 if server.version_num >= 160_000 else 0)
    catalog = await read_catalog()
    table = catalog.table("public", "LoginAttempt")
    assert table is not None
    assert (table.owned, table.owner, catalog.version) == (True, "app", server.version_num)
    assert {one.name for one in catalog.bare} >= {"Subscription_userId_fkey", "ContentItem_classId_fkey"}


async def test_a_session_that_is_not_signed_in_yet_is_no_trouble_and_is_left_alone(server: Postgres) -> None:
    shown = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname IS NULL"
    slow = server.url() + "?options=-cpost_auth_delay%3D2"
    found: list[int] = []

    def starting() -> bool:
        with psycopg.connect(server.url(), autocommit=True) as owner:
            found[:] = [pid for (pid,) in owner.execute(shown)]
        return bool(found)

    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(lambda: psycopg.connect(slow).close())
        if server.version_num >= 180_000:  # those before show a session once it is signed in
            wait_until(starting, "a session that is not signed in yet")
        catalog, sessions = await read_catalog(), {one.pid: one for one in (await read_pool()).sessions}
        assert [one.has_snapshot for one in catalog.transactions if one.pid in found] == [False] * len(found)
        assert [(sessions[pid].spared, sessions[pid].takes_slot) for pid in found] == [
            ("not signed in yet", True)
        ] * len(found)
        opened.result()


@pytest.mark.parametrize("role", ["app", "runbook"])
async def test_a_statement_is_planned_without_its_values_and_without_being_run(server: Postgres, role: str) -> None:
    statements = {
        "read": SLOW,
        "write": 'DELETE FROM "LoginAttempt" WHERE "id" = $1',
        "two": 'SELECT 1; DROP TABLE "LoginAttempt"',
        "cut": 'SELECT "id" FROM "LoginAttempt" WHERE "use',
        "gone": "SELECT * FROM nowhere",
    }
    asked = [Statement(id=id_, text=text, role=role, calls=1, ms=1, rows=0) for id_, text in statements.items()]
    plans = await read_plans(asked)
    (scan,) = plans["read"].scans
    assert (scan.table, [one.name for one in scan.equals], scan.rows) == ("LoginAttempt", ["userId", "ok"], 100_000)
    assert scan.equals[0].selectivity < 0.001
    assert plans["two"].problem
    assert plans["cut"].problem
    assert "nowhere" in plans["gone"].problem
    assert plans["write"].deletes_from == "LoginAttempt" or "permission denied" in plans["write"].problem
    with psycopg.connect(server.url()) as owner:
        assert owner.execute('SELECT count(*) FROM "LoginAttempt"').fetchone() == (100_000,)


async def test_forgotten_transactions_that_block_are_ended(server: Postgres) -> None:
    with contextlib.closing(idle_writers(server, 2)) as writers, contextlib.closing(blocked_app(server, 2, 2)):
        stuck = [one for one in (await read_pool()).sessions if one.blocked_by]
        assert len(stuck) == 2
        assert all(one.wait_seconds > 0 for one in stuck)
        report = await pool_exhaustion.fn(idle_seconds=0, wait_seconds=0, hold_seconds=0)
        assert ("end_session", FixState.proven) in acted(report), report
        assert writers.alive() == 0


async def test_hypopg_proves_an_index_that_is_not_built(server: Postgres) -> None:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        if owner.execute(HYPOPG).fetchone() != (True,):
            pytest.skip(f"PostgreSQL {server.version_num // 10_000} has no hypopg here")
        owner.execute("CREATE EXTENSION IF NOT EXISTS hypopg")
    one = Statement(id="1", text=SLOW, role="app", calls=1, ms=1, rows=0)
    good, useless = [
        await try_index(one, f'CREATE INDEX ON "public"."LoginAttempt" ("{column}")')
        for column in ("userId", "createdAt")
    ]
    assert good is not None
    assert useless is not None
    assert Trial(before=good[0], after=good[1], used=good[2]).helps
    assert not Trial(before=useless[0], after=useless[1], used=useless[2]).helps


async def test_a_missing_index_is_built(server: Postgres) -> None:
    await watched(server)
    report = await run(slow_ms=1)
    assert acted(report) == [("create_index", FixState.proven)], report
    assert index(server, MADE) is True
