"""Keeps Ctrl-C from falling between starting a process and noting that it was started, and from being lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_asked = threading.Event()


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """The handler of SIGINT and SIGTERM."""
    _asked.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise again what was lost: Python drops an exception that is raised while it collects garbage."""
    if _asked.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends, then let the first of them through."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before: dict[signal.Signals, Any] = {one: signal.signal(one, hold) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if held:
            signal.raise_signal(held[0])
