"""The whole runbook against a real server that really has no slot left, or whose sessions really block each other."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo import database_faults as faults
from demo.database_faults import wait_until
from demo.postgres import Postgres
from runbook import gate, settings
from runbook.model import FixState, Mode, Outcome, Report
from runbook.permit import Permit
from tasks import sessions
from tests.flows.conftest import SLOTS, Client, Keep, kills, lives, run

ROOT = Path(__file__).resolve().parents[2]


def states(report: Report, action: str = "end_session") -> list[FixState]:
    return [fix.state for fix in report.fixes if fix.action == action]


def stuck_query(connection: psycopg.Connection[object], sql: str) -> threading.Thread:
    """``sql`` under way in a thread of its own."""

    def work() -> None:
        with suppress(psycopg.Error):
            connection.execute(sql)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


KILLED = """
import asyncio, os, signal
from flows.pool_exhaustion import pool_exhaustion
from tasks import sessions

send = sessions._signal

async def killed(query, fix):
    if {after}:
        await send(query, fix)
    os.kill(os.getpid(), signal.SIGKILL)

sessions._signal = killed
asyncio.run(pool_exhaustion.fn(idle_seconds=0, active_seconds=0, wait_seconds=0, hold_seconds=0))
"""


def killed(*, after: bool) -> None:
    """A run in a process of its own that SIGKILL ends in the middle of its first act, before or after the signal."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(after=after)], cwd=ROOT, env=os.environ, check=False)
    assert done.returncode == -9


async def test_a_full_pool_is_freed_with_no_ordinary_slot_left(server: Postgres, keep: Keep) -> None:
    writers = keep(faults.idle_writers(server, 9))
    keep(faults.fill_slots(server))
    with pytest.raises(psycopg.OperationalError, match="remaining connection slots"):
        psycopg.connect(server.url(user="app"))
    report = await run()
    assert report.outcome is Outcome.fixed, report
    # Well again at 80% of 85% of 20 slots = 13, so seven of the nine had to go, the oldest, and no more.
    assert states(report) == [FixState.proven] * 7
    assert writers.alive() == 2
    assert [kills(server, pid) for pid, _ in writers.known].count(1) == 7
    assert f"connections {SLOTS}/{SLOTS} -> 13/{SLOTS}" in report.notices
    psycopg.connect(server.url(user="app")).close()


async def test_observe_shows_the_plan_and_changes_nothing(server: Postgres, keep: Keep) -> None:
    writers = keep(faults.idle_writers(server, 9))
    filled = keep(faults.fill_slots(server))
    report = await run(Mode.observe)
    assert report.outcome is Outcome.observed
    assert states(report) == [FixState.planned] * 7
    assert writers.untouched
    assert filled.untouched


async def test_what_is_still_sick_afterwards_is_not_called_fixed(server: Postgres, keep: Keep) -> None:
    keep(faults.idle_writers(server, 1))
    keep(faults.fill_slots(server))
    report = await run()
    assert states(report) == [FixState.proven]
    assert report.exit_code in {3, 4}
    assert any(f"holds {SLOTS - 1} of {SLOTS}" in notice for notice in report.notices), report.notices


