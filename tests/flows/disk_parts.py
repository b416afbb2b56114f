"""A small disk that really is full: a file system in memory of its own, with logs on it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.full_disk import full_disk
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, Report
from runbook.settings import Settings, forget

MIB = 1024 * 1024
LINE = b'{"level":"info","time":"2026-01-02T03:04:05.678Z","msg":"request_done","path":"/api/classes"}\n'


@dataclass
class World:
    """One small disk; ``logs`` is the folder on it."""

    disk: Path
    home: Path

    @property
    def logs(self) -> Path:
        return self.disk / "logs"

    @property
    def book(self) -> Ledger:
        return ledger()

    def log(self, name: str, size: int = 4 * MIB, age_minutes: float = 600) -> Path:
        """One log, last written to so long ago."""
        path = self.logs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LINE * (size // len(LINE)))
        old(path, age_minutes)
        return path

    def fill(self, free: int) -> None:
        """Take all room but ``free`` bytes."""
        seen = os.statvfs(self.disk)
        with (self.disk / "filler").open("ab") as out:
            out.write(b"x" * max(0, seen.f_bavail * seen.f_frsize - free))

    async def run(self, **parameters: Any) -> Report:
        report: Report = await full_disk.fn(**({"hold_seconds": 0, "free_at": 0.2} | parameters))
        return report


def old(path: Path, minutes: float = 600) -> None:
    when = time.time() - minutes * 60
    os.utime(path, (when, when))


def fixes(report: Report) -> dict[str, str]:
    """How each file's fix ended, by its name."""
    return {Path(fix.target.removeprefix("file ")).name: fix.state.value for fix in report.fixes}


def of(report: Report, name: str) -> Fix:
    (found,) = [fix for fix in report.fixes if fix.target.endswith(f"/{name}")]
    return found


@contextmanager
def small_disk(folder: Path, size: str = "24m") -> Iterator[Path]:
    """A file system of ``size``; skips the test where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root can mount a disk to fill")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    with small_disk(tmp_path / "disk") as disk:
        world = World(disk, tmp_path)
        world.logs.mkdir()
        monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
        monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
        monkeypatch.setenv("RUNBOOK_MODE", "auto")
        monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "0")
        monkeypatch.setenv("RUNBOOK_DISK_PATHS", str(disk))
        monkeypatch.setenv("RUNBOOK_ARCHIVE_LOGS", f"{world.logs}/*.log.[0-9]*")
        forget()
        yield world
    forget()
