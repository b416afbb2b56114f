"""The whole runbook on a real database, a real log and real endpoints: what is mended, and what takes it back."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from demo import session_faults as faults
from demo.population import user_id
from deployments import ledger_view
from deployments.undoing import undo
from flows.broken_sessions import HANDS, NAME, look, plan
from runbook import gate, memory, schema
from runbook.ledger import now_ms
from runbook.model import Finding, FixState, Mode, Outcome
from runbook.permit import Permit
from runbook.run import Run
from tasks.expired_sessions import KEEP_DAYS, KEPT
from tasks.sign_in import Bounds
from tests.flows import sessions_parts as parts
from tests.flows.sessions_parts import PROVEN, World, of, states

postgres, world = parts.postgres, parts.world  # fixtures
ROOT = Path(__file__).resolve().parents[2]
AT = Bounds(users_per_ip=10, ips_per_user=5, jwt_errors=20)


def everything_shown(world: World) -> str:
    """All that the ledger holds but what is remembered: runs, findings, fixes and their steps."""
    book = world.ledger
    with book.read() as connection:
        ids = [
            *connection.execute(select(schema.run.c.id)).scalars(),
            *connection.execute(select(schema.fix.c.id)).scalars(),
        ]
        reports = list(connection.execute(select(schema.run.c.report)).scalars())
    return json.dumps([*(ledger_view.one(book, id_) for id_ in ids), *reports], default=str)


def forget_after(world: World, days: int) -> None:
    """As if so many days had passed since rows were remembered."""
    with world.ledger.write() as connection:
        connection.execute(update(schema.memo).values(at_ms=now_ms() - days * 86_400_000))
    memory.drop_old(world.ledger, KEPT, KEEP_DAYS)


async def test_nothing_wrong_is_healthy(world: World) -> None:
    report = await world.run()
    assert report.outcome is Outcome.healthy, report
    assert report.notices == []


async def test_a_passed_lock_is_cleared_and_the_attacked_account_keeps_its_own(world: World) -> None:
    for i in (10, 11):
        faults.slips(world.app, i, minutes_ago=40)
        world.lock(i)
    attacked = world.lock(20, failed=8, minutes_ago=3)
    faults.attack(world.app, 20)
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    assert states(report, "reset_lockout") == [PROVEN, PROVEN]
    assert world.account(10) == world.account(11) == (0, None)
    assert world.account(20) == attacked
    assert len(report.notices) == len(set(report.notices)) == 2
    told = "\n".join(report.notices)
    assert "36 failed logins on p***@example.com from 12 addresses" in told
    assert "1 accounts keep a lock that has passed: an attack names them" in told


async def test_observe_shows_the_plan_and_changes_nothing(world: World) -> None:
    world.lock(10)
    faults.add_sessions(world.postgres, "dead", 3, days=30)
    before = world.accounts(), world.sessions()
    report = await world.run(Mode.observe)
    assert report.outcome is Outcome.observed
    assert states(report, "reset_lockout") == states(report, "purge_sessions") == [FixState.planned]
    assert (world.accounts(), world.sessions()) == before


async def test_expired_sessions_go_in_batches_and_come_back_with_another_token(world: World) -> None:
    faults.add_sessions(world.postgres, "dead", 1_200, days=30)
    faults.add_sessions(world.postgres, "yesterday", 3, days=1)
    before, opens = [(row[0], *row[2:]) for row in world.sessions()], {row[1] for row in world.sessions()}
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    assert states(report, "purge_sessions") == [PROVEN] * 3
    assert [row[0] for row in world.sessions()] == ["yesterday1", "yesterday2", "yesterday3"]
    for fix in of(report, "purge_sessions"):
        restored = await undo(world.ledger, fix.id)
        assert restored.outcome is Outcome.undone
    assert [(row[0], *row[2:]) for row in world.sessions()] == before
    tokens = {row[1] for row in world.sessions()}
    assert len(tokens) == len(before) and tokens & opens == {f"yesterday-token-{n}" for n in (1, 2, 3)}
    with world.ledger.write() as connection:  # the cap of a target: twice in a quarter of an hour
        connection.execute(update(schema.fix).values(decided_at_ms=now_ms() - 3_600_000))
    again = await undo(world.ledger, restored.fixes[0].id)
    assert again.outcome is Outcome.undone and len(world.sessions()) == len(before) - fix.expect["rows"]


async def test_undo_puts_counter_and_lock_back_once(world: World) -> None:
    before = world.lock(10)
    fix = of(await world.run(), "reset_lockout")[0]
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.undone and world.account(10) == before
    assert world.ledger.state(fix.id) is FixState.undone
    assert fix.target == f"User/{user_id(10)}"


async def test_undo_is_refused_after_a_wrong_password(world: World) -> None:
    world.lock(10)
    fix = of(await world.run(), "reset_lockout")[0]
    faults.set_accounts(world.postgres, {10: (1, None)})
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.refused and world.account(10) == (1, None)


async def test_what_a_person_took_back_is_not_done_again(world: World) -> None:
    before = world.lock(10)
    await undo(world.ledger, of(await world.run(), "reset_lockout")[0].id)
    report = await world.run()
    assert world.account(10) == before and report.outcome is Outcome.refused
    assert [fix.why for fix in report.fixes if "a person undid" in fix.why], report.fixes
    again = world.lock(10, failed=6, minutes_ago=19)  # locked anew: still that person's account
    await world.run()
    assert world.account(10) == again


async def test_undo_of_a_purge_leaves_out_who_is_gone_and_keeps_no_row_for_ever(world: World) -> None:
    faults.add_sessions(world.postgres, "dead", 4, days=30)
    fix = of(await world.run(), "purge_sessions")[0]
    assert "dead-token" not in everything_shown(world) + str(memory.recall(world.ledger, KEPT + fix.id))
    forget_after(world, days=6)
    assert memory.recall(world.ledger, KEPT + fix.id)
    forget_after(world, days=8)
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.refused and world.sessions() == []
    assert "kept for 7 days and are gone" in report.fixes[0].why


async def test_stuffing_is_paged_and_nobody_is_reset(world: World) -> None:
    before = world.lock(10)
    for i in range(100, 115):
        faults.fail_login(world.app, i, "2001:db8:1:2::7", minutes_ago=i % 9 + 1)
    report = await world.run()
    (found,) = report.findings
    assert (found.subject, found.page) == ("login attack: stuffing", True)
    assert "15 failed logins on 15 accounts from 2001:db8:1::/48" in found.detail
    assert world.account(10) == before and report.fixes == []


async def test_an_attack_on_an_account_nothing_holds_is_paged(world: World) -> None:
    faults.attack(world.app, 20)
    (found,) = (await world.run()).findings
    assert found.page and found.subject == "login attack: targeted" and "person20@" not in found.detail


async def test_an_attack_that_begins_before_the_act_gives_the_grant_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.lock(10)
    ask = gate.ask

    async def late(*words: Any, **more: Any) -> Permit:
        faults.attack(world.app, 10)
        return await ask(*words, **more)

    monkeypatch.setattr(gate, "ask", late)
    report = await world.run()
    assert states(report, "reset_lockout") == [FixState.refused] and world.account(10) == before


@pytest.mark.parametrize(
    ("failed", "lock"), [(6, "as it was"), (5, "later, passed too"), (6, "runs"), (1, "none"), (0, "none")]
)
async def test_an_account_that_changed_since_is_not_touched(world: World, failed: int, lock: str) -> None:
    _failed, was = world.lock(10)
    locks = {"as it was": was, "later, passed too": faults.at(minutes=5), "runs": faults.at(minutes=-15), "none": None}
    async with Run(NAME, Mode.auto) as run:
        seen = await look(run, AT, 60)
        permit = await gate.ask(run, plan(seen, AT), share=None)
        faults.set_accounts(world.postgres, {10: (failed, locks[lock])})
        before = world.account(10)
        await permit.apply(HANDS)
    assert run.report is not None and states(run.report, "reset_lockout") == [FixState.refused]
    assert world.account(10) == before


async def test_a_session_that_was_renewed_since_is_not_deleted(world: World) -> None:
    faults.add_sessions(world.postgres, "dead", 3, days=30)
    async with Run(NAME, Mode.auto) as run:
        permit = await gate.ask(run, plan(await look(run, AT, 60), AT), share=None)
        world.sql("""UPDATE "Session" SET expires = now() + interval '1 day' WHERE id = 'dead2'""")
        await permit.apply(HANDS)
    assert [row[0] for row in world.sessions()] == ["dead2"]


# -- one account, early ---------------------------------------------------------------------------------------------


async def test_an_early_unlock_waits_for_a_person(world: World) -> None:
    before = world.lock(10, minutes_ago=-10)
    report = await world.run(unlock_email="Person10@example.com")
    assert states(report, "unlock_account") == [FixState.refused] and world.account(10) == before
    assert "needs a person" in report.fixes[0].why and report.findings[0].subject == "P***@example.com"


async def test_a_person_unlocks_the_one_they_named_and_takes_it_back(world: World) -> None:
    before, other = world.lock(10, minutes_ago=-10), world.lock(11, minutes_ago=-10)
    at = dataclasses.replace(AT, unlock_email="person10@example.com")
    async with Run(NAME, Mode.auto) as run:
        run.found([Finding(subject="x", detail="x")])
        permit = await gate.ask(run, plan(await look(run, at, 60), at), by_hand=True, share=None)
        await permit.apply(HANDS)
    assert run.report is not None and states(run.report, "unlock_account") == [PROVEN]
    assert (world.account(10), world.account(11)) == ((0, None), other)
    assert (await undo(world.ledger, run.report.fixes[0].id)).outcome is Outcome.undone
    assert world.account(10) == before


@pytest.mark.parametrize(("who", "said"), [("person12@example.com", "is not locked"), ("x@y.example", "no account")])
async def test_a_name_that_is_not_locked_is_told(world: World, who: str, said: str) -> None:
    report = await world.run(unlock_email=who)
    assert report.outcome is Outcome.healthy and any(said in text for text in report.notices)


# -- a process that died --------------------------------------------------------------------------------------------

KILLED = """
import asyncio, os, signal
from flows.broken_sessions import broken_sessions
from tasks import expired_sessions, logins
from psycopg import AsyncConnection

