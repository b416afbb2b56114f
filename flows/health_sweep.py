"""Every runbook: the database first, then the others side by side, each bounded in time.

Symptom: nobody has complained yet, or somebody has and does not know of what.
Cause: any of the runbooks' causes.
Fix: each runbook's own, under its own permit.
Verify: each runbook reads its system again; the table shows what is left.
Undo: fix by fix, ``runbook undo FIX_ID``.
By hand: open the runbook of each row that is not healthy.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from pydantic import Field

import flows
from runbook import memory, plot
from runbook.errors import RunbookError
from runbook.ledger import ledger, now_ms
from runbook.mask import mask
from runbook.model import Mode, Outcome, Report
from runbook.run import Unsolved
from runbook.settings import parameter, settings

FIRST = ("pool-exhaustion",)
"""Runbooks whose cure the others need: the app can take no webhook while its database has no slot to give."""

DAY_MS = 86_400_000

Told = Callable[[str, Report | None], None]
Seconds = Annotated[int, Field(ge=5, le=3600)]


@flow(name="health-sweep", description=__doc__, flow_run_name="health-sweep {mode}")
async def health_sweep(
    mode: Mode = Mode.auto, each_seconds: Seconds = parameter("health-sweep", "each_seconds", 900)
) -> Any:
    """Run every runbook, the database first and then the others at once; a sick system holds up no other.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        each_seconds: How long one runbook may take before it is given up, in seconds.
    """
    reports = await sweep(flows.names(), mode, each_seconds)
    if FlowRunContext.get() is None:
        return reports
    await acreate_markdown_artifact(key="health-sweep", markdown=page(reports), description="Every runbook, now")
    worst = max((one.exit_code for one in reports if not one.not_configured), default=2)
    lines = "; ".join(f"{one.runbook} {one.outcome}" for one in reports)
    if worst in {0, 3}:
        return Completed(name="Healthy" if worst == 0 else "Findings", message=lines, data=reports)
    return Failed(name="Unsolved", message=lines)


async def sweep(
    names: Sequence[str], mode: Mode, each_seconds: float, told: Told = lambda _name, _report: None
) -> list[Report]:
    """The reports of all named runbooks, in their order; one that crashes or overruns is a refused report.

    ``told`` hears of each when it begins, with None, and when it ends, with its report.
    """

    async def heard(name: str) -> Report:
        told(name, None)
        report = await one(name, mode, each_seconds)
        told(name, report)
        return report

    first = [name for name in names if name in FIRST]
    rest = [name for name in names if name not in FIRST]
    reports: dict[str, Report] = {}
    for together in (first, rest):
        found = await asyncio.gather(*map(heard, together))
        reports.update(zip(together, found, strict=True))
    return [reports[name] for name in names]


async def one(name: str, mode: Mode, each_seconds: float) -> Report:
    """The report of one runbook, whatever happens to it."""
    runbook = flows.runbook(name)
    as_flow: Callable[..., Awaitable[State[Any]]] = runbook
    try:
        async with asyncio.timeout(each_seconds):
            if FlowRunContext.get() is None:
                return await runbook.fn(mode=mode)  # type: ignore[no-any-return]
            state = await as_flow(mode=mode, return_state=True)
            result = await state.aresult(raise_on_failure=False)
    except TimeoutError:
        return _lost(name, mode, f"{name}: gave no answer in {each_seconds} s. Next: runbook run {name}")
    except RunbookError as error:
        return _lost(name, mode, str(mask(str(error))))
    except Exception as error:  # noqa: BLE001 - one crashed runbook must not hide what the others found
        return _lost(name, mode, f"{name}: crashed with {type(error).__name__}. Next: runbook run {name}")
    if isinstance(result, Unsolved):
        return result.report
    if isinstance(result, Report):
        return result
    return _lost(name, mode, f"{name}: crashed ({type(result).__name__}). Next: runbook run {name}")


def _lost(name: str, mode: Mode, reason: str) -> Report:
    lowered = mode.under(settings().runbook_mode)
    return Report(id="", runbook=name, mode=lowered, outcome=Outcome.refused, reason=reason)


def page(reports: Sequence[Report]) -> str:
    """Every runbook in one line each, the sick first, and how the readings went over the last day."""
    sick_first = sorted(reports, key=lambda one: (one.not_configured, one.exit_code == 0))
    lines = ["| runbook | state | finding | fixes | ledger |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row(one))} |" for one in sick_first]
    book, since = ledger(), now_ms() - DAY_MS
    names = [name for name in memory.names(book, since) if re.fullmatch(r"[a-z_]+", name)]
    if names:
        drawn = plot.trends({name: memory.series(book, name, since) for name in names})
        lines += ["", "The last 24 hours:", "", plot.as_image(drawn)]
    return str(mask("\n".join(lines)))


def row(report: Report) -> tuple[str, ...]:
    """One runbook as a person reads it: name, state, what was found, what was done, where it stands written."""
    first = report.findings[0] if report.findings else None
    more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
    state = "not configured" if report.not_configured else report.outcome.value
    mark = {"healthy": "🟢", "fixed": "🔧", "not configured": "⚪", "observed": "🟡", "refused": "🟡"}.get(state, "🔴")
    found = f"{first.subject}: {first.detail}{more}" if first else report.reason
    counts = Counter(fix.state.value for fix in report.fixes)
    fixes = ", ".join(f"{count} {name}" for name, count in counts.items())
    return (report.runbook, f"{mark} {state}", found, fixes, f"`{report.id}`" if report.id else "")
