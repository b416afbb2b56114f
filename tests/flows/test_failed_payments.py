"""The payments runbook on real parts: PostgreSQL, a Stripe that keeps state, an app that takes signed webhooks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stripe
from tenacity import wait_none

from demo import population, stripe_faults
from demo.postgres import Postgres
from deployments.undoing import undo
from flows.failed_payments import HANDS
from runbook import gate
from runbook.model import FixState, Mode, Outcome
from runbook.run import Run
from runbook.settings import forget
from tasks import reconcile, stripe_api
from tests.flows.payments_parts import LIST, PAY, SUBSCRIPTION, Seeded, World, env, make_world, of, settled

ROOT = Path(__file__).resolve().parents[2]
PROVEN = FixState.proven
SMALL = 2_000
DRIFTED = {23: "past_due", 363: "canceled", 850: "unpaid"}
"""Numbers of active subscriptions and what Stripe says of them in ``sick``."""


@pytest.fixture(scope="module")
def seeded() -> Iterator[Seeded]:
    with Postgres() as postgres:
        yield Seeded(postgres)


@pytest.fixture
def world(seeded: Seeded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with make_world(seeded, tmp_path, monkeypatch, SMALL) as made:
        yield made


@pytest.fixture
def sick(world: World) -> World:
    for i, status in DRIFTED.items():
        world.stripe.store.set_status(i, status)
    return world


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask again at once and give up soon: nobody waits for a test."""
    monkeypatch.setattr(stripe_api, "WAIT", wait_none())
    monkeypatch.setattr(stripe.HTTPClient, "MAX_DELAY", 0.01)
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)
    monkeypatch.setattr(stripe_api, "TIMEOUT_SECONDS", 0.3)
    stripe_api._client.cache_clear()
    yield
    stripe_api._client.cache_clear()


def rows() -> dict[str, str]:
    return {population.row_id(i): status for i, status in DRIFTED.items()}


# -- the whole story ------------------------------------------------------------------------------------------------


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


# -- look-alikes ----------------------------------------------------------------------------------------------------


async def test_rows_that_only_look_drifted_are_left_alone(world: World) -> None:
    store = world.stripe.store
    row = 'INSERT INTO "Subscription" (id, "stripeCustomerId", "stripeSubscriptionId", status, "createdAt") VALUES '
    recent = "now() AT TIME ZONE 'UTC' - interval '2 minutes'"
    world.sql(f"{row} ('young', 'cus_young', 'sub_young', 'incomplete', {recent})")
    store.add_subscription("sub_young", "cus_young", "active", int(time.time()) - 120)
    world.sql(f"{row} ('dev', 'dev_cus_1', 'dev_sub_1', 'pending', '2026-01-01')")
    world.sql(f"{row} ('bare', 'dev_cus_2', NULL, 'pending', '2026-01-01')")
    world.sql(f"{row} ('empty', 'dev_cus_3', '', 'active', '2026-01-01')")
    store.emit(700, "past_due", age=30)  # its webhook is on its way
    store.set_status(713, "brand_new_word")
    before = world.statuses()
    report = await world.run()
    assert world.statuses() == before and report.fixes == []
    assert [found.subject for found in report.findings] == ["Stripe subscriptions"]
    assert "brand_new_word" in report.findings[0].detail
    told = "\n".join(report.notices)
    assert "1 rows of Subscription name a subscription Stripe does not have: dev" in told
    assert "2 rows of Subscription name no subscription of Stripe's: bare, empty" in told


async def test_a_paying_customer_without_a_row_is_told(world: World) -> None:
    store = world.stripe.store
    store.add_subscription("sub_lost", "cus_lost", "active", population.EPOCH)
    store.add_subscription("sub_past", "cus_past", "canceled", population.EPOCH)
    report = await world.run()
    assert report.notices == ["1 running subscriptions of Stripe's are in no row of Subscription: sub_lost"]


async def test_young_delivered_and_foreign_events_are_not_sent(world: World) -> None:
    store = world.stripe.store
    store.emit(500, "past_due", age=60)
    store.emit(520, "past_due", age=31 * 86_400)["type"] = "customer.subscription.updated"
    store.emit(540, "past_due")["type"] = "charge.succeeded"
    done = store.emit(560, "past_due", deliver=True)
    assert done["pending_webhooks"] == 0
    store.deliveries.clear()
    report = await world.run()
    assert of(report, "resend_event") == [] and store.deliveries == []


async def test_somebody_elses_disabled_endpoint_stays_disabled(world: World) -> None:
    other = world.stripe.store.add_endpoint("https://other.example/api/subscription/webhook")
    other["status"] = "disabled"
    report = await world.run()
    assert report.outcome is Outcome.healthy and other["status"] == "disabled"


