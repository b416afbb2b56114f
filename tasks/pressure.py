"""The reading of the app's memory: who holds how much of which limit, how it grows, and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from runbook.model import Frozen
from tasks.leak import Samples, Trend, trend

MB = 1024 * 1024
SPARE_DISK = 512 * MB


class Marks(NamedTuple):
    """From where on something is sick; see the flow's parameters."""

    full_at: float
    high_seconds: int
    window_seconds: int
    min_samples: int
    horizon_minutes: int
    warm_up_seconds: int
    cooldown_minutes: int


class Process(Frozen):
    """One process of the app. Sizes in bytes; ``id`` names boot, pid and start, and is never used twice.

    ``shown`` is the part of its command line that the pattern matched, ``ancestors`` are pids, nearest first,
    ``anon`` counts what is swapped out, ``heap_mb`` is its ``--max-old-space-size``. ``deaf`` is why it may not be
    asked for a heap snapshot, '' where it makes one in ``folder``, beside ``snapshots``, with ``disk_free`` bytes left.
    """

    id: str
    pid: int
    inner_pid: int
    started: int
    age_seconds: float
    uid: int
    shown: str
    rss: int
    anon: int
    group: str
    ancestors: tuple[int, ...]
    heap_mb: int | None = None
    deaf: str = ""
    folder: str = ""
    snapshots: tuple[str, ...] = ()
    disk_free: int = 0


class Bound(Frozen):
    """One limit on memory, how much of it is used (bytes), and the ids of the app's processes that count."""

    name: str
    used: int
    limit: int
    ids: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit > 0 else 1.0


class Unit(Frozen):
    """What a supervisor says of one instance; ``exit_code`` is that of its last end, None where it does not say."""

    name: str
    instance: str
    pid: int
    restarts: int
    exit_code: int | None = None
    oom: bool = False


class Snapshot(Frozen):
    """One look at the machine: processes, limits, the kernel's kills for want of memory so far by place."""

    processes: Sequence[Process]
    bounds: Sequence[Bound] = ()
    oom_kills: Mapping[str, int] = {}
    notes: tuple[str, ...] = ()


class Restart(Frozen):
    """A restart that a runbook made, or tried to, in the last 24 hours."""

    minutes_ago: float
    proven: bool


