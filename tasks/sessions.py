"""Sessions of PostgreSQL: read with what speaks for each, and ended or cancelled only as they were read."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from runbook.mask import statement
from runbook.model import Fix, Json, Proof
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks.database import connect
from tasks.pool import IdleTimeout, Limit, Pool, Prepared, Session

PROVE_SECONDS = 3.0

# One text for both uses: the reading shows why a session is spared, the killing statement asks again as it kills.
# 72707369 is the advisory lock every `prisma migrate` holds, or waits for, while it changes the schema.
SPARED: LiteralString = """
CASE
  WHEN a.pid = pg_backend_pid() OR starts_with(a.application_name, 'runbook-') THEN 'a runbook itself'
  WHEN a.backend_type IS NULL OR a.backend_start IS NULL OR a.state IS NULL AND a.backend_type = 'client backend'
    THEN 'hidden from this role'
  WHEN a.backend_type <> 'client backend' THEN a.backend_type
  WHEN a.datname IS NULL THEN 'not signed in yet'
  WHEN coalesce(r.rolsuper, true) THEN 'a superuser'
  WHEN coalesce(r.rolreplication, true) THEN 'a replication role'
  WHEN a.datname IS DISTINCT FROM current_database() THEN 'another database'
  WHEN EXISTS (SELECT 1 FROM pg_locks l
    WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.classid = 0 AND l.objid = 72707369) THEN 'a migration'
  WHEN EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.pid = a.pid) THEN 'CREATE INDEX'
  WHEN EXISTS (SELECT 1 FROM pg_stat_progress_vacuum p WHERE p.pid = a.pid) THEN 'VACUUM'
  WHEN EXISTS (SELECT 1 FROM pg_stat_progress_cluster p WHERE p.pid = a.pid) THEN 'CLUSTER or VACUUM FULL'
  WHEN EXISTS (SELECT 1 FROM pg_stat_progress_basebackup p WHERE p.pid = a.pid)
    OR a.application_name ~* '^(pg_dump|pg_restore|pg_basebackup|pg_receivewal|pgbackrest|barman|wal-g)|\\mbackup\\M'
    THEN 'a backup'
