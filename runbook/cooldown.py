"""When an event about a target is told, when it waits, and when it is one too many: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

DAY = 86_400


class Rule(BaseModel):
    """How often events about one target may start a run, in seconds; what is not set is no bound.

    ``once_within``: the first is told at once, and none of those that follow for so long. ``once_after``: they are
    gathered for so long, then one is told. ``threshold`` and ``within``: one is told for so many that came in so long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    once_within: int | None = Field(None, ge=1, le=DAY)
    once_after: int | None = Field(None, ge=1, le=DAY)
    threshold: int | None = Field(None, ge=2, le=10_000)
    within: int | None = Field(None, ge=1, le=DAY)

    @model_validator(mode="after")
    def _needs_its_half(self) -> Rule:
        if (self.threshold is None) != (self.within is None):
            raise ValueError("threshold and within need each other")
        return self


class Decision(NamedTuple):
    """Of the events that wait, oldest first: whether the newest is told; how many of the oldest are dropped before or
    with that; and when to decide again, in Unix ms, where some go on waiting."""

    tell: bool
    drop: int
    again_at_ms: int | None = None


def decide(rule: Rule, waiting: Sequence[int], told_at_ms: int | None, now_ms: int) -> Decision:
    """What becomes of the events about one target that came at ``waiting`` (Unix ms, oldest first, not empty).

    ``told_at_ms`` is when one about this target was last told.
    """
    count = len(waiting)
    if rule.once_within and told_at_ms is not None and now_ms - told_at_ms < rule.once_within * 1000:
        return Decision(False, count)
    if rule.threshold and rule.within:
        old = sum(at <= now_ms - rule.within * 1000 for at in waiting)
        if count - old < rule.threshold:
            return Decision(False, old, waiting[old] + rule.within * 1000 if old < count else None)
    if rule.once_after and now_ms - waiting[0] < rule.once_after * 1000:
        return Decision(False, 0, waiting[0] + rule.once_after * 1000)
    return Decision(True, count - 1)


def rule_of(rules: dict[str, Rule], event: str, resource: str) -> Rule | None:
    """The rule for an event: by the runbook or target it names, else by what happened."""
    return rules.get(resource.removeprefix("runbook.")) or rules.get(event)