class Reading(Frozen):
    """Everything a decision depends on.

    ``grown`` is each process's memory by its id, ``filled`` each limit's used share by its name; ``oom_kills``,
    ``restarted`` and ``heap_deaths`` count what is new since the last run, ``deaths_hour`` the last hour's heap deaths.
    ``healthy`` is None where no address to ask is configured; ``unable`` is why nothing can be restarted at all.
    """

    processes: Sequence[Process]
    bounds: Sequence[Bound]
    units: Sequence[Unit] = ()
    grown: Mapping[str, Samples] = {}
    filled: Mapping[str, Samples] = {}
    oom_kills: Mapping[str, int] = {}
    restarted: Mapping[str, int] = {}
    heap_deaths: int = 0
    deaths_hour: int = 0
    healthy: bool | None = None
    unable: str = ""
    by_instance: bool = False
    past: Sequence[Restart] = ()

    def bounds_of(self, one: Process) -> list[Bound]:
        """The limits this process counts against, the fullest first."""
        return sorted((bound for bound in self.bounds if one.id in bound.ids), key=lambda bound: -bound.share)

    def unit_of(self, one: Process) -> Unit | None:
        """What the supervisors call it: the unit of its own pid, else of its nearest ancestor."""
        by_pid = {unit.pid: unit for unit in self.units if unit.pid}
        return next((by_pid[pid] for pid in (one.pid, *one.ancestors) if pid in by_pid), None)

    def kin(self, one: Process) -> list[Process]:
        """Other processes of the app that a restart of its unit would end too; parents and children aside."""
        unit = self.unit_of(one)
        others = [other for other in self.processes if other.id != one.id and unit is not None]
        apart = [other for other in others if other.pid not in one.ancestors and one.pid not in other.ancestors]
        return [other for other in apart if self.unit_of(other) == unit]

    def trend_of(self, one: Process, at: Marks) -> Trend | None:
        """How its memory went since it was warm; None while too little is known."""
        return trend(self.grown.get(one.id, ()), at.min_samples, at.window_seconds)

    def leaks(self, at: Marks) -> dict[str, Trend]:
        """The trend of each process that leaks, by id."""
        found = {one.id: self.trend_of(one, at) for one in self.processes}
        limits = {one.id: min((bound.limit for bound in self.bounds_of(one)), default=0) for one in self.processes}
        return {id_: how for id_, how in found.items() if how and limits[id_] and how.leaks(limits[id_])}

    def minutes_left(self, one: Process, leaks: Mapping[str, Trend]) -> tuple[float, Bound]:
        """When the first of its limits is reached at this pace, all leaks under that limit counted; and which."""

        def minutes(bound: Bound) -> float:
            pace = sum(how.slope for id_, how in leaks.items() if id_ in bound.ids)
            return max(0.0, bound.limit - bound.used) / pace / 60

        first = min(self.bounds_of(one), key=minutes)
        return minutes(first), first

    def doomed(self, at: Marks) -> list[Process]:
        """The processes whose leak reaches a limit within the horizon, the soonest first."""
        leaks = self.leaks(at)
        left = {one.id: self.minutes_left(one, leaks)[0] for one in self.processes if one.id in leaks}
        soon = [one for one in self.processes if left.get(one.id, inf) <= at.horizon_minutes]
        return sorted(soon, key=lambda one: (left[one.id], -one.rss))

    def said(self, one: Process, at: Marks) -> str:
        """One leak in words."""
        leaks = self.leaks(at)
        how, (left, bound) = leaks[one.id], self.minutes_left(one, leaks)
        span = f"{how.seconds:.0f} s" if how.seconds < 120 else f"{how.seconds / 60:.0f} min"
        return (
            f"pid {one.pid} leaks {how.slope * 60 / MB:.1f} MB a minute (for {span}, "
            f"{how.samples} samples), holds {one.rss // MB} MB and reaches the {bound.limit // MB} MB of {bound.name} "
            f"in {left:.0f} min"
        )

    def why_no_snapshot(self, one: Process) -> str:
        """Why its heap may not be written down, or ''; that needs as much memory again, and twice it on disk."""
        if one.deaf:
            return one.deaf
        room = min(bound.limit - bound.used for bound in self.bounds_of(one))
        if room < 1.2 * one.anon:
            return f"it needs {one.anon * 6 // 5 // MB} MB more memory, and {room // MB} MB are left"
        if one.disk_free < 2 * one.anon + SPARE_DISK:
            return f"{one.folder} has only {one.disk_free // MB} MB free"
        return ""

    def high(self, at: Marks) -> list[Bound]:
        """Limits of which too much is used, and was at every sample for long enough."""
        return [bound for bound in self.bounds if bound.share >= at.full_at and self._stayed(bound, at)]

    def _stayed(self, bound: Bound, at: Marks) -> bool:
        samples = self.filled.get(bound.name, ())
        since = samples[-1][0] - at.high_seconds * 1000 if samples else 0
        before = [place for place, (moment, _share) in enumerate(samples) if moment <= since]
        recent = samples[before[-1] :] if before else ()
        return len(recent) >= 3 and all(share >= at.full_at for _moment, share in recent)


def bounds_of(
    processes: Sequence[Process], groups: Mapping[str, tuple[int, int]], host: tuple[int, int], limit_mb: int
) -> list[Bound]:
    """The limits over these processes: each cgroup's (path to used and limit), ``limit_mb`` for each, else the host's.

    The whole machine is a limit only where nothing smaller is known.
    """
    found = []
    for path, (used, limit) in groups.items():
        inside = tuple(one.id for one in processes if f"{one.group}/".startswith(path.rstrip("/") + "/"))
        if inside:
            found.append(Bound(name=f"cgroup {path}", used=used, limit=limit, ids=inside))
    if limit_mb:
        found += [
            Bound(name=f"process {one.pid}", used=one.rss, limit=limit_mb * MB, ids=(one.id,)) for one in processes
        ]
    if not found and processes:
        found = [Bound(name="machine", used=host[0], limit=host[1], ids=tuple(one.id for one in processes))]
    return found


def new_since(was: Mapping[str, int] | None, now: Mapping[str, int]) -> dict[str, int]:
    """How much each counter went up; one that went down began anew; what was never seen before says nothing."""
    known = was or {}
    gone_up = {
        name: count - known[name] if count >= known[name] else count for name, count in now.items() if name in known
    }
    return {name: count for name, count in gone_up.items() if count}
