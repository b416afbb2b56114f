"""Node's heap as a process was started: its limit, and whether it waits to be asked for a snapshot of it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAP_MB = re.compile(r"--max[-_]old[-_]space[-_]size[= ](\d+)")
SIGNAL = re.compile(r"--heapsnapshot-signal[= ]SIGUSR2\b")
FOLDER = re.compile(r"--diagnostic-dir[= ](\S+)")


def about(folder: Path, inner_pid: int, words: Sequence[str], caught: int) -> dict[str, Any]:
    """What a process's command line and ``NODE_OPTIONS`` say of its heap; of its environment nothing else is read."""
    options, hidden = _node_options(folder)
    said = f"{options} {' '.join(words)}"
    limits = HEAP_MB.findall(said)
    found: dict[str, Any] = {"heap_mb": int(limits[-1]) if limits else None}
    if not SIGNAL.search(said):
        return found | {"deaf": hidden or "it was not started with --heapsnapshot-signal=SIGUSR2, so it would end"}
    if not caught >> (signal.SIGUSR2 - 1) & 1:
        return found | {"deaf": "it does not catch SIGUSR2 now, so it would end"}
    into = FOLDER.findall(said)
    try:
        inside = folder / "cwd" / (into[-1] if into else "")
        real = inside.resolve()
        if not real.is_dir() or not os.path.samestat(real.stat(), inside.stat()):
            return found | {"deaf": "its folder is not on a disk of this machine's"}
        free = os.statvfs(real)
    except OSError:
        return found | {"deaf": "its folder cannot be read by this user"}
    room = free.f_bavail * free.f_frsize
    return found | {"folder": str(real), "snapshots": tuple(snapshots(real, inner_pid)), "disk_free": room}


def snapshots(folder: Path, inner_pid: int) -> list[str]:
    """The names of the snapshots this pid left in a folder: ``Heap.<date>.<time>.<pid>.<thread>.<n>.heapsnapshot``."""
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError:
        return []
    return sorted(name for name in names if re.fullmatch(rf"Heap\.\d+\.\d+\.{inner_pid}\.\d+\.\d+\.heapsnapshot", name))


def _node_options(folder: Path) -> tuple[str, str]:
    try:
        pairs = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return "", "its environment cannot be read by this user"
    return next((pair[13:].decode("utf-8", "replace") for pair in pairs if pair.startswith(b"NODE_OPTIONS=")), ""), ""


def advice(limit_bytes: int) -> str:
    """The line that lets Node end itself, with a message, before the kernel does it without one."""
    return f"NODE_OPTIONS=--max-old-space-size={limit_bytes * 3 // 4 // (1024 * 1024)}"
