"""Every file that must stay as it is, on a disk that really is full, beside one that may go."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runbook.settings import forget
from tests.flows.disk_parts import MIB, World, fixes, make_world, old

CASES: list[dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[1] / "corpus" / "full_disk.toml").read_text("utf-8")
)["case"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with make_world(tmp_path, monkeypatch) as made:
        # As careless as a pattern can be: the guards are what counts.
        monkeypatch.setenv("RUNBOOK_ARCHIVE_LOGS", f"{made.logs}/*,{made.logs}/pg_wal/*,{made.home}/way/*")
        forget()
        yield made


def make(world: World, case: dict[str, Any], stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The look-alike, on the world's disk."""
    path = world.logs / str(case["name"])
    if case.get("folder"):
        path.mkdir()
        return path
    if case.get("link") == "symbolic":
        path.symlink_to(world.log("elsewhere"))
        return path
    world.log(case["name"], case.get("size", MIB), case.get("age_minutes", 600))
    if case.get("link") == "hard":
        os.link(path, world.logs / "second-name")
    if case.get("beside"):
        path.with_name(f"{path.name}.gz").write_bytes(b"something else")
    if case.get("still_open"):
        stack.enter_context(path.open("ab"))
    if case.get("app_log"):
        monkeypatch.setenv("APP_LOG", str(path))
        forget()
    if case.get("through_link"):
        (world.home / "way").symlink_to(world.logs)
        monkeypatch.setenv("RUNBOOK_ARCHIVE_LOGS", f"{world.home}/way/*,{world.logs}/good.log.1")
        forget()
    return path


def state(path: Path) -> tuple[object, ...]:
    seen = path.lstat()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["what"]))
async def test_it_stays_as_it_is(world: World, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        path = make(world, case, stack, monkeypatch)
        before = state(path)
        good = world.log("good.log.1", age_minutes=5)
        old(good, 500)
        world.fill(2 * MIB)
        report = await world.run(free_at=0.9)
    assert state(path) == before
    assert fixes(report)["good.log.1"] in {"proven", "refused"}
    acted = {name for name, how in fixes(report).items() if how in {"proven", "applied", "failed", "intended"}}
    assert acted <= {"good.log.1"}
    assert case.get("beside") or path.name not in fixes(report), "it is not even planned"


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 5
