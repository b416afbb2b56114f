"""Takes each guard away, one at a time, and demands that some test fails: ``python -m tests.chaos.mutations``.

A guard whose loss nobody notices is no guard. The test that noticed it last time is asked first, then all of its tests;
those that failed must pass with every guard in its place: a test that is red anyway notices nothing. Words choose
guards by name. The table goes to docs/mutations.md with ``--write``.

Each pytest is forked from a process that has read the libraries already; our own code it reads from its own tree.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from tests.chaos.guards import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "mutations.md"
AT_ONCE = 4
SECONDS = 900
"""Only ends a pytest that would never end."""

LIBRARIES = (
    "pytest", "hypothesis.stateful", "prefect.flows", "prefect.runtime", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "psycopg", "stripe", "openai", "starlette.applications", "uvicorn",
)  # fmt: skip
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload([*LIBRARIES])
LEFT_OUT = shutil.ignore_patterns(".venv", ".git", ".demo", "__pycache__", ".*_cache")


class Noticed(NamedTuple):
    """The test that failed as it must, or what went wrong instead."""

    test: str = ""
    wrong: str = ""


class Tested(NamedTuple):
    """How a pytest ended, and what it said."""

    code: int | None
    said: str


def tested(tree: Path, tests: Sequence[str], *more: str) -> Tested:
    """Run these tests of this tree to the first that fails."""
    said = tree / "said.txt"
    said.write_text("")  # what the one before said must not speak for one that could not begin
    words = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", *more, *tests]
    one = forked.Process(target=_pytest, args=(tree, words, said))
    one.start()
    one.join(SECONDS)
    if one.is_alive():
        one.kill()
        one.join()
    return Tested(one.exitcode, said.read_text("utf-8", "replace"))


def _pytest(tree: Path, words: list[str], said: Path) -> None:
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ |= {"RUNBOOK_CHAOS_STEPS": "4000", "PYTHONPATH": str(tree)}
    sys.exit(int(pytest.main(words)))


def noticed(mutation: Mutation, tree: Path, last: str) -> Noticed:
    """Which test failed without this guard; ``last`` is the one that did the last time, or empty."""
    file = tree / mutation.file
    text = file.read_text("utf-8")
    if mutation.old not in text:
        return Noticed(wrong="its text is not there any more: correct the mutation")
    file.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    try:
        done = tested(tree, [last]) if last else None
        if done is None or done.code != 1:
            done = tested(tree, mutation.tests)
    finally:
        file.write_text(text, "utf-8")
    if done.code == 1 and (test := killer(done.said)):
        return Noticed(test)
    return Noticed(wrong="no test noticed" if done.code == 0 else f"no test failed: {done.said[-300:]}")


def killer(output: str) -> str:
    """The first test that failed, as pytest names it; a fixture that broke is none."""
    failed = (line.removeprefix("FAILED ") for line in output.splitlines() if line.startswith("FAILED "))
    return next((line.partition(" - ")[0] for line in failed), "")


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """So many copies of the tree."""
    with tempfile.TemporaryDirectory(prefix="runbook-mutations-") as folder:
        trees = [Path(folder) / str(number) for number in range(count)]
        for tree in trees:
            shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        yield trees


def page(found: Sequence[tuple[Mutation, Noticed]]) -> str:
    """docs/mutations.md."""
    kept = sum(bool(one.test) for _, one in found)
    lines = [
        "# What each guard is worth",
        "",
        "Made by `make chaos ARGS=--write`: each guard taken away, one at a time.",
        f"{kept} of {len(found)} are noticed, each by the test beside it and maybe by more; with every guard in its",
        "place these tests pass.",
        "",
        "| guard taken away | file | noticed by |",
        "|---|---|---|",
    ]
    for mutation, one in found:
        test = one.test.replace("|", "/")
        lines.append(f"| {mutation.guard} | {mutation.file} | {f'`{test}`' if test else f'**NOTHING**: {one.wrong}'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Every mutation in a copy of the tree; 1 when one of them is survived, or noticed by a test that is red anyway."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    chosen = [one for one in MUTATIONS if not given.words or any(word in one.guard for word in given.words)]
    with copies(AT_ONCE) as trees, ThreadPoolExecutor(AT_ONCE) as pool:
        last = dict(re.findall(r"^\| (.+) \| \S+ \| `(.+)` \|$", TABLE.read_text("utf-8"), re.MULTILINE))
        free = SimpleQueue[Path]()
        for tree in trees:
            free.put(tree)

        def judge(mutation: Mutation) -> Noticed:
            tree = free.get()
            try:
                return noticed(mutation, tree, last.get(mutation.guard, ""))
            finally:
                free.put(tree)

        found = []
        for at, (mutation, one) in enumerate(zip(chosen, pool.map(judge, chosen), strict=True), 1):
            found.append((mutation, one))
            sys.stdout.write(
                f"{at:>2}/{len(chosen)} {'ok  ' if one.test else 'LIVE'} {mutation.guard}: {one.test}{one.wrong}\n"
            )
            sys.stdout.flush()
        named = sorted({one.test for _, one in found if one.test})
        with_all = tested(trees[0], named, "-n", str(AT_ONCE)) if named else None
    if with_all and with_all.code != 0:
        sys.stdout.write(f"red with every guard in its place: {with_all.said[-2000:]}\n")
        return 1
    if given.write:
        TABLE.write_text(page(found), "utf-8")
    return 0 if all(one.test for _, one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
