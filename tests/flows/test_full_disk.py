"""The whole runbook on a disk that really is full, with logs that are really packed, and everything that goes wrong."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.undoing import undo
from flows.full_disk import HANDS
from runbook import outbox
from runbook.model import FixState, Mode, Outcome
from runbook.run import Run
from tasks import rotated_logs
from tests.flows.disk_parts import LINE, MIB, World, fixes, make_world, of, old

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with make_world(tmp_path, monkeypatch) as made:
        yield made


async def test_rotated_logs_are_packed_and_the_disk_has_room_again(world: World) -> None:
    names = [f"web.log.{number}" for number in (1, 2, 3, 4)]
    logs = [world.log(name) for name in names]
    logs[0].chmod(0o640)
    before = logs[0].read_bytes()
    world.fill(2 * MIB)
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    assert fixes(report) == dict.fromkeys(names, "proven")
    packed = logs[0].with_name("web.log.1.gz")
    assert gzip.decompress(packed.read_bytes()) == before and packed.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in world.logs.iterdir()) == [f"{name}.gz" for name in names]
    assert (await world.run()).outcome is Outcome.healthy


async def test_a_disk_with_room_is_left_alone(world: World) -> None:
    log = world.log("web.log.1")
    report = await world.run()
    assert report.outcome is Outcome.healthy and report.fixes == [] and log.exists()


async def test_observe_changes_nothing(world: World) -> None:
    log = world.log("web.log.1")
    world.fill(2 * MIB)
    report = await world.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed and fixes(report) == {"web.log.1": "planned"}
    assert [one.name for one in world.logs.iterdir()] == [log.name]


async def test_undo_puts_the_log_back_as_it_was(world: World) -> None:
    log = world.log("web.log.1")
    before, seen = log.read_bytes(), log.stat()
    world.fill(6 * MIB)
    report = await world.run(free_at=0.4)
    undone = await undo(world.book, of(report, "web.log.1").id)
    assert undone.outcome is Outcome.undone, undone
    assert log.read_bytes() == before and log.stat().st_mtime_ns == seen.st_mtime_ns
    assert not log.with_name("web.log.1.gz").exists()
    again = await world.run(free_at=0.4)
    assert log.read_bytes() == before and "a person undid" in of(again, "web.log.1").why


async def test_undo_is_refused_when_another_file_took_the_place(world: World) -> None:
    log = world.log("web.log.1")
    world.fill(6 * MIB)
    report = await world.run(free_at=0.4)
    log.write_text("the next one\n")
    undone = await undo(world.book, of(report, "web.log.1").id)
    assert undone.outcome is not Outcome.undone and log.read_text() == "the next one\n"
    assert log.with_name("web.log.1.gz").exists()


async def test_undo_is_refused_when_the_copy_is_another(world: World) -> None:
    log = world.log("web.log.1")
    size = log.stat().st_size
    world.fill(6 * MIB)
    report = await world.run(free_at=0.4)
    packed = log.with_name("web.log.1.gz")
    packed.write_bytes(gzip.compress(b"x" * size))  # as long as ours
    assert (await undo(world.book, of(report, "web.log.1").id)).outcome is not Outcome.undone
    assert not log.exists()


async def test_written_to_between_plan_and_act_it_stays(world: World) -> None:
    log = world.log("web.log.1")
    world.fill(3 * MIB)
    (plan,) = rotated_logs.plan_archive(await rotated_logs.read_rotated.fn(60), world.disk.stat().st_dev, 9 * MIB)
    with log.open("ab") as out:
        out.write(LINE)
    old(log)
    async with Run("full-disk", Mode.auto) as run:
        from runbook import gate

        permit = await gate.ask(run, [plan], share=None)
        await permit.apply(HANDS)
    assert run.report is not None and fixes(run.report) == {"web.log.1": "refused"}
    assert log.read_bytes().endswith(LINE) and not log.with_name("web.log.1.gz").exists()


async def test_written_to_while_it_was_packed_it_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    log = world.log("web.log.1")
    world.fill(3 * MIB)
    link = os.link

    def late(part: Path, packed: Path) -> None:
        link(part, packed)
        with log.open("ab") as out:
            out.write(b"the last word\n")

    monkeypatch.setattr(os, "link", late)
    assert fixes(await world.run()) == {"web.log.1": "refused"}
    assert log.read_bytes().endswith(b"the last word\n")


async def test_with_no_room_for_a_copy_nothing_is_lost(world: World) -> None:
    log = world.log("web.log.1", size=8 * MIB)
    log.write_bytes(os.urandom(8 * MIB))  # it does not pack at all
    old(log)
    before = log.read_bytes()
    world.fill(3 * MIB)
    report = await world.run()
    assert fixes(report) == {"web.log.1": "failed"} and report.outcome is Outcome.unsolved
    assert log.read_bytes() == before and [one.name for one in world.logs.iterdir()] == ["web.log.1"]
    assert {one.key for one in outbox.pages(world.book)} == {"full-disk:unsolved"}


async def test_a_failed_canary_stops_the_rest(world: World) -> None:
    first, second = world.log("web.log.2", size=8 * MIB, age_minutes=9000), world.log("web.log.1")
    first.write_bytes(os.urandom(8 * MIB))
    old(first, 9000)
    world.fill(3 * MIB)
    report = await world.run()
    assert fixes(report) == {"web.log.2": "failed", "web.log.1": "refused"} and second.exists()


async def test_nothing_to_pack_and_nearly_full_is_a_page(world: World) -> None:
    world.log("web.log")
    world.fill(100_000)
    report = await world.run()
    assert report.outcome is Outcome.refused and report.findings[0].page
    assert "a person must make room" in report.findings[0].detail
    assert [one.severity for one in outbox.pages(world.book)] == ["critical"]


async def test_a_half_done_fix_is_finished_without_packing_again(world: World) -> None:
    log = world.log("web.log.1")
    packed = log.with_name("web.log.1.gz")
    packed.write_bytes(gzip.compress(log.read_bytes()))  # a run died after the copy and before it removed the original
    copy = packed.stat().st_ino
    world.fill(2 * MIB)
    report = await world.run()
    assert fixes(report) == {"web.log.1": "proven"}
    assert packed.stat().st_ino == copy and not log.exists()


KILLED = """
import asyncio, os, signal
from pathlib import Path
from flows.full_disk import full_disk

