"""Fills the app's tables with the make-believe customers, in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
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

    Subscription ``i`` of the app is subscription ``i`` of the Stripe stand-in, with the same status.
    """
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with psycopg.connect(_as_app(url)) as connection:
        connection.execute((Path(__file__).parent / "schema.sql").read_text("utf-8"))
        _copy(connection, "User", ("id", "name", "email", "createdAt"), map(_user, range(users)))
        names = ("id", "stripeCustomerId", "stripeSubscriptionId", "status", "plan", "createdAt", "userId")
        _copy(connection, "Subscription", names, (_subscription(i, users) for i in range(subscriptions)))
        few = min(CLASSES, users)
        _copy(connection, "Class", ("id", "userId", "name", "createdAt", "updatedAt"), map(_class, range(few)))
        names = ("id", "userId", "classId", "type", "title", "createdAt", "updatedAt")
        _copy(connection, "ContentItem", names, map(_content, range(few)))
        connection.commit()
    with psycopg.connect(url, autocommit=True) as owner:
        grant(owner)
        owner.execute("ANALYZE")


def grant(owner: psycopg.Connection) -> None:
    """Give the runbooks' role what ``runbook role`` prints, and nothing more."""
    owner.execute("\n".join(table_grants(Tables(), owner.info.server_version, "runbook")).encode())


def _as_app(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"app@{parts.hostname}:{parts.port}"))


def _copy(connection: psycopg.Connection, table: str, names: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


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
