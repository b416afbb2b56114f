"""Statements and what they cost: two readings of pg_stat_statements, differenced; samples of activity without it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection, errors, sql
from psycopg.rows import DictRow

from runbook import memory
from runbook.ledger import ledger, now_ms
from runbook.mask import statement
from runbook.model import Frozen
from runbook.step import reader
from tasks.database import connect

KEY = "slow-queries statements"
TOO_OLD_SECONDS = 1800
"""A snapshot older than this makes a window that says little of now."""

TEXTS = 30
"""Statements whose text is read: the dearest of the window."""

SAMPLES = 20
HIDDEN = "<insufficient privilege>"
ENABLE = (
    "pg_stat_statements is not to be had: add it to shared_preload_libraries, restart PostgreSQL, then CREATE "
    "EXTENSION pg_stat_statements; until then what is active is sampled, which sees only what runs for long"
)

EXCLUDED: Mapping[str, re.Pattern[str]] = {
    "an advisory lock": re.compile(r"\bpg_(try_)?advisory", re.IGNORECASE),
    "a sleep": re.compile(r"\bpg_sleep", re.IGNORECASE),
    "the catalogue": re.compile(r"\b(pg_catalog|information_schema)\.|\bpg_(stat|class|index|locks|database|settings)"),
    "COPY, DDL or upkeep": re.compile(
        r"^\s*(?!(/\*.*?\*/\s*)*(SELECT|WITH|INSERT|UPDATE|DELETE|MERGE|VALUES|TABLE|\())\S", re.IGNORECASE | re.DOTALL
    ),
    "hidden: GRANT pg_monitor": re.compile(re.escape(HIDDEN)),
}
"""Why a statement is not judged, however slow: it waits on purpose, or is no query of the app."""

SOURCE: LiteralString = """
SELECT n.nspname AS schema, to_regclass(format('%I.pg_stat_statements_info', n.nspname)) IS NOT NULL AS info,
  current_database() || ' ' || pg_postmaster_start_time()::text AS epoch
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'"""
INFO = sql.SQL("SELECT stats_reset::text, dealloc::text FROM {}.pg_stat_statements_info")
# false: without the texts, whose file is as long as every statement ever seen. Our own role's statements are left out,
# unless it owns tables: then it is the app's role too.
NUMBERS = sql.SQL("""
SELECT s.queryid::text AS id, sum(s.calls)::float8 AS calls, sum(s.total_exec_time)::float8 AS ms,
  sum(s.rows)::float8 AS rows
FROM {}.pg_stat_statements(false) s
WHERE s.queryid IS NOT NULL AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND {}
  AND (s.userid <> (SELECT oid FROM pg_roles WHERE rolname = current_user) OR EXISTS (SELECT FROM pg_class c
    WHERE c.relkind = 'r' AND c.relowner = s.userid AND c.relnamespace <> 'pg_catalog'::regnamespace))
GROUP BY s.queryid""")
WORDS = sql.SQL("""
SELECT DISTINCT ON (s.queryid) s.queryid::text AS id, s.query AS text, r.rolname::text AS role
FROM {}.pg_stat_statements s LEFT JOIN pg_roles r ON r.oid = s.userid
WHERE s.queryid = ANY (%s::bigint[]) AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())""")
ACTIVE: LiteralString = """
SELECT a.pid, a.query_start::text AS began, a.query AS text, coalesce(a.usename, '') AS role,
  (extract(epoch FROM clock_timestamp() - a.query_start) * 1000)::float8 AS ms
FROM pg_stat_activity a
WHERE a.state = 'active' AND a.backend_type = 'client backend' AND a.datname = current_database()
  AND a.pid <> pg_backend_pid() AND NOT starts_with(a.application_name, 'runbook-')"""


class Snapshot(Frozen):
    """What every statement had cost by ``at_ms``: id → (calls, milliseconds, rows); only equal ``epoch``s compare."""

    at_ms: int
    epoch: str
    numbers: Mapping[str, tuple[float, float, float]]


class Statement(Frozen):
    """One statement in one window: how often it was called and how many milliseconds it ran in all.

    ``text`` has no literals where PostgreSQL took them out; show ``shape`` to people.
    """

    id: str
    text: str
    role: str
    calls: float
    ms: float
    rows: float

    @property
    def mean_ms(self) -> float:
        return self.ms / self.calls if self.calls else 0.0

    @property
    def shape(self) -> str:
        return statement(self.text, 300)

    @property
    def excluded(self) -> str | None:
        """Why it is not judged, or None."""
        return next((why for why, form in EXCLUDED.items() if form.search(self.text)), None)


class Window(Frozen):
    """What ran in the last ``seconds``, the dearest first; ``calls`` and ``ms`` count all statements, listed or not."""

    source: Literal["pg_stat_statements", "samples"]
    seconds: float
    statements: Sequence[Statement]
    calls: float
    ms: float
    notices: Sequence[str] = ()

    def load(self, one: Statement) -> float:
        """How much of one processor the statement kept busy, on average."""
        return one.ms / 1000 / self.seconds if self.seconds else 0.0

    def statement(self, id_: str) -> Statement | None:
        """The statement with this id, if it ran."""
        return next((one for one in self.statements if one.id == id_), None)


