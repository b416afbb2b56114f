"""What the runbooks did in a span of time, in figures: found, mended, how fast, how often wrongly, what was spared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, func, select

from runbook import incidents, licence
from runbook.burst import Incident
from runbook.ledger import Ledger, now_ms
from runbook.licence import Standing
from runbook.model import FixState, Frozen, Json
from runbook.noise import Noise
from runbook.schema import entry, finding, fix, run
from runbook.settings import settings

WELL = ("healthy", "fixed")
EXPIRES_MS = 7 * 86_400_000
"""A licence that ends within this time needs a drill now."""


class Times(Frozen):
    """The middle and the slow end of some durations, in ms; None where there was none."""

    count: int = 0
    p50: int | None = None
    p95: int | None = None


class Figures(Frozen):
    """One runbook. ``detect`` is at most that long: from the last look that saw it well to the one that did not.

    ``fix`` is from found to done, ``prove`` from done to seen. ``wrong`` fixes were taken back by a person, or done
    and seen to have had no effect. ``mended`` are the fixed runs that had to act for it.
    """

    runbook: str
    runs: int = 0
    found: int = 0
    fixed: int = 0
    refused: int = 0
    observed: int = 0
    unsolved: int = 0
    mended: int = 0
    acted: int = 0
    wrong: int = 0
    detect: Times = Times()
    fix: Times = Times()
    prove: Times = Times()

    @property
    def wrong_share(self) -> float | None:
        """Wrong fixes out of those that were done; None where nothing was."""
        return self.wrong / self.acted if self.acted else None


class Week(Frozen):
    """All of it; ``minutes_each`` is the assumption behind ``minutes_saved``."""

    since_ms: int
    until_ms: int
    figures: Sequence[Figures]
    minutes_each: int
    incidents: Sequence[Incident] = ()
    noisy: Sequence[Noise] = ()
    licences: Sequence[Standing] = ()

    @property
    def minutes_saved(self) -> int:
        """Each run that found something and mended it with proof is work that nobody had to do."""
        return self.minutes_each * sum(one.mended for one in self.figures)

    @property
    def unwritten(self) -> list[Incident]:
        """Closed incidents of which nobody has finished the postmortem."""
        return [one for one in self.incidents if one.state == "closed" and not one.postmortem]

    def as_json(self) -> dict[str, Json]:
        """The form ``--json`` prints."""
        document: dict[str, Json] = self.model_dump(mode="json")
        for shown, one in zip(document["figures"], self.figures, strict=True):
            shown["wrong_share"] = one.wrong_share
        for shown, noise in zip(document["noisy"], self.noisy, strict=True):
            shown["advice"] = noise.advice
        return document | {"minutes_saved": self.minutes_saved}


class _Run(Frozen):
    """One run as the figures need it; ``found_ms`` is None where it found nothing."""

    id: str
    started_ms: int
    ended_ms: int | None
    outcome: str | None
    found_ms: int | None


class _Done(Frozen):
    """One fix that was begun: when each state was reached, and when its run first found something."""

    id: str
    run_id: str
    state: FixState
    at: Mapping[str, int]
    found_ms: int | None

    @property
    def wrong(self) -> bool:
        return self.state is FixState.undone or (self.state is FixState.failed and "applied" in self.at)


def week(ledger: Ledger, names: Iterable[str], since_ms: int, noisy: Sequence[Noise] = ()) -> Week:
    """The figures of these runbooks from ``since_ms`` on."""
    names = list(names)
    with ledger.read() as connection:
        figures = [_figures(connection, name, since_ms) for name in names]
    return Week(
        since_ms=since_ms,
        until_ms=now_ms(),
        figures=figures,
        minutes_each=settings().runbook_minutes_per_fix,
        incidents=[one for one in incidents.every(ledger) if (one.closed_at_ms or now_ms()) >= since_ms],
        noisy=noisy,
        licences=[one for one in (licence.standing(ledger, name) for name in names) if _ends(one)],
    )


def _ends(one: Standing) -> bool:
    return one.until_ms is not None and (not one.valid or one.until_ms - now_ms() < EXPIRES_MS)


def times(durations: Iterable[int]) -> Times:
    """The p50 and p95 of some durations by nearest rank, so that each is one that really was."""
    ranked = sorted(one for one in durations if one >= 0)
    if not ranked:
        return Times()
    return Times(count=len(ranked), p50=ranked[(len(ranked) - 1) // 2], p95=ranked[-(-len(ranked) * 95 // 100) - 1])


def _figures(connection: Connection, name: str, since_ms: int) -> Figures:
    runs, done = _runs(connection, name, since_ms), _done(connection, name, since_ms)
    outcomes = [one.outcome for one in runs if one.found_ms is not None]
    acted = {one.run_id for one in done}
    return Figures(
        runbook=name,
        runs=len(runs),
        found=len(outcomes),
        **{kind: outcomes.count(kind) for kind in ("fixed", "refused", "observed", "unsolved")},
        mended=sum(one.outcome == "fixed" and one.id in acted for one in runs),
        acted=len(done),
        wrong=sum(one.wrong for one in done),
        detect=times(gaps(runs)),
        fix=times(one.at["applied"] - one.found_ms for one in done if "applied" in one.at and one.found_ms is not None),
        prove=times(one.at["proven"] - one.at["applied"] for one in done if {"applied", "proven"} <= set(one.at)),
    )


def gaps(runs: Sequence[_Run]) -> list[int]:
    """How long it took at most to find each thing: from the end of the last good look to the first bad one."""
    found, well = [], None
    for one in runs:
        if one.outcome in WELL and one.found_ms is None:
            well = one.ended_ms
        elif one.found_ms is not None:
            found += [one.found_ms - well] if well is not None else []
            well = one.ended_ms if one.outcome in WELL else None
    return found


def _runs(connection: Connection, name: str, since_ms: int) -> list[_Run]:
    first = select(func.min(finding.c.at_ms)).where(finding.c.run_id == run.c.id).scalar_subquery()
    rule = select(run.c.id, run.c.started_at_ms, run.c.ended_at_ms, run.c.outcome, first.label("found_ms"))
    rule = rule.where(run.c.runbook == name, run.c.started_at_ms >= since_ms).order_by(run.c.started_at_ms, run.c.id)
    return [
        _Run(id=row[0], started_ms=row[1], ended_ms=row[2], outcome=row[3], found_ms=row[4])
        for row in connection.execute(rule)
    ]


def _done(connection: Connection, name: str, since_ms: int) -> list[_Done]:
    """Each fix that was begun."""
    first = select(func.min(finding.c.at_ms)).where(finding.c.run_id == fix.c.run_id).scalar_subquery()
    rule = select(fix.c.id, fix.c.run_id, fix.c.state, first.label("found_ms"))
    rule = rule.where(fix.c.runbook == name, fix.c.intended_at_ms >= since_ms)
    rows = connection.execute(rule.order_by(fix.c.seq)).mappings().all()
    at: dict[str, dict[str, int]] = {row["id"]: {} for row in rows}
    of = select(fix.c.id).where(fix.c.runbook == name, fix.c.intended_at_ms >= since_ms)
    said = select(entry.c.fix_id, entry.c.kind, entry.c.at_ms).where(entry.c.fix_id.in_(of)).order_by(entry.c.seq)
    for one in connection.execute(said):
        at[one.fix_id].setdefault(one.kind, one.at_ms)
    return [_Done(**row, at=at[row["id"]]) for row in rows]
