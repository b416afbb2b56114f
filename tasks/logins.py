"""The app's accounts with failed logins: read through an index only, and changed by compare-and-set only."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from runbook.model import Fix, Frozen, Proof
from runbook.permit import Attempt, Permit
from runbook.settings import profile
from runbook.step import hand, reader
from tasks.app_tables import app_database, columns, is_cheap, missing, named, rows_about
from tasks.rights import quoted

KEYS = ("user_id", "user_email", "user_failed_logins", "user_locked_until")
GRACE_SECONDS = 60
"""A lock has passed for certain when it did so this long ago: clocks may differ by as much."""

AT_MOST = 2_000
BY_HAND = "1 day"
"""A lock that runs for longer than this was set by a person: the app's own last minutes."""

# Prisma's timestamps are UTC without a zone; the session's zone is UTC, so a column with one compares the same.
NOW = "(now() AT TIME ZONE 'UTC')"
ACCOUNT = f"""
SELECT {{user_id}}::text AS id, {{user_email}}::text AS email, coalesce({{user_failed_logins}}, 0) AS failed,
       {{user_locked_until}}::text AS locked_until,
       coalesce({{user_locked_until}} > {NOW}, false) AS running,
       coalesce({{user_locked_until}} < {NOW} - make_interval(secs => {GRACE_SECONDS}), false) AS passed
  FROM {{user}}
"""  # noqa: S608 - constants of this file
LOCKED = (
    ACCOUNT + f" WHERE {{user_locked_until}} > '-infinity' AND {{user_locked_until}} < {NOW} + interval '{BY_HAND}'"
    f" ORDER BY {{user_locked_until}} DESC LIMIT {AT_MOST}"
)
NAMED = ACCOUNT + f" WHERE {{user_email}} = ANY(%(names)s) OR {{user_id}} = ANY(%(names)s) LIMIT {AT_MOST}"


class Account(Frozen):
    """One account: its failed logins, and its lock as text in UTC with where that stands by the database's clock."""

    id: str
    email: str | None
    failed: int
    locked_until: str | None
    running: bool
    passed: bool

    @property
    def shut(self) -> bool:
        """One wrong password locks it again, though its lock has passed: nobody reset the counter."""
        return self.passed and self.failed > 0

    @property
    def holds(self) -> bool:
        """Whoever guesses passwords gets nowhere fast: it is locked, or locks again at the first wrong one."""
        return self.running or self.shut

    @property
    def lock(self) -> str:
        """How it is locked, in words."""
        return f"locked until {self.locked_until} UTC after {self.failed} failed logins"

    def is_named(self, names: Collection[str]) -> bool:
        """Whether the log means this account by one of ``names``: ids and mail addresses in lower case."""
        return self.id.lower() in names or (self.email or "").lower() in names


class Accounts(Frozen):
    """The accounts that matter, and what a person should know of how they were read.

    ``of`` is about how many accounts there are; ``ahead_seconds`` is the database's clock against ours; ``lacks``
    says what keeps them from being read, ``grant`` what keeps them from being changed.
    """

    accounts: tuple[Account, ...] = ()
    of: int = 0
    ahead_seconds: float = 0
    lacks: tuple[str, ...] = ()
    grant: str = ""


@reader("read locked accounts")
async def read_accounts(names: Collection[str]) -> Accounts:
    """Accounts with a lock, and those called one of ``names`` (ids or mail addresses), locked or not.

    All locks are read only where an index leads to them or the table is small; otherwise only those of ``names``,
    by the indexes every app has, and ``lacks`` holds the index a person should create. Locks that run for more than
    a day are left out: a person set them.
    """
    async with app_database() as connection:
        sent = time.time()
        clock = await (
            await connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8 AS at")
        ).fetchone()
        ahead = (clock["at"] if clock else sent) - (sent + time.time()) / 2
        found = await columns(connection, "user")
        if lines := missing(found, "user", KEYS):
            return Accounts(ahead_seconds=ahead, lacks=tuple(lines))
        accounts: dict[str, Account] = {}
        lacks = []
        of = await rows_about(connection, "user")
        for query, what in ((LOCKED, _index()), (NAMED, _unique())):
            rows = await _rows(connection, query, {"names": sorted(names)})
            if rows is None:
                lacks.append(what)
            accounts |= {row["id"]: Account(**row) for row in rows or ()}
    return Accounts(
        accounts=tuple(accounts.values()),
        of=max(of, len(accounts)),
        ahead_seconds=ahead,
        lacks=tuple(lacks),
        grant=_grant(found),
    )


