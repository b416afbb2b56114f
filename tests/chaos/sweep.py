"""A runbook killed at a boundary, then run again, then judged.

A dry run counts the boundaries. Of each kind (column, before or after, what) the first and the last are taken; where
these are too many, they are thinned out evenly, where the runbook acts the least.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.chaos.boundaries import COLUMNS, Point
from tests.chaos.child import Life
from tests.chaos.world import World, world

KILLED = -9
TURNS = ("act", "intent", "outcome", "act", "proof", "gate", "act", "close", "find", "open", "read")
"""Whose turn it is to get one point more."""
DAY = 25 * 3600
UNDISTURBED = Point("", "", "")
NEXT_RUNS = 3
"""How many runs after the crash a fault may need: one may find it too early to act again."""


class Verdict(NamedTuple):
    """What became of one crash: what is wrong, or why a fault was rightly left, and how often the runbook ran again."""

    runbook: str
    point: Point
    problems: Sequence[str] = ()
    explained: str = ""
    runs: int = 0
    effects: int = 0
    seconds: float = 0.0


class Traced(NamedTuple):
    """The boundaries of one runbook, and those chosen of them."""

    runbook: str
    passed: Sequence[Point]
    chosen: Sequence[Point]
    problems: Sequence[str]


def trace(runbook: str, most: int) -> Traced:
    """A run that nobody disturbs: it must mend its faults, and shows where it can be killed."""
    with world(runbook) as here:
        ended = here.run()
        left = [f"not mended undisturbed: {name}" for name in here.not_mended()]
        problems = [*left, *here.wrong()] if ended.code == 0 else [f"undisturbed it ended with {ended.code}"]
    return Traced(runbook, ended.passed, choose(ended.passed, most), problems)


def choose(passed: Sequence[Point], most: int) -> list[Point]:
    """The first and the last of each kind; too many of them are thinned out, where the runbook acts the least."""
    last = {one.kind: one for one in passed}
    each = [one for one in passed if one.nth == 1 or one == last[one.kind]]
    columns = {name: [one for one in each if one.column == name] for name in COLUMNS}
    take = Counter[str]()
    for name in TURNS * most:
        if take.total() < min(most, len(each)) and take[name] < len(columns[name]):
            take[name] += 1
    return [one for name in COLUMNS for one in thin(columns[name], take[name])]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many, spread over all."""
    return [points[at * len(points) // most] for at in range(most)] if most < len(points) else list(points)


def crash(job: tuple[str, Point]) -> Verdict:
    """Kill the runbook there, let it run again, and judge the world and the ledger."""
    runbook, point = job
    began = time.monotonic()
    with world(runbook) as here:
        died = here.run(Life(at=point))
        if died.code != KILLED:
            return Verdict(runbook, point, [f"never reached: it ended with {died.code}"])
        after = recover(here)
    return after._replace(point=point, seconds=time.monotonic() - began)


def recover(here: World) -> Verdict:
    """Let the runbook run again until its faults are mended or it says why they are not, and judge what is there."""
    problems, explained, runs = list[str](), "", 0
    while runs < NEXT_RUNS:
        runs += 1
        ended = here.run()
        if ended.code != 0:
            problems.append(f"the next run ended with {ended.code}")
            break
        if not (left := here.not_mended()):
            break
    else:
        explained = why_left(ended.report)
        problems += [] if explained else [f"not mended, and nothing says why: {name}" for name in left]
    if unseen := here.unseen():
        # Nothing can show what became of it; it holds its target until too much time has passed for it to matter.
        explained = explained or f"{unseen[0]} could not be seen"
        here.run(Life(mode="observe", ahead_seconds=DAY))
    effects = sum(here.effects().values())
    return Verdict(here.name, UNDISTURBED, [*problems, *here.wrong()], explained, runs, effects)


def why_left(report: dict[str, Any]) -> str:
    """What a run that left a fault alone told a person: why it was refused, or what it found and plans nothing for."""
    if report.get("outcome") not in {"refused", "unsolved"}:
        return ""
    refused = [one["why"] for one in report["fixes"] if one["state"] == "refused"]
    found = [] if report["fixes"] else [one["detail"] for one in report["findings"]]
    return next((str(text) for text in [*refused, report["reason"], *found] if text), "")
