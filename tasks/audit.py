"""One item of the performance checklist and what was seen of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

from runbook.errors import RunbookError
from runbook.model import Frozen


class State(StrEnum):
    """How an item stands."""

    passed = "pass"
    failed = "fail"
    not_applying = "does not apply"
    unseen = "cannot see"


class Item(Frozen):
    """One item: its state, the evidence, and what a person does next (empty where nothing)."""

    name: str
    state: State
    seen: str
    next_step: str = ""


class Bounds(NamedTuple):
    """From when on something counts as slow, large or hot."""

    hit_share: float = 0.99
    slow_ms: float = 500
    hot_per_second: float = 10
    script_kilobytes: int = 350
    image_kilobytes: int = 150


async def seen(name: str, look: Callable[[], Awaitable[Item]]) -> Item:
    """The item, or why it cannot be seen: one system that is away hides no other item."""
    try:
        return await look()
    except RunbookError as error:
        return Item(name=name, state=State.unseen, seen=f"{error.subject}: {error.problem}", next_step=error.next_step)