async def _rows(
    connection: AsyncConnection[DictRow], query: str, values: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    asked = named(query, "user", *KEYS)
    if not await is_cheap(connection, "user", asked, values):
        return None
    return await (await connection.execute(asked, values)).fetchall()


def _index() -> str:
    tables = profile().tables
    table, column = tables.user, tables.user_locked_until
    return (
        f'only accounts the log names were looked at: no index leads to locks in "{table}"; '
        f'CREATE INDEX CONCURRENTLY "{table}_{column}_idx" ON "{table}" ("{column}") WHERE "{column}" IS NOT NULL'
    )


def _unique() -> str:
    table, column = profile().tables.user, profile().tables.user_email
    return f'accounts the log names were not looked at: CREATE INDEX CONCURRENTLY ON "{table}" ("{column}")'


def _grant(found: Mapping[str, DictRow]) -> str:
    tables = profile().tables
    lacking = [name for name in (tables.user_failed_logins, tables.user_locked_until) if not found[name]["UPDATE"]]
    role = quoted(found[tables.user_id]["role"])
    return f"GRANT UPDATE ({', '.join(map(quoted, lacking))}) ON {quoted(tables.user)} TO {role}" if lacking else ""


# -- hands ----------------------------------------------------------------------------------------------------------

SWAP = (
    "UPDATE {user} SET {user_failed_logins} = %(to_failed)s, {user_locked_until} = %(to_locked)s"
    " WHERE {user_id} = %(id)s AND {user_failed_logins} = %(failed)s"
    " AND {user_locked_until}::text IS NOT DISTINCT FROM %(locked)s"
)
PASSED = f" AND {{user_locked_until}} < {NOW} - make_interval(secs => {GRACE_SECONDS})"


@hand("reset the lockout of {fix.target}")
async def reset_lockout(fix: Fix, permit: Permit) -> None:
    """Clear counter and lock, if both are as they were read and the lock has passed."""
    with permit.attempt(fix) as attempt:
        await _swap(fix, attempt, SWAP + PASSED)


@hand("unlock {fix.target}")
async def unlock_account(fix: Fix, permit: Permit) -> None:
    """Clear counter and lock before the lock has passed, if both are as they were read."""
    with permit.attempt(fix) as attempt:
        await _swap(fix, attempt, SWAP)


@hand("lock {fix.target} again")
async def restore_lockout(fix: Fix, permit: Permit) -> None:
    """Put counter and lock back, if nobody has failed or been locked since they were cleared."""
    with permit.attempt(fix) as attempt:
        await _swap(fix, attempt, SWAP)


async def _swap(fix: Fix, attempt: Attempt, query: str) -> None:
    values = {
        "id": id_of(fix),
        "failed": fix.expect["failed"],
        "locked": fix.expect["locked_until"],
        "to_failed": fix.want["failed"],
        "to_locked": fix.want["locked_until"],
    }
    async with app_database() as connection:
        try:
            cursor = await connection.execute(named(query, "user", *KEYS), values)
        except (psycopg.errors.InsufficientPrivilege, psycopg.IntegrityError, psycopg.DataError) as no:
            attempt.failed(f"the database refused: {str(no).splitlines()[0]}")
            return
    if cursor.rowcount == 1:
        attempt.did(rows=1)
    else:
        attempt.moved_on("the account changed since it was read")


def id_of(fix: Fix) -> str:
    """The account's id in a fix's target."""
    return fix.target.partition("/")[2]


@reader("look up {fix.target}")
async def look_up_account(fix: Fix) -> Proof:
    """Whether the account's lock is as the fix wanted it; a wrong password typed since does not speak against it."""
    query = named(ACCOUNT + " WHERE {user_id} = %(id)s", "user", *KEYS)
    async with app_database() as connection:
        row = await (await connection.execute(query, {"id": id_of(fix)})).fetchone()
    if row is None:
        return Proof(held=False, seen="the account is gone")
    evidence = {"failed": row["failed"], "locked_until": row["locked_until"]}
    seen = f"{row['failed']} failed logins, locked until {row['locked_until'] or '(not locked)'}"
    return Proof(held=row["locked_until"] == fix.want["locked_until"], seen=seen, evidence=evidence)


def undo_reset(fix: Fix) -> Fix:
    """Counter and lock as they were, if nothing changed them since."""
    back = "reset_lockout" if fix.action == "restore_lockout" else "restore_lockout"
    return fix.model_copy(update={"action": back, "why": f"undo of {fix.id}", "expect": fix.want, "want": fix.expect})
