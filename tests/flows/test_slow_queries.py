"""The whole runbook on a real server: a statement is really slow, its index is really built, and then it is fast."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from demo.database_faults import wait_until
from demo.postgres import Postgres
from demo.slow_faults import Client, index, indexes, invalid_index
from deployments.undoing import undo
from flows.slow_queries import HANDS
from runbook import gate, settings
from runbook.ledger import ledger
from runbook.model import FixState, Mode, Outcome, Risk
from runbook.run import Run
from tasks.catalog import read_catalog
from tasks.indexes import create, is_built
from tasks.slowness import Advice
from tests.flows.conftest import Client as Connect
from tests.flows.slow_parts import MADE, acted, background, clean, forget_window, only, run, watched

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shop(server: Postgres) -> Iterator[Postgres]:
    with clean(server):
        yield server


@pytest.fixture
def app(shop: Postgres) -> Iterator[Client]:
    """The app, which goes on running its slow statement."""
    made = Client(shop, pause=0.01)
    wait_until(lambda: len(made.took_ms) > 2, "the app to run its statement")
    yield made
    made.close()


async def test_the_missing_index_is_built_and_the_statement_is_fast_afterwards(
    shop: Postgres, app: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_MIGRATIONS_DIR", str(tmp_path))
    settings.forget()
    report = await run()
    assert report.outcome is Outcome.fixed, report
    assert acted(report) == [("create_index", FixState.proven)]
    assert index(shop, MADE) is True
    (said,) = [text for text in report.notices if " ms -> " in text]
    before, after = re.findall(r"([\d.,]+) ms", said)
    assert float(after) < float(before.replace(",", "")) / 2, said
    assert f"its plan uses {MADE}" in said
    (folder,) = tmp_path.glob(f"*_{MADE}")
    assert re.fullmatch(rf"\d{{14}}_{MADE}", folder.name)
    written = (folder / "migration.sql").read_text()
    assert f'CREATE INDEX IF NOT EXISTS "{MADE}" ON "public"."LoginAttempt" ("userId");' in written
    assert f'@@index([userId], map: "{MADE}")' in written
    with psycopg.connect(shop.url(), autocommit=True) as owner:
        owner.execute(written)  # harmless where the index is: that is production
    assert (await run()).fixes == []


async def test_observe_shows_the_plan_and_changes_nothing(shop: Postgres) -> None:
    await watched(shop)
    report = await run(Mode.observe)
    assert report.outcome is Outcome.observed
    assert only(report, "create_index").state is FixState.planned
    assert any(f"*_{MADE}/migration.sql: CREATE INDEX" in text for text in report.notices)
    assert indexes(shop, "LoginAttempt") == set()


async def test_an_index_is_taken_back_and_not_built_again_unasked(shop: Postgres) -> None:
    await watched(shop)
    built = only(await run(), "create_index")
    assert built.state is FixState.proven
    assert (await undo(ledger(), built.id)).outcome is Outcome.undone
    assert index(shop, MADE) is None
    await watched(shop)
    again = only(await run(), "create_index")
    assert (again.risk, again.state) == (Risk.person, FixState.refused)
    assert index(shop, MADE) is None


@pytest.mark.parametrize(
    "change",
    [
        f'DROP INDEX "{MADE}"; CREATE INDEX "{MADE}" ON "LoginAttempt" ("userId", "ok")',
        f'DROP INDEX "{MADE}"; CREATE UNIQUE INDEX "{MADE}" ON "LoginAttempt" ("userId", "id")',
        f'ALTER INDEX "{MADE}" RENAME TO "test_adopted"',
    ],
)
async def test_an_index_that_somebody_changed_since_is_not_dropped(shop: Postgres, change: str) -> None:
    await watched(shop)
    built = only(await run(), "create_index")
    with psycopg.connect(shop.url(user="app"), autocommit=True) as owner:
        owner.execute(change)
    before = indexes(shop, "LoginAttempt")
    assert (await undo(ledger(), built.id)).outcome is Outcome.refused
    assert indexes(shop, "LoginAttempt") == before


async def test_what_a_failed_build_left_is_dropped_and_the_index_built_in_one_run(shop: Postgres) -> None:
    invalid_index(shop, MADE, "LoginAttempt", "userId")
    await watched(shop)
    report = await run()
    assert acted(report) == [("drop_invalid_index", FixState.proven), ("create_index", FixState.proven)]
    assert index(shop, MADE) is True


async def test_a_build_that_is_held_up_gives_up_and_says_by_whom(
    shop: Postgres, client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = []

    async def late(_connection: object) -> bool:
        writers.append(client('UPDATE "LoginAttempt" SET ok = ok WHERE id = 1'))  # after the last look
        return True

    await watched(shop)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.slowness.HOLD_SECONDS", 0.0)
        patch.setattr("tasks.indexes.OPTIONS", "-c lock_timeout=100ms -c statement_timeout=0")
        patch.setattr("tasks.indexes._alone", late)
        report = await run()
    assert acted(report) == [("create_index", FixState.failed)]
    assert (report.outcome, index(shop, MADE)) == (Outcome.unsolved, False)
    assert any("not dropped: it would wait for session" in text for text in report.notices), report.notices
    with ledger().read() as book:
        bodies = book.exec_driver_sql("SELECT body FROM entry WHERE kind = 'failed'").scalars().all()
    assert any("it would wait for session" in str(body) for body in bodies), bodies
    writers[0].rollback()
    assert ("drop_invalid_index", FixState.proven) in acted(await run())
    assert index(shop, MADE) is None


KILLED = """
import asyncio, os, signal
from flows.slow_queries import slow_queries
from tasks import indexes

