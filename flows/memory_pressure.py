"""The app's memory grows towards its limit, or the app has already died of it.

Symptom: restarts by themselves, 502s for a few seconds, "JavaScript heap out of memory" in the log, exit 134 or 137.
Cause: a leak (intervals that are never cleared, caches without a bound, uploads read whole); a limit that is too small
    for what the app needs; a --max-old-space-size above the limit, so that the kernel kills what Node could have told.
Fix: one instance a run is restarted by RUNBOOK_RESTART_COMMAND: the one that leaks and reaches its limit first, after
    a heap snapshot where Node was started with --heapsnapshot-signal=SIGUSR2 and disk and memory have room for it.
    A leak is steady growth of the low points over window_seconds and min_samples of one process, that does not flatten.
    Nothing is restarted for a high sample, while it warms up, during a deployment, within cooldown_minutes of the last
    restart, or while the app does not answer after one.
Verify: the very process is gone, a younger one of the app is there below full_at of its limit, and the health address
    answers; after hold_seconds everything is read and judged again.
Undo: a restart cannot be undone, and a snapshot is deleted by hand once it was read: it holds customers' data.
By hand: read each limit and use (/sys/fs/cgroup/…/memory.max and memory.current less inactive_file of memory.stat),
    restart one instance, wait until it answers, then the next. Start Node with
    NODE_OPTIONS="--max-old-space-size=<75% of the limit in MB> --heapsnapshot-signal=SIGUSR2"; then kill -USR2 PID
    writes a snapshot to open in Chrome's DevTools, Memory. What grows: stream files (fs.createReadStream) instead of
    fs.readFileSync, clear intervals, give every cache a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import artifacts, gate
from runbook.ledger import now_ms
from runbook.model import Finding, Fix, FixState, Json, Judged, Mode, Report, Risk
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks.heap import advice
from tasks.heap_snapshot import look_up_snapshot, take_snapshot
from tasks.memory_page import trend_page
from tasks.memory_watch import Counters, Watch
from tasks.pressure import MB, Bound, Marks, Process, Reading
from tasks.restarts import ACTION, look_up_restart, restart_instance

NAME = "memory-pressure"
MANY_DEATHS = 3
KILLS = {134: "heap death (SIGABRT)", 137: "killed (SIGKILL)"}
GONE = "cannot be undone: what it had in memory is gone"

HANDS = {
    "take_snapshot": Hand(take_snapshot, look_up_snapshot),
    ACTION: Hand(restart_instance, look_up_restart),
}

Limit = Annotated[int, Field(ge=0, le=4_000_000)]
FullAt = Annotated[float, Field(ge=0.3, le=0.99)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
WarmUp = Annotated[int, Field(ge=0, le=86_400)]
Samples = Annotated[int, Field(ge=6, le=1000)]
Minutes = Annotated[int, Field(ge=1, le=1440)]
Cooldown = Annotated[int, Field(ge=20, le=1440)]
Looks = Annotated[int, Field(ge=1, le=240)]
Between = Annotated[float, Field(ge=0.05, le=60)]
Hold = Annotated[int, Field(ge=0, le=60)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def memory_pressure(
    mode: Mode = Mode.auto,
    limit_mb: Limit = parameter(NAME, "limit_mb", 0),
    full_at: FullAt = parameter(NAME, "full_at", 0.8),
    high_seconds: Seconds = parameter(NAME, "high_seconds", 300),
    window_seconds: Seconds = parameter(NAME, "window_seconds", 1800),
    min_samples: Samples = parameter(NAME, "min_samples", 20),
    horizon_minutes: Minutes = parameter(NAME, "horizon_minutes", 60),
    warm_up_seconds: WarmUp = parameter(NAME, "warm_up_seconds", 600),
    cooldown_minutes: Cooldown = parameter(NAME, "cooldown_minutes", 20),
    looks: Looks = parameter(NAME, "looks", 1),
    look_seconds: Between = parameter(NAME, "look_seconds", 5.0),
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 3),
) -> Report:
    """Restart the instance whose leak reaches its limit first, before the kernel does it; tell all the rest.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        limit_mb: What one process may use, in MB, beside its cgroup's limit; 0 for the cgroup's alone.
        full_at: The share of a limit from which on memory is high, 0.3 to 0.99.
        high_seconds: How long it must have been high before that is told, in seconds.
        window_seconds: Over how long a process must have grown to leak, in seconds.
        min_samples: Of how many samples, at least.
        horizon_minutes: A leak that needs longer than this to its limit is told and not restarted, in minutes.
        warm_up_seconds: How old a process must be before its growth counts, in seconds; younger ones hold restarts up.
        cooldown_minutes: How long after a restart the next one may come at the earliest, in minutes.
        looks: How many samples one run takes; schedule it each minute and one is enough.
        look_seconds: How far apart they are, in seconds.
        hold_seconds: How long to wait before everything is read again to prove the fix, in seconds.
    """
    at = Marks(full_at, high_seconds, window_seconds, min_samples, horizon_minutes, warm_up_seconds, cooldown_minutes)
    async with Run(NAME, mode) as run:
        settings().need("RUNBOOK_APP_MATCH")
        await run.settle(HANDS)
        watch = Watch(run, at, limit_mb)
        before = watch.recall()
        reading, counted = await watch.look(before, looks, look_seconds)
        for text in notices(reading, at):
            run.notice(text)
        await artifacts.page(f"{NAME}-trend", trend_page(reading, at, now_ms()), run.id)
        findings = detect(reading, at)
        run.saw("memory", reading, sick=bool(findings), **at._asdict())
        if findings:
            run.found(findings)
            counted = await _fix(run, watch, reading, before, counted, hold_seconds)
        watch.remember(counted)
    return run.result()


async def _fix(
    run: Run, watch: Watch, reading: Reading, before: Counters | None, counted: Counters, hold_seconds: int
) -> Counters:
    async def again() -> list[Fix]:
        return plan((await watch.look(before))[0], watch.at)

    permit = await gate.ask(run, plan(reading, watch.at), share=None, again=again)
    if not permit.fixes:
        return counted
    await permit.apply(HANDS)
    for fix in permit.fixes:
        if fix.action == "take_snapshot" and run.ledger.state(fix.id) is FixState.proven:
            run.notice(f"heap snapshot of pid {fix.expect['pid']} in {fix.expect['folder']}: {fix.undo}")
    _, acted = await watch.look(None)  # from here on: our own restart is no sign of sickness
    await asyncio.sleep(hold_seconds)
    after, last = await watch.look(acted)
    run.remains(detect(after, watch.at))
    return counted.model_copy(update={"restarts": last.restarts})


def replay(_stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of the app's memory as it was read then."""
    reading, at = Reading.model_validate(seen), Marks(**given)
    return Judged(detect(reading, at), plan(reading, at))


