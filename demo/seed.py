"""Fills the app's tables with the make-believe customers, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from demo.population import SUBSCRIPTIONS, USERS, created, customer_id, row_id, status, subscription_id, user_id
from deployments.role import table_grants
from runbook.settings import Tables

CLASSES = 2_000


def seed(url: str, users: int = USERS, subscriptions: int = SUBSCRIPTIONS) -> None:
    """Create the app's tables as role ``app`` and fill them; ``url`` is a superuser's for that database.

    Subscription ``i`` of the app is subscription ``i`` of the Stripe stand-in, with the same status. A copy of a
    cluster that was filled alike is left as it is.
    """
    with psycopg.connect(url, autocommit=True) as owner:
        if _is_filled(owner, users, subscriptions):
            return
        owner.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with psycopg.connect(_as_app(url)) as connection:
        connection.execute((Path(__file__).parent / "schema.sql").read_text("utf-8"))
        few = min(CLASSES, users)
        _copy(connection, "User", ("id", "name", "email", "createdAt"), _text(_user, users))
        names = ("id", "stripeCustomerId", "stripeSubscriptionId", "status", "plan", "createdAt", "userId")
        _copy(connection, "Subscription", names, _text(_subscription, subscriptions, users))
        _copy(connection, "Class", ("id", "userId", "name", "createdAt", "updatedAt"), _text(_class, few))
        names = ("id", "userId", "classId", "type", "title", "createdAt", "updatedAt")
        _copy(connection, "ContentItem", names, _text(_content, few))
        connection.commit()
    with psycopg.connect(url, autocommit=True) as owner:
        grant(owner)
        owner.execute("ANALYZE")


def _is_filled(owner: psycopg.Connection, users: int, subscriptions: int) -> bool:
    if owner.execute("SELECT to_regclass('public.\"User\"')").fetchone() == (None,):
        return False
    counted = 'SELECT (SELECT count(*) FROM "User"), (SELECT count(*) FROM "Subscription")'
    if owner.execute(counted).fetchone() != (users, subscriptions):
        raise RuntimeError("the cluster that was copied has another population")
    return True


def grant(owner: psycopg.Connection) -> None:
    """Give the runbooks' role what ``runbook role`` prints, and nothing more."""
    owner.execute("\n".join(table_grants(Tables(), owner.info.server_version, "runbook")).encode())


def _as_app(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"app@{parts.hostname}:{parts.port}"))


@lru_cache(maxsize=4)
def _text(row: Callable[..., tuple[Any, ...]], count: int, *more: int) -> str:
    """Rows as COPY reads them, none with a tab or a backslash; made once where many worlds have the same."""
    rows = (row(i, *more) for i in range(count))
    return "".join("\t".join("\\N" if one is None else str(one) for one in values) + "\n" for values in rows)


def _copy(connection: psycopg.Connection, table: str, names: Iterable[str], rows: str) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(rows)


def _at(i: int) -> datetime:
    return datetime.fromtimestamp(created(i), UTC).replace(tzinfo=None)


def _user(i: int) -> tuple[Any, ...]:
    return user_id(i), f"Person {i}", f"person{i}@example.com", _at(i)


def _subscription(i: int, users: int) -> tuple[Any, ...]:
    owner = user_id(i) if i < users else None
    return row_id(i), customer_id(i), subscription_id(i), status(i), "pro", _at(i), owner


def _class(i: int) -> tuple[Any, ...]:
    return f"class_{i:08d}", user_id(i), "Algebra", _at(i), _at(i)


def _content(i: int) -> tuple[Any, ...]:
    return f"item_{i:08d}", user_id(i), f"class_{i:08d}", "resume", f"Title {i}", _at(i), _at(i)