do = indexes._carry_out

async def killed(*words):
    if {after}:
        await do(*words)
    os.kill(os.getpid(), signal.SIGKILL)

indexes._carry_out = killed
asyncio.run(slow_queries.fn(slow_ms=4, window_seconds=0.1))
"""


@pytest.mark.parametrize(("after", "state"), [(True, FixState.proven), (False, FixState.failed)])
async def test_a_run_killed_around_its_act_is_settled_by_looking(shop: Postgres, after: bool, state: FixState) -> None:
    await watched(shop)
    done = subprocess.run([sys.executable, "-c", KILLED.format(after=after)], cwd=ROOT, env=os.environ, check=False)
    assert done.returncode == -9
    assert index(shop, MADE) is (True if after else None)
    forget_window()
    report = await run(Mode.observe)
    assert any("settled fix_" in text and str(state) in text for text in report.notices), report.notices
    assert index(shop, MADE) is (True if after else None)


async def test_an_index_of_that_name_that_came_meanwhile_is_left_alone(shop: Postgres) -> None:
    table = (await read_catalog()).table("public", "LoginAttempt")
    assert table is not None
    advice = Advice(statement="1", table=table.oid, columns=["userId"], width=14, why="a test")
    async with Run("slow-queries", Mode.auto, pages=False) as one:
        permit = await gate.ask(one, [create(advice, table, Risk.guarded)], share=None)
        with psycopg.connect(shop.url(user="app"), autocommit=True) as owner:
            owner.execute(f'CREATE INDEX "{MADE}" ON "LoginAttempt" ("ok")')
        await permit.apply(HANDS)
    assert one.report is not None
    assert [(fix.state, fix.why) for fix in one.report.fixes] == [
        (FixState.refused, "such an index is there already, or is being built")
    ]


async def test_a_build_still_under_way_is_neither_proven_nor_failed(shop: Postgres, client: Connect) -> None:
    client('UPDATE "LoginAttempt" SET ok = ok WHERE id = 1')
    build = f'CREATE INDEX CONCURRENTLY "{MADE}" ON "LoginAttempt" ("userId")'
    background(shop, build, until="SELECT EXISTS (SELECT FROM pg_stat_progress_create_index)")
    table = (await read_catalog()).table("public", "LoginAttempt")
    assert table is not None
    advice = Advice(statement="1", table=table.oid, columns=["userId"], width=14, why="a test")
    assert (await is_built(create(advice, table, Risk.guarded))).held is None


@pytest.mark.parametrize(
    ("granted", "said"),
    [
        ("", "GRANT app TO our role, or SELECT on the table"),
        ('GRANT SELECT ON "LoginAttempt" TO watcher', 'GRANT "app" TO "watcher"'),
    ],
)
async def test_a_role_that_may_not_build_says_what_to_grant(
    shop: Postgres, monkeypatch: pytest.MonkeyPatch, granted: str, said: str
) -> None:
    with psycopg.connect(shop.url(), autocommit=True) as owner:
        owner.execute('REVOKE ALL ON "LoginAttempt" FROM watcher')
        owner.execute(granted or "SELECT 1")
    monkeypatch.setenv("DATABASE_URL", shop.url(user="watcher"))
    settings.forget()
    await watched(shop)
    report = await run()
    assert report.outcome is Outcome.refused
    assert acted(report) == []
    told = [*report.notices, *(found.detail for found in report.findings)]
    assert any(said in text for text in told), told


async def test_without_the_extension_it_samples_and_says_how_to_enable_it(shop: Postgres) -> None:
    with psycopg.connect(shop.url(), autocommit=True) as owner:
        owner.execute("DROP EXTENSION pg_stat_statements")
    slow = Client(shop, 'SELECT count(*) FROM "LoginAttempt" WHERE md5("userId") = md5(%s)', pause=0.0)
    with contextlib.closing(slow):
        wait_until(lambda: len(slow.took_ms) > 2, "the app to run its statement")
        report = await run(Mode.observe, min_calls=2, window_seconds=2)
    assert any("CREATE EXTENSION pg_stat_statements" in text for text in report.notices), report.notices
    (found,) = [one for one in report.findings if "md5" in str(one.evidence)]
    assert found.evidence["source"] == "samples"


async def test_a_long_query_that_others_wait_for_is_cancelled(shop: Postgres, client: Connect) -> None:
    root = background(
        shop,
        """BEGIN; UPDATE "Class" SET color = 'x' WHERE id = 'class_00000001'; """
        "SELECT count(*) FROM generate_series(1, 2000000000)",
        until="SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'BEGIN; UPDATE%' AND state = 'active')",
    )
    background(
        shop,
        """UPDATE "Class" SET color = 'y' WHERE id = 'class_00000001'""",
        until="SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')",
    )
    report = await run()
    assert ("cancel_query", FixState.proven) in acted(report), report
    assert only(report, "cancel_query").target == f"session {root.pid}"
    root.close()


async def test_a_table_full_of_dead_rows_is_vacuumed(shop: Postgres) -> None:
    with psycopg.connect(shop.url(user="app"), autocommit=True) as owner:
        owner.execute("CREATE TABLE bloat WITH (autovacuum_enabled = off) AS SELECT i FROM generate_series(1, 20000) i")
        owner.execute("UPDATE bloat SET i = i + 1")
    report = await run()
    assert acted(report) == [("vacuum_table", FixState.proven)]
    assert report.outcome is Outcome.fixed
    assert "ALTER TABLE … RESET (autovacuum_enabled)" in report.findings[0].detail


async def test_a_large_table_needs_a_person(shop: Postgres) -> None:
    await watched(shop)
    report = await run(max_table_mb=0)
    assert only(report, "create_index").state is FixState.refused
    assert "needs a person" in only(report, "create_index").why
    assert indexes(shop, "LoginAttempt") == set()


async def test_a_migrations_folder_that_is_not_there_is_one_line(
    shop: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_MIGRATIONS_DIR", "/nowhere/migrations")
    settings.forget()
    await watched(shop)
    report = await run()
    assert acted(report) == [("create_index", FixState.proven)]
    said = "RUNBOOK_MIGRATIONS_DIR: /nowhere/migrations: no such folder"
    assert any(text.startswith(said) for text in report.notices), report.notices


async def test_a_reset_of_the_statistics_begins_a_new_window(shop: Postgres) -> None:
    await watched(shop, times=50)
    with psycopg.connect(shop.url(), autocommit=True) as owner:
        owner.execute("SELECT pg_stat_statements_reset()")
    report = await run(Mode.observe)
    assert report.outcome is Outcome.healthy, report
