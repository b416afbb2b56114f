"""Rows of the app's Session table that expired long ago: deleted in batches, and kept for a while to be put back.

Their tokens are never read: a row that is put back has a new one, which nobody knows. It had expired anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import psycopg
from psycopg.rows import DictRow

from runbook import memory
from runbook.ledger import ledger
from runbook.model import Fix, Frozen, Proof
from runbook.permit import Permit
from runbook.settings import profile
from runbook.step import hand, reader
from tasks.app_tables import app_database, columns, is_cheap, missing, named
from tasks.rights import RIGHTS, grants

KEYS = ("session_id", "session_user", "session_expires")
KNOWN = (*KEYS, "session_token")
OLD_DAYS = 7
KEEP_DAYS = 7
BATCH = 500
AT_MOST = 10 * BATCH
KEPT = "expired_sessions/"
"""Under this and the fix's id its deleted rows are remembered: nothing shows what is remembered."""

OLD = f"{{session_expires}} < (now() AT TIME ZONE 'UTC') - interval '{OLD_DAYS} days'"
EXPIRED = f"""
SELECT {{session_expires}}::text AS at, {{session_id}}::text AS id FROM {{session}}
 WHERE {OLD} ORDER BY {{session_expires}}, {{session_id}} LIMIT {AT_MOST}"""  # noqa: S608 - constants of this file
BETWEEN = """ WHERE ({session_expires}, {session_id}) >= (%(first_at)s, %(first_id)s)
   AND ({session_expires}, {session_id}) <= (%(last_at)s, %(last_id)s)"""
DELETED = " RETURNING {session_id}::text AS id, {session_user}::text AS user, {session_expires}::text AS expires"
DELETE = "DELETE FROM {session}" + BETWEEN + f" AND {OLD}" + DELETED  # noqa: S608
RESTORE = """
INSERT INTO {session} ({session_id}, {session_user}, {session_expires}, {session_token})
SELECT kept.{session_id}, kept.{session_user}, kept.{session_expires}, gen_random_uuid()
  FROM jsonb_populate_recordset(NULL::{session}, %(rows)s) kept
 WHERE EXISTS (SELECT FROM {user} u WHERE u.{user_id} = kept.{session_user})
    ON CONFLICT DO NOTHING"""
LEFT = f"SELECT count(*) AS rows, count(*) FILTER (WHERE {OLD}) AS old FROM {{session}}" + BETWEEN  # noqa: S608


class Batch(Frozen):
    """A run of rows in the order of their expiry: the first and last (expiry in UTC, id), both in it."""

    first_at: str
    first_id: str
    last_at: str
    last_id: str
    rows: int


class Expired(Frozen):
    """Sessions that expired over ``OLD_DAYS`` ago, in batches, the oldest first; at most ``AT_MOST`` rows.

    ``lacks`` says what kept them from being read, ``grant`` what keeps them from being deleted and put back.
    """

    batches: tuple[Batch, ...] = ()
    lacks: str = ""
    grant: str = ""


@reader("read expired sessions")
async def read_expired() -> Expired:
    """Sessions long expired, where the app keeps sessions in its database; an app that has no such table has none."""
    tables = profile().tables
    async with app_database() as connection:
        found = await columns(connection, "session")
        if not found:
            return Expired()
        if lines := missing(found, "session", KEYS) or _unknown(found):
            return Expired(lacks=lines[0])
        query = named(EXPIRED, "session", *KEYS)
        if not await is_cheap(connection, "session", query, {}):
            index = f'CREATE INDEX CONCURRENTLY ON "{tables.session}" ("{tables.session_expires}")'
            return Expired(lacks=f"expired sessions were not looked for: no index leads to them; {index}")
        rows = await (await connection.execute(query, {})).fetchall()
    slices = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    return Expired(batches=tuple(map(_batch, slices)), grant=_grant(found))


def _unknown(found: Mapping[str, DictRow]) -> list[str]:
    """A line where a row could not be put back: it must have a column of which the runbook knows nothing."""
    tables = profile().tables
    strange = {name for name, row in found.items() if row["must"]} - {getattr(tables, key) for key in KNOWN}
    listed = ", ".join(f'"{name}"' for name in sorted(strange))
    told = f'expired sessions are left to you: "{tables.session}" must have {listed}, so none could be put back'
    return [told] if strange else []


