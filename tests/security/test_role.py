"""The role of the runbooks: exactly what RIGHTS says, refused beyond it, each missing grant named by the doctor."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql

from demo.postgres import Postgres
from demo.seed import seed
from deployments import doctor
from deployments.role import OPTIONAL, role_sql, table_grants
from runbook import settings
from runbook.settings import Tables
from tasks.privileges import read_privileges
from tasks.rights import RIGHTS, grants

NAMES = Tables()
HELD = """
SELECT table_name, privilege_type, column_name FROM information_schema.column_privileges
 WHERE grantee = 'runbook' AND table_schema = 'public'
UNION ALL
SELECT table_name, privilege_type, '' FROM information_schema.table_privileges
 WHERE grantee = 'runbook' AND table_schema = 'public' AND privilege_type <> 'MAINTAIN'
"""
BEYOND = (
    'SELECT "password" FROM "User"',
    'SELECT * FROM "User"',
    'SELECT "sessionToken" FROM "Session"',
    'SELECT "providerAccountId" FROM "Account"',
    'SELECT "token" FROM "VerificationToken"',
    'SELECT "originalInput" FROM "ContentItem"',
    """UPDATE "User" SET "email" = 'a@b.c'""",
    """UPDATE "User" SET "password" = 'x'""",
    """UPDATE "User" SET "role" = 'admin'""",
    """UPDATE "Subscription" SET "plan" = 'free'""",
    """UPDATE "Session" SET "expires" = now()""",
    'DELETE FROM "User"',
    'DELETE FROM "Subscription"',
    """INSERT INTO "User" ("id") VALUES ('x')""",
    'TRUNCATE "Session"',
    'DROP TABLE "Session"',
    'CREATE INDEX ON "User" ("email")',
    'ALTER TABLE "User" ADD "x" text',
    "CREATE TABLE public.mine (x int)",
    "ALTER ROLE app IN DATABASE app SET idle_in_transaction_session_timeout = '60s'",
    "ALTER ROLE runbook SUPERUSER",
    "CREATE ROLE other",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SET ROLE postgres",
    "SET ROLE app",
    "ALTER SYSTEM SET max_connections = 1",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        seed(running.url(), users=20, subscriptions=5)
        yield running


@pytest.fixture
def owner(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """The superuser, beside settings that are the runbooks' own."""
    monkeypatch.setenv("DATABASE_URL", server.url(user="runbook"))
    monkeypatch.delenv("RUNBOOK_DATABASE_URL", raising=False)
    settings.forget()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        yield connection
    settings.forget()


def test_the_role_holds_what_the_runbooks_do_and_no_column_more(owner: psycopg.Connection) -> None:
    named = {
        (getattr(NAMES, right.table), privilege, getattr(NAMES, key))
        for right in RIGHTS
        for privilege, keys in right.columns.items()
        for key in keys
    }
    deletes = {(getattr(NAMES, right.table), "DELETE", "") for right in RIGHTS if right.delete}
    assert set(owner.execute(HELD).fetchall()) == named | deletes


