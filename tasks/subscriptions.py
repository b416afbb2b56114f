"""The app's subscription rows: found by their names in the catalog, read, and changed by compare-and-set only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from runbook.errors import BadSetting, OutsideError
from runbook.model import Fix, Proof
from runbook.permit import Attempt, Permit
from runbook.settings import profile, settings
from runbook.step import hand, reader
from tasks.database import connect, identifier
from tasks.rights import quoted
from tasks.stripe_api import TurnedDown, ask, key_is_live, wrong_mode

APPLICATION = "runbook-payments"
FETCH = 5_000
READ_SECONDS = 120
"""How long the database may take to sort its rows: far above what the short monitor queries are allowed."""

CATALOG = """
SELECT a.attname AS name,
       has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable,
       has_column_privilege(c.oid, a.attnum, 'UPDATE') AS writable,
       current_user AS role
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""


class Row(NamedTuple):
    """One row of the app: ``young`` while its webhooks may still be on their way."""

    id: str
    stripe_id: str
    status: str | None
    young: bool


class NoStripeId(NamedTuple):
    """Rows that name no subscription of Stripe's, and some of their ids."""

    rows: int
    ids: tuple[str, ...]


def named(query: str) -> sql.Composed:
    """``query``, to be executed with values, with the profile's own names of the table and its columns, quoted."""
    tables = profile().tables
    return sql.SQL(query).format(
        table=identifier(tables.db_schema, tables.subscription),
        id=identifier(tables.subscription_id),
        status=identifier(tables.subscription_status),
        stripe_id=identifier(tables.subscription_stripe_id),
        created=identifier(tables.subscription_created),
    )


@asynccontextmanager
async def app_database() -> AsyncIterator[AsyncConnection[DictRow]]:
    """A connection to the app's database under this runbook's name."""
    async with connect(application_name=APPLICATION) as connection:
        yield connection


@reader("find the table of subscriptions")
async def read_columns(writing: bool) -> None:
    """Return when table and columns exist and may be read (and the status written, if ``writing``).

    Raises ``BadSetting`` naming the key of runbook.toml, or the grant, that is missing.
    """
    tables = profile().tables
    async with app_database() as connection:
        cursor = await connection.execute(CATALOG, [tables.db_schema, tables.subscription])
        found = {row["name"]: row for row in await cursor.fetchall()}
    if not found:
        raise BadSetting(
            "runbook.toml tables.subscription",
            f'the database has no table "{tables.db_schema}"."{tables.subscription}"',
            "name the app's table of subscriptions there",
        )
    for key in ("subscription_id", "subscription_status", "subscription_stripe_id", "subscription_created"):
        column = getattr(tables, key)
        if column not in found:
            problem = f'table "{tables.subscription}" has no column "{column}"'
            raise BadSetting(f"runbook.toml tables.{key}", problem, "name the app's column there")
        _may(found[column], "readable", "SELECT")
    if writing:
        _may(found[tables.subscription_status], "writable", "UPDATE")


def _may(column: DictRow, right: str, privilege: str) -> None:
    if column[right]:
        return
    table, role = profile().tables.subscription, column["role"]
    grant = f"GRANT {privilege} ({quoted(column['name'])}) ON {quoted(table)} TO {quoted(role)}"
    problem = f'role {role} may not {privilege} "{table}"."{column["name"]}"'
    raise BadSetting(settings().monitor_setting(), problem, grant)


async def stream_rows(connection: AsyncConnection[DictRow], young_minutes: int) -> AsyncIterator[list[Row]]:
    """All rows with a Stripe id, ordered by its bytes, in batches; one snapshot, flat memory."""
    query = named(
        "SELECT {id}::text AS id, {stripe_id} AS stripe_id, {status}::text AS status,"
        " coalesce({created} > (now() AT TIME ZONE 'UTC') - make_interval(mins => %s), false) AS young"
        " FROM {table} WHERE {stripe_id} <> '' ORDER BY {stripe_id} COLLATE \"C\", {id}"
    )
    async with connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{READ_SECONDS}s'")
        async with connection.cursor("runbook_subscriptions") as cursor:
            await cursor.execute(query, [young_minutes])
            while batch := await cursor.fetchmany(FETCH):
                yield [Row(row["id"], row["stripe_id"], row["status"], row["young"]) for row in batch]


async def without_stripe_id(connection: AsyncConnection[DictRow]) -> NoStripeId:
    """Rows that no object of Stripe's can be compared with."""
    query = named(  # counted in the same pass: the table is read from end to end for it
        "SELECT {id}::text AS id, count(*) OVER () AS rows FROM {table}"
        " WHERE {stripe_id} IS NULL OR {stripe_id} = '' ORDER BY {id} LIMIT 10"
    )
    found = await (await connection.execute(query, [])).fetchall()
    return NoStripeId(found[0]["rows"] if found else 0, tuple(row["id"] for row in found))


