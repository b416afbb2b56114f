"""Two workers on one Prefect server on PostgreSQL: one dies in the middle of a run, the other goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from demo import database_faults
from demo.prefect_api import Api
from demo.stack import Stack
from runbook.ledger import Ledger
from runbook.schema import OPEN_STATES, fix, run
from tests.e2e.test_prefect import ended, until

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(lambda _text: None, tmp_path_factory.mktemp("two"), events=True, standins=()) as running:
        Api(running.prefect.url).pause_schedules()
        yield running


def parent(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes_of(run_id: str) -> list[int]:
    """What runs for this run, by the environment Prefect gives it: a worker may tell its process id late, or never."""
    mark, found = f"PREFECT__FLOW_RUN_ID={run_id}".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def worker_of(workers: dict[str, subprocess.Popen[bytes]], pid: int) -> str:
    """Which worker a run's process belongs to: both may say that they submit a run, and only one may have it."""
    names = {worker.pid: name for name, worker in workers.items()}
    while pid not in names:
        pid = parent(pid)
    return names[pid]


def outcomes_in(book: Ledger) -> list[str]:
    """How the runs of pool-exhaustion ended, the first one first."""
    with book.read() as connection:
        rule = select(run.c.outcome).where(run.c.runbook == "pool-exhaustion").order_by(run.c.started_at_ms)
        return list(connection.execute(rule).scalars())


def test_a_worker_dies_in_a_run_and_the_other_has_the_next(stack: Stack) -> None:
    api, book = Api(stack.prefect.url), Ledger(stack.env()["RUNBOOK_LEDGER_URL"])
    workers: dict[str, subprocess.Popen[bytes]] = {"demo": stack.worker, "second": stack.prefect.start_worker("second")}
    writers = database_faults.idle_writers(stack.postgres, 2)
    blocked = database_faults.blocked_app(stack.postgres, 2, 2)
    try:
        time.sleep(3)  # the profile calls a wait of 2 s long
        before = outcomes_in(book)  # the schedules may have begun one until they were paused
        run_id = api.start("pool-exhaustion", mode="auto", hold_seconds=60)
        until(lambda: writers.alive() == 0, "the first run's fixes")
        assert api.call("GET", f"/flow_runs/{run_id}")["state"]["name"] == "Running"
        doomed = processes_of(run_id)
        (taken,) = {worker_of(workers, pid) for pid in doomed}
        os.killpg(workers[taken].pid, signal.SIGKILL)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        workers[taken].wait(10)
        assert ended(api, run_id)["state"]["type"] == "CRASHED"

        following = api.start("pool-exhaustion", mode="auto", hold_seconds=0)
        state = ended(api, following)["state"]
        assert state["name"] == "Healthy", state["message"]
        (other,) = set(workers) - {taken}
        assert workers[other].poll() is None
    finally:
        writers.close()
        blocked.close()
    with book.read() as connection:
        fixes = connection.execute(select(fix.c.target, fix.c.state)).all()
    assert outcomes_in(book) == [*before, "crashed", "healthy"]
    assert not [row for row in fixes if row.state in OPEN_STATES]
    assert set(Counter(row.target for row in fixes if row.state == "proven").values()) == {1}
