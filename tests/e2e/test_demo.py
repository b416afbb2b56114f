"""What a stranger types first, interrupted, leaves nothing behind; ``.ci/run`` lets it go to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.prefect_server import ROOT

pytestmark = pytest.mark.prefect


def children_of(marker: str) -> list[str]:
    """Command lines of all processes that have this marker in their environment, zombies aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if line]


def test_ctrl_c_stops_everything() -> None:
    marker = f"RUNBOOK_TEST_DEMO=interrupted-{os.getpid()}"
    name, _, value = marker.partition("=")
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "demo"],
        cwd=ROOT,
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if "… Prefect server" in line:
            break
    running.send_signal(signal.SIGINT)
    rest = running.stdout.read()
    assert running.wait(60) == 130
    assert "everything it started is stopped" in rest
    assert children_of(marker) == []
