"""The week in figures: tables of the arithmetic, and a ledger of known runs on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from runbook import licence, weekly
from runbook.backtest import Replay
from runbook.ledger import Ledger, now_ms
from runbook.model import Finding, Json, Judged
from runbook.noise import LEAST, Noise, Range, noise, noisy_runs, suggested
from runbook.recorder import Snapshot
from runbook.schema import entry, finding, fix, run
from runbook.weekly import Times, _Run, gaps, times, week
from runbook.weekly_page import page

HOUR = 3_600_000
BASE = now_ms() - HOUR


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([], Times()),
        ([7], Times(count=1, p50=7, p95=7)),
        ([1, 2], Times(count=2, p50=1, p95=2)),
        (list(range(1, 101)), Times(count=100, p50=50, p95=95)),
        ([-5, 3], Times(count=1, p50=3, p95=3)),  # a clock was set back
    ],
)
def test_pure_percentiles_are_ones_that_really_were(durations: list[int], expected: Times) -> None:
    assert times(durations) == expected


def a(start: int, outcome: str, found: int | None = None) -> _Run:
    return _Run(id=f"r{start}", started_ms=start, ended_ms=start + 2, outcome=outcome, found_ms=found)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([a(0, "healthy"), a(10, "fixed", 11)], [9]),
        ([a(10, "fixed", 11)], []),  # nobody saw it well before
        ([a(0, "healthy"), a(10, "observed", 11), a(20, "observed", 21)], [9]),  # the second found nothing new
        ([a(0, "healthy"), a(10, "fixed", 11), a(20, "fixed", 21)], [9, 9]),
        ([a(0, "refused"), a(10, "fixed", 11)], []),  # it could not look
        ([a(0, "healthy"), a(5, "crashed"), a(10, "fixed", 11)], [9]),
    ],
)
def test_pure_how_long_it_took_to_be_found_at_most(runs: list[_Run], expected: list[int]) -> None:
    assert gaps(runs) == expected


def put(book: Ledger, id_: str, minute: int, outcome: str, *fixes: tuple[str, str, int, int], name: str = "a") -> None:
    """A run so many minutes after an hour ago, which found something unless it was healthy; fixes as (id, state,
    applied, proven or failed) in ms after it was found."""
    start = BASE + minute * 60_000
    with book.write() as connection:
        values = {"id": id_, "runbook": name, "mode": "auto", "owner": "x", "outcome": outcome}
        connection.execute(insert(run).values(started_at_ms=start, ended_at_ms=start + 1_000, **values))
        if outcome == "healthy":
            return
        found = {"run_id": id_, "at_ms": start, "subject": "s", "detail": "d", "evidence": {}}
        connection.execute(insert(finding).values(**found))
        for fix_id, state, applied, ended in fixes:
            plain = {"action": "set", "target": fix_id, "risk": "auto", "why": "", "undo": "", "expect": {}, "want": {}}
            plain |= {"plan_hash": "", "owner": "x", "runbook": name, "run_id": id_, "state": state}
            moments = {"decided_at_ms": start, "intended_at_ms": start}
            connection.execute(insert(fix).values(id=fix_id, **plain, **moments))
            for kind, after in (("intended", 0), ("applied", applied), (state, ended)):
                said = {"at_ms": start + after, "kind": kind, "fix_id": fix_id, "actor": "x", "body": {}}
                connection.execute(insert(entry).values(**said))


def test_the_figures_of_a_known_ledger(in_force: Ledger) -> None:
    put(in_force, "r0", 0, "healthy")
    put(in_force, "r1", 1, "fixed", ("f1", "proven", 100, 300), ("f2", "proven", 200, 600))
    put(in_force, "r2", 5, "unsolved", ("f3", "failed", 100, 500))
    put(in_force, "r3", 6, "fixed", ("f4", "undone", 100, 9_000))
    put(in_force, "r4", 7, "fixed")  # it went while it was looked at
    put(in_force, "r5", 8, "refused")
    put(in_force, "b0", 8, "healthy", name="b")
    found = week(in_force, ["a", "b"], now_ms() - 2 * HOUR)
    figures, other = found.figures
    assert (figures.runs, figures.found, figures.fixed, figures.refused, figures.unsolved) == (6, 5, 3, 1, 1)
    assert (figures.acted, figures.wrong, figures.wrong_share) == (4, 2, 0.5)
    assert figures.fix == Times(count=4, p50=100, p95=200)
    assert figures.prove == Times(count=2, p50=200, p95=400)
    assert figures.detect == Times(count=4, p50=59_000, p95=239_000)
    assert (figures.mended, found.minutes_saved) == (2, 40)
    assert (other.runs, other.found, other.wrong_share) == (1, 0, None)
    assert week(in_force, ["a"], now_ms()).figures[0].runs == 0
    text = page(found)
    assert "2 / 4 (50.0%)" in text and "40 minutes" in text and "RUNBOOK_MINUTES_PER_FIX" in text
    assert found.as_json()["minutes_saved"] == 40


def test_a_licence_that_is_about_to_end_is_named(in_force: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from runbook import settings

    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "5")
    settings.forget()
    licence.issue(in_force, "a", {})
    found = week(in_force, ["a", "never-drilled"], now_ms() - HOUR)
    assert [one.runbook for one in found.licences] == ["a"] and "Next: `runbook drill a`" in page(found)
    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "30")
    settings.forget()
    assert week(in_force, ["a"], now_ms() - HOUR).licences == []


# -- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "real", "expected"),
    [
        (["observed", "healthy"], [], ["0"]),
        (["observed", "observed", "healthy"], [], ["1"]),
        (["fixed", "healthy"], ["0"], []),  # somebody did something about it
        (["observed"], [], []),  # nobody has looked again
        (["healthy", "healthy"], [], []),
    ],
)
def test_pure_what_went_by_itself(outcomes: list[str], real: list[str], expected: list[str]) -> None:
    assert noisy_runs([(str(at), outcome) for at, outcome in enumerate(outcomes)], real) == expected


def judge(_stage: str, seen: Json, given: dict[str, Json]) -> Judged:
    """Sick from ``full_at`` on."""
    return Judged([Finding(subject="pool", detail="full")] if seen >= given["full_at"] else [], [])


RULE: Replay = judge  # type: ignore[assignment]
BOUNDS = {"full_at": Range(0.3, 1.0, False)}


def seen(run_id: str, value: float) -> Snapshot:
    return Snapshot(run_id=run_id, stage="pool", at_ms=0, parameters={"full_at": 0.8, "other": "x"}, reading=value)


@pytest.mark.parametrize(
    ("false", "real", "value", "spared"),
    [
        ([0.81, 0.85, 0.86], [], 0.88, 3),
        ([0.81, 0.85, 0.95], [], 0.88, 2),  # half of them is enough
        ([0.81, 0.85, 0.86], [0.87], None, 0),  # it would have missed what was mended
        ([0.81, 0.85, 0.86], [0.9], 0.88, 3),
        ([0.999, 0.999], [], 1.0, 2),  # never beyond the parameter's own bounds
        ([1.5, 1.5], [], None, 0),
        ([], [], None, 0),
    ],
)
def test_pure_the_least_change_that_loses_nothing(
    false: list[float], real: list[float], value: float | None, spared: int
) -> None:
    kept = [seen(f"f{at}", one) for at, one in enumerate(false)] + [seen(f"r{at}", one) for at, one in enumerate(real)]
    named = ({f"f{at}" for at in range(len(false))}, {f"r{at}" for at in range(len(real))})
    found = suggested(Noise(runbook="a", noise=3, sick=3), kept, *named, RULE, BOUNDS)
    assert (found.value, found.spared) == (value, spared)
    assert ("full_at 0.8" in found.advice) is (value is not None)


def test_noise_is_a_pattern_not_an_accident(in_force: Ledger) -> None:
    for at in range(LEAST - 1):
        put(in_force, f"s{at}", 2 * at, "observed")
        put(in_force, f"h{at}", 2 * at + 1, "healthy")
    assert noise(in_force, "a", 0, None, {}) is None
    put(in_force, "s9", 50, "observed")
    put(in_force, "h9", 51, "healthy")
    found = noise(in_force, "a", 0, None, {})
    assert found is not None and (found.noise, found.sick) == (LEAST, LEAST) and "read what it finds" in found.advice
    for at in range(LEAST + 1):
        put(in_force, f"m{at}", 52 + at, "fixed", (f"f{at}", "proven", 1, 2))
    assert noise(in_force, "a", 0, None, {}) is None  # mostly right
    assert weekly.WELL == ("healthy", "fixed")
