"""An app of real processes that hold as much as a test tells them, kept running by a thread, and its history."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from demo.database_faults import wait_until
from demo.serving import Served
from flows.memory_pressure import memory_pressure
from runbook import settings
from runbook.ledger import ledger, now_ms
from runbook.model import Mode, Report
from runbook.schema import reading
from tasks import processes
from tasks.pressure import MB, Process

LIMIT = 200

HOLDS = """
import sys
held = b""
def rss():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) // 1024
for line in sys.stdin:
    held = b""
    held = b"x" * (max(0, int(line) - rss()) << 20)
    print(rss(), flush=True)
"""


class Member:
    """One process of the app: ``hold`` sets its size in MB; one that ends is started again, holding little."""

    def __init__(self, name: str) -> None:
        self.name, self.starts, self.keep = name, 0, True
        self._start()
        self._keeper = threading.Thread(target=self._kept, daemon=True)
        self._keeper.start()

    def _start(self) -> None:
        words = [sys.executable, "-c", HOLDS, self.name]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.starts += 1

    def _kept(self) -> None:
        while True:
            self.process.wait()
            if not self.keep:
                return
            self._start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def hold(self, megabytes: int) -> None:
        """Return when it holds so much."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{megabytes}\n")
        stdin.flush()
        assert abs(int(stdout.readline()) - megabytes) <= 2

    def seen(self) -> Process:
        """It as a runbook reads it."""
        (one,) = [one for one in processes.find() if one.pid == self.pid]
        return one

    def close(self) -> None:
        self.keep = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@dataclass
class Fleet:
    """The app of one test; ``status`` is what its health address answers."""

    folder: Path
    patch: pytest.MonkeyPatch
    tag: str = field(default_factory=lambda: f"app-{secrets.token_hex(6)}")
    members: list[Member] = field(default_factory=list)
    status: int = 200

    def add(self, suffix: str = "") -> Member:
        """One more process; with ``suffix`` the pattern does not find it."""
        made = Member(f"{self.tag}{suffix}")
        self.members.append(made)
        return made

    def leaking(self, to_mb: int = 150) -> Member:
        """One more process, which has leaked for forty minutes."""
        made = self.add()
        made.hold(to_mb)
        remember(made.seen().id, line(40, 60, to_mb))
        return made

    def id_of(self, one: Member) -> str:
        """Its boot, pid and start, whether or not the pattern finds it."""
        started = Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text()[:8]}:{one.pid}:{started}"

    def set(self, **values: str | Path) -> None:
        """Change settings of the runbook."""
        for name, value in values.items():
            self.patch.setenv(name, str(value))
        settings.forget()

    def log(self) -> list[str]:
        """The words each run of the restart command was given."""
        file = self.folder / "restarts"
        return file.read_text().splitlines() if file.exists() else []

    def answer(self, _request: Request) -> Response:
        return PlainTextResponse("", self.status)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """An app without a process yet, an empty ledger, a runbook that may act."""
    made = Fleet(tmp_path, monkeypatch)
    served = Served(Starlette(routes=[Route("/", made.answer)]))
    served.start()
    for name in ("APP_LOG", "APP_LOG_COMMAND", "APP_URL", "RUNBOOK_APP_USER", "RUNBOOK_SUPERVISORS"):
        monkeypatch.delenv(name, raising=False)
    restart = tmp_path / "restart"
    restart.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/restarts\nkill -TERM $1\n')
    restart.chmod(0o755)
    made.set(
        RUNBOOK_HOME=tmp_path,
        RUNBOOK_LEDGER_URL=f"sqlite:///{tmp_path}/ledger.db",
        RUNBOOK_MODE="auto",
        RUNBOOK_APP_MATCH=f"{made.tag}$",
        RUNBOOK_RESTART_COMMAND=f"{restart} {{pid}}",
        RUNBOOK_HEALTH_URL=f"{served.url}/",
        RUNBOOK_CGROUP_ROOT=tmp_path / "no-cgroup",
    )
    yield made
    for one in made.members:
        one.close()
    served.stop()
    settings.forget()


def line(count: int, first: float, last: float) -> list[float]:
    """``count`` sizes in MB, from the first to the last."""
    return [first + (last - first) * place / max(1, count - 1) for place in range(count)]


def remember(id_: str, megabytes: Sequence[float]) -> None:
    """A history of one process's memory, a sample a minute until now."""
    name, now = processes.grown_name(id_), now_ms()
    rows = [
        {"name": name, "at_ms": now - 60_000 * (len(megabytes) - place), "value": value * MB}
        for place, value in enumerate(megabytes)
    ]
    with ledger().write() as connection:
        connection.execute(insert(reading), rows)


def remember_use(bound: str, shares: Iterable[float]) -> None:
    """A history of one limit's used share, a sample a minute until now."""
    known, now = list(shares), now_ms()
    with ledger().write() as connection:
        for place, share in enumerate(known):
            at_ms = now - 60_000 * (len(known) - place)
            connection.execute(insert(reading).values(name=processes.filled_name(bound), at_ms=at_ms, value=share))


def cgroup_of(
    fleet: Fleet, *, current_mb: int, cache_mb: int = 0, limit_mb: int | None = LIMIT, kills: int = 0
) -> Path:
    """A folder laid out as cgroup v2 in which the app's own group has these counters; a parent without a limit."""
    root = fleet.folder / "cgroup"
    root.mkdir(exist_ok=True)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.current").write_text(f"{current_mb * MB}\n")
    (folder / "memory.max").write_text("max\n" if limit_mb is None else f"{limit_mb * MB}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache_mb * MB}\nactive_file 2\n")
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {kills}\n")
    fleet.set(RUNBOOK_CGROUP_ROOT=root)
    return folder


async def run(mode: Mode = Mode.auto, **bounds: Any) -> Report:
    """The runbook with its own marks, but for the age of processes: those of a test are seconds old."""
    marks: dict[str, Any] = {"limit_mb": LIMIT, "warm_up_seconds": 0, "hold_seconds": 0}
    return await memory_pressure.fn(mode=mode, **marks | bounds)


def started_again(one: Member) -> None:
    """Return when the keeper has started it a second time."""
    wait_until(lambda: one.starts == 2, "the process to be started again")