END"""

SESSIONS: LiteralString = """
SELECT a.pid, coalesce(a.usename, '') AS role, coalesce(a.datname, '') AS database, a.state,
  left(a.query, 1000) AS query,
  coalesce(a.application_name, '') AS application, a.backend_start::text, a.xact_start::text, a.query_start::text,
  coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8 AS state_seconds,
  coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS transaction_seconds,
  coalesce(extract(epoch FROM clock_timestamp() - a.query_start), 0)::float8 AS query_seconds,
  coalesce(extract(epoch FROM clock_timestamp() - w.since), 0)::float8 AS wait_seconds,
  CASE WHEN w.pid IS NULL THEN '{}' ELSE pg_blocking_pids(a.pid) END AS blocked_by,
  coalesce(a.backend_type = 'client backend', a.datname IS NOT NULL) AS takes_slot,
  coalesce(pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'), false) AS may_signal,
  $spared AS spared
FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
LEFT JOIN (SELECT l.pid, min($since) AS since FROM pg_locks l JOIN pg_stat_activity s ON s.pid = l.pid
  WHERE NOT l.granted GROUP BY l.pid) w ON w.pid = a.pid
WHERE a.pid <> pg_backend_pid()
ORDER BY a.xact_start NULLS LAST, a.pid""".replace("$spared", SPARED)
# PostgreSQL 13 does not say since when a lock is waited for: the start of the waiting statement is its bound.
SESSIONS_13: LiteralString = SESSIONS.replace("$since", "s.query_start")
SESSIONS_14: LiteralString = SESSIONS.replace("$since", "l.waitstart")

LIMITS: LiteralString = """
SELECT 'server' AS kind, '' AS name, current_setting('max_connections')::int
  - current_setting('superuser_reserved_connections')::int
  - coalesce(current_setting('reserved_connections', true)::int, 0) AS of
UNION ALL SELECT 'database', datname, datconnlimit FROM pg_database WHERE datconnlimit >= 0
UNION ALL SELECT 'role', rolname, rolconnlimit FROM pg_roles WHERE rolconnlimit >= 0 AND rolcanlogin AND NOT rolsuper"""

PREPARED: LiteralString = """
SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
FROM pg_prepared_xacts WHERE database = current_database()"""

TIMEOUTS: LiteralString = """
SELECT r.rolname AS role, max(o.option_value) FILTER (WHERE s.setdatabase <> 0 AND s.setrole <> 0) AS here,
  coalesce(max(o.option_value) FILTER (WHERE s.setdatabase <> 0 AND s.setrole <> 0),
    max(o.option_value) FILTER (WHERE s.setdatabase = 0 AND s.setrole <> 0),
    max(o.option_value) FILTER (WHERE s.setdatabase <> 0 AND s.setrole = 0),
    max(o.option_value) FILTER (WHERE s.setdatabase = 0 AND s.setrole = 0),
    (SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'
      AND source IN ('default', 'configuration file', 'command line'))) AS effective
FROM pg_database d CROSS JOIN pg_roles r
LEFT JOIN pg_db_role_setting s ON s.setdatabase IN (0, d.oid) AND s.setrole IN (0, r.oid)
LEFT JOIN LATERAL (SELECT option_value FROM pg_options_to_table(s.setconfig)
  WHERE option_name = 'idle_in_transaction_session_timeout') o ON true
WHERE d.datname = current_database() AND r.rolcanlogin GROUP BY r.rolname"""

TARGET: LiteralString = """
WITH target AS MATERIALIZED (
  SELECT a.pid FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
  WHERE a.pid = %(pid)s AND a.backend_start = %(backend_start)s::timestamptz
    AND a.xact_start IS NOT DISTINCT FROM %(xact_start)s::timestamptz
    AND a.query_start IS NOT DISTINCT FROM %(query_start)s::timestamptz
    AND a.state IS NOT DISTINCT FROM %(state)s
    AND (NOT %(blocks)s OR EXISTS (
      SELECT 1 FROM pg_locks w WHERE NOT w.granted AND a.pid = ANY (pg_blocking_pids(w.pid))))
    AND ($spared) IS NULL)""".replace("$spared", SPARED)
END: LiteralString = TARGET + " SELECT pg_terminate_backend(pid) AS sent FROM target"  # noqa: S608
CANCEL: LiteralString = TARGET + " SELECT pg_cancel_backend(pid) AS sent FROM target"  # noqa: S608


@reader("read pool")
async def read_pool() -> Pool:
    """Every session of the server with its locks, every bound on connections, and what would end idle transactions."""
    async with connect() as connection:
        me = (await _rows(connection, "SELECT current_database() AS database, current_user AS role"))[0]
        limits = await _rows(connection, LIMITS)
        prepared = await _rows(connection, PREPARED)
        timeouts = await _rows(connection, TIMEOUTS)
        query = SESSIONS_14 if connection.info.server_version >= 140_000 else SESSIONS_13
        sessions = [Session(**row | {"query": statement(row["query"] or "")}) for row in await _rows(connection, query)]
    counted = [Limit(used=0, **row) for row in limits]
    return Pool(
        **me,
        limits=[one.model_copy(update={"used": sum(map(one.counts, sessions))}) for one in counted],
        sessions=sessions,
        prepared=[Prepared(**row) for row in prepared],
        timeouts={row["role"]: IdleTimeout(here=row["here"], holds=_is_on(row["effective"])) for row in timeouts},
    )


async def _rows(connection: AsyncConnection[DictRow], query: LiteralString) -> list[dict[str, Any]]:
    return await (await connection.execute(query)).fetchall()


def _is_on(setting: str | None) -> bool:
    return bool(re.search("[1-9]", setting or ""))  # '0', '0ms' and '0 min' all mean off


@hand("end {fix.target}")
async def end_session(fix: Fix, permit: Permit) -> None:
    """Terminate one session if it is still in the state it was read in and nothing speaks for it."""
    with permit.attempt(fix) as attempt:
        match await _signal(END, fix):
            case []:
                attempt.moved_on("the session moved on, or something speaks for it now")
            case [True]:
                attempt.did(sent="terminate")
            case _:
                attempt.moved_on("PostgreSQL did not signal it: the process was gone")


@hand("cancel the query of {fix.target}")
async def cancel_query(fix: Fix, permit: Permit) -> None:
    """Cancel one running query if it is still the one that was read and nothing speaks for it."""
    with permit.attempt(fix) as attempt:
        match await _signal(CANCEL, fix):
            case []:
                attempt.moved_on("the query ended by itself, or something speaks for it now")
            case [True]:
                attempt.did(sent="cancel")
            case _:
                attempt.moved_on("PostgreSQL did not signal it: the process was gone")


async def _signal(query: LiteralString, fix: Fix) -> list[bool]:
    async with connect() as connection:
        return [row["sent"] for row in await (await connection.execute(query, {**fix.expect})).fetchall()]


@reader("look for {fix.target}")
async def is_ended(fix: Fix) -> Proof:
    """Proof that the very session (pid and start) is gone, looked for until ``PROVE_SECONDS`` have passed."""
    return await _until(fix, lambda row: row["backend_start"] != fix.expect["backend_start"], "session is gone")


@reader("look for the query of {fix.target}")
async def is_cancelled(fix: Fix) -> Proof:
    """Proof that the very query (pid, starts) no longer runs; its session may live on."""

    def stopped(row: dict[str, Any]) -> bool:
        same = all(row[name] == fix.expect[name] for name in ("backend_start", "query_start"))
        return not same or row["state"] != "active"

    return await _until(fix, stopped, "query no longer runs")


LOOK: LiteralString = """
SELECT backend_start::text, query_start::text, state FROM pg_stat_activity WHERE pid = %(pid)s"""


async def _until(fix: Fix, done: Callable[[dict[str, Any]], bool], what: str) -> Proof:
    deadline = time.monotonic() + PROVE_SECONDS
    async with connect() as connection:
        while True:
            row = await (await connection.execute(LOOK, {"pid": fix.expect["pid"]})).fetchone()
            if row is not None and row["backend_start"] is None:
                return Proof(held=None, seen=f"{fix.target} is hidden from this role: GRANT pg_monitor to it")
            if row is None or done(row):
                return Proof(held=True, seen=f"{fix.target}: the {what}")
            if time.monotonic() > deadline:
                seen: dict[str, Json] = {"state": row["state"], "query_start": row["query_start"]}
                return Proof(held=False, seen=f"{fix.target} is still {row['state']}", evidence=seen)
            await asyncio.sleep(0.02)
