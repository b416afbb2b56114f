"""The runbooks, one file each, named by their symptom. A file in this folder is a runbook; its flow has its name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import Flow

OTHERS = frozenset({"health_sweep", "alert_watch", "performance_audit", "site_down", "weekly_report"})
"""Flows that watch, call or report on runbooks rather than being one."""


def names() -> list[str]:
    """The runbooks that exist, as the command line writes them (``pool-exhaustion``)."""
    return [name for name in every() if name.replace("-", "_") not in OTHERS]


def acting() -> list[str]:
    """Every flow that may change something by itself: the runbooks, and the emergency that calls them."""
    return sorted([*names(), "site-down"])


def every() -> list[str]:
    """Every flow: the runbooks and the others."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def module(name: str) -> ModuleType:
    """The file of one runbook."""
    return importlib.import_module(f"flows.{name.replace('-', '_')}")


def runbook(name: str) -> Flow[Any, Any]:
    """The flow of one runbook."""
    found: Flow[Any, Any] = getattr(module(name), name.replace("-", "_"))
    return found
