"""Control groups, version 2: what each group over a process uses, what it may, and whom the kernel killed in it.

The pages of the kernel: docs.kernel.org/admin-guide/cgroup-v2.html. Used is ``memory.current`` less ``inactive_file``:
page cache that the kernel gives back before it kills anybody.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from runbook.model import Frozen


class Group(Frozen):
    """One group: bytes used, bytes it may use (None = no limit), kills for want of memory so far."""

    path: str
    used: int
    limit: int | None
    oom_kills: int


def is_there(root: Path) -> bool:
    """True where ``root`` is a version 2 hierarchy that counts memory."""
    try:
        return "memory" in (root / "cgroup.controllers").read_text("ascii").split()
    except OSError:
        return False


def of(process: Path) -> str:
    """The group a process is in, by its folder of /proc: "/" where it is in none."""
    lines = (process / "cgroup").read_text("utf-8", "replace").splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def groups(path: str, root: Path) -> list[Group]:
    """The group ``path`` (as ``of`` gives it) and its parents, innermost first.

    The outermost group has no counters on a host, and has them inside a container. Groups that are gone by now, or lie
    outside what this process may see, are left out.
    """
    inner = PurePosixPath(path)
    if ".." in inner.parts:
        return []
    found = [_group(str(one), root / str(one).lstrip("/")) for one in (inner, *inner.parents)]
    return [group for group in found if group is not None]


def _group(path: str, folder: Path) -> Group | None:
    try:
        current = int((folder / "memory.current").read_text("ascii"))
        maximum = (folder / "memory.max").read_text("ascii").strip()
        limit = None if maximum == "max" else int(maximum)
        cache = _counter(folder / "memory.stat", "inactive_file")
        kills = _counter(folder / "memory.events", "oom_kill")
    except (OSError, ValueError):
        return None
    return Group(path=path, used=max(0, current - cache), limit=limit, oom_kills=kills)


def _counter(file: Path, name: str) -> int:
    for line in file.read_text("ascii").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
