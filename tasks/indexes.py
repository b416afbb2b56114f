"""Indexes of the app's tables: built and dropped without holding up a single write, and only where they are ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import LiteralString

from psycopg import AsyncConnection, errors, sql
from psycopg.rows import DictRow
from sqlalchemy import select

from runbook.artifacts import Progress
from runbook.errors import OutsideError
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Proof, Risk
from runbook.permit import Attempt, Permit
from runbook.schema import fix as fixes
from runbook.step import hand, reader
from tasks.catalog import Catalog, Index, Table, read_catalog
from tasks.database import connect
from tasks.slowness import Advice, covered, grant, held_up, index_name, no_room

PATIENCE = "30s"
"""How long a build waits for any one lock. It gives up then, leaving an invalid index that the next step drops."""

# No statement_timeout: a build that is cut short leaves an invalid index. Everything else is bounded by its locks.
OPTIONS = f"-c lock_timeout={PATIENCE} -c statement_timeout=0 -c TimeZone=UTC"
LOCK = 72_717_002  # one index of ours at a time: a second build would only wait for the first

PROGRESS: LiteralString = """
SELECT phase, coalesce(nullif(tuples_done, 0)::float8 / nullif(tuples_total, 0),
  nullif(blocks_done, 0)::float8 / nullif(blocks_total, 0), 0)::float8 AS part
FROM pg_stat_progress_create_index WHERE pid = %s"""
PHASES = (
    "initializing",
    "waiting for writers before build",
    "building index: scanning table",
    "building index: sorting live tuples",
    "building index: loading tuples in tree",
    "waiting for writers before validation",
    "index validation: scanning index",
    "index validation: sorting tuples",
    "index validation: scanning table",
    "waiting for old snapshots",
)
QUIET_SECONDS = 2.0
"""A build that takes no longer shows no progress: it would be over before anybody looked."""


def create(advice: Advice, table: Table, risk: Risk) -> Fix:
    """The fix that builds the advised index."""
    name = index_name(table.name, advice.columns)
    return Fix(
        action="create_index",
        target=f"index {name}",
        risk=risk,
        why=advice.why,
        undo="DROP INDEX CONCURRENTLY, by runbook undo; its migration goes with it unless it was changed or deployed",
        expect={"schema": table.db_schema, "table": table.name, "table_oid": table.oid},
        want={"index": name, "columns": list(advice.columns), "width": advice.width},
    )


def drop_invalid(index: Index) -> Fix:
    """The fix that removes what a failed build of ours left: it answers nothing and costs every write."""
    return Fix(
        action="drop_invalid_index",
        target=f"index {index.name}",
        risk=Risk.auto,
        why="a build of ours that failed left it: it answers no query and slows every write",
        undo="nothing to take back: it answered no query",
        expect=_image(index) | {"valid": False},
    )


def _image(index: Index) -> dict[str, object]:
    return {
        "schema": index.db_schema,
        "index": index.name,
        "table_oid": index.table_oid,
        "columns": list(index.columns),
        "valid": index.valid,
    }


def taken_back(ledger: Ledger) -> set[str]:
    """Targets of indexes that a person undid: not to be built again unasked."""
    rule = select(fixes.c.target).where(fixes.c.action == "create_index", fixes.c.state == FixState.undone.value)
    with ledger.read() as connection:
        return set(connection.execute(rule).scalars())


@hand("create {fix.target}")
async def create_index(fix: Fix, permit: Permit) -> None:
    """Build the index CONCURRENTLY, as its table's owner, if nothing it would wait for long for is there now."""
    with permit.attempt(fix) as attempt:
        catalog = await read_catalog.fn()
        table = catalog.by_oid(fix.expect["table_oid"])
        if (why := _moved_on(fix, catalog)) or table is None:
            attempt.moved_on(why or "the table is gone")
            return
        await _carry_out(attempt, catalog, table, _create(fix))


@hand("drop {fix.target}")
async def drop_index(fix: Fix, permit: Permit) -> None:
    """Drop an index of ours CONCURRENTLY if it is still the very one that was read and nobody came to need it."""
    with permit.attempt(fix) as attempt:
        catalog = await read_catalog.fn()
        index = catalog.index(fix.expect["schema"], fix.expect["index"])
        table = catalog.by_oid(fix.expect["table_oid"])
        if index is None or table is None:
            attempt.moved_on("it is gone")
            return
        why = _not_ours(index, fix) or held_up(catalog, table, by_readers=True)
        if why:
            attempt.moved_on(why)
            return
        name = sql.Identifier(index.db_schema, index.name)
        await _carry_out(attempt, catalog, table, sql.SQL("DROP INDEX CONCURRENTLY {}").format(name))


async def _carry_out(attempt: Attempt, catalog: Catalog, table: Table, statement: sql.Composed) -> None:
    """Run ``statement`` as the table's owner and say in ``attempt`` what came of it."""
    held = False
    async with connect(options=OPTIONS, application_name="runbook-index") as connection:
        if not await _alone(connection):
            attempt.moved_on("another runbook is at work on an index")
            return
        try:
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(table.owner)))
            async with _watched(connection.info.backend_pid, f"an index on {table.name}"):
                await connection.execute(statement)
            attempt.did(statement=statement.as_string())
        except errors.InsufficientPrivilege as error:
            attempt.failed(f"{_said(error)}: {grant(catalog, table)}, and CREATE on its schema to that owner")
        except (errors.DuplicateTable, errors.UndefinedTable, errors.UndefinedObject) as error:
            attempt.moved_on(_said(error))
        except errors.DiskFull as error:
            attempt.failed(_said(error))
        except errors.LockNotAvailable:
            held = True
    if held:  # asked only now: no connection may be opened inside another
        attempt.failed(f"held up for {PATIENCE}: {held_up(await read_catalog.fn(), table) or 'it is gone now'}")


