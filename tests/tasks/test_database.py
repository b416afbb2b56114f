"""What a refusing PostgreSQL is called: each line names the setting and the way out, and none names the password."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from runbook import settings
from runbook.errors import BadSetting, OutsideError
from tasks.database import connect, failed, refused

WHERE = {"at": "db.example:5432", "role": "app", "database": "shop"}
PREFIX = 'connection failed: connection to server at "10.0.0.7", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    ("said", "problem", "next_step", "transient"),
    [
        (
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "is taken",
            "RUNBOOK_DATABASE_URL",
            True,
        ),
        ("sorry, too many clients already", "is taken", "pg_use_reserved_connections", True),
        ('too many connections for role "app"', "is taken", "RUNBOOK_DATABASE_URL", True),
        ('too many connections for database "shop"', "is taken", "RUNBOOK_DATABASE_URL", True),
        ('password authentication failed for user "app"', "refuses the password of role app", "DATABASE_URL", False),
        ("no password supplied", "refuses the password", "DATABASE_URL", False),
        ('database "shop" does not exist', "no database shop", "the path in DATABASE_URL", False),
        ('role "app" does not exist', "may not log in", "DATABASE_URL", False),
        ('role "app" is not permitted to log in', "may not log in", "LOGIN", False),
        ('no pg_hba.conf entry for host "10.0.0.9", user "app"', "from elsewhere only", "pg_hba.conf", False),
        ("unsupported startup parameter: options", "is a pooler", "RUNBOOK_DATABASE_URL", False),
        ("the database system is starting up", "starting, stopping or recovering", "wait", True),
        ("connection timeout expired", "did not answer in 5 s", "reachable", True),
        ("Connection refused", "cannot be reached", "right host and port", True),
        ("failed to resolve host 'db.example': Name or service not known", "cannot be reached", "host", True),
        ("something nobody has seen", "refused: connection failed", "correct DATABASE_URL", True),
    ],
)
def test_a_refused_connection(said: str, problem: str, next_step: str, transient: bool) -> None:
    error = refused("DATABASE_URL", WHERE, psycopg.OperationalError(f"{PREFIX}{said}\n\tand a second line"))
    assert error.subject == "DATABASE_URL"
    assert problem in error.problem
    assert next_step in error.next_step
    assert error.transient is transient
    assert "\n" not in str(error)
    assert "{" not in str(error)


@pytest.mark.parametrize(
    ("error", "problem", "next_step", "transient"),
    [
        (errors.InsufficientPrivilege("permission denied to terminate process"), "may not", "pg_signal_backend", False),
        (errors.InsufficientPrivilege("permission denied for table User"), "may not", "runbook doctor", False),
        (errors.QueryCanceled("canceling statement due to statement timeout"), "took too long", "again", True),
        (errors.LockNotAvailable("canceling statement due to lock timeout"), "took too long", "again", True),
        (errors.UndefinedColumn('column "waitstart" does not exist'), "does not know", "PostgreSQL 13", False),
        (errors.AdminShutdown("terminating connection"), "ended the connection", "again", True),
        (errors.SyntaxError("syntax error"), "refused", "defect", False),
    ],
)
def test_a_failed_statement(error: psycopg.Error, problem: str, next_step: str, transient: bool) -> None:
    said = failed("DATABASE_URL", WHERE, error)
    assert problem in said.problem
    assert next_step in said.next_step
    assert said.transient is transient


@pytest.mark.parametrize(
    "url", ["postgresql://app:hush-hush@127.0.0.1:5432/shop?nonsense=1", "postgresql://app:hush-hush@["]
)
async def test_a_url_libpq_cannot_read_is_a_bad_setting_and_stays_secret(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.delenv("RUNBOOK_DATABASE_URL", raising=False)
    settings.forget()
    with pytest.raises(BadSetting) as caught:
        async with connect():
            pass
    settings.forget()
    assert caught.value.subject == "DATABASE_URL"
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "passed"),
    [
        ("/shop", "/shop"),
        ("/shop?connection_limit=5&schema=public", "/shop"),
        ("/shop?pgbouncer=true&sslmode=require&pool_timeout=3", "/shop?sslmode=require"),
        ("/shop?options=-c%20search_path%3Dapp&schema=app", "/shop?options=-c%20search_path%3Dapp"),
    ],
)
def test_what_only_prisma_knows_is_taken_off_the_url(
    monkeypatch: pytest.MonkeyPatch, written: str, passed: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgres://app:p%40ss@db.example:5432{written}")
    settings.forget()
    assert settings.settings().database_conninfo() == f"postgres://app:p%40ss@db.example:5432{passed}"
    settings.forget()


async def test_the_runbooks_own_url_comes_first_and_is_the_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hush-hush@127.0.0.1:2/shop")
    monkeypatch.setenv("RUNBOOK_DATABASE_URL", "postgresql://runbook:hush-hush@127.0.0.1:1/shop")
    settings.forget()
    with pytest.raises(OutsideError, match=r"RUNBOOK_DATABASE_URL: 127\.0\.0\.1:1 cannot be reached"):
        async with connect():
            pass
    settings.forget()
