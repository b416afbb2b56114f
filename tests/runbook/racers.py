"""Real processes that start on one signal and stay alive until all of them have spoken."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

from runbook import gate, settings
from runbook.errors import NotPermitted
from runbook.ledger import Ledger, ledger
from runbook.model import Mode
from runbook.permit import Permit
from runbook.run import Run
from tests.runbook.parts import FINDING, RUNBOOK, a_fix, grant

SECONDS = 60
"""Only ends a race that would never end."""

Racer = Callable[..., Callable[[], object]]
"""Makes itself ready, and returns what it does on the signal."""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["runbook.gate", "runbook.run"])


def race(racer: Racer, words: Sequence[Sequence[object]]) -> list[Any]:
    """What each process brought home, sorted; an exception comes home as its text."""
    start, end, said = context.Barrier(len(words)), context.Barrier(len(words) + 1), context.SimpleQueue()
    started = [context.Process(target=_run, args=(racer, each, dict(os.environ), start, end, said)) for each in words]
    for one in started:
        one.start()
    try:
        brought = [said.get() for _ in started]
        end.wait(SECONDS)
    finally:
        for one in started:
            one.join(SECONDS)
    return sorted(brought, key=str)


def _run(
    racer: Racer, words: Sequence[object], env: dict[str, str], start: Barrier, end: Barrier, said: SimpleQueue[Any]
) -> None:
    _take_over(env)
    brought: object = "never started"
    try:
        go = racer(*words)
        start.wait(SECONDS)
        brought = go()
    except BaseException as error:
        brought = repr(error)
        start.abort()
        raise
    finally:
        said.put(brought)
        end.wait(SECONDS)


def _take_over(env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    settings.forget()


def begin(url: str) -> Callable[[], object]:
    """Open the ledger for the first time."""
    return lambda: Ledger(url).open_run(RUNBOOK, "auto")[:4]


def enter(url: str, run_id: str, fix_id: str) -> Callable[[], object]:
    """Try one granted fix."""
    book = Ledger(url)
    one = next(fix for fix in book.fixes(run_id) if fix.id == fix_id)

    def go() -> object:
        try:
            with Permit(book, [one]).attempt(one):
                return "entered"
        except NotPermitted:
            return "refused"

    return go


def ask(*targets: str) -> Callable[[], object]:
    """Ask the gate of this environment; brings home how many fixes it granted."""
    ledger()

    async def go() -> int:
        async with Run(RUNBOOK, Mode.auto) as run:
            run.found([FINDING])
            permit = await gate.ask(run, [a_fix(target) for target in targets], share=None)
        assert run.report is not None and not run.report.reason, run.report
        return len(permit.fixes)

    return lambda: asyncio.run(go())


def killed(work: Callable[[str], None], url: str) -> ForkServerProcess:
    """Run ``work`` in a process of its own until that is dead."""
    one = context.Process(target=work, args=(url,))
    one.start()
    one.join(SECONDS)
    return one


def die_granted(url: str) -> None:
    """End by SIGKILL between the grant and the act."""
    grant(Ledger(url), a_fix())
    os.kill(os.getpid(), signal.SIGKILL)


def die_acting(url: str) -> None:
    """End by SIGKILL inside the act."""
    book = Ledger(url)
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one):
        os.kill(os.getpid(), signal.SIGKILL)
