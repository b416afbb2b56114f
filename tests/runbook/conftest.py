"""Both ledgers: an SQLite file and a PostgreSQL database, each new for its test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from demo.postgres import Postgres
from runbook import settings
from runbook.ledger import Ledger, ledger
from tests.runbook.parts import World

COUNT = itertools.count()


@pytest.fixture(scope="session")
def ledger_server() -> Iterator[Postgres]:
    with Postgres(max_connections=100) as server:
        yield server


@pytest.fixture
def postgres_url(ledger_server: Postgres) -> str:
    name = f"ledger{next(COUNT)}"
    with psycopg.connect(ledger_server.url("postgres"), autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name}")
    return ledger_server.url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def book(ledger_url: str) -> Iterator[Ledger]:
    made = Ledger(ledger_url)
    yield made
    made.engine.dispose()


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of this machine, no .env of this folder."""
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/own.db")
    settings.forget()
    yield
    settings.forget()


@pytest.fixture
def in_force(monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Iterator[Ledger]:
    """The ledger of this process's settings, on both databases, with a runbook that may act."""
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", ledger_url)
    settings.forget()
    made = ledger()
    yield made
    made.engine.dispose()


@pytest.fixture
def world() -> World:
    return World()
