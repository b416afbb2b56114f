"""The app's processes on this machine, from ``/proc``: which they are, what they hold, and which very one is which."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from runbook.errors import BadSetting, OutsideError
from runbook.ledger import ledger
from runbook.mask import mask
from runbook.memory import measure
from runbook.settings import settings
from runbook.step import reader
from tasks import cgroup, heap
from tasks.host import machine
from tasks.pressure import MB, Bound, Process, Snapshot, bounds_of

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
SHOWN = 80


def owner() -> int:
    """The uid whose processes may be the app's: that of ``RUNBOOK_APP_USER``, else this process's own."""
    name = settings().runbook_app_user
    if not name:
        return os.getuid()
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise BadSetting("RUNBOOK_APP_USER", f"no user {name} on this machine", "name the app's user") from None


def find() -> list[Process]:
    """Every process of the app's user whose command line ``RUNBOOK_APP_MATCH`` finds, the oldest first.

    This process and those it was started by are never the app. Raises ``OutsideError`` where there is no ``/proc``.
    """
    settings().need("RUNBOOK_APP_MATCH")
    boot, up = _boot()
    ours = {os.getpid(), *_ancestors(os.getpid())}
    pids = [int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit()]
    found = [_process(pid, boot, up) for pid in pids if pid not in ours]
    return sorted((one for one in found if one is not None), key=lambda one: (one.started, one.pid))


def same(id_: str) -> Process | None:
    """The very process ``id_`` names, while it lives and is still one of the app's."""
    boot, up = _boot()
    pid = int(id_.split(":")[1])
    one = _process(pid, boot, up)
    return one if one is not None and one.id == id_ else None


def _boot() -> tuple[str, float]:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
        return boot, float((PROC / "uptime").read_text("ascii").split()[0])
    except OSError:
        raise OutsideError("/proc", "cannot be read", "run this runbook on the app's own Linux machine") from None


def _process(pid: int, boot: str, up: float) -> Process | None:
    """One process of the app; None for any other, and for one that ended meanwhile."""
    folder = PROC / str(pid)
    try:
        words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
        said = re.search(settings().runbook_app_match, " ".join(words))
        if said is None or not words[0]:
            return None
        stat = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        status = dict(_pairs((folder / "status").read_text("utf-8", "replace")))
        uid = int(status["Uid"].split()[0])
        if uid != owner() or stat[0] in "ZX":
            return None
        group = cgroup.of(folder)
    except (OSError, LookupError, ValueError):
        return None
    started, rss = int(stat[19]), _bytes(status.get("VmRSS", "0"))
    inner_pid = int(status.get("NSpid", str(pid)).split()[-1])
    anon = _bytes(status["RssAnon"]) if "RssAnon" in status else rss
    return Process(
        id=f"{boot}:{pid}:{started}",
        pid=pid,
        inner_pid=inner_pid,
        started=started,
        age_seconds=max(0.0, up - started / TICKS),
        uid=uid,
        shown=str(mask(said[0]))[:SHOWN],
        rss=rss,
        anon=anon + _bytes(status.get("VmSwap", "0")),
        group=group,
        ancestors=tuple(_ancestors(pid)),
        **heap.about(folder, inner_pid, words, int(status.get("SigCgt", "0"), 16)),
    )


def _pairs(status: str) -> Iterator[tuple[str, str]]:
    for line in status.splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _bytes(kilobytes: str) -> int:
    return int(kilobytes.split()[0]) * 1024


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            pid = int((PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
        except (OSError, LookupError, ValueError):
            return
        if pid:
            yield pid


@reader("look {looks} times at the app's memory")
async def take_samples(looks: int, look_seconds: float, limit_mb: int) -> Snapshot:
    """The app's processes and their limits now; each of ``looks`` samples, so far apart, is kept in the ledger."""
    for _ in range(looks - 1):
        await asyncio.to_thread(_sample, limit_mb)
        await asyncio.sleep(look_seconds)
    return await asyncio.to_thread(_sample, limit_mb)


def grown_name(id_: str) -> str:
    """The name of the series of one process's anonymous memory."""
    return f"anon_bytes/{id_}"


def filled_name(bound: str) -> str:
    """The name of the series of one limit's used share; machines share a ledger, so the host is part of it."""
    return f"used_share/{os.uname().nodename[:40]}/{bound[-70:]}"


def _sample(limit_mb: int) -> Snapshot:
    processes, root = find(), settings().runbook_cgroup_root
    limits: dict[str, tuple[int, int]] = {}
    kills, notes = {"this machine": _machine_kills()}, list[str]()
    if not cgroup.is_there(root):
        notes.append(f"{root} is no cgroup v2 with memory: limits of containers and services were not seen")
    else:
        for path in sorted({one.group for one in processes}):
            limited, killed = _groups(path, root)
            limits |= limited
            kills |= killed
    whole = machine()
    bounds = bounds_of(processes, limits, (whole.used, whole.of), limit_mb)
    _keep(processes, bounds)
    return Snapshot(processes=processes, bounds=bounds, oom_kills=kills, notes=tuple(notes))


def _groups(path: str, root: Path) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """The limits over one group, and the kills from it up to its first limit: those above are others' too."""
    limits, kills = dict[str, tuple[int, int]](), dict[str, int]()
    for one in cgroup.groups(path, root):
        if not limits:
            kills[f"cgroup {one.path}"] = one.oom_kills
        if one.limit is not None:
            limits[one.path] = (one.used, one.limit)
    return limits, kills


def _keep(processes: list[Process], bounds: list[Bound]) -> None:
    values = {grown_name(one.id): float(one.anon) for one in processes}
    values |= {filled_name(bound.name): bound.share for bound in bounds}
    if bounds:
        values["memory_used_share"] = max(bound.share for bound in bounds)
        values["app_memory_mb"] = sum(one.rss for one in processes) / MB
    measure(ledger(), values)


def _machine_kills() -> int:
    counters: Mapping[str, str] = dict(
        line.split(" ", 1) for line in (PROC / "vmstat").read_text("ascii").splitlines() if " " in line
    )
    return int(counters.get("oom_kill", 0))
