"""The database has no connection left to give, or its sessions wait for each other.

Symptom: requests hang or fail with "too many clients", "Too many database connections", P2024 or "timeout exceeded
    when trying to connect".
Cause: transactions that were begun and forgotten (idle in transaction), one session whose lock everybody waits for,
    queries that run for minutes, or more instances times connection_limit than the server has slots.
Fix: end the roots of lock trees, then the oldest forgotten transactions, no more than brings the pool to 80% of
    full_at; cancel long queries, and end those that a cancel does not stop. Durable, with a person's approval: give the
    role an idle_in_transaction_session_timeout in this database.
    Never ended: superusers, replication, autovacuum, backups, migrations, CREATE INDEX, VACUUM, other databases,
    runbooks, and whatever is hidden from this role.
Verify: each session is looked for until it is gone; after hold_seconds the pool is read and judged again.
Undo: an ended session cannot come back: its transaction was rolled back, and the app connects anew. The timeout is
    put back to exactly what it was.
By hand: SELECT pid, state, xact_start, pg_blocking_pids(pid), query FROM pg_stat_activity ORDER BY xact_start; then
    SELECT pg_terminate_backend(pid); pg_cancel_backend does nothing to an idle transaction. A prepared transaction ends
    by ROLLBACK PREPARED 'gid'. Raising connection_limit makes "too many clients" worse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import OutsideError
from runbook.memory import measure
from runbook.model import Finding, Fix, Json, Judged, Mode, Report, Risk, Share
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import idle_timeout
from tasks.app_log import read_refusals
from tasks.pgbouncer import read_pgbouncer
from tasks.pool import GONE, HIDDEN, UNSENT, Bounds, Limit, Pool, Room, Session, insist, longest, still
from tasks.sessions import cancel_query, end_session, is_cancelled, is_ended, read_pool

NAME = "pool-exhaustion"
CLEAR = 0.8  # a pool is well again at this share of what alarms, so that it does not flap
LOG_AGE = timedelta(minutes=5)

HANDS = {
    "end_session": Hand(end_session, is_ended),
    "cancel_query": Hand(cancel_query, is_cancelled),
    "set_idle_timeout": Hand(idle_timeout.set_idle_timeout, idle_timeout.is_set, idle_timeout.put_back),
}


def replay(_stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of a pool as it was read then."""
    pool, bounds = Pool.model_validate(seen), Bounds(**given)
    return Judged(detect(pool, bounds), plan(pool, bounds), share(pool, plan(pool, bounds)))


