"""How much memory and disk is left where this runs: one quick reading each, nothing kept open."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from runbook.alarm import MINUTE_MS, Point, Sample
from runbook.errors import OutsideError
from runbook.ledger import now_ms
from runbook.model import Frozen
from runbook.settings import settings
from runbook.step import reader
from tasks import cgroup


class Memory(Frozen):
    """Memory in use that cannot be given back, and its bound, in bytes; ``where`` is whose bound it is."""

    where: str
    used: int
    of: int

    @property
    def share(self) -> float:
        return self.used / self.of


class Disk(Frozen):
    """One file system: bytes and inodes that an ordinary user may still take, and how many there are."""

    path: str
    device: int
    free: int
    of: int
    inodes_free: int
    inodes: int

    @property
    def share(self) -> float:
        return self.free / self.of if self.of else 0.0

    @property
    def inode_share(self) -> float:
        """1 where the file system has no fixed number of inodes."""
        return self.inodes_free / self.inodes if self.inodes else 1.0


@reader("read the memory in use")
async def read_memory() -> Memory:
    """Of ``RUNBOOK_CGROUP``, else of our own control group, else of the machine: the tightest bound on the way up.

    Source: cgroup v2, as ``tasks/cgroup.py`` reads it; /proc/meminfo.
    """
    at = settings()
    return await asyncio.to_thread(_memory, at.runbook_cgroup, at.runbook_cgroup_root)


def _memory(named: Path | None, root: Path) -> Memory:
    try:
        path = cgroup.of(Path("/proc/self")) if named is None else f"/{named.relative_to(root)}"
        over = cgroup.groups(path, root)
        if named is not None and path not in {one.path for one in over}:  # its parents' bounds are not its own
            raise OutsideError("RUNBOOK_CGROUP", f"{named} is no cgroup v2 folder", "correct RUNBOOK_CGROUP")
        bounds = [Memory(where=f"{root}{one.path}", used=one.used, of=one.limit) for one in over if one.limit]
        return max(bounds, key=lambda one: one.share) if bounds else machine()
    except (OSError, ValueError, KeyError) as error:
        said = f"memory cannot be read ({type(error).__name__})"
        raise OutsideError("RUNBOOK_CGROUP", said, f"name the app's folder below {root}") from None


def machine() -> Memory:
    """All memory of this machine, and what of it nobody can be given any more. Source: /proc/meminfo."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return Memory(where="this machine", used=(kib["MemTotal"] - kib["MemAvailable"]) * 1024, of=kib["MemTotal"] * 1024)


async def memory_sample() -> Sample:
    """The share of the tightest bound that is in use."""
    seen = await read_memory()
    said = f"{seen.used >> 20} of {seen.of >> 20} MiB in use, by the bound of {seen.where}"
    return Sample(points=[Point(minute=now_ms() // MINUTE_MS, value=seen.share)], said=said)


@reader("read the disks")
async def read_disks() -> list[Disk]:
    """Every file system that ``RUNBOOK_DISK_PATHS`` names. Source: statvfs, what is kept for root not counted."""
    return await asyncio.to_thread(lambda: [_disk(path) for path in settings().runbook_disk_paths])


def _disk(path: Path) -> Disk:
    try:
        seen, device = os.statvfs(path), path.stat().st_dev
    except OSError as error:
        raise OutsideError("RUNBOOK_DISK_PATHS", f"{path}: {error.strerror}", "name folders that exist") from None
    return Disk(
        path=str(path),
        device=device,
        free=seen.f_bavail * seen.f_frsize,
        of=(seen.f_blocks - seen.f_bfree + seen.f_bavail) * seen.f_frsize,
        inodes_free=seen.f_favail,
        inodes=seen.f_files,
    )
