"""What a person sees while something takes its time: a live table of the sweep, a line that counts the seconds."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

import flows
from runbook import incidents
from runbook.ledger import ledger
from runbook.mask import mask
from runbook.model import Mode, Report
from runbook.process import ASKING

QUIET_SECONDS = 2.0
"""What takes no longer than this says nothing while it lasts."""

EACH_SECONDS = 900
HEADS = ("runbook", "state", "finding", "fixes", "ledger")


@contextmanager
def progress(what: str) -> Iterator[None]:
    """From two seconds on, a line on a terminal's stderr that says what is under way and for how long."""
    if not sys.stderr.isatty():
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def count() -> None:
        pause = QUIET_SECONDS
        while not ended.wait(pause):
            pause = 0.5
            if not ASKING.is_set():
                sys.stderr.write(f"\r\x1b[2K{what}: {time.monotonic() - began:.0f} s")
                sys.stderr.flush()
        if pause != QUIET_SECONDS:
            sys.stderr.write("\r\x1b[2K")

    counting = threading.Thread(target=count, daemon=True)
    counting.start()
    try:
        yield
    finally:
        ended.set()
        counting.join()


class Board:
    """The state of every runbook as the live table shows it, sweep after sweep."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.sweeps = names, 0
        self.last: dict[str, Report] = {}
        self._since: dict[str, float] = {}
        self.foot = ""

    def told(self, name: str, report: Report | None) -> None:
        """A runbook began (None) or ended."""
        if report is None:
            self._since[name] = time.monotonic()
        else:
            self._since.pop(name, None)
            self.last[name] = report

    def table(self) -> Table:
        """The table as it stands now."""
        from flows.health_sweep import row

        drawn = Table(*HEADS, title=f"sweep {self.sweeps + 1}", caption=self.foot, expand=True)
        for name in self.names:
            cells = row(self.last[name]) if name in self.last else (name, "", "", "", "")
            if name in self._since:
                cells = (name, f"⏳ {time.monotonic() - self._since[name]:.0f} s", *cells[2:])
            drawn.add_row(*(str(mask(cell)).replace("`", "") for cell in cells))
        return drawn


def watch(mode: Mode, every_seconds: float) -> Sequence[Report]:
    """Sweep again and again until Ctrl-C, with a live table; the newest reports of all runbooks that ended.

    Nobody is asked anything meanwhile: what needs a person is refused, and the table says so.
    """
    board = Board(flows.names())
    with Path(os.devnull).open(encoding="utf-8") as nobody:
        person, sys.stdin = sys.stdin, nobody
        try:
            with Live(get_renderable=board.table, console=Console(), refresh_per_second=2):
                asyncio.run(_sweep_on(board, mode, every_seconds))
        except KeyboardInterrupt:
            pass
        finally:
            sys.stdin = person
    return [board.last[name] for name in board.names if name in board.last]


async def _sweep_on(board: Board, mode: Mode, every_seconds: float) -> None:
    from flows.health_sweep import sweep
    from tasks.paging import deliver

    while True:
        began = time.monotonic()
        board.foot = "Ctrl-C ends it"
        await sweep(board.names, mode, EACH_SECONDS, board.told)
        await deliver()
        board.sweeps += 1
        left = [one for one in incidents.every(ledger()) if one.state == "open"]
        said = ", ".join(f"{one.id} {one.title[:50]}" for one in left[:3]) or "none"
        while (rest := every_seconds - (time.monotonic() - began)) > 0:
            board.foot = f"open incidents: {said} · next sweep in {rest:.0f} s · Ctrl-C ends it"
            await asyncio.sleep(min(rest, 0.5))
