"""What the database says of the checklist: cache hits, hot cheap statements, slow ones, and who keeps sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from runbook.mask import statement
from runbook.model import Frozen
from runbook.settings import profile, settings
from runbook.step import reader
from tasks.audit import Bounds, Item, State
from tasks.database import connect, identifier

CACHING, SESSIONS, SLOW = "database query caching", "session store", "slow queries in pg_stat_statements"
ENOUGH_BLOCKS, ENOUGH_CALLS, CHEAP_MS = 10_000, 20, 5.0
THERE = "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) AS found"
ENABLE = "shared_preload_libraries = 'pg_stat_statements', restart, then CREATE EXTENSION pg_stat_statements"

BLOCKS: LiteralString = """
SELECT blks_hit::bigint AS hit, blks_read::bigint AS read,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') AS statements,
       pg_has_role(current_user, 'pg_read_all_stats', 'member') AS all_stats, current_user::text AS role
  FROM pg_stat_database WHERE datname = current_database()"""

STATEMENTS: LiteralString = """
SELECT s.query, s.calls::bigint AS calls, s.mean_exec_time AS mean_ms, s.total_exec_time AS total_ms,
       extract(epoch FROM now() - i.stats_reset)::float8 AS seconds
  FROM pg_stat_statements s CROSS JOIN pg_stat_statements_info i
  JOIN pg_database d ON d.oid = s.dbid JOIN pg_roles r ON r.oid = s.userid
 WHERE d.datname = current_database() AND r.rolname <> current_user
   AND s.query ~* '^\\s*(select|with|insert|update|delete)' AND s.query !~* 'pg_sleep|pg_advisory|pg_stat_'
 ORDER BY s.total_exec_time DESC LIMIT 500"""


class Statement(Frozen):
    """One statement's shape, without literals, and what it cost since the statistics began; times in ms."""

    shape: str
    calls: int
    mean_ms: float
    total_ms: float
    seconds: float

    @property
    def per_second(self) -> float:
        return self.calls / max(1.0, self.seconds)


class Database(Frozen):
    """Blocks found in the cache and read from disk, and statements; None where there is no such extension."""

    hit: int
    read: int
    role: str
    all_stats: bool
    statements: tuple[Statement, ...] | None


@reader("read the database's cache and statements")
async def read_statistics() -> Database:
    """The statistics of this database. Source: pg_stat_database, pg_stat_statements."""
    settings().need(settings().monitor_setting())
    async with connect() as connection:
        row = await (await connection.execute(BLOCKS)).fetchone()
        assert row is not None
        rows = await (await connection.execute(STATEMENTS)).fetchall() if row["statements"] else None
    found = None if rows is None else tuple(_statement(one) for one in rows)
    return Database(hit=row["hit"], read=row["read"], role=row["role"], all_stats=row["all_stats"], statements=found)


def _statement(row: dict[str, object]) -> Statement:
    return Statement.model_validate(
        {name: row[name] for name in ("calls", "mean_ms", "total_ms", "seconds")}
        | {"shape": statement(str(row["query"]), 120)}
    )


@reader("count the live sessions")
async def read_sessions() -> int | None:
    """Rows of the session table that have not expired; None where there is no such table."""
    settings().need(settings().monitor_setting())
    tables = profile().tables
    async with connect() as connection:
        there = await connection.execute(THERE, (tables.db_schema, tables.session))
        if (await there.fetchone() or {"found": None})["found"] is None:
            return None
        count = sql.SQL("SELECT count(*) AS n FROM {} WHERE {} > now() AT TIME ZONE 'UTC'")
        name, expires = identifier(tables.db_schema, tables.session), identifier(tables.session_expires)
        rows = await connection.execute(count.format(name, expires), [])
        return int((await rows.fetchone() or {"n": 0})["n"])


def judge_caching(seen: Database, at: Bounds) -> Item:
    """Blocks come from the cache, and no cheap question is asked so often that the app should keep its answer."""
    total = seen.hit + seen.read
    share = seen.hit / total if total else 1.0
    said = f"{share:.2%} of {total:,} blocks came from the cache"
    if total >= ENOUGH_BLOCKS and share < at.hit_share:
        step = "raise shared_buffers or memory, or find the statements that read the most"
        return Item(name=CACHING, state=State.failed, seen=said, next_step=step)
    hot = [one for one in seen.statements or () if one.per_second >= at.hot_per_second and one.mean_ms <= CHEAP_MS]
    reads = [one for one in hot if one.shape.lower().startswith("select")]
    if reads:
        shown = "; ".join(f"{one.per_second:.0f}/s {one.shape}" for one in reads[:3])
        step = "keep their answers in the app for seconds, in a cache with a bound on its size"
        return Item(name=CACHING, state=State.failed, seen=f"{said}; hot and cheap: {shown}", next_step=step)
    if total < ENOUGH_BLOCKS or seen.statements is None:
        lacks = "too few to judge" if total < ENOUGH_BLOCKS else "hot statements cannot be seen"
        step = "" if seen.statements is not None else ENABLE
        return Item(name=CACHING, state=State.unseen, seen=f"{said}; {lacks}", next_step=step)
    return Item(name=CACHING, state=State.passed, seen=f"{said}; no statement is both hot and cheap")


def judge_slow(seen: Database, at: Bounds) -> Item:
    """No statement that is called often enough to count is slow."""
    if seen.statements is None:
        return Item(name=SLOW, state=State.unseen, seen="pg_stat_statements is not there", next_step=ENABLE)
    if not seen.all_stats:
        grant = f"GRANT pg_monitor TO {seen.role}"
        return Item(
            name=SLOW, state=State.unseen, seen=f"role {seen.role} may not see others' statements", next_step=grant
        )
    counted = [one for one in seen.statements if one.calls >= ENOUGH_CALLS]
    slow = sorted((one for one in counted if one.mean_ms > at.slow_ms), key=lambda one: -one.total_ms)
    if slow:
        shown = "; ".join(f"{one.mean_ms:.0f} ms × {one.calls:,} {one.shape}" for one in slow[:3])
        step = "runbook run slow-queries"
        return Item(name=SLOW, state=State.failed, seen=f"{len(slow)} slow statements: {shown}", next_step=step)
    return Item(name=SLOW, state=State.passed, seen=_slowest(counted, at))


def _slowest(counted: Sequence[Statement], at: Bounds) -> str:
    if not counted:
        return f"no statement was called {ENOUGH_CALLS} times yet"
    worst = max(counted, key=lambda one: one.mean_ms)
    said = f"none of {len(counted)} statements takes over {at.slow_ms:g} ms"
    return f"{said}; the slowest takes {worst.mean_ms:.1f} ms: {worst.shape}"


def judge_sessions(rows: int | None) -> Item:
    """Sessions are in the cookie (JWT), so that no store can speed them up; or they are rows, read on each request."""
    if not rows:
        there = "there is no session table" if rows is None else "the session table holds no live row"
        return Item(name=SESSIONS, state=State.not_applying, seen=f"{there}: sessions are in the cookie (JWT)")
    step = "keep them in Redis, or use session strategy 'jwt'; each request reads its row now"
    return Item(name=SESSIONS, state=State.failed, seen=f"{rows:,} live sessions are rows", next_step=step)
