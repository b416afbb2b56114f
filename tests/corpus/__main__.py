"""How often each runbook mends what is wrong, and how often it acts on what only looks wrong: ``make corpus``.

Faults are the demo's, on one stack that a single sweep in mode auto looks after. Look-alikes are the demo's and every
case of tests/corpus/*.toml, each on real parts by its own test; a case whose test fails for any reason counts as acted
on. ``--write`` puts the table into docs/corpus.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from demo.faults import Broken
from demo.prefect_server import BIN, ROOT
from demo.score import Rate, rates_table, score, total
from demo.stack import Stack

PAGE = ROOT / "docs" / "corpus.md"
SECONDS = 600


def of_demo() -> dict[str, Rate]:
    """The rates of the demo's own faults and look-alikes."""
    with Stack(lambda _text: None, prefect=False) as stack:
        broken = Broken(stack)
        try:
            env = {**os.environ, **stack.env()}
            # The alerts first: they judge the last minutes only. The emergency last, as in the demo.
            for words in (("watch",), ("sweep",), ("run", "site-down")):
                subprocess.run([BIN / "runbook", *words], env=env, cwd=ROOT, capture_output=True, timeout=SECONDS)
            return score(broken).rates()
        finally:
            broken.close()


class Counted:
    """A plugin of pytest: each parametrized test that is given a case of a corpus is one look-alike."""

    def __init__(self) -> None:
        self.cases: dict[str, str] = {}
        self.failed: set[str] = set()
        self.ran: set[str] = set()

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Function]) -> None:
        """Note which tests are cases, and of which runbook."""
        for item in items:
            given = item.callspec.params.values() if hasattr(item, "callspec") else ()
            if any(isinstance(one, Mapping) for one in given):
                name = Path(item.location[0]).stem.removeprefix("test_").removesuffix("_corpus")
                self.cases[item.nodeid] = name.replace("_", "-")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of each; a case that was skipped was not tried."""
        if report.nodeid in self.cases and (report.failed or (report.passed and report.when == "call")):
            self.ran.add(report.nodeid)
            if report.failed:
                self.failed.add(report.nodeid)

    def rates(self) -> dict[str, Rate]:
        """The rates by runbook."""
        found: dict[str, Rate] = {}
        for nodeid in self.ran:
            name, one = self.cases[nodeid], Rate(touched=int(nodeid in self.failed), lookalikes=1)
            found[name] = found.get(name, Rate()).plus(one)
        return found


def of_corpus() -> dict[str, Rate]:
    """The rates of every case of every corpus."""
    counted = Counted()
    files = sorted(str(path) for path in (ROOT / "tests" / "flows").glob("test_*_corpus.py"))
    pytest.main(["-q", "-p", "no:cacheprovider", *files], plugins=[counted])
    return counted.rates()


def page(rates: Mapping[str, Rate]) -> str:
    """The table as Markdown."""
    rows = [(name, *rate.cells) for name, rate in (*rates.items(), ("all", total(rates)))]
    lines = ["# How often it helps, and how often it acts where it must not", "", "Written by `make corpus WRITE=1`."]
    lines += ["Faults are injected into a real stack; look-alikes are the demo's and the cases of `tests/corpus`."]
    lines += ["", "| runbook | faults mended | look-alikes acted on |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def main() -> int:
    """Print the table; 1 when a fault was left or a look-alike touched."""
    rates = of_demo()
    for name, rate in of_corpus().items():
        rates[name] = rates.get(name, Rate()).plus(rate)
    rates = dict(sorted(rates.items()))
    Console(width=None if sys.stdout.isatty() else 100).print(rates_table(rates))
    if "--write" in sys.argv:
        PAGE.write_text(page(rates), "utf-8")
    whole = total(rates)
    return 0 if whole.mended == whole.faults and not whole.touched else 1


if __name__ == "__main__":
    sys.exit(main())
