"""What every test starts from: runs may act without a drill, as the tests of the licence itself do not."""

from __future__ import annotations

import os

import pytest

os.environ["RUNBOOK_LICENCE_DAYS"] = "0"

LONG = (
    "test_prefect", "test_secrets", "test_demo",
    "test_browser", "test_two_workers", "test_waiting", "test_events", "test_crash", "test_cli",
    "test_site_down", "test_backtest_every", "test_init", "test_drill", "test_stripe_server",
)  # fmt: skip
"""Files that start whole stacks and mostly wait for them, the longest first."""

AT_FIRST, BETWEEN = 3, 6
"""So many of them are begun at once, and the others one after so many short files each: two cores are kept busy, and
no stack is so short of them that what it waits for comes too late."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files and short ones mixed; pytest-xdist hands files out in this order."""
    names = dict.fromkeys(item.path for item in items)
    short = [path for path in names if path.stem not in LONG]
    places = {path: float(at) for at, path in enumerate(short)}
    for at, stem in enumerate(LONG):
        place = (at - AT_FIRST + 1) * BETWEEN - 0.5 if at >= AT_FIRST else at - AT_FIRST
        places |= {path: place for path in names if path.stem == stem}
    items.sort(key=lambda item: places[item.path])
