"""Events sent again and money moved: at most once, whatever dies or gets lost on the way."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from demo import population, stripe_faults
from flows.failed_payments import HANDS, NAME
from runbook import gate
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Mode, Outcome, Risk, Share
from runbook.permit import Permit
from runbook.run import Run
from runbook.schema import fix as table
from runbook.settings import forget
from tasks import endpoints, payments
from tests.flows import payments_parts as parts
from tests.flows.payments_parts import PAY, PROVEN, SMALL, World, env, of, settled
from tests.runbook.parts import a_fix, grant

ROOT = Path(__file__).resolve().parents[2]
seeded, world = parts.seeded, parts.world  # fixtures


# -- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("read", "ends"), [("active", PROVEN), ("trialing", FixState.refused)])
async def test_a_row_is_set_only_if_it_still_stands_as_it_was_read(world: World, read: str, ends: FixState) -> None:
    world.set_row(20, "active")
    world.stripe.store.set_status(20, "past_due")
    fix = Fix(
        action="copy_status",
        target=f"Subscription/{population.row_id(20)}",
        risk=Risk.auto,
        why="a test",
        undo="put it back",
        expect={"status": read, "stripe_id": population.subscription_id(20)},
        want={"status": "past_due"},
    )
    async with Run(NAME, Mode.auto, pages=False) as run:
        permit = await gate.ask(run, [fix], share=Share(sick=1, of=SMALL))
        await permit.apply(HANDS)
    assert run.report is not None and [one.state for one in run.report.fixes] == [ends], run.report
    assert world.status(20) == ("past_due" if ends is PROVEN else "active")


# -- endpoints --------------------------------------------------------------------------------------------------------


async def test_an_endpoint_that_somebody_enabled_meanwhile_is_left_to_them(world: World) -> None:
    stripe_faults.disable_endpoints(world.stripe.store)
    async with Run(NAME, Mode.auto, pages=False) as run:
        plan = endpoints.plan_endpoints(await endpoints.read_endpoints(), endpoints.webhook_url())
        permit = await gate.ask(run, plan, share=None)
        for one in world.stripe.store.endpoints.values():
            one["status"] = "enabled"
        await permit.apply(HANDS)
    assert run.report is not None
    assert {(one.state, one.why) for one in run.report.fixes} == {(FixState.refused, "the endpoint is enabled by now")}


# -- events -----------------------------------------------------------------------------------------------------------


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


# -- money ------------------------------------------------------------------------------------------------------------


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


async def test_no_run_may_charge_more_in_a_day_than_the_profile_says_whatever_its_caller_asks(world: World) -> None:
    (world.folder / "runbook.toml").write_text("[caps.retry_payment]\ncents_24h = 1799\n")
    forget()
    first = stripe_faults.retryable_invoice(world.stripe.store)
    assert (await world.run(money_cap_cents=10_000_000)).outcome is Outcome.fixed
    world.stripe.store.add_invoice("second", 20, "insufficient_funds")
    report = await world.run(money_cap_cents=10_000_000)
    assert settled(report, "retry_payment") == {FixState.refused: 1} and world.stripe.store.tries == {first: 1}
    assert "900 of 1799 cents in 24 hours, and this moves 900" in report.fixes[0].why


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


def end_subscription(world: World, _bill: str) -> None:
    world.stripe.store.set_status(4, "canceled")


def decline_for_good(world: World, _bill: str) -> None:
    world.stripe.store.intents["pi_retryable"]["last_payment_error"]["decline_code"] = "stolen_card"


def stripe_tries_soon(world: World, bill: str) -> None:
    world.stripe.store.invoices[bill]["next_payment_attempt"] = int(time.time()) + 600


def stripe_tried(world: World, bill: str) -> None:
    world.stripe.store.invoices[bill]["attempt_count"] += 1


def another_run_tried(world: World, bill: str) -> None:
    one = grant(world.ledger, a_fix("another", action="retry_payment"))
    world.ledger.move(one.id, [FixState.granted], FixState.intended, {})
    world.ledger.move(one.id, [FixState.intended], FixState.failed, {})
    with world.ledger.write() as connection:
        connection.execute(update(table).where(table.c.id == one.id).values(target=f"Invoice/{bill}"))


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        (end_subscription, "its subscription is canceled"),
        (decline_for_good, "hard decline: stolen_card"),
        (stripe_tries_soon, "Stripe tries it again by itself soon"),
        (stripe_tried, "it is open with attempts 2 by now"),
        (another_run_tried, "it was tried within a day"),
    ],
)
async def test_what_may_not_be_charged_any_more_when_the_yes_comes_is_not(
    world: World, meanwhile: Callable[[World, str], None], why: str
) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    async with Run(NAME, Mode.auto, pages=False) as run:
        plan = payments.plan_invoices(await payments.read_invoices(), 0)
        permit = await gate.ask(run, plan, by_hand=True, share=None)
        meanwhile(world, bill)
        await permit.apply(HANDS)
    assert run.report is not None
    assert [(fix.state, fix.why) for fix in run.report.fixes] == [(FixState.refused, why)]
    assert world.stripe.store.tries == {}


async def test_two_machines_that_both_read_an_invoice_as_open_charge_it_once(world: World) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    (due,) = [one for one in await payments.read_invoices.fn() if one.id == bill]
    (fix,) = payments.plan_invoices([due], 10_000)
    row, intents = world.stripe.store.invoices[bill], world.stripe.store.intents
    as_read = copy.deepcopy((row, intents))
    for name in ("one", "other"):
        book = Ledger(f"sqlite:///{world.folder}/{name}.db")
        run_id, granted = book.open_run(NAME, "auto"), fix.model_copy(update={"state": FixState.granted})
        with book.write() as connection:
            recorded = book.record(connection, run_id, NAME, granted, "plan", 60_000)
        assert recorded is not None
        await payments.retry_payment(recorded, Permit(book, [recorded]))
        for now, before in zip((row, intents), copy.deepcopy(as_read), strict=True):
            now.update(before)
    assert world.stripe.store.tries == {bill: 1}


# -- a process that dies ----------------------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal, sys
from deployments.undoing import undo
from flows.failed_payments import failed_payments
from runbook.ledger import ledger
from runbook.permit import Attempt
from tasks import payments, subscriptions

async def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

match sys.argv[1]:
    case "after":
        Attempt.did = lambda *_args, **_more: os.kill(os.getpid(), signal.SIGKILL)
    case "before":
        subscriptions.status_at_stripe = payments.ask = die
if len(sys.argv) == 3:
    asyncio.run(undo(ledger(), sys.argv[2]))
asyncio.run(failed_payments.fn(hold_seconds=0, money_cap_cents=10_000))
"""


def kill(world: World, when: str, *undone: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", DIES, when, *undone],
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


async def test_an_undo_cut_short_is_settled_and_not_undone_in_turn(world: World) -> None:
    world.stripe.store.set_status(23, "past_due")
    (fix,) = of(await world.run(), "copy_status")
    kill(world, "after", fix.id)
    assert (world.status(23), world.ledger.state(fix.id)) == ("active", PROVEN)
    report = await world.run()
    assert any("restore_status" in text and "proven" in text for text in report.notices)
    assert world.ledger.state(fix.id) is FixState.undone
    assert world.status(23) == "active", "the next run did again what a person took back"
    assert "a person undid an act on it" in of(report, "copy_status")[0].why


@pytest.mark.parametrize(("when", "charges"), [("after", 1), ("before", 0)])
async def test_a_charge_cut_short_is_made_at_most_once(world: World, when: str, charges: int) -> None:
    bill = stripe_faults.retryable_invoice(world.stripe.store)
    kill(world, when)
    assert world.stripe.store.pays.get(bill, 0) == charges
    for _ in range(2):
        report = await world.run(money_cap_cents=10_000)
        assert of(report, "retry_payment") == []
    assert world.stripe.store.tries.get(bill, 0) == charges
