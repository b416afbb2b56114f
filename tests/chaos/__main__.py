"""Everything that may go wrong, done to every runbook: ``make chaos``.

First the crash matrix: every runbook killed at every kind of boundary. Then what may go wrong around it. Then, side by
side, the adversary of the gate and each guard taken away. ``--write`` puts the matrices into docs/chaos.md and
docs/mutations.md. Ends with 1 where anything was not as it must be.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import flows
from demo.postgres import made_once, memory
from tests.chaos import disturb
from tests.chaos.boundaries import COLUMNS
from tests.chaos.sweep import Traced, Verdict, crash, trace
from tests.chaos.world import ASKED, peopled

ROOT = Path(__file__).resolve().parents[2]
UNDER_PREFECT = ("failed-payments", "pool-exhaustion", "undelivered-email")
"""A server of its own each time is much; what it is asked is the same of all runbooks."""

SLOW = ("site-down", *ASKED)
"""Half as many kills each: a run of these takes as long as two of the others."""

ADVERSARY = """Steps in any order by a machine that wants the gate to grant too much or a hand to act twice; after each,
what must hold is judged from the world and the ledger's raw rows. It fails where it hardly acted, or never met one of
the refusals."""

Job = TypeVar("Job")


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(one: Verdict) -> str:
    """One point where something went wrong."""
    where = " ".join(word for word in (one.point.column, one.point.when, one.point.what) if word)
    return f"- {one.runbook}, {where} #{one.point.nth}: {'; '.join(one.problems)}"


def in_turn(jobs: Iterable[Sequence[Job]]) -> list[Job]:
    """One of each runbook after the other: many leaking processes side by side are more than two cores tell apart."""
    return [one for turn in zip_longest(*jobs) for one in turn if one is not None]


def judged(pool: ProcessPoolExecutor, judge: Callable[[Job], Verdict], jobs: Sequence[Job]) -> list[Verdict]:
    """All verdicts; what is wrong is said as soon as it is known."""
    verdicts = []
    for number, one in enumerate(pool.map(judge, jobs), 1):
        verdicts.append(one)
        if one.problems:
            say(line(one))
        if number % 25 == 0:
            say(f"… {number} of {len(jobs)}")
    return verdicts


def matrix(columns: Sequence[str], traced: Sequence[Traced], verdicts: Iterable[Verdict]) -> list[str]:
    """Runbook by column: how many were tried there, and whether all was well after each."""
    cells: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for one in verdicts:
        cells[one.runbook, one.point.column].append(one)

    def cell(runbook: str, column: str) -> str:
        here = cells[runbook, column]
        bad = sum(bool(one.problems) for one in here)
        return "-" if not here else f"{len(here)} ok" if not bad else f"**{bad} of {len(here)} bad**"

    rows = [f"| runbook | boundaries | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for each in traced:
        counts = f"{len(each.passed):,} of {len({point.kind for point in each.passed})} kinds"
        rows.append(f"| {each.runbook} | {counts} | {' | '.join(cell(each.runbook, name) for name in columns)} |")
    return rows


def figures(verdicts: Sequence[Verdict], what: str) -> list[str]:
    """The sums below a matrix, what was left undone and why, and what is wrong."""
    doubled = sum(" times" in problem for one in verdicts for problem in one.problems)
    bad = [line(one) for one in verdicts if one.problems]
    why = Counter(f"{one.runbook}: {one.explained}" for one in verdicts if one.explained)
    counted = sum(one.effects for one in verdicts)
    lines = [
        f"{len(verdicts)} {what}; {counted:,} effects counted, {doubled} of them doubled; {len(bad)} with a problem."
    ]
    if why:
        lines += ["", "Left undone by the next runs, each with the reason it gives:", ""]
        lines += [f"- {text} ({times}×)" for text, times in sorted(why.items())]
    return [*lines, *(["", "Wrong:", "", *bad] if bad else [])]


def runs(names: Sequence[str], most: int, workers: int) -> tuple[list[str], bool]:
    """Both matrices as the lines of a page, and whether all is well."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        traced = list(pool.map(trace, names, [most // 2 if name in SLOW else most for name in names]))
        for one in traced:
            say(f"{one.runbook}: {len(one.passed)} boundaries, {len(one.chosen)} chosen {' '.join(one.problems)}")
        crashed = judged(pool, crash, in_turn([[(one.runbook, point) for point in one.chosen] for one in traced]))
        cases = [disturb.cases(one.runbook, one.passed) for one in traced]
        cases += [disturb.prefect_cases(one.runbook, one.passed) for one in traced if one.runbook in UNDER_PREFECT]
        disturbed = judged(pool, disturb.disturb, in_turn(cases))
    lines = ["## Killed", "", *matrix(COLUMNS, traced, crashed), "", *figures(crashed, "kills")]
    lines += ["", "## Disturbed", "", *matrix([*disturb.DEEDS], traced, disturbed), ""]
    problems = [one.problems for one in traced] + [one.problems for one in [*crashed, *disturbed]]
    return [*lines, *figures(disturbed, "disturbances")], not any(problems)


