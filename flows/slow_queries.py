"""The database answers late, because a statement reads too much, waits for a lock, or runs on and on.

Symptom: pages time out, Δexec_time/Δcalls of a statement is over slow_ms, one processor of the database is always busy.
Cause: a column that is filtered by has no index; one running statement holds a lock that others wait for; a query that
    nobody waits for any more; a table full of dead rows; an index build that failed and left an INVALID index.
Fix: build the missing index CONCURRENTLY, as its table's owner, where the planner's own estimate says that it pays, and
    hypopg where it is installed; drop an INVALID index of ours (runbook_…); cancel the long query that others wait for,
    then end it; VACUUM (ANALYZE) a table that nothing cleans up. A person decides on large tables, on queries that only
    run long, and on an index once taken back. Nothing is built while a migration, VACUUM or an old transaction would
    hold it up, or where the disk may not do. Statements called a few times, advisory locks, sleeps, COPY, DDL and the
    catalogue are not judged. Unused, duplicate and other people's indexes are reported, never dropped.
Verify: the index is valid and the statement's plan uses it; the statement's mean in the next window stands beside the
    mean before; everything is read and judged again.
Undo: runbook undo drops an index again, if it is still as it was built, and removes the migration it wrote, if that is
    unchanged and not deployed; what stays is said. A cancelled query cannot be brought back.
By hand: SELECT query, calls, mean_exec_time FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 10; then
    EXPLAIN (GENERIC_PLAN) <the statement> (PostgreSQL 16), never EXPLAIN ANALYZE: that runs it. SET lock_timeout =
    '30s' and CREATE INDEX CONCURRENTLY outside a transaction; afterwards SELECT indisvalid FROM pg_index. Add the same
    index to schema.prisma, or the next migration drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import BadSetting
from runbook.memory import measure
from runbook.model import Finding, Fix, FixState, Json, Judged, Mode, Report, Risk
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import advice, bloat, indexes, migrations
from tasks.catalog import Table, read_catalog
from tasks.plans import Plan, read_plans, try_index
from tasks.pool import UNSENT, Session, insist, longest
from tasks.sessions import cancel_query, end_session, is_cancelled, is_ended, read_pool
from tasks.slowness import BLIND_BYTES, Bounds, Latency, Trial, held_up, index_bytes, suspects
from tasks.statements import Statement, read_statements

NAME = "slow-queries"
XIDS_LEFT_TO_PAGE = 500_000_000
XIDS = 2_147_483_648 - 3_000_000  # here PostgreSQL refuses every further write


async def _unwritten(fix: Fix) -> list[str]:
    return await migrations.take_back(fix, settings().runbook_migrations_dir)


async def _rewritten(fix: Fix) -> list[str]:
    return await _written(indexes.undo_drop(fix))


async def _written(fix: Fix) -> list[str]:
    directory = settings().runbook_migrations_dir
    if directory is None:
        return [migrations.notice(fix)]
    try:
        written = await asyncio.to_thread(migrations.write, fix, directory, datetime.now(UTC))
    except BadSetting as error:
        return [migrations.notice(fix), str(error)]
    return [migrations.notice(fix), *([f"written: {written}"] if written else [])]


HANDS = {
    "create_index": Hand(indexes.create_index, indexes.is_built, indexes.undo_create, _unwritten),
    "drop_index": Hand(indexes.drop_index, indexes.is_dropped, indexes.undo_drop, _rewritten),
    "drop_invalid_index": Hand(indexes.drop_index, indexes.is_dropped),
    "cancel_query": Hand(cancel_query, is_cancelled),
    "end_session": Hand(end_session, is_ended),
    "vacuum_table": Hand(bloat.vacuum_table, bloat.is_vacuumed),
}

Milliseconds = Annotated[int, Field(ge=1, le=60_000)]
Calls = Annotated[int, Field(ge=2, le=100_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[int, Field(ge=0, le=86_400)]
Window = Annotated[int, Field(ge=1, le=300)]
Megabytes = Annotated[int, Field(ge=0, le=1_000_000)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def slow_queries(
    mode: Mode = Mode.auto,
    slow_ms: Milliseconds = parameter(NAME, "slow_ms", 500),
    min_calls: Calls = parameter(NAME, "min_calls", 5),
    busy_share: Share = parameter(NAME, "busy_share", 0.2),
    active_seconds: Seconds = parameter(NAME, "active_seconds", 60),
    runaway_seconds: Seconds = parameter(NAME, "runaway_seconds", 3600),
    wait_seconds: Seconds = parameter(NAME, "wait_seconds", 15),
    dead_share: Share = parameter(NAME, "dead_share", 0.4),
    max_table_mb: Megabytes = parameter(NAME, "max_table_mb", 4096),
    window_seconds: Window = parameter(NAME, "window_seconds", 10),
) -> Report:
    """Find what makes the database slow, build the index that is missing, end what others wait for, and prove it.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        slow_ms: The mean of a statement from which on it is slow, in milliseconds.
        min_calls: How often a statement must have been called to be judged; fewer is somebody's report.
        busy_share: The share of one processor a statement may keep busy though an index would answer it, 0 to 1.
        active_seconds: How long a query that others wait for may run before it may be cancelled, in seconds.
        runaway_seconds: How long any query may run before a person is asked to cancel it, in seconds.
        wait_seconds: How long sessions may wait for a lock before whoever holds it is sick, in seconds.
        dead_share: The share of dead rows from which on a table is vacuumed, 0 to 1.
        max_table_mb: The largest table that is indexed or vacuumed without asking a person, in megabytes.
        window_seconds: How long statements are watched where there is no earlier reading, and after a fix, in seconds.
    """
    seconds = (active_seconds, runaway_seconds, wait_seconds)
    bounds = Bounds(slow_ms, min_calls, busy_share, *seconds, dead_share, max_table_mb)
    async with Run(NAME, mode) as run:
        settings().need(settings().monitor_setting())
        await run.settle(HANDS)
        seen = await look(bounds, window_seconds)
        measure(run.ledger, readings(seen, bounds))
        findings = detect(seen, bounds)
        given = bounds._asdict() | {"taken_back": sorted(indexes.taken_back(run.ledger))}
        run.saw("latency", seen.without_literals(), sick=bool(findings), **given)
        tell(run, [*advice.notices(seen, bounds), *advice.blocked(seen, bounds)])
        if findings:
            run.found(findings)
            await _fix(run, seen, bounds, window_seconds)
    return run.result()


async def look(at: Bounds, seconds: float, *, anew: bool = False, also: Sequence[Statement] = ()) -> Latency:
    """One reading from all sides; a statement (``also`` some that are slow no more) is planned and never run."""
    window = await read_statements(seconds, anew=anew)
    dear = suspects(window, at)
    plans = await read_plans([*dear, *(one for one in also if one.id not in {now.id for now in dear})])
    seen = Latency(window=window, plans=plans, pool=await read_pool(), catalog=await read_catalog())
    trials: dict[str, Trial] = {}
    for one in seen.advice() if seen.catalog.hypopg else ():
        statement = window.statement(one.statement)
        fix = indexes.create(one, seen.table(one), Risk.guarded)
        tried = await try_index(statement, indexes.in_trial(fix)) if statement else None
        if tried is not None:
            trials[seen.index_name(one)] = Trial(before=tried[0], after=tried[1], used=tried[2])
    return seen.model_copy(update={"trials": trials})


async def _fix(run: Run, seen: Latency, at: Bounds, seconds: float) -> None:
    async def again() -> list[Fix]:
        now = seen.model_copy(update={"pool": await read_pool(), "catalog": await read_catalog()})
        done = {(fix.action, fix.target) for fix in run.ledger.fixes(run.id) if fix.state is not FixState.granted}
        planned = insist(plan(now, at, indexes.taken_back(run.ledger)), run.ledger.disproven(NAME, "cancel_query"))
        return [fix for fix in planned if (fix.action, fix.target) not in done]

    acted: list[Fix] = []
    for _ in range(2):  # a second time: what a failed build left, a build that waited for a drop, a cancel that failed
        permit = await gate.ask(run, await again(), share=None, again=again)
        await permit.apply(HANDS)
        acted += permit.fixes
        if not permit.fixes:
            break
    if not acted:
        tell(run, [migrations.notice(fix) for fix in run.ledger.fixes(run.id) if fix.action == "create_index"])
        return
    after = await look(at, seconds, anew=True, also=seen.slow(at))
    built = [fix for fix in acted if fix.action == "create_index" and run.ledger.state(fix.id) is FixState.proven]
    names = [fix.want["index"] for fix in built]
    tell(run, [*advice.beside(seen, after, names), *advice.blocked(after, at)])
    for fix in built:
        tell(run, await _written(fix))
    run.remains([*detect(after, at), *advice.useless(seen, after, names)])


def replay(_stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of statements, sessions and catalogue as they were read then."""
    bounds = Bounds(**{name: given[name] for name in Bounds._fields})
    read = Latency.model_validate(seen)
    return Judged(detect(read, bounds), plan(read, bounds, given["taken_back"]))


