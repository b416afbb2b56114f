"""Rotated logs: which files they are, and what speaks for leaving each as it is.

Only regular files that ``RUNBOOK_ARCHIVE_LOGS`` names and whose name says that they were rotated; never a live log,
never anything of PostgreSQL's, never what somebody still writes to.
"""

from __future__ import annotations

import asyncio
import glob
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runbook.model import Fix, Frozen, Json, Risk
from runbook.settings import settings
from runbook.step import reader
from tasks.log_files import ROTATED

PACKED = 0.25
"""Room a packed log may need beside the original, as a share of it; logs pack to a tenth."""

NEVER = ("pg_wal", "pg_xlog", "pg_xact", "pg_clog")
"""Folders of PostgreSQL's: what is taken from them loses the database."""


class Rotated(Frozen):
    """One file as it was read; ``spared`` is why it must stay as it is, None where nothing speaks for it."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    spared: str | None

    @property
    def expect(self) -> dict[str, Json]:
        """What must still be so when it is packed."""
        return {name: getattr(self, name) for name in ("path", "device", "inode", "size", "mtime_ns")}


@reader("read the rotated logs")
async def read_rotated(rest_minutes: int) -> list[Rotated]:
    """Every file the patterns name, the oldest first; one written to within ``rest_minutes`` is spared."""
    return await asyncio.to_thread(_rotated, rest_minutes)


def _rotated(rest_minutes: int) -> list[Rotated]:
    paths = {path for pattern in settings().runbook_archive_logs for path in glob.glob(pattern)}  # noqa: PTH207 - absolute
    seen: dict[str, os.stat_result] = {}
    for path in paths:
        with suppress(OSError):  # it went meanwhile
            seen[path] = os.lstat(path)
    live = {str(one.absolute()) for one in settings().app_log}
    in_use = written({(one.st_dev, one.st_ino) for one in seen.values()})
    found = [
        Rotated(
            path=path,
            device=one.st_dev,
            inode=one.st_ino,
            size=one.st_size,
            mtime_ns=one.st_mtime_ns,
            spared=_spared(Path(path), one, rest_minutes, live, in_use),
        )
        for path, one in seen.items()
    ]
    return sorted(found, key=lambda one: (one.mtime_ns, one.path))


def _spared(
    path: Path, seen: os.stat_result, rest_minutes: int, live: set[str], in_use: set[tuple[int, int]]
) -> str | None:
    if not stat.S_ISREG(seen.st_mode):
        return "no regular file"
    if any(part in NEVER for part in path.absolute().parts) or path.absolute().parts != path.resolve().parts:
        return "PostgreSQL's, or reached through a link"
    if str(path.absolute()) in live or not is_rotated(path.name):
        return "its name does not say that it was rotated"
    if seen.st_nlink != 1:
        return "it has another name too"
    if (seen.st_dev, seen.st_ino) in in_use:
        return "somebody still writes to it"
    if time.time_ns() - seen.st_mtime_ns < rest_minutes * 60 * 10**9:
        return f"it was written to within {rest_minutes} minutes"
    return None


def is_rotated(name: str) -> bool:
    return any(ROTATED.fullmatch(name[at:]) for at, letter in enumerate(name) if letter in ".-" and at > 0)


def written(files: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of ``files`` (device and inode) that some process has open for writing, as far as we may see."""
    found = set()
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):  # noqa: PTH207 - a hundred thousand of them, quickly
        with suppress(OSError, StopIteration, ValueError):
            seen = os.stat(descriptor)  # noqa: PTH116
            if (seen.st_dev, seen.st_ino) in files:
                lines = Path(descriptor.replace("/fd/", "/fdinfo/")).read_text("ascii").splitlines()
                flags = next(line for line in lines if line.startswith("flags:"))
                if int(flags.split()[1], 8) & (os.O_WRONLY | os.O_RDWR):
                    found.add((seen.st_dev, seen.st_ino))
    return found


def plan_archive(logs: Sequence[Rotated], device: int, room: int) -> list[Fix]:
    """Pack what lies on the sick disk, the oldest first, as far as the packed copies find room on the way."""
    fixes = []
    for one in logs:
        if one.spared is not None or one.device != device or one.size == 0 or one.size * PACKED > room:
            continue
        fixes.append(
            Fix(
                action="archive_log",
                target=f"file {one.path}",
                risk=Risk.guarded,
                why=f"{one.size >> 10} KiB that nobody writes to any more, packed beside it",
                undo="unpacked to its old place, name, time and rights",
                expect=one.expect,
                want={"path": f"{one.path}.gz"},
            )
        )
    return fixes
