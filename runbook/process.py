"""This process: its name in the ledger, whether another is certainly gone, and whether a person is being asked."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

ASKING = threading.Event()
"""Set while a question stands in the terminal: nothing else is written there."""

ACTING: set[str] = set()
"""The fixes whose hands are open in this process."""


def this_process() -> str:
    """This process's name: host, pid and start, so that another one on the same host can tell whether it lives."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def _started(pid: int) -> str:
    try:
        with Path(f"/proc/{pid}/stat").open(encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return "?"


def is_dead(owner: str) -> bool:
    """True only when ``owner`` is a process of this host that is certainly gone."""
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return started != "?" and _started(int(pid)) not in {"?", started}


def is_alive(owner: str) -> bool:
    """True only when ``owner`` is a process of this host that is not gone."""
    return owner.rsplit(":", 2)[0] == socket.gethostname() and not is_dead(owner)
