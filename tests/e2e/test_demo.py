"""What a stranger types first: the demo mends what it broke, and an interrupted one leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.stack import ROOT

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


def test_the_demo_mends_everything_and_leaves_no_process() -> None:
    marker = f"RUNBOOK_TEST_DEMO=whole-{os.getpid()}"
    name, _, value = marker.partition("=")
    env = {**os.environ, name: value}
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "no look-alike touched" in done.stdout
    assert children_of(marker) == []


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
