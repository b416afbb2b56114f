"""Everything one run knows of the app's memory, put together from all witnesses and from what was remembered."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runbook import memory
from runbook.errors import OutsideError
from runbook.ledger import now_ms
from runbook.model import Frozen
from runbook.run import Run
from runbook.settings import settings
from tasks import restarts
from tasks.leak import Samples
from tasks.log_forms import HEAP
from tasks.logs import read_log
from tasks.pressure import Marks, Process, Reading, new_since
from tasks.processes import filled_name, grown_name, take_samples
from tasks.supervisors import read_units

HOUR_MS = 3_600_000
WINDOWS = 2
"""How many windows back a trend looks: a longer one hides a leak that has only begun."""


class Counters(Frozen):
    """Where the counters of this machine stood, and when the heap deaths of the last hour were (Unix ms)."""

    heap_deaths: Sequence[int]
    oom_kills: Mapping[str, int]
    restarts: Mapping[str, int]


class Watch:
    """One run's eyes on the memory of one machine's app; every missing witness is told once."""

    def __init__(self, run: Run, at: Marks, limit_mb: int) -> None:
        self.run, self.at, self.limit_mb = run, at, limit_mb
        self._key = f"memory-pressure/{os.uname().nodename}"

    def recall(self) -> Counters | None:
        """Where the counters stood when the last run on this machine ended."""
        body = memory.recall(self.run.ledger, self._key)
        return None if body is None else Counters.model_validate(body)

    def remember(self, counted: Counters) -> None:
        """Keep them for the next run."""
        memory.remember(self.run.ledger, self._key, counted.model_dump())

    async def look(self, since: Counters | None, looks: int = 1, look_seconds: float = 0) -> tuple[Reading, Counters]:
        """The reading, what is new in it counted from ``since`` on, and where the counters stand now."""
        snapshot = await take_samples(looks, look_seconds, self.limit_mb)
        units, notes = await read_units()
        moment = now_ms()
        deaths = await self._deaths(moment - HOUR_MS)
        self._tell([*snapshot.notes, *notes])
        counted = Counters(
            heap_deaths=deaths,
            oom_kills=snapshot.oom_kills,
            restarts={unit.name: unit.restarts for unit in units},
        )
        reading = Reading(
            processes=snapshot.processes,
            bounds=snapshot.bounds,
            units=units,
            grown={one.id: self._grown(one, moment) for one in snapshot.processes},
            filled={one.name: self._series(filled_name(one.name), moment) for one in snapshot.bounds},
            oom_kills=new_since(since.oom_kills if since else None, counted.oom_kills),
            restarted=new_since(since.restarts if since else None, counted.restarts),
            # Not by their time: a line may reach the log, or we the line, after a later look.
            heap_deaths=(Counter(deaths) - Counter(since.heap_deaths if since else ())).total(),
            deaths_hour=len(deaths),
            healthy=await restarts.read_health(),
            unable=restarts.unable() or restarts.deploying(),
            by_instance="{instance}" in settings().runbook_restart_command,
            past=restarts.past_restarts(self.run.ledger, self.run.id),
        )
        return reading, counted

    def _grown(self, one: Process, moment: int) -> Samples:
        samples = self._series(grown_name(one.id), moment)
        cold_until = moment - (one.age_seconds - self.at.warm_up_seconds) * 1000 if self.at.warm_up_seconds else 0
        return [sample for sample in samples if sample[0] >= cold_until]

    def _series(self, name: str, moment: int) -> Samples:
        seconds = max(WINDOWS * self.at.window_seconds, WINDOWS * self.at.high_seconds)
        return memory.series(self.run.ledger, name, moment - seconds * 1000)

    async def _deaths(self, since_ms: int) -> list[int]:
        if not settings().has_app_log:
            self._tell(["not configured: APP_LOG, so heap deaths were not looked for"])
            return []
        try:
            self._tell((await read_log()).notes)
        except OutsideError as error:  # a witness less; what the kernel says is what counts
            self._tell([str(error)])
        return [event.at_ms for event in memory.events(self.run.ledger, [HEAP], since_ms)]

    def _tell(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text not in self.run.notices:
                self.run.notice(text)
