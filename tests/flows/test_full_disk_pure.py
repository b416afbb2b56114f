"""What full-disk finds and plans, as tables; no disk is touched."""

from __future__ import annotations

import pytest

from flows.full_disk import Seen, detect, plan
from runbook.model import Risk
from tasks.disk_trend import Slot, projected
from tasks.host import Disk
from tasks.log_archive import undo_archive
from tasks.rotated_logs import Rotated, is_rotated

GIB = 2**30


def disk(free: float, inodes: float = 0.5, path: str = "/", device: int = 1) -> Disk:
    return Disk(
        path=path, device=device, free=int(free * 100 * GIB), of=100 * GIB, inodes_free=int(inodes * 1000), inodes=1000
    )


def log(name: str = "web.log.1", device: int = 1, size: int = GIB, spared: str | None = None) -> Rotated:
    return Rotated(path=f"/logs/{name}", device=device, inode=7, size=size, mtime_ns=5, spared=spared)


def seen(
    *disks: Disk, hours: float | None = None, slots: tuple[Slot, ...] = (), logs: tuple[Rotated, ...] = ()
) -> Seen:
    return Seen(disks=disks, hours={one.path: hours for one in disks}, slots=slots, logs=logs)


@pytest.mark.parametrize(
    ("world", "subjects", "pages"),
    [
        (seen(disk(0.5)), [], []),
        (seen(disk(0.1)), [], []),
        (seen(disk(0.09)), ["disk /"], [False]),
        (seen(disk(0.02)), ["disk /"], [True]),
        (seen(disk(0.02), logs=(log(),)), ["disk /"], [False]),
        (seen(disk(0.5), hours=2.0), ["disk /"], [True]),
        (seen(disk(0.5), hours=2.0, logs=(log(),)), ["disk /"], [False]),
        (seen(disk(0.5), hours=40.0), [], []),
        (seen(disk(0.5, inodes=0.05)), ["inodes of /"], [True]),
        (seen(disk(0.5), slots=(Slot(name="dead", active=False, bytes=20 * GIB),)), ["write-ahead log"], [True]),
        (seen(disk(0.5), slots=(Slot(name="dead", active=False, bytes=GIB),)), [], []),
        (seen(disk(0.05), disk(0.05, path="/var", device=2)), ["disk /", "disk /var"], [False, False]),
    ],
)
def test_pure_detect(world: Seen, subjects: list[str], pages: list[bool]) -> None:
    found = detect(world, 0.1)
    assert [one.subject for one in found] == subjects
    assert [one.page for one in found] == pages


@pytest.mark.parametrize(
    ("world", "targets"),
    [
        (seen(disk(0.5), logs=(log(),)), []),
        (seen(disk(0.05), logs=(log(),)), ["file /logs/web.log.1"]),
        (seen(disk(0.05), logs=(log("a.log.2"), log("a.log.1"))), ["file /logs/a.log.2", "file /logs/a.log.1"]),
        (seen(disk(0.05), logs=(log(device=2),)), []),  # another disk is not helped by it
        (seen(disk(0.05), logs=(log(spared="somebody still writes to it"),)), []),
        (seen(disk(0.05), logs=(log(size=0),)), []),
        (seen(disk(0.001), logs=(log(size=GIB),)), []),  # no room for its copy
        (seen(disk(0.05), disk(0.05, path="/same"), logs=(log(),)), ["file /logs/web.log.1"]),
    ],
)
def test_pure_plan(world: Seen, targets: list[str]) -> None:
    fixes = plan(world, 0.1)
    assert [fix.target for fix in fixes] == targets
    assert {fix.risk for fix in fixes} <= {Risk.guarded}


def test_pure_undo_is_the_inverse() -> None:
    (fix,) = plan(seen(disk(0.05), logs=(log(),)), 0.1)
    back = undo_archive(fix)
    assert back.action == "restore_log" and back.target == fix.target
    assert back.expect == {"path": "/logs/web.log.1.gz", "size": GIB, "mtime_ns": 5}
    assert back.want == {"path": "/logs/web.log.1"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web.log.1", True),
        ("web.log-20260102", True),
        ("web-2026-01-02.log", True),
        ("web.log.2026-01-02", True),
        ("web.log", False),
        ("web.log.1.gz", False),
        ("web.log.backup", False),
        ("000000010000000000000001", False),
    ],
)
def test_pure_names_that_say_rotated(name: str, expected: bool) -> None:
    assert is_rotated(name) is expected


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ([100 - at for at in range(20)], 81 * 2 / 60),  # one a step of two minutes
        ([100.0] * 20, None),
        ([80 + at for at in range(20)], None),
        ([100 - at for at in range(5)], None),
    ],
)
def test_pure_hours_left(free: list[float], expected: float | None) -> None:
    found = projected([(at * 120_000, float(value)) for at, value in enumerate(free)])
    assert found == (None if expected is None else pytest.approx(expected))
