"""How the ledger's database is spoken to: SQLite one writer after the other, PostgreSQL with a bound on each wait."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from runbook.errors import LedgerError

WAIT_SECONDS = 5
"""How long one waits for another that writes."""
IDLE_SECONDS = 4
"""How long a writer may hold its lock and do nothing; less than others wait: a stop gets past one that hangs."""
STATEMENT_SECONDS = 30
"""How long PostgreSQL may work on one statement."""


def connect(url: str) -> Engine:
    """The engine for a ledger's URL; raises ``LedgerError`` where it is none."""
    for plain in ("postgresql://", "postgres://"):
        if url.startswith(plain):
            url = f"postgresql+psycopg://{url.removeprefix(plain)}"
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=_connect_args(url))
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise LedgerError(
            "RUNBOOK_LEDGER_URL",
            f"not a database URL ({type(error).__name__})",
            "use sqlite:///file or postgresql://…",
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_settings)
        event.listen(engine, "begin", _sqlite_begin)
    elif engine.dialect.name == "postgresql":
        from runbook import answering  # needs psycopg, which a ledger in a file does not wait for

        event.listen(engine, "do_connect", answering.connect)
        event.listen(engine, "begin", _postgres_begin)
    return engine


def _connect_args(url: str) -> dict[str, int]:
    return {"connect_timeout": WAIT_SECONDS} if url.startswith("postgresql") and "connect_timeout" not in url else {}


def _postgres_begin(connection: Connection) -> None:
    # Whoever holds a lock may be a stopped machine: waiting for it for ever would be no refusal, and no stop either.
    bounds = {"lock_timeout": WAIT_SECONDS, "statement_timeout": STATEMENT_SECONDS}
    if connection.get_execution_options().get("runbook_write"):
        bounds["idle_in_transaction_session_timeout"] = IDLE_SECONDS
    connection.exec_driver_sql(";".join(f"SET LOCAL {name} = '{seconds}s'" for name, seconds in bounds.items()))


def _sqlite_settings(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event below decides the kind of transaction
    for pragma in ("synchronous=FULL", f"busy_timeout={WAIT_SECONDS * 1000}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _write_ahead(connection)


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


# The first two that ever open a file both want to change how it is kept, and SQLite's own wait does not cover that.
@retry(retry=retry_if_exception(_is_busy), wait=wait_random(0, 0.05), stop=stop_after_delay(WAIT_SECONDS), reraise=True)
def _write_ahead(connection: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE takes the write lock first: a deferred one that reads and then writes fails at once under contention.
    write = connection.get_execution_options().get("runbook_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
