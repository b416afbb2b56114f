"""Today's rules on yesterday's readings: the same rules change nothing, others say what they would have done."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import delete, func, select, update

from demo import database_faults as faults
from demo.postgres import Postgres
from demo.prefect_server import BIN, ROOT
from demo.seed import seed
from deployments.backtest import as_text, backtest
from flows.pool_exhaustion import pool_exhaustion
from runbook import recorder, settings
from runbook.errors import BadSetting
from runbook.ledger import Ledger, ledger
from runbook.model import Mode, Outcome
from runbook.schema import fix, snapshot

NAME = "pool-exhaustion"
ZERO = {"idle_seconds": 1, "active_seconds": 1, "wait_seconds": 1, "hold_seconds": 0}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    with Postgres(max_connections=25) as running:
        seed(running.url(), users=50, subscriptions=5)
        monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
        monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
        monkeypatch.setenv("RUNBOOK_MODE", "auto")
        monkeypatch.setenv("DATABASE_URL", running.url(user="runbook"))
        settings.forget()
        yield running
    settings.forget()


async def run(mode: Mode) -> Outcome:
    return (await pool_exhaustion.fn(mode=mode, **ZERO)).outcome


def kept(book: Ledger) -> int:
    with book.read() as connection:
        return int(connection.execute(select(func.count()).select_from(snapshot)).scalar_one())


async def test_the_same_rules_would_do_what_was_done(server: Postgres) -> None:
    book = ledger()
    assert await run(Mode.auto) is Outcome.healthy
    assert await run(Mode.auto) is Outcome.healthy
    assert kept(book) == 1, "of healthy readings one a quarter of an hour is enough"
    filled = [faults.idle_writers(server, 12), faults.fill_slots(server)]
    try:
        faults.wait_until(lambda: faults.youngest_idle(server) > 1.5, "the writers to be old")
        assert await run(Mode.auto) is Outcome.fixed
    finally:
        for one in filled:
            one.close()
    found = backtest(book, NAME, 0, {})
    assert (found.readings, found.sick, len(found.differs)) == (2, 1, 0), found
    assert found.granted == 7
    patient = backtest(book, NAME, 0, {"idle_seconds": 3600})
    assert patient.granted == 0
    (differs,) = patient.differs
    assert not differs.would and len(differs.did) == 7
    assert "would nothing; did end_session" in as_text(patient)


async def test_a_run_that_only_observed_differs_from_what_would_be_done(server: Postgres) -> None:
    with psycopg.connect(server.url(user="app")) as idle:
        filled = faults.fill_slots(server)
        idle.execute('UPDATE "Class" SET color = color')
        faults.wait_until(lambda: faults.youngest_idle(server) > 1.5, "it to be old")
        assert await run(Mode.observe) is Outcome.observed
        filled.close()
    (differs,) = backtest(ledger(), NAME, 0, {}).differs
    assert len(differs.would) == 1 and not differs.did


async def test_what_a_person_approved_would_be_done_and_what_they_were_not_asked_is_told_apart(
    server: Postgres,
) -> None:
    filled = [faults.idle_writers(server, 2), faults.fill_slots(server)]
    try:
        faults.wait_until(lambda: faults.youngest_idle(server) > 1.5, "the writers to be old")
        answered("yes\n")
    finally:
        for one in filled:
            one.close()
    book = ledger()
    found = backtest(book, NAME, 0, {})
    assert (found.granted, found.asked, found.differs) == (3, 0, ()), found
    with book.write() as connection:  # as if nobody had been asked about one of them
        one = connection.execute(select(fix.c.id).where(fix.c.action == "end_session").limit(1)).scalar_one()
        connection.execute(delete(fix).where(fix.c.id == one))
    (differs,) = backtest(book, NAME, 0, {}).differs
    assert len(differs.would) == 3 and sum(word.startswith("ask for end_session") for word in differs.would) == 1


async def test_what_a_person_refused_would_be_refused(server: Postgres) -> None:
    filled = [faults.idle_writers(server, 2), faults.fill_slots(server)]
    try:
        faults.wait_until(lambda: faults.youngest_idle(server) > 1.5, "the writers to be old")
        answered("no\n")
    finally:
        for one in filled:
            one.close()
    found = backtest(ledger(), NAME, 0, {})
    assert (found.granted, found.asked, found.refused, found.differs) == (0, 0, 3, ()), found


def answered(words: str) -> None:
    """One run in a terminal in which a person answers what they are asked."""
    outer, inner = pty.openpty()
    given = [word for name, value in ZERO.items() for word in ("--set", f"{name}={value}")]
    command = [str(BIN / "runbook"), "run", NAME, "--mode", "approve", *given]
    with subprocess.Popen(command, stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as asked:
        os.close(inner)
        os.write(outer, words.encode())
        asked.communicate(timeout=120)
        os.close(outer)


async def test_it_says_how_much_was_seen_what_was_thinned_and_what_was_too_large(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = ledger()
    for _ in range(3):
        assert await run(Mode.auto) is Outcome.healthy
    text = as_text(backtest(book, NAME, 0, {}))
    assert "on; 1 of 3 runs left a reading" in text and "one in 15 minutes is kept" in text
    assert "were not kept" not in text
    monkeypatch.setattr(recorder, "BYTES", 10)
    monkeypatch.setattr(recorder, "EVERY_MS", 0)
    assert await run(Mode.auto) is Outcome.healthy
    found = backtest(book, NAME, 0, {})
    assert (found.readings, found.skipped, found.kept.too_large, found.kept.with_reading) == (1, 0, 1, 1)
    assert "1 readings were larger than" in as_text(found)


@pytest.mark.parametrize("name", ["site-down"])
def test_a_runbook_that_keeps_no_readings_says_so(server: Postgres, name: str) -> None:
    with pytest.raises(BadSetting, match="keeps no readings to replay"):
        backtest(ledger(), name, 0, {})


async def test_readings_of_another_form_are_left_out_and_none_at_all_is_said(server: Postgres) -> None:
    book = ledger()
    with pytest.raises(BadSetting, match="no reading was kept"):
        backtest(book, NAME, 0, {})
    await run(Mode.auto)
    with book.write() as connection:
        connection.execute(update(snapshot).values(parameters={"unheard_of": 1}))
    assert backtest(book, NAME, 0, {}).skipped == 1
