"""When a disk will be full at the rate it fills, and the log that dead subscribers keep from being removed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import LiteralString

from runbook.alarm import MINUTE_MS, Point, Sample
from runbook.errors import OutsideError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.memory import measure, series
from runbook.model import Frozen
from runbook.settings import settings
from runbook.step import reader
from tasks.database import connect
from tasks.host import Disk, read_disks

HOUR_MS = 3_600_000
SPAN_MS = 2 * HOUR_MS
LEAST_SAMPLES = 10
LEAST_MS = 10 * 60_000
MOST_SAMPLES = 60
SOON_HOURS = 4.0
"""A disk that is full within this time is as good as full."""

SLOT_BYTES = 10 * 2**30
"""Write-ahead log a slot may keep back before a person must look at its subscriber."""

SLOTS: LiteralString = """
SELECT slot_name::text AS name, active, greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()
    THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn))::float8 AS bytes
  FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 3 DESC"""


class Slot(Frozen):
    """One replication slot: whether somebody reads it, and the bytes of write-ahead log it keeps on the server."""

    name: str
    active: bool
    bytes: float


@reader("read the replication slots")
async def read_slots() -> list[Slot]:
    """Every slot that keeps log back, the biggest first. Source: pg_replication_slots."""
    async with connect() as connection:
        rows = await (await connection.execute(SLOTS)).fetchall()
    return [Slot.model_validate(row) for row in rows]


def remember_free(book: Ledger, disks: Sequence[Disk]) -> None:
    """Keep how much is free now, for the trend."""
    measure(book, {f"disk_free_bytes:{one.path}"[:128]: one.free for one in disks})


def hours_left(book: Ledger, disk: Disk) -> float | None:
    """Hours until nothing is free, at the median rate of the last two hours; None where it does not shrink, or where
    there are too few readings to say so."""
    return projected(series(book, f"disk_free_bytes:{disk.path}"[:128], now_ms() - SPAN_MS))


def projected(samples: Sequence[tuple[int, float]]) -> float | None:
    """Hours until zero by the Theil-Sen slope, which one big file written and removed does not move."""
    every = max(1, len(samples) // MOST_SAMPLES)
    kept = samples[::every]
    if len(kept) < LEAST_SAMPLES or kept[-1][0] - kept[0][0] < LEAST_MS:
        return None
    slopes = [
        (later[1] - sooner[1]) / (later[0] - sooner[0])
        for at, sooner in enumerate(kept)
        for later in kept[at + 1 :]
        if later[0] > sooner[0]
    ]
    slope = median(slopes) if slopes else 0.0
    return kept[-1][1] / -slope / HOUR_MS if slope < 0 else None


async def disk_sample() -> Sample:
    """The smallest share of bytes or inodes that is free; an alarm too when a disk fills soon, or a slot keeps much."""
    disks, book = await read_disks(), ledger()
    remember_free(book, disks)
    worst = min(disks, key=lambda one: min(one.share, one.inode_share))
    said = [f"{worst.path}: {worst.free >> 30} of {worst.of >> 30} GiB free, {worst.inode_share:.0%} of the inodes"]
    said += [text for disk in disks if (text := soon(disk, hours_left(book, disk)))]
    said += await _slots_said()
    value = min(worst.share, worst.inode_share)
    point = Point(minute=now_ms() // MINUTE_MS, value=value, alarm=True if len(said) > 1 else None)
    return Sample(points=[point], said="; ".join(said))


def soon(disk: Disk, hours: float | None) -> str:
    """In words, when the disk is full within ``SOON_HOURS``; else nothing."""
    return f"{disk.path} is full in {hours:.1f} hours at this rate" if hours is not None and hours < SOON_HOURS else ""


def holding(slots: Sequence[Slot]) -> list[str]:
    """What to say of each slot that keeps more log back than ``SLOT_BYTES``."""
    big = [one for one in slots if one.bytes > SLOT_BYTES]
    return [
        f"replication slot {one.name} ({'in use' if one.active else 'nobody reads it'}) keeps back "
        f"{one.bytes / 2**30:.1f} GiB of write-ahead log"
        for one in big
    ]


async def _slots_said() -> list[str]:
    if not getattr(settings(), settings().monitor_setting().lower()):
        return []
    try:
        return holding(await read_slots())
    except OutsideError:  # the database's own alert says so
        return []
