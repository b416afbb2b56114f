"""What belongs together: the symptoms of one incident, and the rules by which they join it and by which it is over.

Pure. A symptom is one thing that is wrong on one subject. It joins the incident that knows it, else the one that had
news within ``BURST_MS``, else it opens one; an incident is over once nothing of it was wrong for ``QUIET_MS``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import Field

from runbook.mask import mask
from runbook.model import Finding, Frozen, Json

BURST_MS = 30 * 60_000
"""What is found within this time of an incident's last news belongs to it."""

QUIET_MS = 15 * 60_000
MANY = 20
"""Symptoms of one run beyond this number are one."""


class Symptom(Frozen):
    """One thing that is wrong: first and last seen, and since when it is not found any more. Unix ms."""

    since_ms: int
    seen_ms: int
    well_ms: int | None = None


class Incident(Frozen):
    """One incident; ``news_ms`` is when its last new symptom joined, ``postmortem`` where the finished one is."""

    id: str
    title: str
    opened_at_ms: int
    news_ms: int
    closed_at_ms: int | None
    closed_by: str | None
    postmortem: str | None
    symptoms: Mapping[str, Symptom] = Field(default_factory=dict)

    @property
    def state(self) -> str:
        """``open`` or ``closed``."""
        return "closed" if self.closed_at_ms else "open"

    @property
    def sick(self) -> Sequence[str]:
        """The symptoms that are still there."""
        return [key for key, one in self.symptoms.items() if one.well_ms is None]


class Item(Frozen):
    """What belongs to an incident: a run (``ref`` its id), a page (``ref`` its number) or a person's note."""

    at_ms: int
    kind: str
    ref: str
    body: Mapping[str, Json]


def home(key: str, now: int, opened: Sequence[Incident]) -> Incident | None:
    """The open incident a symptom belongs to; None where it is the first of another one."""
    newest = sorted(opened, key=lambda one: one.opened_at_ms, reverse=True)
    for one in newest:
        known = one.symptoms.get(key)
        if known is not None and (known.well_ms is None or now - known.well_ms < BURST_MS):
            return one
    return next((one for one in newest if now - one.news_ms < BURST_MS), None)


def over(one: Incident, open_pages: int, now: int) -> bool:
    """True once nothing of it was wrong for a while; what nobody looked at again is not well."""
    if open_pages or one.sick:
        return False
    last = max((each.well_ms or each.seen_ms for each in one.symptoms.values()), default=one.opened_at_ms)
    return now - last >= QUIET_MS


def slug(text: str) -> str:
    """A subject as a part of a key."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(mask(text))).strip("-").lower()[:80]


def keys_of(runbook: str, findings: Sequence[Finding]) -> dict[str, str]:
    """The symptoms these findings show, each with a title; numbers in a subject (a pid, a row) make no other one."""
    found = {
        f"{runbook}:{re.sub('[0-9]+', '#', slug(one.subject))}": f"{runbook}: {one.subject}: {one.detail}"
        for one in findings
    }
    if len(found) > MANY:
        return {f"{runbook}:many": f"{runbook}: {len(findings)} findings, the first {next(iter(found.values()))}"}
    return found
