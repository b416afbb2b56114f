"""Looks at everything at once, in less than a minute, whatever hangs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Collection
from typing import TypeVar

from sqlalchemy import select

from runbook import memory
from runbook.alarm import Alarm
from runbook.errors import NotConfigured, RunbookError
from runbook.ledger import Ledger, now_ms
from runbook.mask import mask
from runbook.schema import run
from runbook.settings import settings
from tasks import deploys, maintenance, sentry
from tasks.deploys import Deploys
from tasks.logs import read_log
from tasks.maintenance import Switch
from tasks.outage import MINUTE_MS, Assessment, Lately, onset
from tasks.rollback import Migrations, read_migrations
from tasks.site import Check, Site, read_site
from tasks.vendors import Vendor, read_vendors

T = TypeVar("T")

EACH_SECONDS = 25.0
BACK_MINUTES = 60
PER_MINUTE = 3
LATELY_MS = 30 * MINUTE_MS
ALERTS = "alerts/states"
"""Where alert-watch remembers how each alert stands."""


async def assess(book: Ledger, runbooks: Collection[str]) -> Assessment:
    """The whole, each part bounded by ``EACH_SECONDS``; what could not be seen is said and hides nothing else.

    ``runbooks`` are those whose last runs count.
    """
    began, unseen = time.monotonic(), list[str]()
    blind = Check(ok=None, said=f"gave no answer in {EACH_SECONDS:g} s")
    site, switch, vendors, (found, between), counts = await asyncio.gather(
        _seen(unseen, "the site", read_site(), Site(pages=(), through_app=blind, directly=blind)),
        _seen(unseen, "maintenance", _maintenance(book), None),
        _seen(unseen, "vendors", read_vendors(), tuple[Vendor, ...]()),
        _seen(unseen, "deployments", _deploys(), (None, Migrations())),
        _seen(unseen, "errors", _errors(book, unseen), Counter[int]()),
    )
    alerts = firing(book)
    minute = onset(counts, now_ms() // MINUTE_MS, PER_MINUTE)
    since, by = (minute * MINUTE_MS, "the app's errors") if minute is not None else _first(alerts)
    unseen += [one.page_unseen for one in vendors if one.page_unseen]
    unseen += [check.said for check in (site.through_app, site.directly) if check.ok is None]
    return Assessment(
        at_ms=now_ms(),
        site=site,
        vendors=vendors,
        deploys=found,
        migrations=between,
        onset_ms=since,
        onset_by=by,
        alerts={name: alarm.said for name, alarm in alerts.items()},
        lately=lately(book, runbooks),
        maintenance=switch,
        unseen=tuple(str(mask(line)) for line in dict.fromkeys(unseen)),
        seconds=round(time.monotonic() - began, 1),
    )


async def _seen(unseen: list[str], name: str, reading: Awaitable[T], otherwise: T) -> T:
    """What was read, or ``otherwise`` and a line in ``unseen``: nothing of it may stop the rest."""
    try:
        async with asyncio.timeout(EACH_SECONDS):
            return await reading
    except TimeoutError:
        unseen.append(f"{name}: no answer in {EACH_SECONDS:g} s")
    except RunbookError as error:
        unseen.append(f"{name}: {error}")
    except Exception as error:  # noqa: BLE001 - one crashed reading must not make an emergency blind to the others
        unseen.append(f"{name}: reading it crashed with {type(error).__name__}")
    return otherwise


async def _deploys() -> tuple[Deploys | None, Migrations]:
    if not deploys.configured():
        raise NotConfigured("VERCEL_TOKEN", deploys.LIST)
    found = await deploys.read_deploys()
    if found.before is None:
        return found, Migrations()
    return found, await read_migrations(found.before.at_ms)


async def _maintenance(book: Ledger) -> Switch | None:
    return None if maintenance.missing("maintenance") else await maintenance.read_switch(book, "maintenance")


async def _errors(book: Ledger, unseen: list[str]) -> Counter[int]:
    """Errors by minute: of the app's log, or of Sentry, whichever saw more."""
    if not settings().has_app_log and not sentry.has_sentry():
        raise NotConfigured("APP_LOG")
    counts = Counter[int]()
    if settings().has_app_log:
        try:
            await read_log()
            since = now_ms() - BACK_MINUTES * MINUTE_MS
            counts.update(one.at_ms // MINUTE_MS for one in memory.grave(book, since))
        except RunbookError as error:
            unseen.append(str(error))
    if sentry.has_sentry():
        try:
            counts |= Counter(await sentry.read_error_counts(BACK_MINUTES))
        except RunbookError as error:
            unseen.append(str(error))
    return counts


def firing(book: Ledger) -> dict[str, Alarm]:
    """The alerts that fire, as the watch last left them."""
    known = {name: Alarm.model_validate(one) for name, one in (memory.recall(book, ALERTS) or {}).items()}
    return {name: alarm for name, alarm in known.items() if alarm.firing}


def _first(alerts: dict[str, Alarm]) -> tuple[int | None, str]:
    early = min(alerts.values(), key=lambda one: one.since_ms, default=None)
    return (None, "") if early is None else (early.since_ms, f"alert {early.name}")


def lately(book: Ledger, runbooks: Collection[str]) -> tuple[Lately, ...]:
    """The runbooks whose last run within half an hour left something, as its first finding."""
    rule = select(run.c.runbook, run.c.outcome, run.c.report).where(
        run.c.ended_at_ms > now_ms() - LATELY_MS, run.c.runbook.in_(runbooks)
    )
    with book.read() as connection:
        last = {row.runbook: row for row in connection.execute(rule.order_by(run.c.ended_at_ms))}
    return tuple(
        Lately(runbook=name, outcome=row.outcome, said=f"{found[0]['subject']}: {found[0]['detail']}")
        for name, row in last.items()
        if row.outcome in {"refused", "unsolved", "observed"} and (found := (row.report or {}).get("findings"))
    )
