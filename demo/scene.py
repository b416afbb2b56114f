"""What a demo breaks and what only looks broken: each thing knows by itself, from the world, whether it is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; ``mended`` reads the world, not the ledger. ``actions`` are the fixes that mend it."""

    name: str
    runbook: str
    actions: tuple[str, ...]
    mended: Callable[[], bool]


@dataclass(frozen=True)
class Lookalike:
    """One thing that must be left alone; ``untouched`` reads the world."""

    name: str
    untouched: Callable[[], bool]


@dataclass(frozen=True)
class Scene:
    """What one runbook's ``break_…(stack)`` did; ``close`` gives back what it holds open."""

    faults: Sequence[Fault]
    lookalikes: Sequence[Lookalike]
    close: Callable[[], None] = field(default=lambda: None)


class StandIn(AbstractContextManager["StandIn"], Protocol):
    """A vendor on a free loopback port while its block lasts."""

    def env(self) -> Mapping[str, str]:
        """The settings that send a runbook to it instead of to the vendor."""
