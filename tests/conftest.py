"""What every test starts from: runs may act without a drill, as the tests of the licence itself do not."""

from __future__ import annotations

import os

import pytest

os.environ["RUNBOOK_LICENCE_DAYS"] = "0"

LONG = ("e2e", "chaos", "deployments")
"""Folders whose files mostly wait for whole stacks: begun first, so that the short ones fill the time beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first; pytest-xdist hands files out in this order."""
    items.sort(key=lambda item: LONG.index(name) if (name := item.path.parent.name) in LONG else len(LONG))
