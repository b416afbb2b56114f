"""What a person looks at rather than reads: the table and the report each run leaves in the Prefect UI."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.context import FlowRunContext

from runbook.mask import mask
from runbook.model import Json, Report

log = logging.getLogger(__name__)


def _cell(image: object) -> str:
    return ", ".join(f"{key}={value}" for key, value in image.items()) if isinstance(image, dict) else str(image)


def rows(report: Report) -> list[dict[str, Json]]:
    """Findings first, then fixes with their before and after."""
    empty = {"before": "", "after": "", "ledger": report.id}
    found = [
        {"what": "finding", "subject": f.subject, "state": "found", "detail": f.detail, **empty}
        for f in report.findings
    ]
    fixes = [
        {
            "what": fix.action,
            "subject": fix.target,
            "state": fix.state.value,
            "detail": fix.why,
            "before": _cell(fix.expect),
            "after": _cell(fix.want),
            "ledger": fix.id,
        }
        for fix in report.fixes
    ]
    return [*found, *fixes]


def markdown(report: Report) -> str:
    """The run as a page: what was wrong, what was done, what a person should do next."""
    lines = [
        f"# {report.runbook}: {report.outcome}",
        "",
        f"Ledger `{report.id}` · mode {report.mode} · {report.duration_ms} ms",
    ]
    if report.reason:
        lines += ["", f"**Stopped early.** {report.reason}"]
    lines += ["", "## Found", *([f"- **{f.subject}** {f.detail}" for f in report.findings] or ["Nothing."])]
    by_state: dict[tuple[str, str], int] = {}
    for fix in report.fixes:
        by_state[fix.action, fix.state.value] = by_state.get((fix.action, fix.state.value), 0) + 1
    counted = [f"| {action} | {state} | {count} |" for (action, state), count in by_state.items()]
    lines += [
        "",
        "## Done",
        *(["| action | state | count |", "|---|---|---|", *counted] if counted else ["Nothing."]),
    ]
    lines += ["", "## Notices", *([f"- {text}" for text in report.notices] or ["None."])]
    lines += ["", f"Evidence: `runbook show {report.id}`. Undo one fix: `runbook undo FIX_ID`."]
    lines += ["", f"Nothing was altered since: `runbook verify {report.sealed_by[:16]}`"]
    return "\n".join(lines)


async def publish(report: Report) -> None:
    """Leave both artifacts on the current Prefect run; without one, or with its API gone, the ledger has it all.

    A run that found nothing and has nothing to say leaves none: the name of its state says it, every minute.
    """
    if FlowRunContext.get() is None or not (report.findings or report.fixes or report.notices or report.reason):
        return
    try:
        table, about = mask(rows(report)), report.one_line
        await asyncio.gather(
            acreate_table_artifact(table=table, key=f"{report.runbook}-fixes", description=about),
            acreate_markdown_artifact(markdown=mask(markdown(report)), key=f"{report.runbook}-report"),
        )
    except Exception as error:  # noqa: BLE001 - Prefect may be down in any way; the ledger already holds the report
        log.warning("no artifact in Prefect (%s); see: runbook show %s", type(error).__name__, report.id)


async def page(key: str, text: str, run_id: str) -> None:
    """Leave one more page of Markdown on the current Prefect run, where there is one and its API answers."""
    if FlowRunContext.get() is None:
        return
    try:
        await acreate_markdown_artifact(markdown=mask(text), key=key)
    except Exception as error:  # noqa: BLE001 - as above: a page is a convenience, the run goes on
        log.warning("no artifact in Prefect (%s); see: runbook show %s", type(error).__name__, run_id)


class Progress:
    """A bar in the Prefect UI for one act that takes its time; without a Prefect run, or with its API gone, nothing."""

    def __init__(self, key: str, what: str) -> None:
        self.key, self.what = key, what
        self._id: UUID | None = None

    @property
    def shown(self) -> bool:
        """Whether there is a bar by now."""
        return self._id is not None

    async def show(self, percent: float, doing: str) -> None:
        """Move the bar to ``percent`` (0 to 100); ``doing`` says what is under way."""
        if FlowRunContext.get() is None:
            return
        text = str(mask(f"{self.what}: {doing}"))
        try:
            if self._id is None:
                self._id = await acreate_progress_artifact(percent, key=self.key, description=text)
            else:
                await aupdate_progress_artifact(self._id, percent, description=text)
        except Exception as error:  # noqa: BLE001 - a bar that cannot be drawn must not stop what it shows
            log.warning("no progress in Prefect (%s): %s", type(error).__name__, text)
