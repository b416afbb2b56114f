"""The payments runbook on real parts: PostgreSQL, a Stripe that keeps state, an app that takes signed webhooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import population, stripe_faults
from deployments.undoing import undo
from flows.failed_payments import HANDS
from runbook import gate
from runbook.model import FixState, Mode, Outcome
from runbook.run import Run
from tasks import reconcile
from tests.flows import payments_parts as parts
from tests.flows.payments_parts import (
    DRIFTED,
    LIST,
    PROVEN,
    SMALL,
    SUBSCRIPTION,
    Seeded,
    World,
    make_world,
    of,
    rows,
    settled,
)

seeded, world, sick = parts.seeded, parts.world, parts.sick  # fixtures


# -- the whole story --------------------------------------------------------------------------------------------------


async def test_a_disabled_endpoint_lost_events_and_drift_are_mended_and_proven(
    seeded: Seeded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_world(seeded, tmp_path, monkeypatch, population.SUBSCRIPTIONS) as world:
        store = world.stripe.store
        changed = stripe_faults.drift(store, 200).expected | stripe_faults.undelivered_events(store, 20).expected
        stripe_faults.disable_endpoints(store)
        before = world.statuses()
        report = await world.run()
        assert report.outcome is Outcome.fixed, report
        assert settled(report, "enable_endpoint") == {PROVEN: 1}
        assert settled(report, "resend_event") == {PROVEN: 20}
        assert settled(report, "copy_status") == {PROVEN: 200}
        assert world.statuses() == before | {population.row_id(i): status for i, status in changed.items()}
        assert [id_ for id_, _ in store.deliveries] == sorted(store.events)  # the oldest first
        assert world.stripe.requests[LIST] == 450  # one list call per 100
        assert world.stripe.requests[SUBSCRIPTION] == 200  # one retrieve per changed row
        again = await world.run()
        assert again.outcome is Outcome.healthy, again


async def test_observe_shows_the_plan_and_changes_nothing(sick: World) -> None:
    store = sick.stripe.store
    stripe_faults.disable_endpoints(store)
    store.emit(500, "past_due")
    stripe_faults.retryable_invoice(store)
    before = sick.statuses()
    report = await sick.run(mode=Mode.observe, money_cap_cents=10_000)
    assert report.outcome is Outcome.observed and report.exit_code == 3
    actions = {fix.action for fix in report.fixes}
    assert actions == {"enable_endpoint", "resend_event", "copy_status", "retry_payment"}
    assert {fix.state for fix in report.fixes} == {FixState.planned}
    assert sick.statuses() == before and sick.app.received == []
    assert [method for method, _ in sick.stripe.requests if method != "GET"] == []


async def test_a_healthy_world_is_left_alone(world: World) -> None:
    report = await world.run()
    assert report.outcome is Outcome.healthy and report.exit_code == 0
    assert (report.findings, report.fixes, report.notices) == ([], [], [])
    assert world.stripe.requests[LIST] == SMALL // 100 and world.stripe.requests[SUBSCRIPTION] == 0


async def test_missing_endpoint_or_events_are_left_to_a_person(world: World) -> None:
    ours = next(iter(world.stripe.store.endpoints.values()))
    ours["enabled_events"] = ["customer.subscription.updated"]
    report = await world.run()
    assert "checkout.session.completed" in report.findings[0].detail and report.fixes == []
    assert report.outcome is Outcome.refused and report.exit_code == 3
    world.stripe.store.endpoints.clear()
    report = await world.run()
    assert "no webhook endpoint" in report.findings[0].detail and report.fixes == []


# -- rows -------------------------------------------------------------------------------------------------------------


async def test_one_retrieve_per_changed_row_and_no_other_row_touched(sick: World) -> None:
    before = sick.statuses()
    report = await sick.run()
    assert report.outcome is Outcome.fixed
    assert sick.statuses() == before | rows()
    assert sick.stripe.requests[LIST] == SMALL // 100 and sick.stripe.requests[SUBSCRIPTION] == len(DRIFTED)


async def test_mass_drift_is_refused_whole(world: World) -> None:
    world.sql("UPDATE \"Subscription\" SET status = 'active' WHERE id < 'row_00001900'")
    before = world.statuses()
    report = await world.run()
    assert report.outcome is Outcome.refused
    assert set(settled(report, "copy_status")) == {FixState.refused}
    assert all("mass failure" in fix.why for fix in report.fixes)
    assert world.statuses() == before and world.stripe.requests[SUBSCRIPTION] == 0


@pytest.mark.parametrize("who", ["a webhook", "a new subscription", "Stripe", "a deletion"])
async def test_what_changed_since_it_was_read_is_not_overwritten(sick: World, who: str) -> None:
    async with Run("failed-payments", Mode.auto) as run:
        seen = await reconcile.read_comparison(5)
        run.found(reconcile.detect_drift(seen))
        permit = await gate.ask(run, reconcile.plan_drift(seen)[:1], share=None)
        row = seen.drifts[0].row
        match who:
            case "a webhook":
                sick.sql('UPDATE "Subscription" SET status = %s WHERE id = %s', "trialing", row)
            case "a new subscription":
                sick.sql('UPDATE "Subscription" SET "stripeSubscriptionId" = %s WHERE id = %s', "sub_other", row)
            case "Stripe":
                sick.stripe.store.set_status(23, "trialing")
            case "a deletion":
                sick.sql('DELETE FROM "Subscription" WHERE id = %s', row)
        before = sick.statuses()
        await permit.apply(HANDS)
    assert run.report is not None and settled(run.report, "copy_status") == {FixState.refused: 1}
    assert sick.statuses() == before


async def test_undo_puts_the_old_word_back_once(sick: World) -> None:
    before = sick.statuses()
    fix = of(await sick.run(), "copy_status")[0]
    report = await undo(sick.ledger, fix.id)
    row = fix.target.partition("/")[2]
    assert report.outcome is Outcome.undone and sick.statuses()[row] == before[row]
    assert sick.ledger.state(fix.id) is FixState.undone
    await sick.run()
    assert sick.statuses()[row] == before[row], "the next run did again what a person took back"


async def test_undo_is_refused_after_a_later_change(sick: World) -> None:
    fix = of(await sick.run(), "copy_status")[0]
    row = fix.target.partition("/")[2]
    sick.sql('UPDATE "Subscription" SET status = %s WHERE id = %s', "trialing", row)
    report = await undo(sick.ledger, fix.id)
    assert report.outcome is Outcome.refused and sick.statuses()[row] == "trialing"


async def test_undo_of_an_endpoint_disables_it_again(world: World) -> None:
    stripe_faults.disable_endpoints(world.stripe.store)
    fix = of(await world.run(), "enable_endpoint")[0]
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.undone
    await world.run()
    assert {one["status"] for one in world.stripe.store.endpoints.values()} == {"disabled"}


async def test_undo_of_an_endpoint_is_refused_when_a_person_disabled_it_since(world: World) -> None:
    stripe_faults.disable_endpoints(world.stripe.store)
    fix = of(await world.run(), "enable_endpoint")[0]
    stripe_faults.disable_endpoints(world.stripe.store)
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.refused and "the endpoint is disabled by now" in report.fixes[0].why
