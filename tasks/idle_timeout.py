"""The durable cure of forgotten transactions: how long a role's session may idle in one in this database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import LiteralString

from psycopg import AsyncConnection, errors, sql
from psycopg.rows import DictRow

from runbook.model import Fix, FixState, Proof, Risk
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks.database import connect
from tasks.pool import Pool, Session

SETTING: LiteralString = "idle_in_transaction_session_timeout"
LOCK = 72_717_001  # so that two runbooks never compare and set at once; ALTER ROLE itself compares nothing

HERE: LiteralString = """
SELECT o.option_value FROM pg_db_role_setting s
JOIN pg_database d ON d.oid = s.setdatabase JOIN pg_roles r ON r.oid = s.setrole
CROSS JOIN LATERAL pg_options_to_table(s.setconfig) o
WHERE d.datname = current_database() AND d.datname = %(database)s AND r.rolname = %(role)s
  AND o.option_name = 'idle_in_transaction_session_timeout'"""


def target(role: str, database: str) -> str:
    """The name of what this sets."""
    return f"role {role} in database {database}"


def plan_timeout(pool: Pool, forgot: Sequence[Session], idle_seconds: int) -> list[Fix]:
    """The setting for the role that forgets most transactions, where nothing ends them yet."""
    open_ended = Counter(one.role for one in forgot if one.role in pool.timeouts and not pool.timeouts[one.role].holds)
    for role, count in open_ended.most_common(1):
        here = {"role": role, "database": pool.database}
        prior = pool.timeouts[role].here
        return [
            Fix(
                action="set_idle_timeout",
                target=target(role, pool.database),
                risk=Risk.person,
                why=f"{count} of its sessions idled in a transaction and nothing ends them",
                undo=f"puts back what was there: {prior or 'no setting'}",
                expect=here | {"value": prior},
                want=here | {"value": f"{idle_seconds}s"},
            )
        ]
    return []


@hand("set idle timeout of {fix.target}")
async def set_idle_timeout(fix: Fix, permit: Permit) -> None:
    """Set the timeout of one role in this database to what is wanted, if it is still what was read (None = not set)."""
    with permit.attempt(fix) as attempt:
        async with connect() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            here = await _here(connection, fix)
            if here != fix.expect["value"]:
                attempt.moved_on(f"it is {here or 'not set'} now, no longer {fix.expect['value'] or 'not set'}")
                return
            try:
                await connection.execute(_alter(fix))
            except errors.InsufficientPrivilege:
                attempt.failed(f"a person with the right to must run: {in_words(fix)}")
                return
        attempt.did(statement=in_words(fix))


@reader("look at {fix.target}")
async def is_set(fix: Fix) -> Proof:
    """Proof that the role's own setting in this database is what was wanted."""
    async with connect() as connection:
        here = await _here(connection, fix)
    return Proof(held=here == fix.want["value"], seen=f"{fix.target}: {SETTING} is {here or 'not set'}")


def put_back(fix: Fix) -> Fix:
    """The fix that restores exactly what was there before: the prior value, or nothing where nothing was set."""
    return fix.model_copy(
        update={
            "risk": Risk.person,
            "why": f"takes back {fix.id}",
            "expect": fix.want,
            "want": fix.expect,
            "id": "",
            "state": FixState.planned,
        }
    )


def in_words(fix: Fix) -> str:
    """The statement as a person would type it."""
    return _alter(fix).as_string()


def _alter(fix: Fix) -> sql.Composed:
    role, database = sql.Identifier(fix.expect["role"]), sql.Identifier(fix.expect["database"])
    head = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(role, database)
    if fix.want["value"] is None:
        return head + sql.SQL(" RESET {}").format(sql.Identifier(SETTING))
    return head + sql.SQL(" SET {} TO {}").format(sql.Identifier(SETTING), sql.Literal(fix.want["value"]))


async def _here(connection: AsyncConnection[DictRow], fix: Fix) -> str | None:
    names = {"role": fix.expect["role"], "database": fix.expect["database"]}
    row = await (await connection.execute(HERE, names)).fetchone()
    return None if row is None else str(row["option_value"])
