"""What became of what the demo broke, and of what only looked broken: by runbook, each rate with its denominator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from demo.faults import Broken
from demo.scene import Fault, Lookalike


@dataclass(frozen=True)
class Rate:
    """Faults mended of those injected, look-alikes acted on of those tried."""

    mended: int = 0
    faults: int = 0
    touched: int = 0
    lookalikes: int = 0

    def plus(self, other: Rate) -> Rate:
        """Both together."""
        return Rate(
            self.mended + other.mended,
            self.faults + other.faults,
            self.touched + other.touched,
            self.lookalikes + other.lookalikes,
        )

    @property
    def cells(self) -> tuple[str, str]:
        """Both rates as a person reads them; one that was not tried says so."""
        return _share(self.mended, self.faults), _share(self.touched, self.lookalikes)


def _share(part: int, of: int) -> str:
    return f"{part} of {of} ({part / of:.0%})" if of else "none tried"


@dataclass(frozen=True)
class Score:
    """Each fault with whether it is mended, each look-alike with its runbook and whether it was left alone."""

    faults: Sequence[tuple[Fault, bool]]
    lookalikes: Sequence[tuple[str, Lookalike, bool]]

    @property
    def good(self) -> bool:
        """All is mended and nothing else was touched."""
        return all(mended for _, mended in self.faults) and all(left for *_, left in self.lookalikes)

    def rates(self) -> dict[str, Rate]:
        """The rates by runbook."""
        found: dict[str, Rate] = {}
        for fault, mended in self.faults:
            found[fault.runbook] = found.get(fault.runbook, Rate()).plus(Rate(mended=int(mended), faults=1))
        for runbook, _, left in self.lookalikes:
            found[runbook] = found.get(runbook, Rate()).plus(Rate(touched=int(not left), lookalikes=1))
        return dict(sorted(found.items()))


def score(broken: Broken) -> Score:
    """Look at the world once for each of them."""
    return Score(
        [(one, one.mended()) for one in broken.faults],
        [(name, one, one.untouched()) for name, these in broken.left_alone.items() for one in these],
    )


def rates_table(rates: Mapping[str, Rate]) -> Table:
    """Both rates of each runbook, and of all together."""
    table = Table(title="Rates", title_justify="left")
    for column in ("runbook", "faults mended", "look-alikes acted on"):
        table.add_column(column)
    for name, rate in (*rates.items(), ("all", total(rates))):
        table.add_row(name, *rate.cells)
    return table


def total(rates: Mapping[str, Rate]) -> Rate:
    """All of them together."""
    whole = Rate()
    for rate in rates.values():
        whole = whole.plus(rate)
    return whole
