"""How the command line writes things for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runbook.model import Json, Report
from runbook.settings import settings

if TYPE_CHECKING:  # they bring every vendor's SDK along: seconds before a red button would answer
    from deployments.doctor import Check
    from deployments.first_start import Started
    from tasks.audit import Item

MANY = 12


def report_text(report: Report) -> str:
    """One run: the outcome first, then what was found and done, then what to look at."""
    state = "not configured" if report.not_configured else report.outcome.value
    lines = [f"{report.runbook}: {state}  (mode {report.mode}, {report.one_line}, {report.duration_ms} ms)"]
    lines += [f"  found    {one.subject}: {one.detail}" for one in report.findings]
    for fix in report.fixes[:MANY]:
        lines.append(f"  {fix.state.value:<8} {fix.action} {fix.target}  [{fix.risk}] {fix.why}  ({fix.id})")
    if len(report.fixes) > MANY:
        lines.append(f"  …        {len(report.fixes) - MANY} more: runbook show {report.id}")
    lines += [f"  note     {text}" for text in report.notices]
    return "\n".join(lines)


def started_text(started: Started) -> str:
    """The first start: what was checked, what one look found, the role to make, and what to do next."""
    parts = [checks_text(started.checks), "\n\n".join(map(report_text, started.reports))]
    if started.role:
        parts.append(f"A role of its own, for the database's owner to make:\n\n{started.role}")
    bad = [one.name for one in started.checks if one.state == "bad"]
    mend = f"Mend first: {', '.join(bad)} (see above). " if bad else ""
    parts.append(
        f"{mend}Nothing was changed: RUNBOOK_MODE is {settings().runbook_mode}. Next: put the new role's URL into "
        "RUNBOOK_DATABASE_URL, then runbook doctor, then runbook sweep. When you like it: RUNBOOK_MODE=approve."
    )
    return "\n\n".join(parts)


def tree(value: Json, depth: int = 0) -> str:
    """Any JSON value as indented lines."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        lines = [
            f"{pad}{key}:\n{tree(inner, depth + 1)}"
            if isinstance(inner, (Mapping, list)) and inner
            else f"{pad}{key}: {inner}"
            for key, inner in value.items()
        ]
        return "\n".join(lines)
    if isinstance(value, list):
        return "\n".join(f"{pad}- {tree(inner, depth + 1).lstrip()}" for inner in value)
    return f"{pad}{value}"


def checks_text(checks: Sequence[Check]) -> str:
    """The doctor's checks, a line each, with the next step under those that are not well."""
    marks = {"ok": "ok  ", "bad": "BAD ", "unset": "-   "}
    lines = []
    for one in checks:
        lines.append(f"{marks[one.state]} {one.name:<28} {one.seen}")
        if one.next_step:
            lines.append(f"     {'':<28} next: {one.next_step}")
    return "\n".join(lines)


def audit_text(report: Report, items: Sequence[Item]) -> str:
    """The checklist, a line each, with the next step under those that have one."""
    lines = [f"{report.runbook}: {report.one_line}"]
    for one in items:
        lines.append(f"{one.state:<14} {one.name:<36} {one.seen}")
        if one.next_step:
            lines.append(f"{'':<14} {'':<36} next: {one.next_step}")
    return "\n".join(lines)
