"""PostgreSQL as a monitor meets it: one short connection of its own, and every refusal in words to act on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row

from runbook.errors import BadSetting, OutsideError
from runbook.mask import mask
from runbook.settings import settings

APPLICATION = "runbook-pool"
OPTIONS = "-c lock_timeout=2s -c statement_timeout=15s -c TimeZone=UTC -c DateStyle=ISO"
CONNECT_SECONDS = 5


class Refusal(NamedTuple):
    """What a refused connection means; ``{role}``, ``{at}``, ``{database}`` and ``{setting}`` are filled in."""

    text: str
    problem: str
    next_step: str
    transient: bool = False


# psycopg gives a failed connection no SQLSTATE: the server's words are all there is.
REFUSALS = (
    Refusal(
        r"remaining connection slots are reserved|sorry, too many clients already|too many connections for",
        "every connection slot that role {role} may use at {at} is taken",
        "GRANT pg_use_reserved_connections TO the runbooks' own role, set reserved_connections = 3 (PostgreSQL 16 or "
        "later) and name that role in RUNBOOK_DATABASE_URL",
        transient=True,
    ),
    Refusal(
        r"password authentication failed|no password supplied|authentication failed",
        "{at} refuses the password of role {role}",
        "correct {setting}",
    ),
    Refusal(r'database ".*" does not exist', "{at} has no database {database}", "correct the path in {setting}"),
    Refusal(
        r'role ".*" does not exist|is not permitted to log in|permission denied for database',
        "role {role} may not log in to {database} at {at}",
        "create the role with LOGIN and CONNECT, or correct {setting}",
    ),
    Refusal(r"no pg_hba\.conf entry", "{at} lets role {role} in from elsewhere only", "add a line to its pg_hba.conf"),
    Refusal(
        r"unsupported startup parameter",
        "{at} is a pooler, which hides the sessions behind it",
        "set RUNBOOK_DATABASE_URL to PostgreSQL itself",
    ),
    Refusal(
        r"system is (starting up|shutting down|in recovery)|not yet accepting|not accepting connections",
        "{at} is starting, stopping or recovering",
        "wait until it accepts connections",
        transient=True,
    ),
    Refusal(
        r"timeout expired|timed out",
        "{at} did not answer in 5 s",
        "see whether it is up and reachable",
        transient=True,
    ),
    Refusal(
        r"refused|failed to resolve|could not translate|unreachable|no such file",
        "{at} cannot be reached",
        "see whether it is up, and whether {setting} names the right host and port",
        transient=True,
    ),
)


AT_ONCE = 2
"""Connections of one process: as many as a full server keeps back for runbooks, and no load of their own."""

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


@asynccontextmanager
async def connect(setting: str | None = None, **options: Any) -> AsyncIterator[AsyncConnection[DictRow]]:
    """A connection in autocommit, bounded in time; a transaction would freeze ``pg_stat_activity``.

    Waits while ``AT_ONCE`` others are open in this process, so none may be opened inside another.

    ``setting`` names the URL (default: the monitor's), ``options`` go to psycopg. psycopg's errors, of connecting
    and of every statement inside, come out as ``OutsideError`` in one line without the password.
    """
    name = setting or settings().monitor_setting()
    arguments: dict[str, Any] = {"application_name": APPLICATION, "options": OPTIONS, "row_factory": dict_row} | options
    conninfo = settings().database_conninfo(name)
    try:
        where = _where(conninfo)
    except psycopg.ProgrammingError:
        raise BadSetting(name, "is no URL that libpq can read", "use postgresql://user:password@host:5432/db") from None
    async with _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
        try:
            connection: AsyncConnection[DictRow] = await AsyncConnection.connect(
                conninfo, autocommit=True, connect_timeout=CONNECT_SECONDS, **arguments
            )
        except psycopg.Error as error:
            raise refused(name, where, error) from None
        try:
            async with connection:
                yield connection
        except psycopg.Error as error:
            raise failed(name, where, error) from None


def identifier(*names: str) -> sql.SQL:
    """A quoted name (of a schema and its table) for a query that is executed with values, be they an empty list.

    psycopg takes a per cent sign for a placeholder then, also inside a quoted name.
    """
    return sql.SQL(sql.Identifier(*names).as_string(None).replace("%", "%%"))


def _where(conninfo: str) -> dict[str, str]:
    parts = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    at = f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}"
    role = parts.get("user", "?")
    return {"at": at, "role": role, "database": parts.get("dbname", role)}


def refused(setting: str, where: dict[str, str], error: psycopg.Error) -> OutsideError:
    """The one line for a connection that did not come about."""
    said = " ".join(str(error).split())
    for row in REFUSALS:
        if re.search(row.text, said, re.IGNORECASE):
            words = {**where, "setting": setting}
            problem, next_step = row.problem.format(**words), row.next_step.format(**words)
            return OutsideError(setting, problem, next_step, transient=row.transient)
    return OutsideError(setting, f"{where['at']} refused: {mask(said)[:200]}", f"correct {setting}", transient=True)


def failed(setting: str, where: dict[str, str], error: psycopg.Error) -> OutsideError:
    """The one line for a statement that failed on a connection that had come about."""
    said = str(mask(" ".join(str(error).split("\n")[0].split())))
    match error:
        case errors.InsufficientPrivilege():
            return OutsideError(setting, f"role {where['role']} may not: {said}", f"{_grant(said)} TO {where['role']}")
        case errors.QueryCanceled() | errors.LockNotAvailable():
            return OutsideError(setting, f"{where['at']} took too long: {said}", "run it again", transient=True)
        case errors.UndefinedTable() | errors.UndefinedColumn() | errors.UndefinedFunction():
            return OutsideError(setting, f"{where['at']} does not know this: {said}", "use PostgreSQL 13 or later")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return OutsideError(setting, f"{where['at']} ended the connection: {said}", "run it again", transient=True)
        case _:
            return OutsideError(setting, f"{where['at']} refused: {said}", "report this as a defect")


def _grant(said: str) -> str:
    """The grant that a refusal in PostgreSQL's words asks for."""
    if "terminate" in said or "cancel" in said:
        return "GRANT pg_signal_backend"
    schema = re.search(r"permission denied for schema (\S+)", said)
    return f'GRANT USAGE ON SCHEMA "{schema[1]}"' if schema else "GRANT what it lacks (runbook doctor)"
