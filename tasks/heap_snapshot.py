"""A snapshot of Node's heap, taken only of a process that waits to be asked.

SIGUSR2 ends a Node process that was not started with ``--heapsnapshot-signal=SIGUSR2``; SIGUSR1 opens its inspector to
the network and is never sent. A snapshot holds whatever the app held: secrets and personal data too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path

from runbook.model import Fix, Proof
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks import processes
from tasks.heap import snapshots

TAKE_SECONDS = 90.0
STEP_SECONDS = 0.05
END = b"]}"


@hand("take a snapshot of {fix.target}")
async def take_snapshot(fix: Fix, permit: Permit) -> None:
    """Ask one process for a heap snapshot, if it is still the very one and still waits to be asked."""
    with permit.attempt(fix) as attempt:
        why = await asyncio.to_thread(_signal, str(fix.expect["id"]), int(fix.expect["pid"]))
        if why:
            attempt.moved_on(why)


def _signal(id_: str, pid: int) -> str:
    """Send SIGUSR2 and return '', or say why not. A pidfd never reaches a process that took the pid over."""
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        return f"pid {pid} cannot be opened: {error.strerror}"
    try:
        one = processes.same(id_)
        if one is None:
            return f"pid {pid} is another process by now, or gone"
        if one.deaf:
            return one.deaf
        signal.pidfd_send_signal(handle, signal.SIGUSR2)
    except OSError as error:
        return f"pid {pid} cannot be signalled: {error.strerror}"
    finally:
        os.close(handle)
    return ""


@reader("look for the snapshot of {fix.target}")
async def look_up_snapshot(fix: Fix) -> Proof:
    """Whether a whole snapshot is there that was not there before; nobody but its owner may read it from then on."""
    deadline = time.monotonic() + TAKE_SECONDS
    while True:
        proof = await asyncio.to_thread(_look, fix)
        gone = proof.held is not True and processes.same(str(fix.expect["id"])) is None
        if proof.held is not False or gone or time.monotonic() > deadline:
            return proof
        await asyncio.sleep(STEP_SECONDS)


def _look(fix: Fix) -> Proof:
    folder, had = str(fix.expect["folder"]), set(fix.expect["had"])
    new = [name for name in snapshots(Path(folder), int(fix.expect["inner_pid"])) if name not in had]
    if not new:
        return Proof(held=False, seen=f"no new snapshot in {folder}")
    path = Path(folder) / new[0]
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return Proof(held=None, seen=f"{path} cannot be opened: {error.strerror}")
    try:
        known = os.fstat(file)
        if not stat.S_ISREG(known.st_mode) or known.st_uid != fix.expect["uid"]:
            return Proof(held=None, seen=f"{path} is not the app's own file")
        with suppress(PermissionError):  # another user's file: Node itself makes it 0600
            os.fchmod(file, 0o600)
        tail = os.pread(file, 64, max(0, known.st_size - 64)).rstrip()
    finally:
        os.close(file)
    if not tail.endswith(END):
        return Proof(held=False, seen=f"{path} is not whole yet ({known.st_size} bytes)")
    return Proof(held=True, seen=f"{path}, {known.st_size} bytes", evidence={"file": str(path), "bytes": known.st_size})
