"""Every reader and hand of the app's tables, where the profile and the database use the worst names there are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from demo import population
from demo.postgres import Postgres
from demo.seed import seed
from demo.stripe_server import StripeServer
from deployments.role import table_grants
from deployments.undoing import undo
from flows.broken_sessions import broken_sessions
from flows.failed_payments import failed_payments
from runbook import settings
from runbook.ledger import ledger
from runbook.model import FixState, Mode, Outcome
from runbook.settings import Tables
from tasks import limit_log, logins, rollback, subscriptions
from tasks.audit_database import read_sessions
from tasks.privileges import read_privileges
from tasks.table_names import match, read_catalog

ODD = ('"; DROP TABLE "Canary"; --', '\'; DROP TABLE "Canary"; --', "%s %(x)s {id} $1", "\n-- \\ ;\t", "ß 🐘/")
KEY = "sk_test_odd_0123456789"
ROW = sql.Literal(population.row_id(3))
TABLES = ("subscription", "user", "session", "migration")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        seed(running.url(), users=20, subscriptions=40)
        with psycopg.connect(running.url(), autocommit=True) as owner:
            owner.execute('CREATE TABLE "Canary" (id int)')
            owner.execute('ALTER TABLE "Canary" OWNER TO app')
        yield running


@pytest.fixture(params=ODD, ids=["double", "single", "percent", "break", "letters"])
def names(
    request: pytest.FixtureRequest, server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tables]:
    """Schema, tables and columns renamed to something odd, and a profile that says so; all as it was afterwards."""
    defaults = Tables()
    odd: dict[str, str] = {}
    back: list[sql.Composed] = []
    with psycopg.connect(server.url(), autocommit=True) as owner:
        for key in Tables.model_fields:
            odd["schema" if key == "db_schema" else key] = f"{request.param}{len(odd)}"
        for table in TABLES:
            for key in [key for key in odd if key.startswith(f"{table}_")]:
                back.insert(0, rename(owner, getattr(defaults, table), getattr(defaults, key), odd[key]))
            back.insert(0, rename(owner, getattr(defaults, table), None, odd[table]))
        move = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
        public, schema = sql.Identifier("public"), sql.Identifier(odd["schema"])
        owner.execute(move.format(public, schema))
        back.insert(0, move.format(schema, public))
        names = Tables.model_validate(odd)
        owner.execute("\n".join(table_grants(names, server.version_num, "runbook")).encode())
        lines = [f"{key} = {json.dumps(name, ensure_ascii=False)}" for key, name in odd.items()]
        (tmp_path / "runbook.toml").write_text("[tables]\n" + "\n".join(lines), "utf-8")
        monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
        monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
        monkeypatch.setenv("RUNBOOK_MODE", "auto")
        monkeypatch.setenv("DATABASE_URL", server.url(user="runbook"))
        settings.forget()
        yield names
        for statement in back:
            owner.execute(statement)
        assert owner.execute('SELECT count(*) FROM "Canary"').fetchone() == (0,)
    settings.forget()


def rename(owner: psycopg.Connection, table: str, column: str | None, to: str) -> sql.Composed:
    """Rename a table or one of its columns; the statement that takes it back."""
    if column is None:
        there = sql.SQL("ALTER TABLE {} RENAME TO {}")
        owner.execute(there.format(sql.Identifier(table), sql.Identifier(to)))
        return there.format(sql.Identifier(to), sql.Identifier(table))
    there = sql.SQL("ALTER TABLE {} RENAME {} TO {}")
    owner.execute(there.format(sql.Identifier(table), sql.Identifier(column), sql.Identifier(to)))
    return there.format(sql.Identifier(table), sql.Identifier(to), sql.Identifier(column))


async def test_every_reader_reads(names: Tables) -> None:
    await subscriptions.read_columns(writing=True)
    async with subscriptions.app_database() as connection:
        rows = [row async for batch in subscriptions.stream_rows(connection, 5) for row in batch]
        assert (await subscriptions.without_stripe_id(connection)).rows == 0
    assert len(await subscriptions.read_rows([row.id for row in rows])) == len(rows) == 40
    assert len((await logins.read_accounts(["person1@example.com"])).accounts) == 1
    assert await limit_log.read_accounts(["person1@example.com"])
    assert await read_sessions() == 0
    assert (await rollback.read_migrations(0)).unread == ""
    assert not [one for one in (await read_privileges()).tables if one.grants or one.missing or not one.found]
    assert match(await read_catalog()).names.keys() <= {"schema"}


async def test_the_hand_of_subscriptions_acts_and_takes_back(
    server: Postgres, names: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, id_ = sql.Identifier(names.db_schema, names.subscription), sql.Identifier(names.subscription_id)
    status = sql.Identifier(names.subscription_status)
    count = sql.SQL("SELECT count(*) FROM {} WHERE {} = 'paused'").format(table, status)
    drift = sql.SQL("UPDATE {} SET {} = 'paused' WHERE {} = {}").format(table, status, id_, ROW)
    with StripeServer(40, test_keys={KEY}) as stripe, psycopg.connect(server.url(), autocommit=True) as owner:
        monkeypatch.setenv("STRIPE_API_BASE", stripe.url)
        monkeypatch.setenv("STRIPE_SECRET_KEY", KEY)
        settings.forget()
        before = owner.execute(count).fetchone()
        owner.execute(drift)
        assert owner.execute(count).fetchone() != before
        report = await failed_payments.fn(mode=Mode.auto, hold_seconds=0)
        assert [(fix.action, fix.state) for fix in report.fixes] == [("copy_status", FixState.proven)], report
        assert owner.execute(count).fetchone() == before
        assert (await undo(ledger(), report.fixes[0].id)).outcome is Outcome.undone
        assert owner.execute(count).fetchone() != before
        seeded = sql.Literal(population.status(3))
        owner.execute(sql.SQL("UPDATE {} SET {} = {} WHERE {} = {}").format(table, status, seeded, id_, ROW))


async def test_every_hand_of_accounts_and_sessions_acts_and_takes_back(
    server: Postgres, names: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_LOG", str(tmp_path / "app.log"))
    (tmp_path / "app.log").touch()
    settings.forget()
    user, session = (sql.Identifier(names.db_schema, one) for one in (names.user, names.session))
    failed, locked = sql.Identifier(names.user_failed_logins), sql.Identifier(names.user_locked_until)
    count = sql.SQL("SELECT (SELECT count(*) FROM {}), (SELECT count(*) FROM {} WHERE {} = 5)").format(
        session, user, failed
    )
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute(sql.SQL("INSERT INTO {} VALUES ('s', 't', 'user_00000001', '2020-01-01')").format(session))
        lock = sql.SQL(
            "UPDATE {} SET {} = 5, {} = now() AT TIME ZONE 'UTC' - interval '1 h' WHERE {} = 'user_00000001'"
        )
        owner.execute(lock.format(user, failed, locked, sql.Identifier(names.user_id)))
        assert owner.execute(count).fetchone() == (1, 1)
        report = await broken_sessions.fn(mode=Mode.auto, hold_seconds=0)
        assert {fix.action: fix.state for fix in report.fixes} == dict.fromkeys(
            ("purge_sessions", "reset_lockout"), FixState.proven
        ), report
        assert owner.execute(count).fetchone() == (0, 0)
        for fix in report.fixes:
            assert (await undo(ledger(), fix.id)).outcome is Outcome.undone
        assert owner.execute(count).fetchone() == (1, 1)
        owner.execute(sql.SQL("TRUNCATE {}").format(session))
        owner.execute(sql.SQL("UPDATE {} SET {} = 0, {} = NULL").format(user, failed, locked))