def tell(run: Run, texts: Iterable[str]) -> None:
    """Say each thing once, however often the database is looked at."""
    for text in texts:
        if text not in run.notices:
            run.notice(text)


# -- detect ---------------------------------------------------------------------------------------------------------


def detect(seen: Latency, at: Bounds) -> list[Finding]:
    """What is wrong: statements, locks, runaways, what a failed build of ours left, dead rows, ages."""
    found = [_slow(seen, one) for one in seen.slow(at)]
    for pid, behind in seen.pool.stuck(at.pool).items():
        waits = f"{len(behind)} sessions wait for it, the longest for {longest(behind):.0f} s"
        root = seen.pool.session(pid)
        found.append(Finding(subject=f"session {pid}", detail=f"{waits}; {_state(root)}", evidence=_evidence(root)))
    alone = (one for one in seen.runaways(at) if one.pid not in seen.pool.stuck(at.pool))
    found += [Finding(subject=f"session {one.pid}", detail=_state(one), evidence=_evidence(one)) for one in alone]
    left = [index.name for index in seen.catalog.indexes if index.left_behind]
    found += [Finding(subject=f"index {name}", detail="INVALID: a build of ours failed and left it") for name in left]
    for table in seen.bloated(at):
        off = "; autovacuum is off for it: ALTER TABLE … RESET (autovacuum_enabled)" if table.autovacuum_off else ""
        said = f"{table.dead:,} dead rows beside {table.live:,} ({table.dead_share:.0%}){off}"
        found.append(Finding(subject=f"table {table.name}", detail=said))
    oldest = max(seen.catalog.xid_age, seen.catalog.multixact_age)
    if XIDS - oldest < XIDS_LEFT_TO_PAGE:
        said = (
            f"{XIDS - oldest:,} transactions are left until it refuses every write: VACUUM (FREEZE) the oldest tables"
        )
        found.append(Finding(subject=f"database {seen.catalog.database}", detail=said, page=True))
    return found


