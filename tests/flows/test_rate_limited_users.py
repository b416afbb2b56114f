"""The limits runbook on real parts: an app that limits, blocks and logs, and a ledger that outlives it."""

from __future__ import annotations

import pytest

from demo.limits_faults import HOUR_OFFICE, OFFICE, fail, sign_in
from deployments.undoing import undo
from runbook.ledger import ledger
from runbook.model import FixState, Mode, Outcome
from tests.flows import limits_parts as parts
from tests.flows.limits_parts import World, of

accounts, world = parts.accounts, parts.world  # fixtures


async def test_an_office_at_its_limit_is_let_in_and_it_is_proven(world: World) -> None:
    world.busy_office()
    assert not world.limits.allows(OFFICE, "/api/content")
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    (fix,) = report.fixes
    assert (fix.action, fix.state, fix.target) == ("trust_ip", FixState.proven, f"TrustedIp/{OFFICE}")
    assert world.limits.trusted == {OFFICE} and world.limits.allows(OFFICE, "/api/content")
    assert (await world.run()).outcome is Outcome.healthy
    assert world.asked == [("POST", "/api/admin/trusted-ips")]


async def test_an_hours_block_is_lifted_and_nobody_is_trusted_for_it(world: World) -> None:
    sign_in(world.app, HOUR_OFFICE, range(30, 37))
    world.limits.block(HOUR_OFFICE, "too many requests")
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    assert [(one.action, one.state) for one in report.fixes] == [("unblock_ip", FixState.proven)]
    assert world.limits.blocked == {} and world.limits.trusted == set()
    assert (await world.run()).outcome is Outcome.healthy


async def test_observe_shows_the_plan_and_changes_nothing(world: World) -> None:
    world.busy_office()
    world.limits.block(OFFICE, "too many requests")
    report = await world.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed and {one.state for one in report.fixes} == {FixState.planned}
    assert {one.action for one in report.fixes} == {"unblock_ip", "trust_ip"}
    assert world.asked == [] and world.limits.trusted == set() and OFFICE in world.limits.blocked


async def test_no_person_and_no_address_is_shown_but_in_the_fix(world: World) -> None:
    world.busy_office()
    report = await world.run()
    told = str([(one.subject, one.detail, one.evidence) for one in report.findings]) + str(report.notices)
    assert "192.88.99.x" in told and OFFICE not in told and "user_0" not in told and "@" not in told


async def test_trust_that_lifts_sign_in_limits_too_waits_for_a_person(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNBOOK_TRUST_KEEPS_LOGIN_LIMITS")
    world.busy_office()
    report = await world.run()
    assert report.outcome is Outcome.refused and world.asked == []
    assert [(one.action, one.why) for one in report.fixes] == [("trust_ip", "needs a person: run it with mode approve")]
    assert any("sign-in and reset too" in one for one in report.notices)


# -- the end of trust ------------------------------------------------------------------------------------------------


async def test_trust_ends_by_the_first_run_after_its_time(world: World) -> None:
    world.busy_office()
    await world.run(trust_hours=24, blocked_minutes=5)
    world.age(23.9)
    assert (await world.run()).outcome is Outcome.healthy and world.limits.trusted == {OFFICE}
    world.age(0.2)
    report = await world.run()
    assert [(one.action, one.state) for one in report.fixes[:1]] == [("untrust_ip", FixState.proven)]
    assert "its trust ended" in report.findings[0].detail and world.limits.trusted == set()


async def test_trust_ends_without_the_log_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.busy_office()
    await world.run(trust_hours=24)
    world.age(25)
    monkeypatch.delenv("APP_LOG")
    report = await world.run()
    assert report.outcome is Outcome.fixed and world.limits.trusted == set()
    assert "not configured: APP_LOG" in report.notices[0]


async def test_abuse_ends_trust_at_once(world: World) -> None:
    world.busy_office()
    await world.run()
    fail(world.app, OFFICE, range(200, 240), minutes_ago=1)
    report = await world.run()
    assert [(one.action, one.state) for one in report.fixes] == [("untrust_ip", FixState.proven)]
    assert "abuse from a trusted address" in report.findings[0].detail and world.limits.trusted == set()
    assert (await world.run()).fixes == []


async def test_a_restarted_app_is_told_again_with_the_old_end(world: World) -> None:
    world.busy_office()
    await world.run(trust_hours=24)
    world.age(10)
    world.limits.restart()
    report = await world.run(trust_hours=24)
    assert report.outcome is Outcome.fixed and world.limits.trusted == {OFFICE}
    assert [(one.action, one.state) for one in report.fixes] == [("trust_again", FixState.proven)]
    world.age(13)
    assert (await world.run()).outcome is Outcome.healthy and world.limits.trusted == {OFFICE}
    world.age(2)  # 25 hours after the first, 15 after it was told again
    assert (await world.run()).outcome is Outcome.fixed and world.limits.trusted == set()


async def test_what_others_put_on_the_list_is_theirs(world: World) -> None:
    world.limits.trusted.add("192.88.99.77")
    world.limits.restart()
    report = await world.run()
    assert report.outcome is Outcome.healthy and world.limits.trusted == set()
    world.limits.trusted.add("192.88.99.77")
    assert (await world.run()).outcome is Outcome.healthy and world.limits.trusted == {"192.88.99.77"}


async def test_what_a_person_removed_is_not_put_back(world: World) -> None:
    world.busy_office()
    await world.run()
    world.age(1)
    world.limits.trusted.clear()
    world.app.audit("info", "trusted_ip_removed", ip=OFFICE)
    report = await world.run(blocked_minutes=5)
    assert of(report, "trust_again") == []
    assert any("a person changed the app's list" in one for one in report.notices)


async def test_what_a_person_added_anew_outlives_our_time(world: World) -> None:
    world.busy_office()
    await world.run(trust_hours=24)
    world.age(25)
    world.app.audit("info", "trusted_ip_added", ip=OFFICE)
    report = await world.run()
    assert report.fixes == [] and world.limits.trusted == {OFFICE}


async def test_one_missing_beside_another_that_is_there_is_for_a_person(world: World) -> None:
    world.busy_office()
    world.busy_office(HOUR_OFFICE, range(30, 37))
    await world.run()
    assert world.limits.trusted == {OFFICE, HOUR_OFFICE}
    world.limits.trusted.discard(OFFICE)
    report = await world.run()
    assert report.fixes == [] and "whether a person removed it" in report.findings[0].detail
    assert world.limits.trusted == {HOUR_OFFICE}


# -- undo ------------------------------------------------------------------------------------------------------------


async def test_undo_takes_that_very_entry_off(world: World) -> None:
    world.limits.trusted.add("192.88.99.77")
    world.busy_office()
    (fix,) = (await world.run()).fixes
    assert (await undo(ledger(), fix.id)).outcome is Outcome.undone
    assert world.limits.trusted == {"192.88.99.77"} and ledger().state(fix.id) is FixState.undone
    world.limits.restart()
    assert of(await world.run(), "trust_again") == []


async def test_undo_is_refused_when_a_person_added_it_since(world: World) -> None:
    world.busy_office()
    (fix,) = (await world.run()).fixes
    world.age(1)
    world.app.audit("info", "trusted_ip_added", ip=OFFICE)
    report = await undo(ledger(), fix.id)
    assert report.outcome is not Outcome.undone and "theirs now" in report.fixes[0].why
    assert world.limits.trusted == {OFFICE}
