"""When an alert fires and when it clears: one pure step from what was so far and what was read now.

An alert fires when ``need`` of its last ``of`` minutes were over its threshold, and clears when its newest ``need``
minutes were all well again, which is 20% on the good side of the threshold: it does not flap. What could not be read
is never well: a firing alert goes on firing, another one is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import Field

from runbook.model import Frozen, Json

CLEAR = 0.8
"""An alert clears at this share of its threshold."""

KEEP_MINUTES = 30
QUIET_MS = 60 * 60_000
"""A firing alert that had too few samples for so long is over: nobody uses what failed."""

MINUTE_MS = 60_000


class State(StrEnum):
    """``quiet``: too few samples to judge. ``unset``: its settings are empty. ``unknown``: it could not be read."""

    ok = "ok"
    pending = "pending"
    firing = "firing"
    quiet = "quiet"
    unknown = "unknown"
    unset = "unset"


class Rule(Frozen):
    """The threshold of one alert, and how many of how many minutes make it fire.

    More than half of them, so that what made it fire cannot make it fire again once it has cleared. ``below`` is for
    what is sick when it is small.
    """

    name: str
    trigger: float
    need: int = Field(ge=1)
    of: int = Field(ge=1)
    below: bool = False

    def over(self, value: float) -> bool:
        """True on the bad side of the threshold."""
        return value < self.trigger if self.below else value > self.trigger

    def well(self, value: float) -> bool:
        """True on the good side, by a margin."""
        return value >= self.trigger / CLEAR if self.below else value <= self.trigger * CLEAR


class Point(Frozen):
    """One minute's value; ``alarm`` overrules the threshold where the source knows better."""

    minute: int
    value: float
    alarm: bool | None = None


class Sample(Frozen):
    """What one source read: points, or why there are none. ``said`` and ``evidence`` are what a person is shown."""

    points: Sequence[Point] = ()
    said: str = ""
    evidence: Mapping[str, Json] = Field(default_factory=dict)
    unseen: str = ""
    unset: str = ""


class Judged(Frozen):
    """One minute as it was judged when it was read."""

    minute: int
    value: float
    over: bool
    well: bool


class Alarm(Frozen):
    """One alert as it stands: ``since_ms`` its state, ``seen_ms`` its last reading, ``sampled_ms`` its last point.

    ``blind`` says that it could not be read for so long that a person must know.
    """

    name: str
    state: State
    since_ms: int
    seen_ms: int
    sampled_ms: int = 0
    value: float | None = None
    said: str = ""
    evidence: Mapping[str, Json] = Field(default_factory=dict)
    points: Sequence[Judged] = ()
    blind: bool = False

    @property
    def firing(self) -> bool:
        return self.state is State.firing


def fresh(name: str, now_ms: int) -> Alarm:
    """An alert nobody has looked at yet."""
    return Alarm(name=name, state=State.unknown, since_ms=now_ms, seen_ms=now_ms, sampled_ms=now_ms)


def step(was: Alarm, rule: Rule, sample: Sample, now_ms: int, blind_ms: int) -> Alarm:
    """The alert after this sample."""
    if sample.unset:
        return _to(was, State.unset, now_ms, seen_ms=now_ms, said=sample.unset, value=None, points=(), blind=False)
    if sample.unseen:
        state = State.firing if was.firing else State.unknown
        return _to(was, state, now_ms, said=sample.unseen, blind=now_ms - was.seen_ms >= blind_ms)
    more = {"seen_ms": now_ms, "said": sample.said, "evidence": sample.evidence, "blind": False}
    if not sample.points:
        holds = was.firing and now_ms - was.sampled_ms < QUIET_MS
        return _to(was, State.firing if holds else State.quiet, now_ms, value=None, **more)
    points = _merged(was.points, rule, sample.points, now_ms)
    state = _judge(was, rule, points, now_ms)
    more |= {"sampled_ms": now_ms, "value": points[-1].value, "points": points}
    return _to(was, state, now_ms, **more)


def _to(was: Alarm, state: State, now_ms: int, **more: Json) -> Alarm:
    since = was.since_ms if state is was.state else now_ms
    return was.model_copy(update={"state": state, "since_ms": since, **more})


def _merged(was: Sequence[Judged], rule: Rule, new: Sequence[Point], now_ms: int) -> list[Judged]:
    points = {one.minute: one for one in was if one.minute > now_ms // MINUTE_MS - KEEP_MINUTES}
    for one in new:
        over = rule.over(one.value) if one.alarm is None else one.alarm
        well = not over and (one.alarm is False or rule.well(one.value))
        points[one.minute] = Judged(minute=one.minute, value=one.value, over=over, well=well)
    return [points[minute] for minute in sorted(points)]


def _judge(was: Alarm, rule: Rule, points: Sequence[Judged], now_ms: int) -> State:
    recent = [one for one in points if one.minute > now_ms // MINUTE_MS - rule.of - 1]
    over = sum(one.over for one in recent[-rule.of :])
    if was.firing:
        last = recent[-rule.need :]
        cleared = len(last) == rule.need and all(one.well for one in last)
        return State.ok if cleared else State.firing
    if over >= rule.need:
        return State.firing
    return State.pending if over else State.ok
