"""The alerts and the pages as a person sees them in a terminal, and telling people from there."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import flows
from runbook import memory, outbox
from runbook.errors import RunbookError
from runbook.ledger import Ledger
from runbook.model import Json
from runbook.outbox import Page

if TYPE_CHECKING:
    from flows.alert_watch import Watch

TELL_SECONDS = 10.0


def tell() -> None:
    """Deliver what waits, after a run is done: whatever fails here, the watch delivers it, and no exit code changes."""
    from tasks import paging

    with suppress(RunbookError):
        asyncio.run(paging.deliver(TELL_SECONDS))


def watch(given: Mapping[str, Any]) -> Watch:
    """One look at the seven alerts, with the profile's parameters."""
    flow = flows.runbook("alert-watch")
    found: Watch = asyncio.run(flow.fn(**flow.validate_parameters(dict(given))))
    return found


def watch_text(watch: Watch) -> str:
    """The seven alerts, a line each, then what each that is not well saw."""
    lines = [f"{'alert':<18} {'state':<8} {'value':>12}  {'threshold':<26} {'since':<20} action"]
    for row in watch.rows:
        since = _when(row.since_ms)
        lines.append(f"{row.alert:<18} {row.state:<8} {row.value:>12}  {row.threshold:<26} {since:<20} {row.action}")
    lines += [f"  {row.alert}: {row.said}" for row in watch.rows if row.state != "ok" and row.said]
    told = ", ".join(f"{count} to {name}" for name, count in watch.delivered.sent.items() if count)
    lines += [f"  told: {told}"] if told else []
    return "\n".join([*lines, *(f"  note: {note}" for note in (*watch.notes, *watch.delivered.failed))])


def pages(ledger: Ledger) -> dict[str, Json]:
    """Every page of late with how far each channel was told, and what is wrong with a channel."""
    from tasks import paging

    channels = {name: memory.recall(ledger, f"paging/{name}") or {} for name in paging.channels()}
    return {
        "pages": [_page(one) for one in outbox.pages(ledger)],
        "channels": {name: state.get("error", "") for name, state in channels.items()},
    }


def _page(one: Page) -> dict[str, Json]:
    return {
        "key": one.key,
        "state": one.state,
        "severity": one.severity.value,
        "title": one.title,
        "times": one.times,
        "since": _when(one.opened_at_ms),
        "acknowledged_by": one.acked_by,
        "told": {name: _told(progress) for name, progress in one.sent.items()},
        "run": one.run_id,
    }


def _told(progress: Mapping[str, Json]) -> str:
    if progress.get("error"):
        return str(progress["error"])
    return f"{_when(progress['at_ms'])}, {progress.get('level', 0)} times" if progress.get("level") else "not yet"


def pages_text(found: Mapping[str, Json]) -> str:
    """Those pages, the newest last."""
    lines = []
    for one in found["pages"]:
        told = "; ".join(f"{name} {how}" for name, how in one["told"].items()) or "nobody told yet"
        by = f" by {one['acknowledged_by']}" if one["acknowledged_by"] else ""
        lines.append(f"{one['since']}  {one['state'] + by:<14} {one['severity']:<8} {one['key']}")
        lines.append(f"{'':<21} {one['title']}  (raised {one['times']} times; {told})")
    lines = lines or ["No pages."]
    if not found["channels"]:
        lines.append("Nobody is told: set PAGERDUTY_ROUTING_KEY, SLACK_WEBHOOK_URL or RUNBOOK_NOTIFY_URLS.")
    return "\n".join([*lines, *(f"{name}: {error}" for name, error in found["channels"].items() if error)])


def acknowledge(ledger: Ledger, key: str) -> Page:
    """Acknowledge a page as the person at this terminal, and tell the channels."""
    page = outbox.acknowledge(ledger, key, getpass.getuser())
    tell()
    return page


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
