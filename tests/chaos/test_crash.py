"""Every runbook killed right after its first act, two right before it too; ``make chaos`` kills each everywhere."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

import pytest

import flows
from tests.chaos.boundaries import Point
from tests.chaos.sweep import Verdict, crash
from tests.chaos.world import ASKED

BEFORE = Point("intent", "after", "ledger intended")
AFTER = Point("outcome", "before", "ledger applied")
JOBS = [
    ("pool-exhaustion", BEFORE),
    ("failed-payments", BEFORE),
    *((name, AFTER) for name in [*flows.acting(), *ASKED]),
]


@pytest.fixture(scope="module")
def verdicts() -> Mapping[tuple[str, Point], Verdict]:
    """All worlds side by side: most of a crash is waiting."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        return dict(zip(JOBS, pool.map(crash, JOBS), strict=True))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job[0]} {job[1].when} {job[1].column}")
def test_a_crash_leaves_nothing_wrong(verdicts: Mapping[tuple[str, Point], Verdict], job: tuple[str, Point]) -> None:
    assert verdicts[job].problems == []
    assert verdicts[job].effects or verdicts[job].explained, "nothing was ever done: this shows nothing"
