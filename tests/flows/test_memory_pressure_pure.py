"""What counts as a leak, as high and as a death, and what is planned: tables over made-up readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flows.memory_pressure import detect, notices, plan
from runbook.model import Risk
from tasks import leak
from tasks.heap import advice
from tasks.memory_page import trend_page
from tasks.pressure import MB, Bound, Marks, Process, Reading, Restart, Unit, bounds_of, new_since

AT = Marks(
    full_at=0.8,
    high_seconds=300,
    window_seconds=1800,
    min_samples=20,
    horizon_minutes=60,
    warm_up_seconds=600,
    cooldown_minutes=20,
)
MINUTE = 60_000


def samples(*megabytes: float, every_ms: int = MINUTE) -> list[tuple[int, float]]:
    return [(place * every_ms, size * MB) for place, size in enumerate(megabytes)]


def line(count: int, first: float, last: float) -> list[float]:
    return [first + (last - first) * place / (count - 1) for place in range(count)]


def process(pid: int, rss_mb: float = 150, **other: Any) -> Process:
    fields: dict[str, Any] = {
        "id": f"boot:{pid}:{pid * 10}",
        "pid": pid,
        "inner_pid": pid,
        "started": pid * 10,
        "age_seconds": 9_999,
        "uid": 1000,
        "shown": "node server.js",
        "rss": int(rss_mb * MB),
        "anon": int(rss_mb * MB),
        "group": "/app",
        "ancestors": (1,),
        "deaf": "it was not started for it",
    }
    return Process(**fields | other)


LEAK = samples(*line(40, 60, 150))
FLAT = samples(*[150.0] * 40)


def reading(*processes: Process, limit_mb: int = 200, leaks: Sequence[int] | None = None, **other: Any) -> Reading:
    """Processes of which those with a pid in ``leaks`` (all, where it is not said) grew for forty minutes."""
    sick = [one.pid for one in processes] if leaks is None else leaks
    fields: dict[str, Any] = {
        "processes": processes,
        "bounds": bounds_of(processes, {}, (1, 1), limit_mb),
        "grown": {one.id: LEAK if one.pid in sick else FLAT for one in processes},
        "healthy": True,
    }
    return Reading(**fields | other)


def planned(of: Reading) -> list[tuple[str, str]]:
    return [(fix.action, fix.target) for fix in plan(of, AT)]


NOISE = (60, 100, 62, 104, 66, 108, 68, 112, 72, 116)


# -- the trend ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "series", "leaks"),
    [
        ("a straight leak", line(40, 60, 150), True),
        ("a leak that gets faster", [60 + 0.06 * n * n for n in range(40)], True),
        ("a leak under a sawtooth", [60 + 2 * n + 40 * (n % 3) for n in range(40)], True),
        ("a leak and one restart of the collector", [*line(30, 60, 120), 40, *line(9, 122, 140)], True),
        ("flat", [100.0] * 40, False),
        ("a sawtooth", [60 + 40 * (n % 3) for n in range(40)], False),
        ("one spike", [*[60.0] * 39, 190], False),
        ("a step", [*[60.0] * 20, *[150.0] * 20], False),
        ("noise that ends higher than it began", [float(size) for size in NOISE for _ in range(4)], False),
        ("falling", line(40, 150, 60), False),
        ("warming up", [60 + 100 * (1 - 0.9**n) for n in range(40)], False),
        ("less than a hundredth of the limit", line(40, 60, 61.5), False),
    ],
)
def test_what_leaks(what: str, series: list[float], leaks: bool) -> None:
    how = leak.trend(samples(*series), 20, 1800)
    assert how is not None
    assert how.leaks(200 * MB) is leaks, how


@pytest.mark.parametrize(("count", "every_ms"), [(19, 2 * MINUTE), (29, MINUTE), (400, 1000), (0, 1)])
def test_too_few_samples_or_too_short_a_time_says_nothing(count: int, every_ms: int) -> None:
    assert leak.trend([(n * every_ms, n * MB) for n in range(count)], 20, 1800) is None


def test_the_slope_is_exact_on_a_line_and_unmoved_by_a_spike() -> None:
    straight = samples(*line(31, 0, 30))
    assert leak.theil_sen(straight) * 60 == pytest.approx(MB)
    spiked = [*straight[:15], (15 * MINUTE, 900.0 * MB), *straight[16:]]
    assert leak.theil_sen(spiked) * 60 == pytest.approx(MB, rel=0.02)
    assert leak.theil_sen([(5, 1.0), (5, 9.0)]) == 0


# -- limits ---------------------------------------------------------------------------------------------------------


def test_the_machine_is_a_limit_only_where_nothing_smaller_is_known() -> None:
    one = process(7)
    assert [bound.name for bound in bounds_of([one], {}, (5, 9), 0)] == ["machine"]
    groups = {"/app": (5, 9), "/": (7, 99), "/application": (1, 2)}
    assert [bound.name for bound in bounds_of([one], groups, (5, 9), 300)] == ["cgroup /app", "cgroup /", "process 7"]
    assert bounds_of([], groups, (5, 9), 300) == []


@pytest.mark.parametrize(
    ("was", "now", "new"),
    [
        (None, {"a": 7}, {}),
        ({}, {"a": 7}, {}),
        ({"a": 7}, {"a": 7}, {}),
        ({"a": 7}, {"a": 9}, {"a": 2}),
        ({"a": 7}, {"a": 1}, {"a": 1}),
        ({"a": 7}, {}, {}),
    ],
)
def test_counters_are_counted_from_what_was_remembered(
    was: dict[str, int] | None, now: dict[str, int], new: dict[str, int]
) -> None:
    assert new_since(was, now) == new


@pytest.mark.parametrize(
    ("shares", "high"),
    [
        ([0.9] * 6, True),
        ([0.5, *[0.9] * 6], True),
        ([0.9] * 5, False),
        ([*[0.5] * 9, 0.99], False),
        ([*[0.9] * 5, 0.7, 0.9], False),
        ([], False),
    ],
)
def test_high_is_high_for_long(shares: list[float], high: bool) -> None:
    filled = {"process 7": [(n * MINUTE, share) for n, share in enumerate(shares)]}
    of = reading(process(7, rss_mb=180), leaks=(), filled=filled)
    found = [finding.subject for finding in detect(of, AT)]
    assert found == (["process 7"] if high else [])
    assert plan(of, AT) == []


def test_leaks_under_one_limit_reach_it_together() -> None:
    both = process(1), process(2)
    bound = Bound(name="cgroup /app", used=300 * MB, limit=400 * MB, ids=tuple(one.id for one in both))
    of = reading(*both, bounds=[bound])
    alone, _ = of.minutes_left(both[0], {both[0].id: of.leaks(AT)[both[0].id]})
    together, _ = of.minutes_left(both[0], of.leaks(AT))
    assert together == pytest.approx(alone / 2)


# -- plan -----------------------------------------------------------------------------------------------------------


def test_one_restart_a_run_and_the_first_at_its_limit() -> None:
    of = reading(process(1, 120), process(2, 170), process(3, 150))
    assert planned(of) == [("restart_instance", "instance 2")]
    (fix,) = plan(of, AT)
    assert (fix.risk, fix.want) == (Risk.guarded, {"below_mb": 160})
    assert fix.expect == {"id": "boot:2:20", "pid": 2, "instance": "", "newest": 30}


def test_the_same_plan_has_the_same_key_though_memory_moved() -> None:
    (one,), (two,) = (plan(reading(process(1, size)), AT) for size in (150, 151))
    assert one.key == two.key


@pytest.mark.parametrize(
    ("told", "more"),
    [
        ("not configured", {"unable": "RUNBOOK_RESTART_COMMAND is not configured"}),
        ("restarted 5 min ago", {"past": [Restart(minutes_ago=5, proven=True)]}),
        ("a person must look first", {"past": [Restart(minutes_ago=30, proven=False)], "healthy": False}),
        ("no unit of RUNBOOK_SUPERVISORS", {"by_instance": True}),
    ],
)
def test_why_nothing_is_restarted_is_told(told: str, more: dict[str, Any]) -> None:
    of = reading(process(1), **more)
    assert planned(of) == []
    assert any(told in text for text in notices(of, AT))


def test_an_app_that_hangs_may_be_restarted_where_nothing_was_before() -> None:
    assert planned(reading(process(1), healthy=False)) == [("restart_instance", "instance 1")]


def test_a_young_instance_holds_restarts_up() -> None:
    of = reading(process(1), process(2, 50, age_seconds=30), leaks=(1,))
    assert planned(of) == []
    assert any("an instance started 30 s ago" in text for text in notices(of, AT))


def test_the_units_name_is_given_and_a_unit_of_several_processes_is_left() -> None:
    unit = Unit(name="pm2 web 3", instance="3", pid=9, restarts=0)
    of = reading(process(11, ancestors=(9, 1)), units=[unit], by_instance=True)
    (fix,) = plan(of, AT)
    assert (fix.target, fix.expect["instance"]) == ("instance pm2 web 3", "3")
    shared = reading(
        process(11, ancestors=(9, 1)), process(12, ancestors=(9, 1)), leaks=(11,), units=[unit], by_instance=True
    )
    assert planned(shared) == []
    assert any("would end 1 more processes" in text for text in notices(shared, AT))


@pytest.mark.parametrize(
    ("more", "limit_mb", "takes"),
    [
        ({}, 200, False),
        ({"deaf": ""}, 225, True),
        ({"deaf": ""}, 200, False),
        ({"deaf": "", "disk_free": 400 * MB}, 225, False),
    ],
)
def test_a_snapshot_needs_consent_memory_and_disk(more: dict[str, Any], limit_mb: int, takes: bool) -> None:
    one = process(1, 100, **{"folder": "/srv", "disk_free": 5_000 * MB} | more)
    of = reading(one, limit_mb=limit_mb)
    assert planned(of) == [*([("take_snapshot", "heap of pid 1")] if takes else []), ("restart_instance", "instance 1")]


# -- tell -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "kills", "found"),
    [
        ({"exit_code": 134}, {}, True),
        ({"exit_code": 137}, {}, False),
        ({"exit_code": 137}, {"this machine": 1}, True),
        ({"exit_code": 1}, {}, False),
        ({"oom": True}, {}, True),
        ({}, {}, False),
    ],
)
def test_a_restart_counts_as_death_for_want_of_memory_only_with_a_witness(
    unit: dict[str, Any], kills: dict[str, int], found: bool
) -> None:
    seen = Unit(name="pm2 web 0", instance="0", pid=1, restarts=4, **unit)
    of = reading(process(1), leaks=(), units=[seen], restarted={"pm2 web 0": 1}, oom_kills=kills)
    assert [one.subject for one in detect(of, AT)] == (["pm2 web 0"] if found else [])
    assert any("started again 1 times" in text for text in notices(of, AT))


def test_a_heap_limit_above_the_memory_limit_is_told_with_the_right_line() -> None:
    (told,) = notices(reading(process(1, heap_mb=4096), limit_mb=512, leaks=()), AT)
    assert told.endswith("Start it with NODE_OPTIONS=--max-old-space-size=384")
    assert list(notices(reading(process(1, heap_mb=384), limit_mb=512, leaks=()), AT)) == []
    assert advice(512 * MB) == "NODE_OPTIONS=--max-old-space-size=384"


def test_the_page_draws_each_process_and_where_its_leak_ends() -> None:
    page = trend_page(reading(process(1), process(2), leaks=(1,)), AT, 0)
    assert "pid 1 leaks 2.3 MB a minute" in page
    assert "no leak shows in 40 samples" in page
    assert "data:image/svg+xml" in page