async def test_who_finished_before_the_gate_decided_is_given_back(
    server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = client("""UPDATE "Class" SET color = 'x' WHERE id = 'class_00000001'""")
    stuck_query(client(autocommit=True), """UPDATE "Class" SET color = 'y' WHERE id = 'class_00000001'""")
    wait_until(lambda: faults.waiting(server) == 1, "the app to block")
    decide = gate.ask

    async def late(*words: Any, **more: Any) -> Permit:
        root.commit()
        return await decide(*words, **more)

    monkeypatch.setattr(gate, "ask", late)
    report = await run()
    (ended,) = [fix for fix in report.fixes if fix.action == "end_session"]
    assert (ended.state, ended.why) == (FixState.refused, "the target changed since it was read")
    assert lives(server, root.info.backend_pid)


async def test_an_empty_server_is_healthy(server: Postgres) -> None:
    report = await run()
    assert report.outcome is Outcome.healthy
    assert [*report.findings, *report.fixes, *report.notices] == []


async def test_the_root_of_a_lock_tree_goes_and_the_app_goes_on(server: Postgres, keep: Keep) -> None:
    writers = keep(faults.idle_writers(server, 1))
    waiters = keep(faults.blocked_app(server, 5, 1))
    report = await run(idle_seconds=3600)
    assert report.outcome is Outcome.fixed, report
    assert [fix.target for fix in report.fixes if fix.action == "end_session"] == [f"session {writers.known[0][0]}"]
    assert waiters.untouched
    wait_until(lambda: faults.waiting(server) == 0, "the app to go on")


async def test_a_prepared_transaction_that_blocks_is_told_and_left(server: Postgres, client: Client) -> None:
    client("""UPDATE "Class" SET color = 'x' WHERE id = 'class_00000001'; PREPARE TRANSACTION 'payment-7'""")
    stuck_query(client(autocommit=True), """UPDATE "Class" SET color = 'y' WHERE id = 'class_00000001'""")
    wait_until(lambda: faults.waiting(server) == 1, "the app to block")
    report = await run()
    assert [finding.subject for finding in report.findings] == ["prepared transaction"]
    assert (report.outcome, list(report.fixes)) == (Outcome.refused, [])
    assert faults.waiting(server) == 1


DEAF = "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"


def running_root(server: Postgres, client: Client, sql: str) -> int:
    """The pid of a session that runs ``sql`` while the app waits for its lock."""
    root = client('LOCK TABLE "School"')
    stuck_query(root, sql)
    stuck_query(client(autocommit=True), 'SELECT count(*) FROM "School"')
    wait_until(lambda: faults.waiting(server) == 1, "the app to block")
    return root.info.backend_pid


async def test_a_query_that_no_cancel_stops_is_ended_afterwards(server: Postgres, client: Client) -> None:
    pid = running_root(server, client, DEAF)
    report = await run()
    assert [(fix.action, fix.state) for fix in report.fixes] == [
        ("cancel_query", FixState.failed),
        ("end_session", FixState.proven),
    ]
    assert report.outcome is Outcome.fixed
    assert not lives(server, pid)


async def test_a_later_run_remembers_that_a_cancel_did_not_stop_it(
    server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_root(server, client, DEAF)
    with monkeypatch.context() as patch:
        patch.setattr("flows.pool_exhaustion.insist", lambda planned, _tried: planned)
        first = await run()
    assert states(first, "cancel_query") == [FixState.failed]
    assert first.outcome is Outcome.unsolved
    second = await run()
    assert [(fix.action, fix.state) for fix in second.fixes] == [("end_session", FixState.proven)]


async def test_a_cancel_that_was_never_sent_proves_nothing(server: Postgres, client: Client) -> None:
    pid = running_root(server, client, "SELECT pg_sleep(600)")
    killed(after=False)
    report = await run()
    assert [(fix.action, fix.state) for fix in report.fixes] == [("cancel_query", FixState.proven)]
    assert lives(server, pid)


async def test_a_query_that_a_cancel_stops_keeps_its_session(server: Postgres, client: Client) -> None:
    pid = running_root(server, client, "SELECT pg_sleep(600)")
    report = await run()
    assert [(fix.action, fix.state) for fix in report.fixes] == [("cancel_query", FixState.proven)]
    assert report.outcome is Outcome.fixed
    assert lives(server, pid)


async def test_a_role_at_its_own_limit_is_a_full_pool(server: Postgres, client: Client) -> None:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute("ALTER ROLE app CONNECTION LIMIT 6")
    for _ in range(6):
        client("SELECT 1")
    report = await run()
    assert report.findings[0].subject == "pool role app"
    assert (report.outcome, states(report)) == (Outcome.fixed, [FixState.proven] * 2)


async def test_refusals_in_the_apps_log_are_a_reason_and_old_ones_do_not_spoil_the_proof(
    server: Postgres, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "app.log"
    now = datetime.now(UTC).isoformat()
    log.write_text(f'{{"level":"error","time":"{now}","msg":"P2024: Timed out fetching a new connection"}}\n')
    monkeypatch.setenv("APP_LOG", str(log))
    settings.forget()
    client("SELECT 1")
    report = await run()
    assert report.findings[0].subject == "app log"
    assert (report.outcome, states(report)) == (Outcome.fixed, [FixState.proven])
    client("SELECT 1")
    assert (await run()).outcome is Outcome.healthy, "what the log said before the proof is past, for the next run too"


async def test_without_proof_of_the_first_the_others_are_not_touched(
    server: Postgres, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = keep(faults.idle_writers(server, 9))
    keep(faults.fill_slots(server))
    monkeypatch.setattr(sessions, "END", sessions.TARGET + " SELECT true AS sent FROM target")  # says yes, does nothing
    monkeypatch.setattr(sessions, "PROVE_SECONDS", 0.05)
    report = await run()
    assert states(report) == [FixState.failed, *[FixState.refused] * 6]
    assert report.outcome is Outcome.unsolved
    assert writers.untouched


async def test_two_runs_at_once_end_a_session_once(server: Postgres, keep: Keep) -> None:
    writers = keep(faults.idle_writers(server, 1))
    keep(faults.blocked_app(server, 3, 1))
    reports = await asyncio.gather(run(), run())
    ends = [state for report in reports for state in states(report)]
    assert ends.count(FixState.proven) == 1, reports
    assert kills(server, writers.known[0][0]) == 1


@pytest.mark.parametrize(("after", "looked"), [(False, FixState.failed), (True, FixState.proven)])
async def test_a_process_killed_while_it_acts_is_settled_by_looking(
    server: Postgres, keep: Keep, after: bool, looked: FixState
) -> None:
    writers = keep(faults.idle_writers(server, 1))
    keep(faults.blocked_app(server, 1, 1))
    pid = writers.known[0][0]
    killed(after=after)
    report = await run()
    (first, *rest) = [notice for notice in report.notices if "by looking" in notice]
    assert f"session {pid}) by looking: {looked}" in first
    assert rest == []
    assert (report.outcome, states(report)) == ((Outcome.healthy, []) if after else (Outcome.fixed, [FixState.proven]))
    assert kills(server, pid) == 1
