"""Thresholds that cry wolf: what was found and went by itself, and the least change that would have spared it.

A suggestion is tried on every reading that was kept: it spares at least half of the noise and loses nothing that was
mended or paged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import select

from runbook.backtest import Replay
from runbook.ledger import Ledger
from runbook.model import FixState, Frozen, Json
from runbook.recorder import Snapshot, snapshots
from runbook.schema import fix, page, run

LEAST = 3
"""Fewer false alarms than this are no pattern."""

SHARE = 0.5
STEPS = (1.1, 0.9, 1.25, 0.8, 1.5, 0.67, 2.0, 0.5)
"""What a threshold is multiplied by, the smallest change first."""

WELL = frozenset({"healthy"})


class Noise(Frozen):
    """A runbook that found what went by itself: how often of how often, and the change that would spare it."""

    runbook: str
    noise: int
    sick: int
    parameter: str = ""
    value: float | None = None
    was: float | None = None
    spared: int = 0

    @property
    def advice(self) -> str:
        """What to do about it, in one line."""
        if not self.parameter:
            return "no single threshold would have spared it: read what it finds"
        return f"{self.parameter} {self.was:g} → {self.value:g} spares {self.spared} and loses nothing that was mended"


class Range(NamedTuple):
    """What a flow's parameter may be."""

    low: float
    high: float
    whole: bool


def noisy_runs(rows: Sequence[tuple[str, str]], real: Collection[str]) -> list[str]:
    """Of a runbook's whole runs, oldest first, as (id, outcome): those that found what the very next did not, though
    nobody did anything about it."""
    found = []
    for (id_, outcome), (_next, after) in pairwise(rows):
        if outcome not in WELL and after in WELL and id_ not in real:
            found.append(id_)
    return found


def noise(ledger: Ledger, name: str, since_ms: int, replay: Replay | None, ranges: Mapping[str, Range]) -> Noise | None:
    """What is noisy about one runbook, and the suggestion; None where it is quiet enough."""
    with ledger.read() as connection:
        whole = select(run.c.id, run.c.outcome).where(run.c.runbook == name, run.c.started_at_ms >= since_ms)
        whole = whole.where(run.c.outcome.in_(["healthy", "observed", "refused", "fixed", "unsolved"]))
        rows = [(row.id, row.outcome) for row in connection.execute(whole.order_by(run.c.started_at_ms, run.c.id))]
        done = [FixState.applied.value, FixState.proven.value, FixState.failed.value, FixState.undone.value]
        acted = set(
            connection.execute(select(fix.c.run_id).where(fix.c.runbook == name, fix.c.state.in_(done))).scalars()
        )
        paged = set(connection.execute(select(page.c.run_id).where(page.c.source == name)).scalars()) - {None}
    real = {id_ for id_, _ in rows} & (acted | paged)
    sick = [id_ for id_, outcome in rows if outcome not in WELL]
    false = noisy_runs(rows, real)
    if len(false) < LEAST or len(false) < SHARE * len(sick):
        return None
    plain = Noise(runbook=name, noise=len(false), sick=len(sick))
    if replay is None:
        return plain
    return suggested(plain, list(snapshots(ledger, name, since_ms)), set(false), real, replay, ranges)


def suggested(
    plain: Noise,
    seen: Sequence[Snapshot],
    false: Collection[str],
    real: Collection[str],
    replay: Replay,
    ranges: Mapping[str, Range],
) -> Noise:
    """The least change of one parameter that spares half of the noise and loses nothing; ``plain`` where none does."""
    wolf = [one for one in seen if one.run_id in false and _sick(one, replay, {})]
    wanted = [one for one in seen if one.run_id in real and _sick(one, replay, {})]
    for factor in STEPS:
        for name, bounds in ranges.items():
            was = next((one.parameters[name] for one in reversed(wolf) if name in one.parameters), None)
            if not isinstance(was, (int, float)) or isinstance(was, bool):
                continue
            value = _within(was * factor, bounds)
            spared = sum(not _sick(one, replay, {name: value}) for one in wolf)
            if spared >= SHARE * len(wolf) > 0 and all(_sick(one, replay, {name: value}) for one in wanted):
                change = {"parameter": name, "value": value, "was": was, "spared": spared}
                return plain.model_copy(update=change)
    return plain


def _within(value: float, bounds: Range) -> float:
    bounded = min(max(value, bounds.low), bounds.high)
    return round(bounded) if bounds.whole else round(bounded, 3)


def _sick(one: Snapshot, replay: Replay, given: Mapping[str, Json]) -> bool:
    try:
        parameters = {key: given.get(key, value) for key, value in one.parameters.items()}
        return bool(replay(one.stage, one.reading, parameters).findings)
    except (ValueError, TypeError, KeyError):  # an older version's reading, in another form
        return False
