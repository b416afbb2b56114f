"""The gate against an adversary, on both databases: no cap passed, no act without a permit, no effect twice.

``RUNBOOK_CHAOS_STEPS`` is how many steps in all (``make chaos`` takes 100,000; the tests a few thousand).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from demo.postgres import Postgres
from runbook import settings as our
from runbook.ledger import Ledger
from runbook.schema import meta
from tests.chaos.gate_machine import GateMachine, over
from tests.chaos.gate_world import CAPS, DOES, HAPPENS

STEPS = int(os.environ.get("RUNBOOK_CHAOS_STEPS", "2000"))
EACH = 50
PARTS = 2 if STEPS > 10_000 else 1
"""Of a database's steps, each a test of its own, so that the slower database has not the last word alone."""

parts = pytest.mark.parametrize("part", range(PARTS))
FIGURES = os.environ.get("RUNBOOK_CHAOS_FIGURES", "")


@pytest.fixture(autouse=True)
def tight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lines = []
    for scope, cap in CAPS.items():
        values = [f"{name} = {value}" for name, value in cap.model_dump(exclude_none=True).items()]
        lines += [f"[caps.{scope}]", *values]
    lines += ["[caps.failed-payments]", "per_run = 3", "per_15min = 6", "per_24h = 12", "failures_15min = 3"]
    lines += ["sick_share = 0.5"]
    (tmp_path / "runbook.toml").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/of-nobody.db")  # opened by each run, and not used
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    our.forget()
    yield
    our.forget()


def drive(machine: type[GateMachine], database: str, part: int) -> None:
    GateMachine.steps.clear()
    seen, done, never = GateMachine.steps, 0, [*HAPPENS]
    # Half for each database; twice that where something rare has not happened yet. Some examples end before their time.
    steps = STEPS // 2 // PARTS
    while done < steps or (never and done < 2 * steps):
        hypothesis = settings(
            max_examples=max(steps - done, steps // 10) // (2 * EACH) + 1,  # a rule is about two steps
            stateful_step_count=EACH,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=STEPS < 10_000,
            database=None,
        )
        run_state_machine_as_test(machine, settings=hypothesis)
        done = sum(count for what, count in seen.items() if what in DOES)
        never = [what for what in HAPPENS if seen[what] < STEPS // 100_000]
    print(f"{database}: {done} steps: {dict(seen)}")
    if FIGURES:
        Path(f"{FIGURES}.{part}.{database}").write_text(json.dumps({"steps": done, **seen}))
    assert seen["acted"] >= done // 100, "it hardly ever acted"
    assert not never, "what never happened shows nothing"


@parts
def test_the_gate_on_sqlite(tmp_path: Path, part: int) -> None:
    template = tmp_path / "template.db"
    Ledger(f"sqlite:///{template}").engine.dispose()
    number, before = count(), list[Ledger]()

    def fresh() -> Ledger:
        while before:
            before.pop().engine.dispose()
        path = tmp_path / f"{next(number) % 4}.db"
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            name.unlink(missing_ok=True)
        shutil.copy(template, path)
        before.append(Ledger(f"sqlite:///{path}"))
        return before[0]

    drive(over(fresh), "SQLite", part)


@parts
def test_the_gate_on_postgresql(part: int) -> None:
    with Postgres(max_connections=30) as server:
        book = Ledger(server.url())
        tables = ", ".join(table.name for table in meta.sorted_tables if table.name != "runbook_version")

        def fresh() -> Ledger:
            with psycopg.connect(server.url(), autocommit=True) as owner:
                owner.execute(f"TRUNCATE {tables} RESTART IDENTITY")
            return book

        drive(over(fresh), "PostgreSQL", part)
        book.engine.dispose()