@reader("look at {fix.target}")
async def is_built(fix: Fix) -> Proof:
    """Proof that the index is there, valid and of the wanted columns; unseen while it is still being built."""
    found = (await read_catalog.fn()).index(fix.expect["schema"], fix.want["index"])
    if found is None:
        return Proof(held=False, seen=f"{fix.target} is not there")
    if found.in_progress and not found.valid:
        return Proof(held=None, seen=f"{fix.target} is still being built")
    same = list(found.columns) == list(fix.want["columns"]) and found.table_oid == fix.expect["table_oid"]
    seen = f"{fix.target} is {'valid' if found.valid else 'INVALID'}, {found.bytes / 1e6:.1f} MB"
    return Proof(held=found.valid and same, seen=seen, evidence=_image(found))


@reader("look for {fix.target}")
async def is_dropped(fix: Fix) -> Proof:
    """Proof that no index of this name is there."""
    found = (await read_catalog.fn()).index(fix.expect["schema"], fix.expect["index"])
    return Proof(held=found is None, seen=f"{fix.target} is {'gone' if found is None else 'still there'}")


def undo_create(fix: Fix) -> Fix:
    """Drop the index again, while it is as it was built and nothing but queries uses it."""
    image = {"schema": fix.expect["schema"], "index": fix.want["index"], "columns": fix.want["columns"]}
    image |= {"table_oid": fix.expect["table_oid"], "valid": True}
    update = {"action": "drop_index", "why": f"takes back {fix.id}", "undo": "built again, by runbook undo"}
    swapped = {"expect": image, "want": {**fix.expect, **fix.want}, "id": "", "state": FixState.planned}
    return fix.model_copy(update=update | swapped)


def undo_drop(fix: Fix) -> Fix:
    """Build what was dropped again."""
    expect = {name: fix.want[name] for name in ("schema", "table", "table_oid")}
    want = {name: fix.want[name] for name in ("index", "columns", "width")}
    update = {"action": "create_index", "why": f"takes back {fix.id}", "undo": "DROP INDEX CONCURRENTLY"}
    return fix.model_copy(update=update | {"expect": expect, "want": want, "id": "", "state": FixState.planned})


def in_words(fix: Fix) -> str:
    """The statement as a person would type it."""
    return _create(fix).as_string()


def in_trial(fix: Fix) -> str:
    """The statement as hypopg takes it."""
    return _create(fix).as_string().replace(f"CONCURRENTLY {sql.Identifier(fix.want['index']).as_string()} ", "", 1)


def _create(fix: Fix) -> sql.Composed:
    # Without IF NOT EXISTS: that calls an INVALID index of this name a success.
    return sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} ({})").format(
        sql.Identifier(fix.want["index"]),
        sql.Identifier(fix.expect["schema"], fix.expect["table"]),
        sql.SQL(", ").join(map(sql.Identifier, fix.want["columns"])),
    )


def _moved_on(fix: Fix, catalog: Catalog) -> str | None:
    table = catalog.by_oid(fix.expect["table_oid"])
    if table is None or (table.db_schema, table.name) != (fix.expect["schema"], fix.expect["table"]):
        return "the table is gone, or has another name"
    if catalog.index(table.db_schema, fix.want["index"]) or covered(catalog, table.oid, fix.want["columns"]):
        return "such an index is there already, or is being built"
    return held_up(catalog, table) or no_room(catalog, table, fix.want["width"])


def _not_ours(index: Index, fix: Fix) -> str | None:
    if not index.ours:
        return "it is not a runbook's"
    if index.in_progress:
        return "it is being built"
    if _image(index) != {**fix.expect}:
        return "it is not as it was read any more"
    return "a key or a constraint came to need it" if index.needed or index.is_unique or not index.plain else None


async def _alone(connection: AsyncConnection[DictRow]) -> bool:
    # Tried and never waited for: a session that waits has a snapshot, and a build waits for every snapshot.
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", [LOCK])).fetchone()
    return bool(row and row["mine"])


def _said(error: errors.Error) -> str:
    return str(error).split("\n")[0]


@contextlib.asynccontextmanager
async def _watched(pid: int, what: str) -> AsyncIterator[None]:
    """Show the progress of backend ``pid`` while the block lasts, from a second connection."""

    bar = Progress("slow-queries-index", what)

    async def watch() -> None:
        await asyncio.sleep(QUIET_SECONDS)
        with contextlib.suppress(OutsideError):
            async with connect() as connection:
                while row := await (await connection.execute(PROGRESS, [pid])).fetchone():
                    done = PHASES.index(row["phase"]) if row["phase"] in PHASES else 0
                    await bar.show(100 * (done + min(row["part"], 1.0)) / len(PHASES), row["phase"])
                    await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    if bar.shown:
        await bar.show(100, "done")
