"""How long the database takes: the mean of every statement since the last look, and a round trip now."""

from __future__ import annotations

import re
import time
from typing import LiteralString

from psycopg import errors

from runbook import memory
from runbook.alarm import MINUTE_MS, Point, Sample
from runbook.ledger import ledger, now_ms
from runbook.model import Frozen, Json
from runbook.step import reader
from tasks.database import connect

KEY = "alerts/database-calls"
LEAST_CALLS = 50
LONGEST_MS = 15 * 60_000

# A backup's COPY or a migration takes minutes by nature, and there is one of it: it would be the whole mean.
CALLS: LiteralString = """
SELECT coalesce(sum(s.calls), 0)::float8 AS calls, coalesce(sum(s.total_exec_time), 0)::float8 AS ms,
       (SELECT stats_reset::text || ' ' || dealloc FROM pg_stat_statements_info) AS epoch
  FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
 WHERE d.datname = current_database()
   AND s.query !~* '^\\s*(copy|vacuum|analyze|create|alter|drop|reindex|cluster|refresh|declare|fetch|explain)\\M'
   AND s.query !~* 'pg_sleep|advisory_'"""


class Calls(Frozen):
    """All calls of statements since ``epoch``, and the milliseconds they took."""

    calls: float
    ms: float
    epoch: str
    at_ms: int


class Latency(Frozen):
    """A round trip in milliseconds; ``calls`` is None, with ``why``, where pg_stat_statements is not to be had."""

    round_trip_ms: float
    calls: Calls | None = None
    why: str = ""


@reader("read the database's latency")
async def read_latency() -> Latency:
    """SELECT 1 there and back, and the totals of pg_stat_statements."""
    async with connect() as connection:
        began = time.perf_counter()
        await connection.execute("SELECT 1")
        round_trip_ms = (time.perf_counter() - began) * 1000
        try:
            row = await (await connection.execute(CALLS)).fetchone()
        except (errors.UndefinedTable, errors.ObjectNotInPrerequisiteState, errors.InsufficientPrivilege) as error:
            why = re.split(r"\n", str(error))[0]
            said = f"{why}: CREATE EXTENSION pg_stat_statements, and name it in shared_preload_libraries"
            return Latency(round_trip_ms=round_trip_ms, why=said)
    return Latency(round_trip_ms=round_trip_ms, calls=Calls(**(row or {}), at_ms=now_ms()))


async def latency_sample() -> Sample:
    """The worse of the mean since the last look and the round trip, in milliseconds."""
    seen, book = await read_latency(), ledger()
    was = memory.recall(book, KEY)
    if seen.calls is not None:
        memory.remember(book, KEY, seen.calls.model_dump())
    mean = mean_between(Calls.model_validate(was) if was else None, seen.calls)
    evidence: dict[str, Json] = {"round_trip_ms": round(seen.round_trip_ms, 1)}
    said = f"SELECT 1 took {seen.round_trip_ms:.0f} ms"
    if mean is not None:
        evidence["mean_ms"] = round(mean, 1)
        said = f"a statement took {mean:.0f} ms in the mean, {said}"
    elif seen.why:
        said = f"{said}; {seen.why}"
    value = max(seen.round_trip_ms, mean or 0.0)
    return Sample(points=[Point(minute=now_ms() // MINUTE_MS, value=value)], said=said, evidence=evidence)


def mean_between(was: Calls | None, now: Calls | None) -> float | None:
    """Milliseconds a call between two looks; None after a reset, for too few calls, or a look too long ago."""
    if was is None or now is None or was.epoch != now.epoch or now.at_ms - was.at_ms > LONGEST_MS:
        return None
    calls, ms = now.calls - was.calls, now.ms - was.ms
    return ms / calls if calls >= LEAST_CALLS and ms >= 0 else None
