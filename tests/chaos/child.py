"""One run in a process of its own, which may be ended at a boundary; forked, so that it starts at once.

Under Prefect it is started anew instead: Prefect reads its settings once, when it is imported.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TextIO

os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")

import anyio

import flows
from runbook import settings
from tasks import web
from tests.chaos.boundaries import KILL, Point, turn_clock, watch

forked, anew = multiprocessing.get_context("forkserver"), multiprocessing.get_context("spawn")
forked.set_forkserver_preload(["tests.chaos.child"])
SECONDS = 150
"""Only ends a run that would never end."""

QUICK: Mapping[str, Mapping[str, Any]] = {
    "pool-exhaustion": {"idle_seconds": 1, "wait_seconds": 1},
    "failed-generations": {"pause_seconds": 0.05},
    "failed-payments": {"money_cap_cents": 10_000},  # auto may charge, so that a charge can be killed too
    "memory-pressure": {"look_seconds": 0.3, "window_seconds": 7, "high_seconds": 6},
    "site-down": {"window_seconds": 0.2, "each_seconds": 0.1},
    "slow-queries": {"slow_ms": 3, "window_seconds": 1},
}
"""Parameters beside the demo's with which nothing has to grow old; nobody holds before the second look either."""

for name in flows.every():
    flows.module(name)
asyncio.run(anyio.sleep(0))  # anyio loads what it runs on when it is first asked to
web.certificates()  # each process forked from here believes the same


class Ended(NamedTuple):
    """How a run ended: its exit code (-9 is ours), its report where it made one, the boundaries it passed."""

    code: int | None
    report: dict[str, Any]
    passed: list[Point]


class Life(NamedTuple):
    """How a run is to go: its mode, what befalls it at which boundary, how far its clock is ahead, or under Prefect."""

    mode: str = "auto"  # with approve somebody at a terminal says yes to everything
    at: Point | None = None
    deed: str = KILL
    ahead_seconds: int = 0
    under_prefect: bool = False


def start(runbook: str, env: Mapping[str, str], folder: Path, life: Life) -> BaseProcess:
    """A run in a process of its own; ``result`` waits for it."""
    folder.mkdir()
    process = anew.Process if life.under_prefect else forked.Process
    one = process(target=_live, args=(runbook, dict(env), str(folder), life))
    with _environment(env if life.under_prefect else dict(os.environ)):
        one.start()
    return one


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """This process has ``env`` while the block lasts: a process started anew gets what its parent has."""
    own = dict(os.environ)
    _become(env)
    try:
        yield
    finally:
        _become(own)


def _become(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)


def result(one: BaseProcess, folder: Path) -> Ended:
    """How it ended."""
    one.join(SECONDS)
    if one.is_alive():
        one.kill()
        one.join()
    trace, said = folder / "trace", folder / "report.json"
    lines = trace.read_text().splitlines() if trace.exists() else []
    passed = [Point(column, when, what, int(nth)) for column, when, what, nth in (line.split("\t") for line in lines)]
    return Ended(one.exitcode, json.loads(said.read_text()) if said.exists() else {}, passed)


def _agreeing() -> TextIO:
    """A terminal at which somebody types yes, as often as asked."""
    person, terminal = os.openpty()
    os.write(person, b"yes\n" * 50)
    return os.fdopen(terminal)


def _live(runbook: str, env: dict[str, str], folder: str, life: Life) -> None:
    _become(env)
    settings.forget()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it says when it dies belongs to nobody
    flow, module = flows.runbook(runbook), flows.module(runbook)
    given = {"mode": life.mode, **settings.profile().parameters.get(runbook, {}), **QUICK.get(runbook, {})}
    given |= {"hold_seconds": 0} if "hold_seconds" in flow.parameters.properties else {}
    if life.ahead_seconds:
        turn_clock(life.ahead_seconds)
    said = Path(folder) / "report.json"
    if life.mode == "approve":
        sys.stdin = _agreeing()
    watch(Path(folder) / "trace", life.at, life.deed, module.HANDS)
    try:
        report = asyncio.run(flow(**given) if life.under_prefect else flow.fn(**given))
        said.write_text(report.model_dump_json())
    finally:
        if life.under_prefect:  # or it waits, for minutes, to tell a server that is gone what its tasks did
            os._exit(0 if said.exists() else 1)