@pytest.mark.parametrize("statement", BEYOND)
def test_what_is_beyond_it_is_refused(server: Postgres, statement: str) -> None:
    with (
        psycopg.connect(server.url(user="runbook"), autocommit=True) as connection,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


EACH = [(grant, right) for right in RIGHTS for grant in grants(right, NAMES, "runbook")]


@pytest.mark.parametrize(("grant", "right"), EACH, ids=[grant for grant, _ in EACH])
async def test_the_doctor_names_the_very_grant_that_is_missing(
    owner: psycopg.Connection, grant: str, right: object
) -> None:
    owner.execute(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM ").encode())
    try:
        (bad,) = [one for one in await doctor.examine() if one.name.startswith("table") and one.state == "bad"]
        assert bad.next_step == grant
        owner.execute(bad.next_step.encode())
        assert not [one for one in (await read_privileges()).tables if one.grants]
    finally:
        owner.execute(grant.encode())


async def test_what_is_optional_is_not_called_bad(owner: psycopg.Connection) -> None:
    owner.execute("REVOKE MAINTAIN ON ALL TABLES IN SCHEMA public FROM runbook")
    try:
        states = {one.name: one.state for one in await doctor.examine()}
        assert (states["may vacuum"], states["may build indexes"]) == ("unset", "unset")
    finally:
        owner.execute("\n".join(table_grants(NAMES, 180_000, "runbook")).encode())


async def test_the_owners_role_is_for_indexes_and_nothing_else_needs_it(
    server: Postgres, owner: psycopg.Connection
) -> None:
    build = 'CREATE INDEX of_ours ON "User" ("email")'
    with psycopg.connect(server.url(user="runbook"), autocommit=True) as runbook:
        runbook.execute('VACUUM (ANALYZE) "User"')
        server.lend_owner()
        try:
            assert {one.name: one.state for one in await doctor.examine()}["may build indexes"] == "ok"
            with pytest.raises(errors.InsufficientPrivilege):
                runbook.execute(build.encode())  # never by itself: only as that role
            runbook.execute("SET ROLE app")
            runbook.execute(build.encode())
            runbook.execute("DROP INDEX of_ours")
        finally:
            server.take_owner_back()
    assert {one.name: one.state for one in await doctor.examine()}["may build indexes"] == "unset"


@pytest.mark.parametrize("version", [130_000, 150_000, 160_000, 170_000, 180_000])
def test_the_owners_role_is_offered_and_never_granted(version: int) -> None:
    text = role_sql(NAMES, "app", version, owner="app")
    offered = text.partition(OPTIONAL[:20])[2]
    assert 'GRANT "app" TO "runbook"' in offered
    assert not any("app" in line and "GRANT" in line and "CONNECT" not in line for line in text.splitlines()[:-1])
    assert all(line.startswith("--") for line in ("--" + offered).splitlines())
    assert ("MAINTAIN" in text) == (version >= 170_000)
    assert ("pg_use_reserved_connections" in text) == (version >= 160_000)


ODD = (
    'x"; DROP TABLE "User"; --',
    'y\'; DROP TABLE "User"; --',
    'z" TO public; --\n; DROP TABLE "User"; --',
    "%s {user} $1 \\",
    "ß Ünïcode 🐘",
)


@pytest.mark.parametrize("odd", ODD)
def test_no_name_leaves_its_quotes(server: Postgres, odd: str) -> None:
    """The whole file, run on a server where schema, tables, columns, role, owner and database have such a name."""
    short = {key: f"{odd[:40]}{at}" for at, key in enumerate(Tables.model_fields)}
    names = Tables.model_validate({("schema" if key == "db_schema" else key): name for key, name in short.items()})
    who, owner, database = f"{odd[:40]}who", f"{odd[:40]}own", f"{odd[:40]}db"
    with psycopg.connect(server.url(), autocommit=True) as root:
        root.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(owner)))
        root.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    try:
        with psycopg.connect(server.url(), dbname=database, autocommit=True) as root:
            make_tables(root, names, owner)
            root.execute(role_sql(names, database, server.version_num, who, owner).encode())
            got = root.execute(
                "SELECT privilege_type FROM information_schema.column_privileges WHERE grantee = %s", [who]
            )
            assert len(got.fetchall()) == sum(len(keys) for right in RIGHTS for keys in right.columns.values())
            member = root.execute("SELECT pg_has_role(%s::name, %s::name, 'member')", [who, owner]).fetchone()
            assert member == (False,)
    finally:
        drop(server, database, who, owner)


def make_tables(root: psycopg.Connection, names: Tables, owner: str) -> None:
    """The three tables by these names, each column text."""
    schema = sql.Identifier(names.db_schema)
    root.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    for right in RIGHTS:
        keys = dict.fromkeys(key for keys in right.columns.values() for key in keys)
        columns = [sql.SQL("{} text").format(sql.Identifier(getattr(names, key))) for key in keys]
        table = sql.Identifier(names.db_schema, getattr(names, right.table))
        root.execute(sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(columns)))
        root.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, sql.Identifier(owner)))


def drop(server: Postgres, database: str, *roles: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as root:
        root.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
        for role in roles:
            root.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        assert root.execute('SELECT count(*) FROM "User"').fetchone() == (20,)