async def test_missing_endpoint_or_events_are_left_to_a_person(world: World) -> None:
    ours = next(iter(world.stripe.store.endpoints.values()))
    ours["enabled_events"] = ["customer.subscription.updated"]
    report = await world.run()
    assert "checkout.session.completed" in report.findings[0].detail and report.fixes == []
    assert report.outcome is Outcome.refused and report.exit_code == 3
    world.stripe.store.endpoints.clear()
    report = await world.run()
    assert "no webhook endpoint" in report.findings[0].detail and report.fixes == []


# -- rows -----------------------------------------------------------------------------------------------------------


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
        permit = await gate.ask(run, reconcile.plan_drift(seen)[:1])
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
    assert {one["status"] for one in world.stripe.store.endpoints.values()} == {"disabled"}


# -- events ---------------------------------------------------------------------------------------------------------


async def test_where_stripe_cannot_resend_the_same_bytes_are_signed_and_posted_once(world: World) -> None:
    world.stripe.store.retry_known = False
    for i, status in ((20, "past_due"), (21, "canceled")):
        world.stripe.store.emit(i, status)
    report = await world.run()
    assert report.outcome is Outcome.fixed, report
    assert settled(report, "resend_event") == {PROVEN: 2}
    assert world.app.received == ["evt_demo000000", "evt_demo000001"]
    assert (world.status(20), world.status(21)) == ("past_due", "canceled")
    assert of(report, "copy_status") == []
    again = await world.run()  # Stripe counts them as undelivered for ever: the ledger knows better
    assert again.outcome is Outcome.healthy and len(world.app.received) == 2


async def test_without_the_signing_secret_nothing_is_posted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.stripe.store.retry_known = False
    world.stripe.store.emit(20, "past_due")
    monkeypatch.delenv("STRIPE_WEBHOOK_SECRET")
    forget()
    report = await world.run()
    assert settled(report, "resend_event") == {FixState.failed: 1} and world.app.received == []
    assert world.status(20) == "past_due"  # the row is copied all the same


async def test_a_wrong_signing_secret_is_found_in_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.stripe.store.retry_known = False
    world.stripe.store.emit(20, "past_due")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_of_somebody_else")
    forget()
    report = await world.run()
    assert settled(report, "resend_event") == {FixState.failed: 1} and report.outcome is Outcome.unsolved
    again = await world.run()
    assert "app log: webhook_verification_failed" in {found.subject for found in again.findings}


async def test_an_app_that_refuses_three_in_a_row_is_sent_no_more(world: World) -> None:
    for i in range(6):
        world.stripe.store.emit(20 + i, "canceled")
        world.sql('DELETE FROM "Subscription" WHERE id = %s', population.row_id(20 + i))  # the app answers 500
    report = await world.run()
    assert settled(report, "resend_event") == {FixState.failed: 3, FixState.refused: 3}
    assert report.outcome is Outcome.unsolved and len(world.stripe.store.deliveries) == 3


# -- money ----------------------------------------------------------------------------------------------------------


async def test_money_waits_for_a_person(world: World) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    report = await world.run()
    assert settled(report, "retry_payment") == {FixState.refused: 1} and "person" in report.fixes[0].why
    assert report.outcome is Outcome.refused and world.stripe.requests[PAY] == 0
    assert world.stripe.store.invoices[bill]["status"] == "open"


async def test_under_a_cap_a_person_set_it_is_paid_once(world: World) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    report = await world.run(money_cap_cents=900)
    assert report.outcome is Outcome.fixed and settled(report, "retry_payment") == {PROVEN: 1}
    assert world.stripe.store.pays == {bill: 1}
    assert (await world.run(money_cap_cents=900)).outcome is Outcome.healthy


async def test_a_cap_too_small_asks(world: World) -> None:
    stripe_faults.retryable_invoice(world.stripe.store)
    assert settled(await world.run(money_cap_cents=899), "retry_payment") == {FixState.refused: 1}


async def test_invoices_that_only_look_unpaid_are_never_charged(world: World) -> None:
    stripe_faults.lookalike_invoices(world.stripe.store)
    report = await world.run(money_cap_cents=1_000_000)
    assert report.outcome is Outcome.healthy and world.stripe.store.tries == {}
    told = "\n".join(report.notices)
    assert "in_lost_card: lost_card" in told and "in_advice: do_not_try_again" in told
    assert (
        "in_authenticate: the customer must confirm the payment at https://invoice.stripe.com/i/in_authenticate" in told
    )


async def test_a_second_decline_is_final_for_a_day(world: World) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    world.fault(f"POST /v1/invoices/{bill}/pay", "402", times=1)
    report = await world.run(money_cap_cents=10_000)
    assert settled(report, "retry_payment") == {FixState.failed: 1} and report.outcome is Outcome.unsolved
    again = await world.run(money_cap_cents=10_000)
    assert of(again, "retry_payment") == [] and world.stripe.requests[PAY] == 1


