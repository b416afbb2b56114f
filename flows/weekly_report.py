"""The week in figures: what each runbook found, mended and got wrong, how fast, and what to do about it.

Symptom: nobody knows whether the runbooks earn their keep, which of them cry wolf, and what still waits for a person.
Cause: each run says what it did; nobody adds it up.
Fix: none. It adds up the ledger, tries other thresholds on the readings that were kept, names licences that are about
    to end and incidents without a postmortem, mails the page to RUNBOOK_REPORT_TO, and sums up what is older than
    RUNBOOK_KEEP_DAYS by one entry of the ledger.
Verify: runbook report shows the same figures, runbook verify that the ledger is whole.
Undo: nothing is changed but the ledger's oldest entries, which are summed up for good.
By hand: runbook report, then runbook incident list, runbook backtest NAME, runbook drill NAME, runbook seal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Completed
from pydantic import Field

import flows
from runbook import artifacts, memory, plot
from runbook import seal as sealing
from runbook.errors import RunbookError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.mask import mask
from runbook.model import Frozen
from runbook.noise import Noise, Range, noise
from runbook.settings import settings
from runbook.weekly import Week, week
from runbook.weekly_page import page
from tasks.report_mail import send

NAME = "weekly-report"
DAY_MS = 86_400_000
PANELS = 12

Days = Annotated[int, Field(ge=1, le=90)]


class Reported(Frozen):
    """The figures, and what became of mail and seal, a line each."""

    week: Week
    notes: tuple[str, ...]


@flow(name=NAME, description=__doc__, flow_run_name=NAME)
async def weekly_report(days: Days = 7, mail: bool = True, seal: bool = True) -> Any:
    """Add up the ledger, leave the page here and in the mail, and sum up what is old.

    Args:
        days: How many days back it looks.
        mail: Whether the page is mailed to RUNBOOK_REPORT_TO, at most once a week.
        seal: Whether entries older than RUNBOOK_KEEP_DAYS are summed up by one and deleted.
    """
    book = ledger()
    told = figures(book, days)
    drawing, text = drawn(book, told.since_ms), str(mask(page(told)))
    notes = [await _mailed(book, text, drawing)] if mail else []
    notes += [_sealed(book)] if seal else []
    done = Reported(week=told, notes=tuple(notes))
    if FlowRunContext.get() is None:
        return done
    image = f"\n{plot.as_image(drawing)}\n" if drawing else ""
    await artifacts.page(NAME, f"{text}{image}\n{'; '.join(notes)}\n", NAME)
    return Completed(name="Reported", message="; ".join(notes) or "figures only", data=done)


def figures(book: Ledger, days: float) -> Week:
    """The figures of every runbook, the noisy ones with what would spare the noise."""
    since = now_ms() - round(days * DAY_MS)
    noisy = [found for name in flows.names() if (found := _noise(book, name, since))]
    return week(book, flows.acting(), since, noisy)


def _noise(book: Ledger, name: str, since_ms: int) -> Noise | None:
    return noise(book, name, since_ms, getattr(flows.module(name), "replay", None), ranges(name))


def ranges(name: str) -> Mapping[str, Range]:
    """The parameters of a runbook that are numbers with bounds, and those bounds."""
    found = {}
    for key, schema in flows.runbook(name).parameters.properties.items():
        if "minimum" in schema and "maximum" in schema:
            found[key] = Range(schema["minimum"], schema["maximum"], schema.get("type") == "integer")
    return found


def drawn(book: Ledger, since_ms: int) -> str:
    """The readings of that time as one drawing; empty where there are none."""
    names = [name for name in memory.names(book, since_ms) if re.fullmatch(r"[a-z_]+", name)][:PANELS]
    return plot.trends({name: memory.series(book, name, since_ms) for name in names}) if names else ""


async def _mailed(book: Ledger, text: str, drawing: str) -> str:
    """A mail that does not leave is a note: the figures stand in Prefect all the same."""
    year, number, _day = datetime.now(UTC).isocalendar()
    subject = text.partition("\n")[0].removeprefix("# ")
    try:
        return await send(book, f"{year}-W{number:02}", subject, text, drawing)
    except RunbookError as error:
        return f"no mail: {mask(str(error))}"


def _sealed(book: Ledger) -> str:
    days = settings().runbook_keep_days
    summed = sealing.seal(book, now_ms() - days * DAY_MS)
    count = sum(summed["runs"].values()) if summed else 0
    what = f"{count} run{'' if count == 1 else 's'}" if count else "nothing"
    return f"sealed {what} older than {days} days"
