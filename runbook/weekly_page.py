"""The weekly figures as a person reads them: one page of Markdown, the same in Prefect, a mail and a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from runbook.postmortem import span
from runbook.weekly import Figures, Times, Week

HEADS = ("runbook", "runs", "found", "fixed", "refused", "unsolved", "detect ≤", "fix", "prove", "wrong / done")


def page(week: Week) -> str:
    """The whole report, without a plot."""
    first, last = (datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d") for at in (week.since_ms, week.until_ms))
    parts = [f"# Runbooks, {first} to {last}", "", _summary(week), "", *_table(week.figures)]
    parts += ["", "Times are p50 / p95. Detect is at most that long: since the last look that saw it well."]
    parts += ["", "## Incidents", "", *_incidents(week), "", "## Noisy", "", *_noisy(week), "", "## Licences", ""]
    return "\n".join([*parts, *_licences(week)]) + "\n"


def _summary(week: Week) -> str:
    found, fixed = sum(one.found for one in week.figures), sum(one.fixed for one in week.figures)
    mended = sum(one.mended for one in week.figures)
    saved = f"{week.minutes_saved} minutes of a person saved"
    assumed = (
        f"assumed: {week.minutes_each} for each of {mended} runs that acted and proved it, RUNBOOK_MINUTES_PER_FIX"
    )
    return f"**{found}** runs found something, **{fixed}** of them ended fixed. **{saved}** ({assumed})."


def _table(figures: Sequence[Figures]) -> list[str]:
    rows = [f"| {' | '.join(_row(one))} |" for one in figures]
    return [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}", *rows]


def _row(one: Figures) -> list[str]:
    counts = [str(count) for count in (one.runs, one.found, one.fixed, one.refused + one.observed, one.unsolved)]
    share = "" if one.wrong_share is None else f"{one.wrong} / {one.acted} ({one.wrong_share:.1%})"
    return [one.runbook, *counts, *map(_times, (one.detect, one.fix, one.prove)), share]


def _times(one: Times) -> str:
    return "" if one.p50 is None or one.p95 is None else f"{span(one.p50)} / {span(one.p95)}"


def _incidents(week: Week) -> list[str]:
    lines = [
        f"- {one.state}: {one.title[:120]} (`{one.id}`){'' if one not in week.unwritten else ' **no postmortem yet**'}"
        for one in week.incidents
    ]
    return lines or ["None."]


def _noisy(week: Week) -> list[str]:
    lines = [
        f"- {one.runbook}: {one.noise} of {one.sick} times it found what then went by itself. {one.advice}"
        for one in week.noisy
    ]
    return lines or ["Nothing that was found went by itself."]


def _licences(week: Week) -> list[str]:
    lines = []
    for one in week.licences:
        until = datetime.fromtimestamp((one.until_ms or 0) / 1000, UTC).strftime("%Y-%m-%d")
        state = f"ends {until}" if one.valid else f"does not hold: {one.why}"
        lines.append(f"- {one.runbook} {state}. Next: `runbook drill {one.runbook}`")
    return lines or ["None ends within a week."]