@reader("read the rows again")
async def read_rows(ids: Collection[str]) -> dict[str, tuple[str, str | None]]:
    """The Stripe id and status of these rows as they are now; a row that is gone is not in it."""
    query = named(
        "SELECT {id}::text AS id, {stripe_id} AS s, {status}::text AS t FROM {table} WHERE {id}::text = ANY(%s)"
    )
    async with app_database() as connection:
        rows = await (await connection.execute(query, [list(ids)])).fetchall()
    return {row["id"]: (row["s"], row["t"]) for row in rows}


async def statuses_of(stripe_id: str) -> list[str | None]:
    """The status of every row that names this subscription of Stripe's."""
    async with app_database() as connection:
        cursor = await connection.execute(
            named("SELECT {status}::text AS t FROM {table} WHERE {stripe_id} = %s"), [stripe_id]
        )
        return [row["t"] for row in await cursor.fetchall()]


# -- hands ----------------------------------------------------------------------------------------------------------


@hand("copy Stripe's word to {fix.target}")
async def copy_status(fix: Fix, permit: Permit) -> None:
    """Ask Stripe about this one subscription once more, then set the row if it still stands as it was read."""
    with permit.attempt(fix) as attempt:
        try:
            says = await status_at_stripe(fix.expect["stripe_id"])
        except TurnedDown as gone:
            attempt.moved_on(str(gone))
            return
        except BadSetting as no:
            attempt.failed(str(no))
            return
        if says != fix.want["status"]:
            attempt.moved_on(f"Stripe says {says} by now")
            return
        await _swap(fix, attempt)


@hand("restore {fix.target}")
async def restore_status(fix: Fix, permit: Permit) -> None:
    """Set a row back to what it was before, if nothing has changed it since."""
    with permit.attempt(fix) as attempt:
        await _swap(fix, attempt)


async def status_at_stripe(stripe_id: str) -> str:
    """Stripe's word for one subscription, now."""
    found = await ask("get", f"/v1/subscriptions/{stripe_id}")
    if not isinstance(found, dict) or found.get("object") != "subscription" or found.get("id") != stripe_id:
        raise OutsideError("Stripe", f"answered something else for {stripe_id}", "run it again")
    if found.get("livemode") is not key_is_live():
        raise wrong_mode(live=key_is_live())
    return str(found["status"])


async def _swap(fix: Fix, attempt: Attempt) -> None:
    query = named(
        "UPDATE {table} SET {status} = %(new)s"
        " WHERE {id} = %(id)s AND {status}::text IS NOT DISTINCT FROM %(old)s AND {stripe_id} = %(stripe_id)s"
    )
    old, new, stripe_id = fix.expect["status"], fix.want["status"], fix.expect["stripe_id"]
    async with app_database() as connection:
        try:
            cursor = await connection.execute(
                query, {"id": row_of(fix), "old": old, "new": new, "stripe_id": stripe_id}
            )
        except (psycopg.errors.InsufficientPrivilege, psycopg.IntegrityError, psycopg.DataError) as no:
            attempt.failed(f"the database refused: {str(no).splitlines()[0]}")
            return
    if cursor.rowcount == 1:
        attempt.did(rows=1, old=old, new=new)
    else:
        attempt.moved_on("the row changed since it was read")


def row_of(fix: Fix) -> str:
    """The row's id in a fix's target; the table's name before it may hold a slash too."""
    return fix.target.removeprefix(f"{profile().tables.subscription}/")


@reader("look up {fix.target}")
async def look_up_row(fix: Fix) -> Proof:
    """Whether the row says what the fix wanted it to say."""
    rows = await read_rows.fn([row_of(fix)])
    found = rows.get(row_of(fix))
    if found is None:
        return Proof(held=False, seen="the row is gone")
    held = found == (fix.expect["stripe_id"], fix.want["status"])
    return Proof(held=held, seen=f"status {found[1]}", evidence={"status": found[1]})


def undo_copy(fix: Fix) -> Fix:
    """The row back to its old word, if it still says the new one."""
    swapped = {
        "expect": {"status": fix.want["status"], "stripe_id": fix.expect["stripe_id"]},
        "want": {"status": fix.expect["status"]},
    }
    back = "restore_status" if fix.action == "copy_status" else "copy_status"
    return fix.model_copy(update={"action": back, "why": f"undo of {fix.id}", **swapped})
