"""The supervisors' own words, from programs that print them, and the counters of cgroups from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runbook import settings
from runbook.errors import BadSetting
from tasks import cgroup
from tasks.pressure import Unit
from tasks.supervisors import read_units

PM2 = [
    {
        "pid": 4711,
        "name": "web",
        "pm_id": 3,
        "pm2_env": {"restart_time": 9, "exit_code": 134, "DATABASE_URL": "postgres://app:hunter22@db/app"},
    },
    {"pid": 0, "name": "web", "pm_id": 4, "pm2_env": {"restart_time": 2}},
]
SYSTEMD = "MainPID=812\nNRestarts=4\nExecMainCode=2\nExecMainStatus=9\nResult=oom-kill\n"
DOCKER = [
    {
        "RestartCount": 5,
        "State": {"Pid": 99, "Running": True, "ExitCode": 0, "OOMKilled": False},
        "Config": {"Env": ["STRIPE_SECRET_KEY=sk_live_1234567890"]},
    }
]


def program(folder: Path, name: str, says: str, code: int = 0) -> None:
    """A program of this name that prints this and ends."""
    (folder / f"{name}.out").write_text(says)
    (folder / name).write_text(f'#!/bin/sh\n/bin/cat "{folder}/{name}.out"\nexit {code}\n')
    (folder / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_SUPERVISORS", "pm2, systemd:web.service, docker:web")
    settings.forget()
    return tmp_path


async def test_each_is_read_and_no_secret_goes_further(path: Path) -> None:
    program(path, "pm2", ">>>> In-memory PM2 is out-of-date\n" + json.dumps(PM2))
    program(path, "systemctl", SYSTEMD)
    program(path, "docker", json.dumps(DOCKER))
    units, notes = await read_units()
    assert notes == []
    assert units == [
        Unit(name="pm2 web 3", instance="3", pid=4711, restarts=9, exit_code=134),
        Unit(name="pm2 web 4", instance="4", pid=0, restarts=2),
        Unit(name="systemd web.service", instance="web.service", pid=812, restarts=4, exit_code=137, oom=True),
        Unit(name="docker web", instance="web", pid=99, restarts=5),
    ]


async def test_what_is_absent_fails_or_says_nonsense_is_told_and_the_others_are_read(path: Path) -> None:
    program(path, "pm2", "pm2 7: use `pm2 ls`\n")
    program(path, "docker", "no such container", code=1)
    units, notes = await read_units()
    assert units == []
    assert [note.split(":")[0] for note in notes] == ["pm2", "systemd", "docker"]
    assert "no list of instances" in notes[0]
    assert "No such file" in notes[1]
    assert "ended with 1" in notes[2]


async def test_a_unit_that_does_not_exist_is_told(path: Path) -> None:
    program(path, "systemctl", "MainPID=0\nResult=success\n")
    _, notes = await read_units()
    assert any("systemctl said what is no list" in note for note in notes)


@pytest.mark.parametrize("named", ["runit:web", "systemd", "pm2:web"])
async def test_an_unknown_supervisor_is_a_bad_setting(path: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_SUPERVISORS", named)
    settings.forget()
    with pytest.raises(BadSetting, match="systemd:UNIT"):
        await read_units()


def group(root: Path, path: str, current: int, maximum: str, cache: int, kills: int) -> None:
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    (folder / "memory.events").write_text(f"oom 1\noom_kill {kills}\n")


def test_a_group_and_its_parents_are_read_innermost_first(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    group(tmp_path, "/system.slice/web.service", 500, "max", 100, 2)
    group(tmp_path, "/system.slice", 900, "1000", 0, 5)
    found = cgroup.groups("/system.slice/web.service", tmp_path)
    assert [(one.path, one.used, one.limit, one.oom_kills) for one in found] == [
        ("/system.slice/web.service", 400, None, 2),
        ("/system.slice", 900, 1000, 5),
    ]
    assert cgroup.is_there(tmp_path)


def test_what_cannot_be_seen_is_no_group(tmp_path: Path) -> None:
    assert not cgroup.is_there(tmp_path)
    assert cgroup.groups("/gone", tmp_path) == []
    assert cgroup.groups("/../outside", tmp_path) == []
    group(tmp_path, "/broken", 1, "much", 0, 0)
    assert cgroup.groups("/broken", tmp_path) == []