def _slow(seen: Latency, one: Statement) -> Finding:
    plan = seen.plans.get(one.id, Plan())
    why = [new.why for new in seen.advice() if new.statement == one.id]
    if not why:
        scans = ", ".join(scan.table for scan in plan.scans)
        reads = f"reads all of {scans}, and most of its rows are wanted" if scans else "its plan reads by index"
        why = [f"no index would help: {plan.problem or reads}"]
    said = f"mean {one.mean_ms:,.1f} ms over {one.calls:.0f} calls in {seen.window.seconds:.0f} s"
    detail = f"{said}, {seen.window.load(one):.0%} of a processor; {'; '.join(why)}"
    evidence = {"query": one.shape, "role": one.role, "source": seen.window.source, "plan cost": plan.cost}
    return Finding(subject=f"statement {one.id}"[:60], detail=detail, evidence=evidence)


def _state(one: Session | None) -> str:
    if one is None:
        return "it is no session any more, or a prepared transaction: ROLLBACK PREPARED or COMMIT PREPARED by a person"
    left = f"; left alone: it is {one.spared}" if one.spared else ""
    elsewhere = "; pool-exhaustion ends forgotten transactions" if one.idle_in_transaction and not one.spared else ""
    return f"{one.state} for {one.query_seconds:.0f} s, application {one.application or '(none)'}{left}{elsewhere}"


def _evidence(one: Session | None) -> dict[str, object]:
    return {} if one is None else {**one.expect, "role": one.role, "query": one.query}


def readings(seen: Latency, at: Bounds) -> dict[str, float]:
    """What is drawn in the trends."""
    mean = seen.window.ms / seen.window.calls if seen.window.calls else 0.0
    dead = max((one.dead_share for one in seen.catalog.tables if one.dead >= 1000), default=0.0)
    return {"statement_mean_ms": mean, "slow_statements": len(seen.slow(at)), "dead_row_share": dead}


# -- plan -----------------------------------------------------------------------------------------------------------


def plan(seen: Latency, at: Bounds, taken_back: Collection[str] = ()) -> list[Fix]:
    """Drops before builds, so that a name is free; then queries that others wait for, indexes, dead rows."""
    fixes = []
    for index in seen.catalog.indexes:
        table = seen.catalog.by_oid(index.table_oid)
        if index.left_behind and table and table.owned and not held_up(seen.catalog, table, by_readers=True):
            fixes.append(indexes.drop_invalid(index))
    fixes += _cancels(seen, at)
    slow = {one.id for one in seen.slow(at)}
    for one in seen.advice():
        table, name = seen.table(one), seen.index_name(one)
        if one.statement in slow and not seen.against(one) and not seen.catalog.index(table.db_schema, name):
            blind = seen.catalog.free_bytes is None and index_bytes(table, one.width) > BLIND_BYTES
            asks = blind or _large(table, at) or f"index {name}" in taken_back
            fixes.append(indexes.create(one, table, Risk.person if asks else Risk.guarded))
    for table in seen.bloated(at):
        if not seen.against_vacuum(table):
            fixes.append(bloat.vacuum(table, Risk.person if _large(table, at) else Risk.auto))
    return fixes


def _large(table: Table, at: Bounds) -> bool:
    return table.bytes > at.max_table_mb * 1_000_000


def _cancels(seen: Latency, at: Bounds) -> list[Fix]:
    trees, endless = seen.pool.stuck(at.pool), seen.pool.endless(at.pool)
    roots = [one for one in endless if one.pid in trees]
    alone = [one for one in seen.runaways(at) if one not in roots]
    return [
        Fix(
            action="cancel_query",
            target=f"session {one.pid}",
            risk=Risk.guarded if one in roots else Risk.person,
            why=f"{_state(one)}, blocks {len(trees.get(one.pid, ()))} sessions",
            undo=UNSENT,
            expect={**one.expect, "blocks": one in roots},
        )
        for one in [*roots, *alone]
        if one.spared is None and one.may_signal
    ]