def program(words: Sequence[str], **env: str) -> bool:
    """Run one of the other parts to its end, and say whether it ended well."""
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ | env, check=False).returncode == 0


def adversary(steps: str) -> tuple[list[str], bool]:
    """The gate's adversary on both databases: what it did, as the lines of a page, and whether all held."""
    with tempfile.TemporaryDirectory(prefix="runbook-chaos-") as folder:
        each = ["-n", "4", "-rP"]  # two for each database, and what they counted
        words = ["-m", "pytest", "-q", *each, "-p", "no:cacheprovider", "tests/chaos/test_gate_machine.py"]
        well = program(words, RUNBOOK_CHAOS_STEPS=steps, RUNBOOK_CHAOS_FIGURES=f"{folder}/did")
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for path in sorted(Path(folder).glob("did.*"), key=lambda path: path.suffix):
            found[path.suffix[1:]].update(json.loads(path.read_text()))
    kinds = sorted({what for did in found.values() for what in did} - {"steps"})
    rows = [f"| {what} | {' | '.join(f'{did[what]:,}' for did in found.values())} |" for what in ["steps", *kinds]]
    head = [f"| what | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    return ["", "## The gate's adversary", "", ADVERSARY, "", *head, *rows], well


def page(lines: Sequence[str], most: int) -> str:
    """docs/chaos.md."""
    head = f"""# What a crash leaves behind

Made by `make chaos ARGS=--write`. Every runbook meets its own faults on a real stack and is killed by SIGKILL, each
time at another boundary: before and after every step, every transaction of the ledger, every request, statement,
program, signal and change of a file. "After" a request is after the server acted and before its answer was read. Then
the runbook runs again, and after it: no effect happened twice (counted in the world: triggers, PostgreSQL's log, the
vendors' servers, the SMTP server, what keeps processes running), each fault is mended or the run says why not, no
look-alike was touched, the ledger's chain is whole, no fix is left granted, intended or unproven, and no permit opens
a hand again.

Of each kind of boundary the first and the last are taken, thinned out to {most} for one runbook (half as many
for site-down's rows) where it acts least. The columns say where in a run it was; the cells how many points were killed
there.
site-down has two rows more, since most of its acts need a person: there somebody at a terminal agrees to everything,
`by a person` while the site is shut, `at its end` while it is opened again.

## What is left out

- PostgreSQL restarted: only runbooks that act on its rows or sessions, and not slow-queries. The restart ends the
  sessions of the scenes too, so that "touched" does not count there.
- ledger: it refuses every write from the grant, the intent, the outcome, the proof or the end of the run on, and a run
  in which nothing was refused counts as wrong. `full` is SQLite's own answer where the next write needs room.
- A ledger on PostgreSQL that goes away in the middle of a run is tried with these only:
  {", ".join(disturb.ON_POSTGRES)}.
- vendor: every call of a run fails once (of site-down's that only read, every second), every call that acts in every
  way, with silence until the client gives up among them; of the calls that only read, one a runbook meets silence.
  SMTP is killed at and not spoiled.
- Prefect gone: {", ".join(UNDER_PREFECT)} only; each time it has a server of its own.
- site-down's other two rows: no restarted PostgreSQL, and of the ledger, the clock and the vendors only what meets an
  act.
- A fix that nobody could see is given up by a run 25 hours ahead, which has to find nothing open.
"""
    return "\n".join([head, *lines]) + "\n"


def main() -> int:
    """All parts, away from the disk where there is room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*flows.acting(), *ASKED])
    parser.add_argument("--points", type=int, default=24, help="at most so many kills of one runbook")
    parser.add_argument("--workers", type=int, default=7)
    parser.add_argument("--steps", default="100000", help="steps of the gate's adversary")
    parser.add_argument("--only-runs", action="store_true", help="neither the adversary nor the mutations")
    parser.add_argument("--write", action="store_true", help="write docs/chaos.md and docs/mutations.md")
    with tempfile.TemporaryDirectory(prefix="runbook-chaos-", dir=memory()) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        return sweep(parser.parse_args())


def sweep(given: argparse.Namespace) -> int:
    """What was asked for, and whether it went well."""
    began = time.monotonic()
    with made_once(peopled):
        lines, well = runs(given.names, given.points, given.workers)
    say("\n".join(["", *lines, "", f"{time.monotonic() - began:.0f} s"]))
    if not given.only_runs:
        with made_once(), ThreadPoolExecutor() as beside:
            guards = beside.submit(program, ["-m", "tests.chaos.mutations", *(["--write"] if given.write else [])])
            did, held = adversary(given.steps)
            say("\n".join(did))
            lines, well = [*lines, *did], all((well, held, guards.result()))
    if given.write:
        (ROOT / "docs" / "chaos.md").write_text(page(lines, given.points), "utf-8")
    say(f"{'all is well' if well else 'SOMETHING IS WRONG'}, {time.monotonic() - began:.0f} s in all")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