def _batch(rows: Sequence[DictRow]) -> Batch:
    first, last = rows[0], rows[-1]
    return Batch(first_at=first["at"], first_id=first["id"], last_at=last["at"], last_id=last["id"], rows=len(rows))


def _grant(found: Mapping[str, DictRow]) -> str:
    tables, (right,) = profile().tables, [one for one in RIGHTS if one.table == "session"]
    has = {"SELECT": [*found], "INSERT": [name for name, row in found.items() if row["INSERT"]]}
    first = next(iter(found.values()))
    return " ".join(grants(right, tables, first["role"], has, deletes=first["DELETE"]))


@hand("purge {fix.target}")
async def purge_sessions(fix: Fix, permit: Permit) -> None:
    """Delete those of the batch that are still long expired; they are remembered before their deletion is final."""
    query = named(DELETE, "session", *KEYS)
    with permit.attempt(fix) as attempt:
        async with app_database() as connection:
            try:
                async with connection.transaction():
                    cursor = await connection.execute(query, {**fix.expect})
                    rows = await cursor.fetchall()
                    if rows:
                        memory.remember(ledger(), KEPT + fix.id, rows)
            except (psycopg.errors.InsufficientPrivilege, psycopg.IntegrityError) as no:
                attempt.failed(f"the database refused: {str(no).splitlines()[0]}")
                return
        if rows:
            attempt.did(rows=len(rows))
        else:
            attempt.moved_on("none of them is there any more")


@hand("put back {fix.target}")
async def restore_sessions(fix: Fix, permit: Permit) -> None:
    """Insert the remembered rows again, but for those whose user is gone or whose id or token is taken."""
    query = named(RESTORE, "session", "user", "user_id", *KNOWN)
    with permit.attempt(fix) as attempt:
        tables, kept = profile().tables, memory.recall(ledger(), KEPT + fix.expect["kept"]) or []
        spelled = {"id": tables.session_id, "user": tables.session_user, "expires": tables.session_expires}
        rows = [{spelled[key]: value for key, value in row.items()} for row in kept]
        if not rows:
            attempt.moved_on(f"their rows were kept for {KEEP_DAYS} days and are gone")
            return
        async with app_database() as connection:
            try:
                cursor = await connection.execute(query, {"rows": json.dumps(rows)})
            except (psycopg.errors.InsufficientPrivilege, psycopg.IntegrityError, psycopg.DataError) as no:
                attempt.failed(f"the database refused: {str(no).splitlines()[0]}")
                return
        if cursor.rowcount:
            attempt.did(rows=cursor.rowcount)
        else:
            attempt.moved_on("they are there, or their users are gone")


@reader("look up {fix.target}")
async def look_up_sessions(fix: Fix) -> Proof:
    """Whether none of the batch is left, or, where they were to be put back, whether any of them is there."""
    async with app_database() as connection:
        cursor = await connection.execute(named(LEFT, "session", *KEYS), {**fix.expect})
        row = await cursor.fetchone() or {"rows": 0, "old": 0}
    seen = f"{row['rows']} of {fix.expect['rows']} are there"
    held = row["rows"] > 0 if fix.action == "restore_sessions" else row["old"] == 0
    return Proof(held=held, seen=seen, evidence=dict(row))


def undo_purge(fix: Fix) -> Fix:
    """The batch's rows put back from what was remembered."""
    return fix.model_copy(
        update={
            "action": "restore_sessions",
            "why": f"undo of {fix.id}",
            "expect": {**fix.expect, "kept": fix.id},
            "undo": "deletes them again",
        }
    )


def undo_restore(fix: Fix) -> Fix:
    """The batch deleted again; rows that no longer are long expired stay."""
    expect = {name: value for name, value in fix.expect.items() if name != "kept"}
    return fix.model_copy(update={"action": "purge_sessions", "why": f"undo of {fix.id}", "expect": expect})
