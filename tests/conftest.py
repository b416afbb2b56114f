"""What every test starts from: runs may act without a drill, as the tests of the licence itself do not."""

from __future__ import annotations

import contextlib
import os

import pytest
import stripe
from tenacity import wait_none

from demo.postgres import made_once
from runbook import step
from tasks import stripe_api

os.environ["RUNBOOK_LICENCE_DAYS"] = "0"

LONG = (
    "test_prefect", "test_secrets", "test_browser", "test_two_workers", "test_waiting", "test_events", "test_deploy",
    "test_crash", "test_cli", "test_site_down", "test_site_down_by_a_person", "test_backtest_every", "test_init",
    "test_drill",
)  # fmt: skip
"""Files that mostly wait for whole stacks, the longest first: begun before all others, which then fill the time."""


def pytest_configure(config: pytest.Config) -> None:
    """The whole suite copies its clusters of PostgreSQL from one."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        once = contextlib.ExitStack()
        once.enter_context(made_once())
        config.add_cleanup(once.close)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked again is asked again at once: nobody waits for a test."""
    monkeypatch.setattr(step, "WAIT", wait_none())
    monkeypatch.setattr(stripe_api, "WAIT", wait_none())
    monkeypatch.setattr(stripe.HTTPClient, "MAX_DELAY", 0.01)
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; pytest-xdist hands files out in this order."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
