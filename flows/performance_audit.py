"""The performance checklist: nine items, each with what was seen of it. It changes nothing.

Symptom: nothing is broken, but pages or queries could be faster, and nobody has looked for a while.
Cause: caching, compression, image sizes, bundle sizes, sessions or tracing left as they were on the first day.
Fix: none by itself. Each item that fails says what a person does about it.
Verify: run it again after a change; an item that passes says by what evidence.
Undo: nothing is changed, so there is nothing to undo.
By hand: open the app's page with the browser's network panel for headers, sizes and images; SELECT query, calls,
    mean_exec_time FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 10 for the database.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext
from pydantic import Field

from runbook.mask import mask
from runbook.model import Finding, Mode, Report
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import audit_database as database
from tasks import audit_web as web
from tasks.audit import Bounds, Item, State, seen

NAME = "performance-audit"
PROFILE = "CPU profile"
HOW = (
    "on one instance: node --cpu-prof --cpu-prof-dir=/var/tmp node_modules/next/dist/bin/next start, ten minutes of "
    "traffic, end it by SIGINT, open the .cpuprofile in Chrome's DevTools. Node 20 refuses --cpu-prof in NODE_OPTIONS, "
    "and what --prof writes must first go through node --prof-process"
)

Share = Annotated[float, Field(gt=0, le=1)]
Millis = Annotated[float, Field(gt=0, le=60_000)]
Rate = Annotated[float, Field(gt=0, le=100_000)]
Kilobytes = Annotated[int, Field(ge=1, le=100_000)]


@flow(name=NAME, description=__doc__, flow_run_name=NAME)
async def performance_audit(
    hit_share: Share = parameter(NAME, "hit_share", 0.99),
    slow_ms: Millis = parameter(NAME, "slow_ms", 500.0),
    hot_per_second: Rate = parameter(NAME, "hot_per_second", 10.0),
    script_kilobytes: Kilobytes = parameter(NAME, "script_kilobytes", 350),
    image_kilobytes: Kilobytes = parameter(NAME, "image_kilobytes", 150),
) -> Report:
    """Look at all nine items of the checklist and say what was seen; the findings are those that fail.

    Args:
        hit_share: The share of blocks that should come from the database's cache, 0 to 1.
        slow_ms: The mean time from which on a statement is slow, in milliseconds.
        hot_per_second: How often a second a cheap statement must be called to be worth a cache.
        script_kilobytes: What the page's scripts may weigh together, in kB on the wire.
        image_kilobytes: What one image may weigh, in kB on the wire.
    """
    at = Bounds(hit_share, slow_ms, hot_per_second, script_kilobytes, image_kilobytes)
    report, _items = await audit(at)
    return report


async def checklist(at: Bounds) -> list[Item]:
    """Every item, in the checklist's order; the page and the statistics are read once, side by side."""
    statistics, page = asyncio.create_task(database.read_statistics()), asyncio.create_task(web.read_page())

    async def of_database(judge: Callable[[database.Database, Bounds], Item]) -> Item:
        return judge(await statistics, at)

    async def of_page(judge: Callable[[web.Page, Bounds], Item]) -> Item:
        return judge(await page, at)

    async def sessions() -> Item:
        return database.judge_sessions(await database.read_sessions())

    async def tracing() -> Item:
        return web.judge_tracing(await page, dsn=settings().sentry_dsn is not None)

    async def profiling() -> Item:
        return Item(name=PROFILE, state=State.unseen, seen="no reading from outside shows it", next_step=HOW)

    looks: Sequence[tuple[str, Callable[[], Awaitable[Item]]]] = (
        (database.CACHING, partial(of_database, database.judge_caching)),
        (database.SESSIONS, sessions),
        (web.CDN, partial(of_page, web.judge_cdn)),
        (web.COMPRESSION, partial(of_page, web.judge_compression)),
        (web.IMAGES, partial(of_page, web.judge_images)),
        (web.LAZY, partial(of_page, web.judge_lazy)),
        (PROFILE, profiling),
        (database.SLOW, partial(of_database, database.judge_slow)),
        (web.TRACING, tracing),
    )
    return [await seen(name, look) for name, look in looks]


async def audit(at: Bounds) -> tuple[Report, list[Item]]:
    """The report, whose findings are the items that fail, and every item."""
    items: list[Item] = []
    async with Run(NAME, Mode.observe, pages=False) as run:
        if not settings().app_url:
            settings().need(settings().monitor_setting())
        items = await checklist(at)
        run.found([_finding(one) for one in items if one.state is State.failed])
        if FlowRunContext.get() is not None:
            table = mask([one.model_dump(mode="json") for one in items])
            await acreate_table_artifact(key=NAME, table=table, description=counted(items))
    return run.result(), items


def _finding(item: Item) -> Finding:
    return Finding(subject=item.name, detail=f"{item.seen}. Next: {item.next_step}")


def counted(items: Sequence[Item]) -> str:
    """How many items stand how, in words."""
    counts = Counter(str(one.state) for one in items)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