execute = AsyncConnection.execute

async def killed(self, query, *words, **more):
    text = query if isinstance(query, str) else query.as_string(None)
    if not text.startswith(("UPDATE", "DELETE")):
        return await execute(self, query, *words, **more)
    if {after}:
        await execute(self, query, *words, **more)
    os.kill(os.getpid(), signal.SIGKILL)

AsyncConnection.execute = killed
asyncio.run(broken_sessions.fn(hold_seconds=0))
"""


def killed(*, after: bool) -> None:
    """A run in a process of its own that SIGKILL ends at its first act, before or after the database did it."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(after=after)], cwd=ROOT, env=os.environ, check=False)
    assert done.returncode == -9


@pytest.mark.parametrize("after", [True, False])
async def test_a_reset_whose_process_died_is_settled_by_looking(world: World, after: bool) -> None:
    before = world.lock(10)
    killed(after=after)
    assert world.account(10) == ((0, None) if after else before)
    report = await world.run()
    told = [text for text in report.notices if text.startswith("settled")]
    assert len(told) == 1 and told[0].endswith("proven" if after else "failed, not done")
    assert world.account(10) == (0, None)


async def test_a_purge_whose_process_died_before_its_commit_is_done_by_the_next_run(world: World) -> None:
    faults.add_sessions(world.postgres, "dead", 3, days=30)
    killed(after=True)
    assert len(world.sessions()) == 3
    report = await world.run()
    assert any(text.startswith("settled") and text.endswith("failed, not done") for text in report.notices)
    assert states(report, "purge_sessions") == [PROVEN] and world.sessions() == []
