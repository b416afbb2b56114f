"""PgBouncer's own view: which of its pools keep clients waiting."""

from __future__ import annotations

from psycopg import AsyncClientCursor

from runbook.step import reader
from tasks.database import connect
from tasks.pool import Waiting


@reader("read pgbouncer")
async def read_pgbouncer() -> list[Waiting]:
    """Every pool with clients in its queue, from SHOW POOLS at ``PGBOUNCER_URL`` (its ``pgbouncer`` database)."""
    # Its console speaks the simple protocol only and knows no startup options.
    plain = {"cursor_factory": AsyncClientCursor, "prepare_threshold": None, "options": ""}
    async with connect("PGBOUNCER_URL", **plain) as connection:
        rows = await (await connection.execute("SHOW POOLS")).fetchall()
    return [
        Waiting(
            database=row["database"],
            user=row["user"],
            clients=int(row["cl_waiting"]),
            seconds=int(row["maxwait"]) + int(row.get("maxwait_us", 0)) / 1e6,
        )
        for row in rows
        if int(row["cl_waiting"]) > 0
    ]
