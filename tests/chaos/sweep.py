"""Every runbook killed at every kind of boundary, then run again: ``python -m tests.chaos.sweep``.

A dry run counts the boundaries. Of each kind (column, before or after, what) the first and the last are taken; where
these are more than ``--points``, those of reading are thinned out evenly and the rest stays. ``--write`` puts the
matrix into docs/chaos.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import flows
from tests.chaos.boundaries import COLUMNS, Point
from tests.chaos.world import world

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chaos.md"
KILLED = -9
TURNS = ("act", "intent", "outcome", "act", "proof", "gate", "act", "close", "find", "open", "read")
"""Whose turn it is to get one point more."""
NEXT_RUNS = 2
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


def crash(runbook: str, point: Point) -> Verdict:
    """Kill the runbook there, let it run again, and judge the world and the ledger."""
    began = time.monotonic()
    with world(runbook) as here:
        died = here.run(point)
        if died.code != KILLED:
            return Verdict(runbook, point, [f"never reached: it ended with {died.code}"])
        problems, explained, runs = [], "", 0
        while runs < NEXT_RUNS:
            runs += 1
            ended = here.run()
            if ended.code != 0:
                problems.append(f"the next run ended with {ended.code}")
                break
            left = here.not_mended()
            if not left:
                break
        else:
            explained = why_left(ended.report)
            problems += [] if explained else [f"not mended, and nothing says why: {name}" for name in left]
        problems += here.wrong()
        effects = sum(here.effects().values())
    return Verdict(runbook, point, problems, explained, runs, effects, time.monotonic() - began)


def why_left(report: dict[str, object]) -> str:
    """What a run that left a fault alone told a person; empty where it told nothing."""
    fixes = report.get("fixes")
    refused = [str(one["why"]) for one in fixes if one["state"] == "refused"] if isinstance(fixes, list) else []
    if report.get("outcome") not in {"refused", "unsolved"}:
        return ""
    return next(iter([*refused, str(report.get("reason", ""))]), "")


def sweep(names: Sequence[str], most: int, workers: int) -> tuple[list[Traced], list[Verdict]]:
    """Trace each, then kill each at its points, several worlds side by side."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        traced = list(pool.map(trace, names, [most] * len(names)))
        for one in traced:
            counted = f"{len(one.passed)} boundaries of {len({p.kind for p in one.passed})} kinds"
            say(f"{one.runbook:<20} {counted}, {len(one.chosen)} chosen {' '.join(one.problems)}")
        waiting: list[Future[Verdict]] = [
            pool.submit(crash, one.runbook, point) for one in traced for point in one.chosen
        ]
        verdicts = []
        for number, each in enumerate(waiting, 1):
            verdicts.append(each.result())
            if verdicts[-1].problems:
                say(line(verdicts[-1]))
            if number % 25 == 0:
                say(f"… {number}/{len(waiting)}")
    return traced, verdicts


def line(one: Verdict) -> str:
    """One failed point."""
    return f"  {one.runbook} {one.point.when} {one.point.what} #{one.point.nth}: {'; '.join(one.problems)}"


def matrix(traced: Sequence[Traced], verdicts: Iterable[Verdict]) -> list[str]:
    """Runbook by column: how many were killed there and all was well after it."""
    cells: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for one in verdicts:
        cells[one.runbook, one.point.column].append(one)

    def cell(runbook: str, column: str) -> str:
        here = cells[runbook, column]
        bad = sum(bool(one.problems) for one in here)
        return "-" if not here else f"{len(here)} ok" if not bad else f"**{bad} of {len(here)} bad**"

    rows = [f"| runbook | boundaries | {' | '.join(COLUMNS)} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    for each in traced:
        counts = f"{len(each.passed):,} of {len({point.kind for point in each.passed})} kinds"
        rows.append(f"| {each.runbook} | {counts} | {' | '.join(cell(each.runbook, name) for name in COLUMNS)} |")
    return rows


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """The figures below the matrix."""
    reached = [one for one in verdicts if one.runs]
    doubled = sum(" times" in problem for one in verdicts for problem in one.problems)
    why = Counter(f"{one.runbook}: {one.explained}" for one in verdicts if one.explained)
    lines = [
        f"{len(reached)} kills; effects doubled: {doubled}; "
        f"effects counted in the world: {sum(one.effects for one in reached):,}; "
        f"points with a problem: {sum(bool(one.problems) for one in verdicts)}.",
    ]
    if why:
        lines += ["", "Left to a later run or a person, rightly and with the reason given:", ""]
        lines += [f"- {text} ({times}×)" for text, times in why.most_common()]
    return lines


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """The matrix; 1 when a point left something wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=flows.names())
    parser.add_argument("--points", type=int, default=24, help="at most so many of one runbook")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    traced, verdicts = sweep(given.names, given.points, given.workers)
    lines = [*matrix(traced, verdicts), "", *summary(verdicts)]
    failed = [line(one) for one in verdicts if one.problems]
    say("\n".join(["", *lines, *failed, f"{time.monotonic() - began:.0f} s"]))
    return 1 if failed or any(one.problems for one in traced) else 0


if __name__ == "__main__":
    sys.exit(main())