@reader("read statements")
async def read_statements(seconds: float, *, anew: bool = False) -> Window:
    """What each statement cost since the last reading, or in the next ``seconds`` where there is none to compare with.

    The last reading is kept in the ledger's memory; it does not count when it is over half an hour old, or when
    PostgreSQL restarted, its statistics were reset or it threw statements out since (stats_reset, dealloc). ``anew``
    makes a window that begins now. Source: pg_stat_statements; without it, pg_stat_activity sampled.
    """
    now, schema = await _snapshot()
    if now is None:
        return await _sampled(seconds, schema)
    before = None if anew else _last(now)
    if before is None or now.at_ms - before.at_ms < seconds * 1000:
        before = before or now
        await asyncio.sleep(max(0.0, seconds - (now_ms() - before.at_ms) / 1000))
        again, _ = await _snapshot()
        now = again or now
    memory.remember(ledger(), KEY, now.model_dump())
    spent = difference(before, now)
    top = sorted(spent, key=lambda id_: -spent[id_][1])[:TEXTS]
    words = await _words(schema, top)
    return Window(
        source="pg_stat_statements",
        seconds=max(now.at_ms - before.at_ms, 1) / 1000,
        statements=[
            Statement(id=id_, **words[id_], calls=spent[id_][0], ms=spent[id_][1], rows=spent[id_][2])
            for id_ in top
            if id_ in words
        ],
        calls=sum(calls for calls, _, _ in spent.values()),
        ms=sum(ms for _, ms, _ in spent.values()),
        notices=_notices(before, now, words),
    )


def _notices(before: Snapshot, now: Snapshot, words: Mapping[str, Mapping[str, str]]) -> list[str]:
    said = []
    if now.epoch != before.epoch:
        said.append("pg_stat_statements threw statements out while it was read: raise pg_stat_statements.max")
    if any(HIDDEN in row["text"] for row in words.values()):
        said.append("the statements of other roles are hidden from ours: GRANT pg_monitor to it")
    return said


def difference(before: Snapshot, now: Snapshot) -> dict[str, tuple[float, float, float]]:
    """Calls, milliseconds and rows of every statement that ran in between; what began again from zero, as it is."""
    spent: dict[str, tuple[float, float, float]] = {}
    for id_, (calls, ms, rows) in now.numbers.items():
        was = before.numbers.get(id_, (0.0, 0.0, 0.0))
        if calls < was[0]:
            was = (0.0, 0.0, 0.0)
        if calls > was[0]:
            spent[id_] = (calls - was[0], ms - was[1], rows - was[2])
    return spent


def _last(now: Snapshot) -> Snapshot | None:
    kept = memory.recall(ledger(), KEY)
    if kept is None:
        return None
    last = Snapshot.model_validate(kept)
    young = 0 <= now.at_ms - last.at_ms < TOO_OLD_SECONDS * 1000
    return last if young and last.epoch == now.epoch else None


async def _snapshot() -> tuple[Snapshot | None, str]:
    """The numbers and the extension's schema; no numbers and why not where they are not to be had."""
    async with connect() as connection:
        source = await (await connection.execute(SOURCE)).fetchone()
        if source is None:
            return None, ENABLE
        schema = sql.Identifier(source["schema"])
        epoch, top_only = source["epoch"], sql.SQL("true")
        try:
            if source["info"]:
                row = await (await connection.execute(INFO.format(schema))).fetchone() or {}
                epoch += f" {row['stats_reset']} {row['dealloc']}"
                top_only = sql.SQL("s.toplevel")  # what a function calls is in the function's own time already
            rows = await (await connection.execute(NUMBERS.format(schema, top_only))).fetchall()
        except errors.ObjectNotInPrerequisiteState:
            return None, ENABLE
    numbers = {row["id"]: (row["calls"], row["ms"], row["rows"]) for row in rows}
    return Snapshot(at_ms=now_ms(), epoch=epoch, numbers=numbers), source["schema"]


async def _words(schema: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    if not ids:
        return {}
    async with connect() as connection:
        rows = await (await connection.execute(WORDS.format(sql.Identifier(schema)), [list(ids)])).fetchall()
    return {row["id"]: {"text": row["text"] or HIDDEN, "role": row["role"] or ""} for row in rows}


async def _sampled(seconds: float, why: str) -> Window:
    longest: dict[tuple[int, str], dict[str, Any]] = {}
    async with connect() as connection:
        for _ in range(SAMPLES):
            for row in await _active(connection):
                longest[row["pid"], row["began"]] = row
            await asyncio.sleep(seconds / SAMPLES)
    return sampled(list(longest.values()), seconds, why)


async def _active(connection: AsyncConnection[DictRow]) -> list[DictRow]:
    return await (await connection.execute(ACTIVE)).fetchall()


def sampled(seen: Sequence[Mapping[str, Any]], seconds: float, why: str) -> Window:
    """The window that samples show: every run of a statement that was seen, for as long as it was seen to run."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in seen:
        runs.setdefault(statement(row["text"] or "", 300), []).append(row)
    found = [
        Statement(
            id=shape, text=of[0]["text"], role=of[0]["role"], calls=len(of), ms=sum(one["ms"] for one in of), rows=0
        )
        for shape, of in runs.items()
        if shape
    ]
    found.sort(key=lambda one: -one.ms)
    total = {"calls": sum(one.calls for one in found), "ms": sum(one.ms for one in found)}
    return Window(source="samples", seconds=seconds, statements=found[:TEXTS], **total, notices=[why])
