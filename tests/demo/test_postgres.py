"""Clusters that are copies of one are as good as new, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from demo import postgres
from demo.postgres import TEMPLATE, Postgres, made_once, memory


def tables(server: Postgres) -> list[str]:
    with psycopg.connect(server.url(user="runbook"), autocommit=True) as connection:
        return [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


def test_copies_know_nothing_of_each_other_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TEMPLATE, raising=False)
    with made_once():
        template = Path(os.environ[TEMPLATE])
        with Postgres() as one, Postgres() as other:
            folders = [template, one.data, other.data]
            with psycopg.connect(one.url(), autocommit=True) as owner:
                owner.execute("CREATE TABLE of_one (id int)")
            assert tables(one) == ["of_one"] and tables(other) == []
    assert not [folder for folder in folders if folder.exists()] and TEMPLATE not in os.environ


def test_a_machine_without_room_in_memory_keeps_them_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "MEMORY_BYTES", 1 << 60)
    assert memory() is None
    with Postgres() as server:
        assert tables(server) == [] and not server.data.is_relative_to("/dev/shm")


KILLED = """
import os, signal
from demo.postgres import TEMPLATE, Postgres, made_once
with made_once(), Postgres() as server:
    print(os.environ[TEMPLATE], server.data, (server.data / "postmaster.pid").read_text().split()[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid: str) -> bool:
    """Whether it runs: of one that has ended and was not waited for, the command line is empty."""
    command = Path("/proc") / pid / "cmdline"
    return command.exists() and bool(command.read_bytes())


def test_who_is_killed_leaves_no_server_and_no_folder() -> None:
    env = {name: value for name, value in os.environ.items() if name != TEMPLATE}
    words = [sys.executable, "-c", KILLED]
    template, data, pid = subprocess.run(words, env=env, capture_output=True, text=True, check=False).stdout.split()
    folders = [Path(template), Path(data)]
    deadline = time.monotonic() + 60
    while alive(pid) or any(folder.exists() for folder in folders):
        assert time.monotonic() < deadline, (alive(pid), folders)
        time.sleep(0.2)
