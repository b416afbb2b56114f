"""Clusters that are copies of one are as good as new, and gone afterwards."""

from __future__ import annotations

import os
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
