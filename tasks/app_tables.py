"""The app's own tables: found by the names in runbook.toml, and never read whole where they are big."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from runbook.settings import profile
from tasks import rights
from tasks.database import OPTIONS, connect, identifier

APPLICATION = "runbook-sessions"
WHOLE_ROWS = 10_000
"""A table of up to so many rows may be read whole; of a bigger one only what an index leads to."""

CATALOG = """
SELECT a.attname AS column, current_user AS role,
       has_column_privilege(c.oid, a.attnum, 'SELECT') AS "SELECT",
       has_column_privilege(c.oid, a.attnum, 'UPDATE') AS "UPDATE",
       has_column_privilege(c.oid, a.attnum, 'INSERT') AS "INSERT",
       has_table_privilege(c.oid, 'DELETE') AS "DELETE",
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS must
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""


@asynccontextmanager
async def app_database() -> AsyncIterator[AsyncConnection[DictRow]]:
    """A connection on which the planner takes an index wherever there is one, however stale its figures."""
    async with connect(application_name=APPLICATION, options=f"{OPTIONS} -c enable_seqscan=off") as connection:
        yield connection


def quoted(key: str) -> sql.SQL:
    """The table (with its schema) or column that runbook.toml names by ``key``."""
    tables = profile().tables
    name = getattr(tables, key)
    return identifier(tables.db_schema, name) if "_" not in key else identifier(name)


def named(query: str, *keys: str, **parts: sql.Composable) -> sql.Composed:
    """``query``, to be executed with values, with each ``{key}`` as the profile names it; ``parts`` are the rest."""
    return sql.SQL(query).format(**{key: quoted(key) for key in keys}, **parts)


async def columns(connection: AsyncConnection[DictRow], table: str) -> dict[str, DictRow]:
    """The columns of one table, by name, with our role's rights on each; empty where there is no such table."""
    tables = profile().tables
    cursor = await connection.execute(CATALOG, [tables.db_schema, getattr(tables, table)])
    return {row["column"]: row for row in await cursor.fetchall()}


def missing(found: Mapping[str, DictRow], table: str, keys: Sequence[str]) -> list[str]:
    """A line for the table or for each column of ``keys`` that is not there, or may not be read."""
    tables, name = profile().tables, getattr(profile().tables, table)
    if not found:
        return [f'runbook.toml tables.{table}: the database has no table "{tables.db_schema}"."{name}"']
    lines = []
    for key in keys:
        column = getattr(tables, key)
        if column not in found:
            lines.append(f'runbook.toml tables.{key}: table "{name}" has no column "{column}"')
        elif not found[column]["SELECT"]:
            role = rights.quoted(found[column]["role"])
            lines.append(f"GRANT SELECT ({rights.quoted(column)}) ON {rights.quoted(name)} TO {role}")
    return lines


async def is_cheap(
    connection: AsyncConnection[DictRow], table: str, query: sql.Composed, values: Mapping[str, Any]
) -> bool:
    """True when an index leads to the rows ``query`` asks for, or the table has at most ``WHOLE_ROWS``."""
    if all("Index Cond" in leaf for leaf in _leaves(await _plan(connection, query, values))):
        return True
    return await rows_about(connection, table) <= WHOLE_ROWS


async def rows_about(connection: AsyncConnection[DictRow], table: str) -> int:
    """How many rows the planner thinks the table has: its density when last analyzed, times its pages now."""
    plan = await _plan(connection, named("SELECT FROM {" + table + "}", table), {})
    return int(plan["Plan Rows"])


async def _plan(connection: AsyncConnection[DictRow], query: sql.Composed, values: Mapping[str, Any]) -> dict[str, Any]:
    cursor = await connection.execute(sql.SQL("EXPLAIN (FORMAT JSON) ") + query, values)
    row = await cursor.fetchone()
    plan: dict[str, Any] = row["QUERY PLAN"][0]["Plan"] if row else {}
    return plan


def _leaves(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    below = plan.get("Plans", ())
    for inner in below:
        yield from _leaves(inner)
    if not below:
        yield plan