# -- detect ---------------------------------------------------------------------------------------------------------


def detect(seen: Reading, at: Marks) -> list[Finding]:
    """What is wrong: leaks near a limit, limits that are full for long, deaths for want of memory, no app at all."""
    found = []
    if not seen.processes:
        said = "no process of the app is there: it is down, or RUNBOOK_APP_MATCH or RUNBOOK_APP_USER is not right"
        found.append(Finding(subject="app", detail=said, page=seen.healthy is False))
    leaks = seen.leaks(at)
    found += [_leak(seen, one, at) for one in seen.doomed(at)]
    found += [_high(seen, bound) for bound in seen.high(at) if not leaks.keys() & set(bound.ids)]
    return [*found, *_deaths(seen)]


def _name(seen: Reading, one: Process) -> str:
    unit = seen.unit_of(one)
    return f"instance {unit.name if unit else one.pid}"


def _leak(seen: Reading, one: Process, at: Marks) -> Finding:
    evidence = {"pid": one.pid, "command": one.shown, "anon_mb": one.anon // MB, "heap_mb": one.heap_mb}
    how = seen.leaks(at)[one.id].model_dump()
    return Finding(subject=_name(seen, one), detail=seen.said(one, at), evidence=evidence | {"trend": how})


def _high(seen: Reading, bound: Bound) -> Finding:
    holds = {f"pid {one.pid}": one.rss // MB for one in seen.processes if one.id in bound.ids}
    said = (
        f"{bound.share:.0%} of {bound.limit // MB} MB used for long, and no leak shows: a restart would come back to "
        f"it. Raise the limit, run fewer instances, or start Node with {advice(bound.limit // max(1, len(bound.ids)))}"
    )
    return Finding(subject=bound.name, detail=said, evidence={"rss_mb": holds}, page=bound.share >= 0.95)


def _deaths(seen: Reading) -> Iterator[Finding]:
    often = seen.deaths_hour >= MANY_DEATHS
    limit = min((bound.limit for bound in seen.bounds), default=0)
    right = f"; start Node with {advice(limit)} and find the leak from a heap snapshot" if limit else ""
    if seen.heap_deaths:
        said = f"Node ran out of heap {seen.heap_deaths} times since the last look, {seen.deaths_hour} in the last hour"
        yield Finding(subject="app log", detail=said + right, evidence={"hour": seen.deaths_hour}, page=often)
    killed = {place: count for place, count in seen.oom_kills.items() if place.startswith("cgroup")}
    for place, count in killed.items():
        said = f"the kernel killed {count} processes for want of memory since the last look"
        yield Finding(subject=place, detail=said + right, page=count >= MANY_DEATHS)
    for unit in seen.units:
        count, code = seen.restarted.get(unit.name, 0), unit.exit_code or 0
        by_memory = code == 134 or unit.oom or (code == 137 and any(seen.oom_kills.values()))
        if count and by_memory:
            said = f"was started again {count} times since the last look, after exit {code}: {KILLS.get(code, 'OOM')}"
            yield Finding(subject=unit.name, detail=said + right, page=count >= MANY_DEATHS)


# -- plan -----------------------------------------------------------------------------------------------------------


def plan(seen: Reading, at: Marks) -> list[Fix]:
    """The restart of the instance that is first at its limit, after its snapshot where one may be taken; or nothing."""
    for one in seen.doomed(at):
        if not why_not(seen, one, at):
            snapshot = [] if seen.why_no_snapshot(one) else [_snapshot(one)]
            return [*snapshot, _restart(seen, one, at)]
    return []


def why_not(seen: Reading, one: Process, at: Marks) -> str:
    """Why this instance may not be restarted now, or ''."""
    unit, young = seen.unit_of(one), min(each.age_seconds for each in seen.processes)
    if seen.unable:
        return seen.unable
    if seen.by_instance and unit is None:
        return f"RUNBOOK_RESTART_COMMAND holds {{instance}}, and no unit of RUNBOOK_SUPERVISORS has pid {one.pid}"
    if seen.by_instance and (kin := seen.kin(one)):
        return f"a restart of {unit.name if unit else ''} would end {len(kin)} more processes of the app at once"
    if young < at.warm_up_seconds:
        return f"an instance started {young:.0f} s ago: a deployment or a restart is under way"
    if seen.past and seen.past[0].minutes_ago < at.cooldown_minutes:
        return f"an instance was restarted {seen.past[0].minutes_ago:.0f} min ago: the next after {at.cooldown_minutes}"
    if not seen.healthy and seen.past and seen.past[0].minutes_ago < 60:
        return "the app does not answer since the last restart: a person must look first"
    return ""


def _restart(seen: Reading, one: Process, at: Marks) -> Fix:
    unit = seen.unit_of(one)
    limit = min(bound.limit for bound in seen.bounds_of(one))
    newest = max(each.started for each in seen.processes)
    return Fix(
        action=ACTION,
        target=_name(seen, one),
        risk=Risk.guarded,
        why=seen.said(one, at),
        undo=GONE,
        expect={"id": one.id, "pid": one.pid, "instance": unit.instance if unit else "", "newest": newest},
        want={"below_mb": int(limit * at.full_at) // MB},
    )


def _snapshot(one: Process) -> Fix:
    return Fix(
        action="take_snapshot",
        target=f"heap of pid {one.pid}",
        risk=Risk.guarded,
        why="shows what leaks, before the restart wipes it out",
        undo="delete the file by hand once it was read: it holds customers' data",
        expect={name: getattr(one, name) for name in ("id", "pid", "inner_pid", "uid", "folder")}
        | {"had": list(one.snapshots)},
    )


# -- tell -----------------------------------------------------------------------------------------------------------


def notices(seen: Reading, at: Marks) -> Iterator[str]:
    """What a person should know that is no finding: why nothing is done, slow leaks, heap limits that cannot hold."""
    doomed, leaks = seen.doomed(at), seen.leaks(at)
    for one in doomed:
        if why := why_not(seen, one, at):
            yield f"{_name(seen, one)} is not restarted: {why}"
        elif why := seen.why_no_snapshot(one):
            yield f"no heap snapshot of pid {one.pid}: {why}"
    for one in seen.processes:
        if one.id in leaks and one not in doomed:
            yield f"{seen.said(one, at)}: later than {at.horizon_minutes} min, so it is left"
        limit = min((bound.limit for bound in seen.bounds_of(one) if bound.name != "machine"), default=0)
        if limit and one.heap_mb and one.heap_mb * MB >= limit:
            said = f"pid {one.pid} may grow its heap to {one.heap_mb} MB, its limit is {limit // MB} MB"
            yield f"{said}: the kernel kills it before Node can tell. Start it with {advice(limit)}"
    if doomed and len(seen.past) >= MANY_DEATHS:
        yield f"{len(seen.past)} restarts in 24 hours: restarts buy time, the leak must be found by the developers"
    for unit in seen.units:
        if count := seen.restarted.get(unit.name, 0):
            code = "unknown" if unit.exit_code is None else unit.exit_code
            yield f"{unit.name} was started again {count} times since the last look, last exit {code}"
    if count := seen.oom_kills.get("this machine", 0):
        yield f"the kernel killed {count} processes for want of memory somewhere on this machine since the last look"
