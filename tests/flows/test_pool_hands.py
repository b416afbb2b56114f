"""The hands of pool-exhaustion, each handed a permit it should not use: who must live, lives; who moved on, is left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from demo import database_faults as faults
from demo.postgres import Postgres
from flows.pool_exhaustion import HANDS, NAME, plan
from runbook import approval, gate, settings
from runbook.approval import Approval
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, FixState, Mode, Risk
from runbook.permit import Permit
from runbook.run import Run
from tasks.database import connect
from tasks.idle_timeout import put_back
from tasks.pool import Bounds, Pool
from tasks.sessions import is_cancelled, is_ended, read_pool
from tests.flows.conftest import Client, Keep, kills, lives
from tests.flows.pool_parts import CASES, Case, lookalike

NOW = Bounds(full_at=0.3, idle_seconds=0, active_seconds=0, wait_seconds=0)
CURE = NOW._replace(idle_seconds=1)


SPARED = [case for case in CASES if "spared" in case]


def ending(expect: dict[str, Any], action: str = "end_session") -> Fix:
    """A fix the plan would never make."""
    target = f"session {expect['pid']}"
    return Fix(action=action, target=target, risk=Risk.auto, why="a test", undo="none", expect=expect)


async def grant(*fixes: Fix, mode: Mode = Mode.auto, book: Ledger | None = None) -> Permit:
    """A real grant for exactly these."""
    run = Run(NAME, mode)
    run.ledger = book or run.ledger
    run.id = run.ledger.open_run(NAME, mode)
    return await gate.ask(run, fixes, share=None)


async def done(*fixes: Fix) -> list[FixState]:
    """What became of them once granted."""
    permit = await grant(*fixes)
    assert len(permit.fixes) == len(fixes)
    await permit.apply(HANDS)
    return [permit.ledger.state(fix.id) for fix in permit.fixes]


async def expectations(pids: Sequence[int]) -> tuple[Pool, list[dict[str, Any]]]:
    pool = await read_pool()
    found = [one for pid in pids if (one := pool.session(pid)) is not None]
    assert len(found) == len(pids)
    return pool, [one.expect | {"blocks": False} for one in found]


@pytest.mark.parametrize("case", SPARED, ids=lambda case: case["name"].replace(" ", "-"))
async def test_a_look_alike_is_not_planned_and_the_kill_itself_refuses_it(
    server: Postgres, keep: Keep, case: Case
) -> None:
    made, why = keep(lookalike(server, case)), case["spared"]
    keep(faults.fill_slots(server))  # a full pool: every reason to look for somebody to end
    pool, expected = await expectations([pid for pid, _ in made.known])
    spared = {session.spared for session in pool.sessions if session.pid in {pid for pid, _ in made.known}}
    assert why in spared
    assert None not in spared
    assert not {fix.target for fix in plan(pool, NOW)} & {f"session {pid}" for pid, _ in made.known}
    for action in ("end_session", "cancel_query"):
        assert set(await done(*(ending(one, action) for one in expected))) == {FixState.refused}
    assert made.untouched


async def test_the_same_grant_does_end_an_ordinary_session(server: Postgres, client: Client) -> None:
    pid = client("SELECT 1").info.backend_pid
    _, (expect,) = await expectations([pid])
    assert await done(ending(expect)) == [FixState.proven]
    assert kills(server, pid) == 1


@pytest.mark.parametrize(
    "drift",
    [
        {"backend_start": "2020-01-01 00:00:00.000001+00"},  # the pid was reused
        {"xact_start": "2020-01-01 00:00:00.000001+00"},
        {"xact_start": None},
        {"query_start": "2020-01-01 00:00:00.000001+00"},
        {"state": "active"},
        {"blocks": True},  # it was read as a blocker, and nobody waits for it any more
    ],
    ids=str,
)
@pytest.mark.parametrize("action", ["end_session", "cancel_query"])
async def test_any_difference_from_what_was_read_leaves_it_alone(
    server: Postgres, client: Client, drift: dict[str, Any], action: str
) -> None:
    pid = client("SELECT 1").info.backend_pid
    _, (expect,) = await expectations([pid])
    assert await done(ending(expect | drift, action)) == [FixState.refused]
    assert lives(server, pid)


@pytest.mark.parametrize("step", ["SELECT 2", "COMMIT", "ROLLBACK; BEGIN; SELECT 1"])
async def test_a_session_that_moved_on_between_the_reading_and_the_act_is_left(
    server: Postgres, client: Client, step: str
) -> None:
    connection = client("SELECT 1")
    _, (expect,) = await expectations([connection.info.backend_pid])
    permit = await grant(ending(expect))
    connection.execute(step)
    await permit.apply(HANDS)
    assert permit.ledger.state(permit.fixes[0].id) is FixState.refused
    assert lives(server, connection.info.backend_pid)


async def test_a_session_hidden_from_us_is_not_taken_for_one_that_is_gone(
    server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = client("SELECT 1")
    _, (expect,) = await expectations([connection.info.backend_pid])
    monkeypatch.setenv("RUNBOOK_DATABASE_URL", server.url(user="blind"))
    settings.forget()
    for look_up in (is_ended, is_cancelled):
        assert (await look_up(ending(expect))).held is None
        assert (await look_up(ending(expect | {"pid": -1}))).held is True


async def test_a_second_look_on_the_same_connection_sees_what_changed(server: Postgres, client: Client) -> None:
    async with connect() as connection:
        query = "SELECT count(*) AS sessions FROM pg_stat_activity WHERE application_name = 'web'"
        before = await (await connection.execute(query)).fetchone()
        client("SELECT 1")
        after = await (await connection.execute(query)).fetchone()
    assert (before, after) == ({"sessions": 0}, {"sessions": 1})


async def test_two_machines_with_ledgers_of_their_own_still_end_it_once(
    server: Postgres, client: Client, tmp_path: Any
) -> None:
    pid = client("SELECT 1").info.backend_pid
    _, (expect,) = await expectations([pid])
    here = await grant(ending(expect))
    there = await grant(ending(expect), book=Ledger(f"sqlite:///{tmp_path}/other.db"))
    await here.apply(HANDS)
    await there.apply(HANDS)
    assert here.ledger.state(here.fixes[0].id) is FixState.proven
    assert there.ledger.state(there.fixes[0].id) is FixState.refused
    assert kills(server, pid) == 1


def timeouts(server: Postgres) -> list[tuple[Any, ...]]:
    """Every setting of every role and database, as the catalogue has them."""
    with psycopg.connect(server.url(), autocommit=True) as owner:
        return owner.execute("SELECT * FROM pg_db_role_setting ORDER BY 1, 2").fetchall()


async def cure(server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch, url: str) -> tuple[Fix, FixState]:
    """The durable fix, planned from a reading, approved by a person, applied."""

    async def yes(_run: Run, plan: Sequence[Fix]) -> Approval:
        return Approval({fix.key for fix in plan}, "a test")

    monkeypatch.setattr(approval, "ask", yes)
    monkeypatch.setenv("RUNBOOK_DATABASE_URL", url)
    settings.forget()
    for _ in range(7):
        client("SELECT 1")
    cures: list[Fix] = []
    async with asyncio.timeout(30):
        while not cures:
            await asyncio.sleep(0.1)
            cures = [fix for fix in plan(await read_pool(), CURE) if fix.action == "set_idle_timeout"]
    permit = await grant(*cures, mode=Mode.approve)
    await permit.apply(HANDS)
    return permit.fixes[0], permit.ledger.state(permit.fixes[0].id)


@pytest.mark.parametrize("prior", [None, "0", "0min"])
async def test_the_durable_cure_is_set_and_taken_back_to_exactly_what_was(
    server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch, prior: str | None
) -> None:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute("ALTER ROLE app IN DATABASE app SET search_path TO public")
        if prior is not None:
            owner.execute(f"ALTER ROLE app IN DATABASE app SET idle_in_transaction_session_timeout TO '{prior}'")
    before = timeouts(server)
    fix, state = await cure(server, client, monkeypatch, server.url(user="postgres"))
    assert state is FixState.proven
    assert timeouts(server) != before
    with psycopg.connect(server.url(user="app")) as app:
        assert app.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("1s",)
    back = await grant(put_back(fix), mode=Mode.approve)
    await back.apply(HANDS)
    assert back.ledger.state(back.fixes[0].id) is FixState.proven
    assert timeouts(server) == before


async def test_a_timeout_somebody_else_set_meanwhile_is_not_overwritten(
    server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix, _ = await cure(server, client, monkeypatch, server.url(user="postgres"))
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute("ALTER ROLE app IN DATABASE app SET idle_in_transaction_session_timeout TO '7min'")
    changed = timeouts(server)
    back = await grant(put_back(fix), mode=Mode.approve)
    await back.apply(HANDS)
    assert back.ledger.state(back.fixes[0].id) is FixState.refused
    assert timeouts(server) == changed


async def test_without_the_right_to_alter_the_role_it_fails_and_says_what_to_type(
    server: Postgres, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = timeouts(server)
    fix, state = await cure(server, client, monkeypatch, server.url(user="runbook"))
    assert state is FixState.failed
    assert timeouts(server) == before
    with ledger().read() as connection:
        bodies = connection.exec_driver_sql("SELECT body FROM entry WHERE fix_id = ?", (fix.id,)).scalars().all()
    assert any('ALTER ROLE \\"app\\" IN DATABASE \\"app\\" SET' in str(body) for body in bodies), bodies