async def test_a_charge_whose_answer_was_lost_is_looked_up_and_not_repeated(world: World) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    world.fault(f"POST /v1/invoices/{bill}/pay", "lost", times=1)
    report = await world.run(money_cap_cents=10_000)
    assert settled(report, "retry_payment") == {PROVEN: 1} and report.outcome is Outcome.fixed
    assert world.stripe.store.tries == {bill: 1}


# -- a process that dies --------------------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal, sys
from flows.failed_payments import failed_payments
from runbook.permit import Attempt
from tasks import payments, subscriptions

async def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

match sys.argv[1]:
    case "after":
        Attempt.did = lambda *_args, **_more: os.kill(os.getpid(), signal.SIGKILL)
    case "before":
        subscriptions.status_at_stripe = payments.ask = die
asyncio.run(failed_payments.fn(hold_seconds=0, money_cap_cents=10_000))
"""


def kill(world: World, when: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", DIES, when],
        env={**os.environ, **env(world), "PYTHONPATH": str(ROOT)},
        cwd=world.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == -signal.SIGKILL, said.stderr.decode()[-2000:]


@pytest.mark.parametrize("when", ["after", "before"])
async def test_a_copy_cut_short_is_settled_by_looking(world: World, when: str) -> None:
    world.stripe.store.set_status(23, "past_due")
    kill(world, when)
    assert world.status(23) == ("past_due" if when == "after" else "active")
    with world.ledger.read() as connection:
        assert world.ledger.open_targets(connection) == {"Subscription/row_00000023"}
    report = await world.run()
    assert any(text.startswith("settled") for text in report.notices)
    assert world.status(23) == "past_due"
    assert of(report, "copy_status") == [] if when == "after" else settled(report, "copy_status") == {PROVEN: 1}


@pytest.mark.parametrize(("when", "charges"), [("after", 1), ("before", 0)])
async def test_a_charge_cut_short_is_made_at_most_once(world: World, when: str, charges: int) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    kill(world, when)
    assert world.stripe.store.pays.get(bill, 0) == charges
    for _ in range(2):
        report = await world.run(money_cap_cents=10_000)
        assert of(report, "retry_payment") == []
    assert world.stripe.store.tries.get(bill, 0) == charges


# -- faults: one clear line, nothing changed ------------------------------------------------------------------------

FOR_EVER = 10_000
FAULTS = [
    ("GET /v1/balance", "401", "STRIPE_SECRET_KEY"),
    ("GET /v1/balance", "403", "STRIPE_SECRET_KEY"),
    ("GET /v1/balance", "429", "limits our rate"),
    ("GET /v1/balance", "500", "failed (500)"),
    ("GET /v1/balance", "slow", "did not answer (ReadTimeout)"),
    ("GET /v1/balance", "garbage", "no JSON"),
    ("GET /v1/balance", "livemode", "live mode"),
    ("GET /v1/subscriptions$", "401", "STRIPE_SECRET_KEY"),
    ("GET /v1/subscriptions$", "429", "limits our rate"),
    ("GET /v1/subscriptions$", "503", "failed (503)"),
    ("GET /v1/subscriptions$", "slow", "did not answer (ReadTimeout)"),
    ("GET /v1/subscriptions$", "half", "did not answer (ChunkedEncodingError)"),
    ("GET /v1/subscriptions$", "garbage", "no JSON"),
    ("GET /v1/subscriptions$", "empty", "lists no subscription while Subscription has 2000 rows"),
    ("GET /v1/subscriptions$", "partial", "partial: 50 of 100"),
    ("GET /v1/subscriptions$", "livemode", "live mode"),
    ("GET /v1/events", "500", "failed (500)"),
    ("GET /v1/webhook_endpoints", "403", "STRIPE_SECRET_KEY"),
]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("match", "kind", "words"), FAULTS)
async def test_a_sick_stripe_is_one_clear_line(sick: World, match: str, kind: str, words: str) -> None:
    sick.fault(match, kind, times=FOR_EVER, seconds=0.6, skip=0 if "$" not in match else 3 * (kind != "empty"))
    before = sick.statuses()
    report = await sick.run()
    assert words in report.reason and "Next: " in report.reason and "\n" not in report.reason
    assert report.outcome is Outcome.refused and report.exit_code == 2
    assert report.fixes == [] and sick.statuses() == before


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["429", "500", "503", "slow", "half", "garbage"])
async def test_one_bad_page_is_asked_for_again(sick: World, kind: str) -> None:
    sick.fault("GET /v1/subscriptions$", kind, times=1, skip=5, seconds=0.6)
    report = await sick.run()
    assert report.outcome is Outcome.fixed
    assert sick.stripe.requests[LIST] == SMALL // 100 + 1


async def test_a_list_cut_short_in_silence_changes_no_row_wrongly(sick: World) -> None:
    sick.fault("GET /v1/subscriptions$", "empty", times=1, skip=2)
    report = await sick.run()
    assert "does not know 1800 of the 2000" in report.reason and report.fixes == []


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (
            'ALTER TABLE "Subscription" RENAME TO "Subscriptions"',
            'tables.subscription: the database has no table "public"',
        ),
        ('ALTER TABLE "Subscription" RENAME status TO state', "tables.subscription_status"),
        ('ALTER TABLE "Subscription" RENAME "stripeSubscriptionId" TO stripe_id', "tables.subscription_stripe_id"),
        ('ALTER TABLE "Subscription" RENAME "createdAt" TO created', "tables.subscription_created"),
        (
            'REVOKE UPDATE (status) ON "Subscription" FROM runbook',
            'GRANT UPDATE ("status") ON "Subscription" TO runbook',
        ),
        ('REVOKE SELECT ON "Subscription" FROM runbook', "may not SELECT"),
    ],
)
async def test_a_strange_database_is_one_clear_line(sick: World, breakage: str, words: str) -> None:
    stripe_faults.disable_endpoints(sick.stripe.store)
    sick.sql(breakage)
    report = await sick.run()
    assert words in report.reason and "\n" not in report.reason
    assert report.outcome is Outcome.refused and report.exit_code == 2 and report.fixes == []
    assert {one["status"] for one in sick.stripe.store.endpoints.values()} == {"disabled"}


async def test_other_names_come_from_the_profile(sick: World) -> None:
    sick.sql('ALTER TABLE "Subscription" RENAME status TO "billing state"')
    sick.sql('ALTER TABLE "Subscription" RENAME TO subs')
    profile = '[tables]\nsubscription = "subs"\nsubscription_status = "billing state"\n'
    (sick.folder / "runbook.toml").write_text(profile, "utf-8")
    forget()
    report = await sick.run()
    assert report.outcome is Outcome.fixed
    assert dict(sick.sql("SELECT id, \"billing state\" FROM subs WHERE id = 'row_00000023'")) == {
        "row_00000023": "past_due"
    }


async def test_observing_needs_no_right_to_write(sick: World) -> None:
    sick.sql('REVOKE UPDATE (status) ON "Subscription" FROM runbook')
    report = await sick.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed and len(report.fixes) == len(DRIFTED)


async def test_a_constraint_that_forbids_the_word_is_a_certain_no(sick: World) -> None:
    sick.sql("ALTER TABLE \"Subscription\" ADD CHECK (status <> 'unpaid')  NOT VALID")
    report = await sick.run()
    assert settled(report, "copy_status") == {PROVEN: 2, FixState.failed: 1}
    assert report.outcome is Outcome.unsolved


async def test_a_database_that_is_gone_is_one_clear_line(sick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://runbook@127.0.0.1:1/app")
    forget()
    report = await sick.run()
    assert report.reason.startswith("DATABASE_URL: ") and report.outcome is Outcome.refused


async def test_a_key_of_the_other_mode_touches_nothing(sick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    live = "sk_live_payments0123456789"
    sick.stripe.keys.add(live)
    monkeypatch.setenv("STRIPE_SECRET_KEY", live)
    forget()
    report = await sick.run()
    assert "is a live key but Stripe answers in test mode" in report.reason and report.fixes == []
    assert list(sick.stripe.requests) == [("GET", "/v1/balance")]


@pytest.mark.parametrize("name", ["STRIPE_SECRET_KEY", "DATABASE_URL"])
async def test_what_is_not_configured_is_named(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    forget()
    report = await world.run()
    assert report.not_configured and name in report.reason and not world.stripe.requests


async def test_without_the_apps_address_the_rows_are_mended_all_the_same(
    sick: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APP_URL")
    forget()
    report = await sick.run()
    assert report.outcome is Outcome.fixed and "not configured: APP_URL" in report.notices[0]


async def test_a_log_that_cannot_be_read_is_told(sick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG", str(sick.folder / "nowhere.log"))
    forget()
    report = await sick.run()
    assert report.outcome is Outcome.fixed and any("APP_LOG" in text for text in report.notices)


async def test_no_secret_reaches_report_or_ledger(sick: World) -> None:
    sick.stripe.keys.clear()
    report = await sick.run()
    assert "STRIPE_SECRET_KEY" in report.reason
    everything = report.model_dump_json() + (sick.folder / "ledger.db").read_bytes().decode("latin-1")
    assert "payments0123456789" not in everything and "whsec_payments" not in everything
