"""Tables full of dead rows, vacuumed as gently as autovacuum would."""

from __future__ import annotations

import asyncio
import time

from psycopg import errors, sql

from runbook.model import Fix, Proof, Risk
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks.catalog import Table, read_catalog
from tasks.database import connect
from tasks.slowness import grant

# The pauses are autovacuum's own: at full speed a VACUUM by hand takes the disk away from the app.
OPTIONS = "-c lock_timeout=2s -c statement_timeout=0 -c vacuum_cost_delay=2ms -c TimeZone=UTC -c DateStyle=ISO"
PROVE_SECONDS = 3.0  # PostgreSQL 13 and 14 count in the background and say so half a second later


def vacuum(table: Table, risk: Risk) -> Fix:
    """The fix that vacuums one table and renews its statistics."""
    return Fix(
        action="vacuum_table",
        target=f"table {table.name}",
        risk=risk,
        why=f"{table.dead_share:.0%} of its rows are dead and nothing cleans them up",
        undo="nothing to take back: only rows that nobody can see are removed",
        expect={
            "schema": table.db_schema,
            "table": table.name,
            "table_oid": table.oid,
            "last_vacuum": table.last_vacuum,
        },
    )


@hand("vacuum {fix.target}")
async def vacuum_table(fix: Fix, permit: Permit) -> None:
    """VACUUM (ANALYZE) the table, unless somebody is at it or was since it was read; its file is never truncated."""
    with permit.attempt(fix) as attempt:
        catalog = await read_catalog.fn()
        table = catalog.table(fix.expect["schema"], fix.expect["table"])
        if table is None or (table.oid, table.last_vacuum) != (fix.expect["table_oid"], fix.expect["last_vacuum"]):
            attempt.moved_on("it was vacuumed since, or is another table now")
            return
        if table.vacuuming or catalog.migrating:
            attempt.moved_on("a VACUUM or a migration is at work")
            return
        async with connect(options=OPTIONS, application_name="runbook-vacuum") as connection:
            # TRUNCATE would take a lock that stops every reader, and to wait for a lock would end an autovacuum.
            name = sql.Identifier(table.db_schema, table.name)
            try:
                if not table.maintained:
                    await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(table.owner)))
                await connection.execute(sql.SQL("VACUUM (ANALYZE, TRUNCATE false, SKIP_LOCKED) {}").format(name))
            except errors.InsufficientPrivilege:
                attempt.failed(f"only its owner may: {grant(catalog, table)}")
                return
        attempt.did(dead_before=table.dead)


@reader("look at {fix.target}")
async def is_vacuumed(fix: Fix) -> Proof:
    """Proof that it was vacuumed since it was read: without the right, or locked, it is skipped with a mere warning."""
    deadline = time.monotonic() + PROVE_SECONDS
    while True:
        table = (await read_catalog.fn()).by_oid(fix.expect["table_oid"])
        if table is None:
            return Proof(held=False, seen=f"{fix.target} is gone")
        if table.vacuuming:
            return Proof(held=None, seen=f"{fix.target} is still being vacuumed")
        seen = f"{fix.target}: {table.dead:,} dead rows beside {table.live:,}"
        if table.last_vacuum != fix.expect["last_vacuum"]:
            return Proof(held=True, seen=seen)
        if time.monotonic() > deadline:
            return Proof(held=False, seen=seen)
        await asyncio.sleep(0.2)
