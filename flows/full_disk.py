"""The disk runs out of room: little is free, few inodes are left, or it will be full within hours.

Symptom: "No space left on device", writes fail, the database stops; the alert disk fires.
Cause: logs that were rotated and never packed, a file that grows, write-ahead log that a dead replication slot keeps.
Fix: pack rotated logs that RUNBOOK_ARCHIVE_LOGS names and nobody writes to, the oldest first and one before the rest:
    read back, compared, and only then the original is removed. Nothing is deleted that is not packed beside it. Never a
    live log, a link, a file with two names, or anything of PostgreSQL's: pg_wal is never touched.
Verify: each copy is unpacked and counted; after hold_seconds the disks are read again.
Undo: runbook undo unpacks a log to its old place, name and time, if nothing took its place since.
By hand: df -h and df -i; du -xh --max-depth=2 / | sort -h | tail shows what is big. Add storage or move a folder. A
    slot that nobody reads: SELECT pg_drop_replication_slot('name'), after its subscriber's owner agreed. Files that
    were deleted but are still open keep their room until their process restarts: lsof +L1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import OutsideError
from runbook.memory import measure
from runbook.model import Finding, Fix, Frozen, Json, Judged, Mode, Report
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks.disk_trend import Slot, holding, hours_left, read_slots, remember_free, soon
from tasks.host import Disk, read_disks
from tasks.log_archive import archive_log, look_up_log, restore_log, undo_archive
from tasks.logs import read_log
from tasks.rotated_logs import Rotated, plan_archive, read_rotated

NAME = "full-disk"
LAST_SHARE = 0.03
"""Below this share of free room a person is told at night."""

HANDS = {
    "archive_log": Hand(archive_log, look_up_log, undo_archive),
    "restore_log": Hand(restore_log, look_up_log),
}

Share = Annotated[float, Field(ge=0.01, le=1)]
Minutes = Annotated[int, Field(ge=1, le=10_080)]
Hold = Annotated[int, Field(ge=0, le=60)]


class Seen(Frozen):
    """One look: the disks with the hours each has left, the slots, and the rotated logs."""

    disks: Sequence[Disk]
    hours: Mapping[str, float | None]
    slots: Sequence[Slot]
    logs: Sequence[Rotated]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def full_disk(
    mode: Mode = Mode.auto,
    free_at: Share = parameter(NAME, "free_at", 0.1),
    rest_minutes: Minutes = parameter(NAME, "rest_minutes", 60),
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 1),
) -> Report:
    """Make room on a disk that runs full, out of what can be had back, and say what a person must do about the rest.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        free_at: The share of a disk's bytes or inodes below which too little is free, 0.01 to 1.
        rest_minutes: How long nobody must have written to a rotated log before it is packed, in minutes.
        hold_seconds: How long to wait before the disks are read again to prove the fix, in seconds.
    """
    async with Run(NAME, mode) as run:
        await run.settle(HANDS)
        seen = await look(run, rest_minutes)
        remember_free(run.ledger, seen.disks)
        measure(run.ledger, {"disk_free_share": min(one.share for one in seen.disks)})
        run.found(found := detect(seen, free_at))
        run.saw("disks", seen, sick=bool(found), free_at=free_at)
        for text in notices(seen, free_at):
            run.notice(text)
        if run.findings:

            async def again() -> list[Fix]:
                return plan(await look(run, rest_minutes), free_at)

            permit = await gate.ask(run, plan(seen, free_at), share=None, again=again)
            await permit.apply(HANDS)
            await asyncio.sleep(hold_seconds if permit.fixes else 0)
            run.remains(detect(await look(run, rest_minutes), free_at))
    return run.result()


async def look(run: Run, rest_minutes: int) -> Seen:
    """Read everything; a log still to be read by the other runbooks is read first, so that packing hides nothing."""
    if settings().has_app_log:
        try:
            await read_log()
        except OutsideError as error:
            run.notice(str(error))
    disks, slots = await read_disks(), list[Slot]()
    if getattr(settings(), settings().monitor_setting().lower()):
        try:
            slots = await read_slots()
        except OutsideError as error:
            run.notice(f"replication slots were not looked at: {error}")
    hours = {one.path: hours_left(run.ledger, one) for one in disks}
    return Seen(disks=disks, hours=hours, slots=slots, logs=await read_rotated(rest_minutes))


def replay(_stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of disks and logs as they were read then."""
    read, free_at = Seen.model_validate(seen), float(given["free_at"])
    return Judged(detect(read, free_at), plan(read, free_at))


def detect(seen: Seen, free_at: float) -> list[Finding]:
    """Disks with too little room or too few inodes, or full within hours; slots that keep the log back."""
    found = [finding for disk in seen.disks for finding in _of_disk(disk, seen, free_at)]
    for text in holding(seen.slots):
        advice = "a person asks its subscriber's owner, then drops the slot; pg_wal itself is never touched"
        found.append(Finding(subject="write-ahead log", detail=f"{text}: {advice}", page=True))
    return found


def _of_disk(disk: Disk, seen: Seen, free_at: float) -> Iterator[Finding]:
    late = soon(disk, seen.hours.get(disk.path))
    helps = bool(plan(seen, free_at))
    if disk.share < free_at or late:
        said = f"{disk.share:.1%} is free ({disk.free >> 20} of {disk.of >> 20} MiB)"
        needs = "" if helps else ": nothing here may be packed, a person must make room"
        alone = not helps and (disk.share < LAST_SHARE or bool(late))
        detail = f"{said}{f'; {late}' if late else ''}{needs}"
        yield Finding(subject=f"disk {disk.path}", detail=detail, evidence=disk.model_dump(), page=alone)
    if disk.inode_share < free_at:
        said = f"{disk.inode_share:.1%} of its inodes are free: packing does not help, a person removes small files"
        yield Finding(subject=f"inodes of {disk.path}", detail=said, evidence=disk.model_dump(), page=True)


def plan(seen: Seen, free_at: float) -> list[Fix]:
    """Pack the rotated logs that lie on a disk with too little room, as far as their copies fit beside them."""
    fixes: list[Fix] = []
    for disk in seen.disks:
        if disk.share < free_at or soon(disk, seen.hours.get(disk.path)):
            fixes += plan_archive(seen.logs, disk.device, disk.free)
    return list({fix.target: fix for fix in fixes}.values())


def notices(seen: Seen, free_at: float) -> Iterator[str]:
    """What a person should know that is no finding."""
    if not settings().runbook_archive_logs:
        yield "not configured: RUNBOOK_ARCHIVE_LOGS, so no log may be packed (for example /var/log/app/*.log.[0-9]*)"
    if any(disk.share < free_at for disk in seen.disks):
        for one in seen.logs:
            if one.spared and not one.path.endswith(".gz"):
                yield f"{one.path} is left as it is: {one.spared}"
