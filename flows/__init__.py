"""The runbooks, one file each, named by their symptom. A file in this folder is a runbook; its flow has its name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from prefect import Flow

CALLERS = frozenset({"health_sweep"})
"""Flows that call runbooks rather than being one."""


def names() -> list[str]:
    """The runbooks that exist, as the command line writes them (``pool-exhaustion``)."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if name not in CALLERS)


def every() -> list[str]:
    """The runbooks and the flows that call them."""
    return sorted([*names(), *(name.replace("_", "-") for name in CALLERS)])


def module(name: str) -> ModuleType:
    """The file of one runbook."""
    return importlib.import_module(f"flows.{name.replace('-', '_')}")


def runbook(name: str) -> Flow[Any, Any]:
    """The flow of one runbook."""
    found: Flow[Any, Any] = getattr(module(name), name.replace("-", "_"))
    return found