FullAt = Annotated[float, Field(ge=0.3, le=1)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
Hold = Annotated[int, Field(ge=0, le=60)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def pool_exhaustion(
    mode: Mode = Mode.auto,
    full_at: FullAt = parameter(NAME, "full_at", 0.85),
    idle_seconds: Seconds = parameter(NAME, "idle_seconds", 300),
    active_seconds: Seconds = parameter(NAME, "active_seconds", 300),
    wait_seconds: Seconds = parameter(NAME, "wait_seconds", 15),
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 3),
) -> Report:
    """Give the database its connections back: end what holds them for nothing, oldest first, and prove it.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        full_at: The share of the connections from which on the pool counts as full, 0.3 to 1.
        idle_seconds: How long a session may idle in a transaction before it may be ended, in seconds.
        active_seconds: How long a query may run before it may be cancelled, in seconds.
        wait_seconds: How long sessions may wait for a lock before whoever holds it is sick, in seconds.
        hold_seconds: How long to wait before the pool is read again to prove the fix, in seconds.
    """
    bounds = Bounds(full_at, idle_seconds, active_seconds, wait_seconds)
    async with Run(NAME, mode) as run:
        settings().need(settings().monitor_setting())
        await run.settle(HANDS)
        began = max(datetime.now(UTC) - LOG_AGE, datetime.fromtimestamp(run.well_ms() / 1000, UTC))
        pool = await look(run, began)
        measure(run.ledger, {"pool_used_share": pool.server.share})
        findings = detect(pool, bounds)
        run.saw("pool", pool, sick=bool(findings), **bounds._asdict())
        tell(run, notices(pool, bounds))
        if findings:
            run.found(findings)
            await _fix(run, pool, bounds, began, hold_seconds)
    return run.result()


async def _fix(run: Run, pool: Pool, bounds: Bounds, began: datetime, hold_seconds: int) -> None:
    def planned(now: Pool) -> list[Fix]:
        return insist(plan(now, bounds), run.ledger.disproven(NAME, "cancel_query"))

    async def again() -> list[Fix]:
        return still(planned(await look(run, began)))

    fixes = planned(pool)
    permit = await gate.ask(run, fixes, share=share(pool, fixes), again=again)
    if not permit.fixes:
        return
    await permit.apply(HANDS)
    cancelled = {fix.target for fix in permit.fixes if fix.action == "cancel_query"}
    left = planned(await look(run, began))
    harder = [fix for fix in left if fix.action == "end_session" and fix.target in cancelled]
    permit = await gate.ask(run, harder, share=share(pool, harder), again=again)
    await permit.apply(HANDS)
    acted = datetime.now(UTC)
    await asyncio.sleep(hold_seconds)
    after = await look(run, acted)
    run.notice(f"connections {pool.server.used}/{pool.server.of} -> {after.server.used}/{after.server.of}")
    tell(run, notices(after, bounds))
    run.remains(detect(after, bounds))


async def look(run: Run, since: datetime) -> Pool:
    """The pool from all sides: PostgreSQL always, PgBouncer and the app's log where they are configured."""
    pool = await read_pool()
    others: dict[str, Callable[[], Awaitable[object]]] = {}
    if settings().pgbouncer_url:
        others["waiting"] = read_pgbouncer
    if settings().has_app_log:
        others["refusals"] = partial(read_refusals, since)
    for name, read in others.items():
        try:
            pool = pool.model_copy(update={name: await read()})
        except OutsideError as error:  # a second opinion is missing; PostgreSQL's own is enough to act on
            tell(run, [str(error)])
    return pool


def tell(run: Run, texts: Iterable[str]) -> None:
    """Say each thing once, however often the pool is looked at."""
    for text in texts:
        if text not in run.notices:
            run.notice(text)


# -- detect ---------------------------------------------------------------------------------------------------------


def detect(pool: Pool, at: Bounds) -> list[Finding]:
    """What is wrong; nothing while the pool has room, nobody waits and the app was refused nothing."""
    trees = pool.stuck(at)
    found = [_full(pool, limit) for limit in pool.full(at)]
    found += [_tree(pool, pid, behind) for pid, behind in trees.items()]
    for one in pool.waiting:
        said = f"{one.clients} clients wait for a connection, the longest for {one.seconds:.0f} s"
        found.append(Finding(subject=f"pgbouncer {one.database}/{one.user}", detail=said, evidence=one.model_dump()))
    if pool.refusals:
        said = f"the app was refused a connection in {sum(pool.refusals.values())} lines"
        found.append(Finding(subject="app log", detail=said, evidence=pool.refusals))
    if found:
        sick = [one for one in _sick(pool, at) if one.pid not in trees]
        found += [Finding(subject=_name(one), detail=_state(one), evidence=_evidence(one)) for one in sick]
    return found


def _full(pool: Pool, limit: Limit) -> Finding:
    held = pool.by_application(limit)
    most = ", ".join(f"{name} {count}" for name, count in list(held.items())[:3])
    said = f"{limit.used} of {limit.of} connections are taken ({limit.share:.0%}); most by {most}"
    return Finding(subject=limit.subject, detail=said, evidence={"by application": held})


def _tree(pool: Pool, pid: int, behind: Sequence[Session]) -> Finding:
    waits = f"{len(behind)} sessions wait for it, the longest for {longest(behind):.0f} s"
    evidence = {"waiting": [one.pid for one in behind]}
    root = pool.session(pid)
    if pid == 0:
        gids = [one.model_dump() for one in pool.prepared]
        said = f"{waits}; only a person may end it: ROLLBACK PREPARED or COMMIT PREPARED"
        return Finding(subject="prepared transaction", detail=said, evidence=evidence | {"prepared": gids})
    if root is None:
        return Finding(subject=f"session {pid}", detail=f"{waits}; it was gone when read", evidence=evidence)
    left = f"; left alone: it is {root.spared}" if root.spared else ""
    return Finding(subject=_name(root), detail=f"{_state(root)}; {waits}{left}", evidence=_evidence(root) | evidence)


def _sick(pool: Pool, at: Bounds) -> list[Session]:
    # A long query is nobody's harm while there is room: it may be a report.
    harmful = pool.endless(at) if pool.full(at) or pool.waiting else []
    return [one for one in [*pool.forgotten(at), *harmful] if one.spared is None]


def _name(one: Session) -> str:
    return f"session {one.pid}"


def _state(one: Session) -> str:
    seconds = one.state_seconds if one.idle_in_transaction else one.query_seconds
    return f"{one.state} for {seconds:.0f} s, role {one.role}, application {one.application or '(none)'}"


def _evidence(one: Session) -> dict[str, object]:
    return {**one.expect, "role": one.role, "application": one.application, "query": one.query}


def notices(pool: Pool, at: Bounds) -> Iterator[str]:
    """What a person should know that is no finding."""
    hidden = sum(one.takes_slot and one.spared == HIDDEN for one in pool.sessions)
    if hidden:
        yield f"{hidden} sessions are hidden from role {pool.role} and never ended: GRANT pg_monitor TO {pool.role}"
    mute = sorted({one.role for one in _sick(pool, at) if not one.may_signal})
    if mute:
        yield f"role {pool.role} may not end sessions of {', '.join(mute)}: GRANT pg_signal_backend TO {pool.role}"
    if not detect(pool, at) and (old := [one for one in pool.forgotten(at) if one.spared is None]):
        yield f"{len(old)} sessions idle in transaction for over {at.idle_seconds} s; nobody waits, so they are left"
    for limit in pool.full(at):
        if not plan(pool, at) and (held := pool.by_application(limit)):
            name, count = next(iter(held.items()))
            advice = "fewer instances times connection_limit, or PgBouncer"
            yield f"{limit.subject}: nothing to end; {name} holds {count} of {limit.of}: {advice}"


# -- plan -----------------------------------------------------------------------------------------------------------


def plan(pool: Pool, at: Bounds) -> list[Fix]:
    """Roots of lock trees first: their end may free the rest. Then the oldest, until the pool has room again."""
    trees, sick, endless = pool.stuck(at), _sick(pool, at), pool.endless(at)
    roots = [one for one in pool.sessions if one.pid in trees and _may_end(one)]
    roots = [one for one in roots if one.idle_in_transaction or one in endless]
    chosen, old = [*roots, *_oldest(pool, at, roots, sick)], {one.pid for one in sick}
    fixes = [_act(one, len(trees.get(one.pid, ())), one.pid in old) for one in chosen]
    forgotten = [one for one in chosen if one.idle_in_transaction]
    return [*fixes, *idle_timeout.plan_timeout(pool, forgotten, at.idle_seconds)]


def _oldest(pool: Pool, at: Bounds, roots: Sequence[Session], sick: Sequence[Session]) -> list[Session]:
    """As many of the sick as bring every full bound back to room, the ``roots`` counted; all of them where the app or
    PgBouncer is short of connections though the server is not."""
    reached = pool.full(at)
    if not (reached or pool.waiting or pool.refusals):
        return []
    room = Room(reached, CLEAR * at.full_at)
    for one in roots:
        room.take(one)
    counted = {one.pid for one in roots}
    others = [one for one in sick if one.pid not in counted and _may_end(one)]
    return [one for one in others if room.take(one) or not reached]


def _may_end(one: Session) -> bool:
    return one.spared is None and one.may_signal


def _act(one: Session, blocks: int, old: bool) -> Fix:
    why = f"{_state(one)}, blocks {blocks} sessions" if blocks else _state(one)
    # Who is sick only because others wait for it must still be waited for when it is ended.
    expect = {**one.expect, "blocks": not old}
    if one.idle_in_transaction:
        return _on(one, "end_session", why, expect, GONE)
    return _on(one, "cancel_query", why, expect, UNSENT)


def _on(one: Session, action: str, why: str, expect: dict[str, Json], undo: str) -> Fix:
    return Fix(action=action, target=_name(one), risk=Risk.guarded, why=why, undo=undo, expect=expect)


def share(pool: Pool, planned: Sequence[Fix]) -> Share:
    """How much of the whole pool the plan would end."""
    return Share(sick=sum(fix.action != "set_idle_timeout" for fix in planned), of=pool.server.of)