if {after}:
    os.fsync = lambda number: None
    real = Path.unlink
    def unlink(self, missing_ok=False):
        real(self, missing_ok)
        if self.name == "web.log.1":
            os.kill(os.getpid(), signal.SIGKILL)
    Path.unlink = unlink
else:
    os.link = lambda part, final: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(full_disk.fn(free_at=0.2, hold_seconds=0))
"""


@pytest.mark.parametrize(("after", "state"), [(True, FixState.proven), (False, FixState.failed)])
async def test_a_killed_run_is_settled_by_looking(world: World, after: bool, state: FixState) -> None:
    log = world.log("web.log.1")
    before = log.read_bytes()
    world.fill(2 * MIB)
    script = KILLED.format(after=after)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9
    report = await world.run(free_at=0.01)
    assert any("by looking" in text and state.value in text for text in report.notices), report.notices
    packed = log.with_name("web.log.1.gz")
    whole = gzip.decompress(packed.read_bytes()) if after else log.read_bytes()
    assert whole == before
    if not after:
        again = await world.run()  # the part it left behind is no hindrance
        assert again.outcome is Outcome.fixed
        assert [one.name for one in world.logs.iterdir()] == ["web.log.1.gz"]


async def test_settings_that_cannot_be_right_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from runbook.settings import forget

    monkeypatch.setenv("RUNBOOK_DISK_PATHS", str(world.home / "gone"))
    forget()
    report = await world.run()
    assert report.outcome is Outcome.refused and "RUNBOOK_DISK_PATHS" in report.reason
    monkeypatch.setenv("RUNBOOK_DISK_PATHS", str(world.disk))
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@127.0.0.1:9/app")
    monkeypatch.setenv("RUNBOOK_ARCHIVE_LOGS", "")
    forget()
    report = await world.run()
    assert report.outcome is Outcome.healthy
    told = " ".join(report.notices)
    assert "RUNBOOK_ARCHIVE_LOGS" in told and "replication slots were not looked at" in told
