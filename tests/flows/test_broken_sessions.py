"""The whole runbook on a real database, a real log and real endpoints: what is mended, and what takes it back."""

from __future__ import annotations

from demo import session_faults as faults
from demo.population import user_id
from deployments.undoing import undo
from runbook.model import FixState, Mode, Outcome
from tests.flows import sessions_parts as parts
from tests.flows.sessions_parts import PROVEN, World, of, states

postgres, world = parts.postgres, parts.world  # fixtures


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


async def test_expired_sessions_go_in_batches_and_come_back_as_they_were(world: World) -> None:
    faults.add_sessions(world.postgres, "dead", 1_200, days=30)
    faults.add_sessions(world.postgres, "yesterday", 3, days=1)
    before = world.sessions()
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    assert states(report, "purge_sessions") == [PROVEN] * 3
    assert [row[0] for row in world.sessions()] == ["yesterday1", "yesterday2", "yesterday3"]
    for fix in of(report, "purge_sessions"):
        assert (await undo(world.ledger, fix.id)).outcome is Outcome.undone
    assert world.sessions() == before


async def test_undo_puts_counter_and_lock_back_once(world: World) -> None:
    before = world.lock(10)
    fix = of(await world.run(), "reset_lockout")[0]
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.undone and world.account(10) == before
    assert world.ledger.state(fix.id) is FixState.undone
    assert fix.target == f"User/{user_id(10)}"
