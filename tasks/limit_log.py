"""Who was limited, from the app's log, and how old the accounts are that signed in there, from its database."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC

from psycopg import sql

from runbook import memory
from runbook.ledger import ledger, now_ms
from runbook.settings import profile, settings
from runbook.step import reader
from tasks.database import connect, identifier
from tasks.limit_score import Account
from tasks.limit_tally import Limits, weigh
from tasks.logs import read_log

HOUR_MS = 3_600_000


@reader("read whom the app limits")
async def read_limits(evidence_hours: int, blocked_minutes: int, watch: Collection[str] = ()) -> Limits:
    """The parties stopped within ``blocked_minutes``, by what was logged of them in ``evidence_hours``.

    ``watch`` are addresses to weigh in any case. Raises ``OutsideError`` where the log cannot be read.
    """
    await read_log()
    now, known = now_ms(), settings()
    events = memory.every_event(ledger(), now - evidence_hours * HOUR_MS)
    live = now - blocked_minutes * 60_000
    proxies, offices = known.runbook_trusted_proxies, known.runbook_known_offices
    return await asyncio.to_thread(weigh, events, live, proxies, offices, watch)


@reader("read how old the accounts are")
async def read_accounts(names: Collection[str]) -> dict[str, Account]:
    """The accounts behind these ids and mail addresses, by each of them; those the app does not know are left out."""
    names_of = profile().tables
    query = sql.SQL(
        "SELECT {id}::text AS id, lower({email}) AS email, {created} AS created FROM {table} "
        "WHERE {id}::text = ANY(%(names)s) OR lower({email}) = ANY(%(lower)s)"
    ).format(
        id=identifier(names_of.user_id),
        email=identifier(names_of.user_email),
        created=identifier(names_of.user_created),
        table=identifier(names_of.db_schema, names_of.user),
    )
    wanted = {"names": list(names), "lower": [name.lower() for name in names]}
    async with connect() as connection:
        rows = await (await connection.execute(query, wanted)).fetchall()
    found: dict[str, Account] = {}
    for row in rows:
        made = row["created"] if row["created"].tzinfo else row["created"].replace(tzinfo=UTC)
        one = Account(id=row["id"], created_ms=round(made.timestamp() * 1000))
        found |= {one.id: one, **{name: one for name in names if name.lower() == row["email"]}}
    return found
