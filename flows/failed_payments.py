"""Customers paid and have no access, or have access and did not pay; payments fail and nobody hears of it.

Symptom: a paid plan shows as unpaid, a canceled one still works, webhook errors in the app's log, open invoices grow.
Cause: Stripe disabled the webhook endpoint or could not deliver events, so the app's rows no longer say what Stripe
    says; or a card was declined and nobody tried it again.
Fix: enable the endpoint; send undelivered events again, the oldest first; then copy Stripe's status, row by row, where
    it differs. Open invoices whose decline may pass are tried once, by a person's approval or under a cap they set.
    Nothing is done when the key and Stripe disagree on live mode, when Stripe's list is empty or partial, or when more
    rows differ than the cap allows. Rows that Stripe does not know are reported, never touched.
Verify: every fix is looked up at Stripe or in the row; after hold_seconds endpoints, events, rows and invoices are read
    and judged again.
Undo: a row gets its old status back and an endpoint is disabled again, by runbook undo, if nothing changed them since.
    An event cannot be unsent. A payment is given back by a refund, which a person makes in the Stripe dashboard.
By hand: in the Stripe dashboard under Developers, Webhooks: enable the endpoint and resend failed events. For one row:
    look up the subscription at Stripe, then UPDATE "Subscription" SET status = '<Stripe's word>' WHERE id = '<row>' AND
    status = '<old word>' AND "stripeSubscriptionId" = '<sub_…>'. Never invent a status: Stripe has no 'failed'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import OutsideError
from runbook.memory import measure
from runbook.model import Finding, Json, Judged, Mode, Report
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import endpoints, events, payments, reconcile, subscriptions, webhook_log
from tasks.stripe_api import probe_key

NAME = "failed-payments"
LOG_SECONDS = 3600

HANDS = {
    "enable_endpoint": Hand(endpoints.switch_endpoint, endpoints.look_up_endpoint, endpoints.undo_switch),
    "disable_endpoint": Hand(endpoints.switch_endpoint, endpoints.look_up_endpoint, endpoints.undo_switch),
    "resend_event": Hand(events.resend_event, events.look_up_event),
    "copy_status": Hand(subscriptions.copy_status, subscriptions.look_up_row, subscriptions.undo_copy),
    "restore_status": Hand(subscriptions.restore_status, subscriptions.look_up_row, subscriptions.undo_copy),
    "retry_payment": Hand(payments.retry_payment, payments.look_up_invoice),
}

SkipMinutes = Annotated[int, Field(ge=1, le=1440)]
EventDays = Annotated[int, Field(ge=1, le=30)]
Cents = Annotated[int, Field(ge=0, le=10_000_000)]
Hold = Annotated[int, Field(ge=0, le=60)]
Again = Callable[[], Awaitable[list[Finding]]]
"""A second look at what one stage found."""


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def failed_payments(
    mode: Mode = Mode.auto,
    skip_minutes: SkipMinutes = parameter(NAME, "skip_minutes", 5),
    event_days: EventDays = parameter(NAME, "event_days", 30),
    money_cap_cents: Cents = parameter(NAME, "money_cap_cents", 0),
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 2),
) -> Report:
    """Let Stripe reach the app again, bring the app's rows back to what Stripe says, and try what may be paid.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        skip_minutes: Rows, subscriptions and events this young are left alone: their webhooks may be on the way.
        event_days: How far back undelivered events are looked for, in days; Stripe keeps 30.
        money_cap_cents: Payments one run may retry without asking, in all, in the currency's smallest unit; 0 asks.
            Never more in 24 hours than the profile's [caps.retry_payment] cents_24h.
        hold_seconds: How long to wait before everything is read again to prove the fixes, in seconds.
    """
    async with Run(NAME, mode) as run:
        settings().need("STRIPE_SECRET_KEY", settings().monitor_setting())
        await probe_key()
        await subscriptions.read_columns(run.mode is not Mode.observe)
        await run.settle(HANDS)
        checks = [await _app_log(run)]
        if settings().app_url:
            checks += [await _endpoints(run), await _events(run, event_days, skip_minutes)]
        else:
            run.notice("not configured: APP_URL, so webhook endpoints and undelivered events were not looked at")
        checks += [await _rows(run, skip_minutes), await _invoices(run, money_cap_cents)]
        if run.findings and run.mode is not Mode.observe:
            await asyncio.sleep(hold_seconds)
            for check in checks:
                run.remains(await check())
    return run.result()


async def _app_log(run: Run) -> Again:
    began = time.time()

    async def since(moment: float) -> list[Finding]:
        try:
            return webhook_log.detect_webhook_errors(await webhook_log.read_webhook_errors(moment))
        except OutsideError as error:  # a witness less; Stripe and the rows are what counts
            run.notice(str(error))
            return []

    run.found(await since(began - LOG_SECONDS))
    return lambda: since(began)  # lines written before this run say nothing about what it mended


async def _endpoints(run: Run) -> Again:
    url, seen = endpoints.webhook_url(), await endpoints.read_endpoints()
    run.found(found := endpoints.detect_endpoints(seen, url))
    run.saw("endpoints", seen, sick=bool(found), url=url)
    permit = await gate.ask(run, endpoints.plan_endpoints(seen, url), share=None)
    await permit.apply(HANDS)

    async def again() -> list[Finding]:
        return endpoints.detect_endpoints(await endpoints.read_endpoints(), url)

    return again


async def _events(run: Run, event_days: int, skip_minutes: int) -> Again:
    missed = await events.read_undelivered(event_days, skip_minutes)
    measure(run.ledger, {"undelivered_events": len(missed)})
    run.found(events.detect_undelivered(missed))
    if missed:
        ours = endpoints.of_app(await endpoints.read_endpoints(), endpoints.webhook_url())
        reached = [one for one in ours if one.status == "enabled" or run.mode is Mode.observe]
        run.saw("events", missed, sick=True, reached=[one.model_dump() for one in reached])
        permit = await gate.ask(run, events.plan_resend(missed, reached), share=None)
        await permit.apply(HANDS)  # one after the other: the app does not mind the order of events, so we do
    known = {one.id for one in missed}

    async def again() -> list[Finding]:
        left = await events.read_undelivered(event_days, skip_minutes) if known else []
        return events.detect_undelivered([one for one in left if one.id in known])

    return again


async def _rows(run: Run, skip_minutes: int) -> Again:
    seen = await reconcile.read_comparison(skip_minutes)
    measure(run.ledger, {"drift_rows": len(seen.drifts)})
    run.found(found := reconcile.detect_drift(seen))
    run.saw("rows", seen, sick=bool(found))
    for text in reconcile.notices_of(seen):
        run.notice(text)
    permit = await gate.ask(run, reconcile.plan_drift(seen), share=seen.share)
    await permit.apply(HANDS, at_once=2)  # no more connections than a full server keeps back for runbooks

    async def again() -> list[Finding]:
        # Only the rows that differed: a second full list would double what Stripe is asked.
        rows = await subscriptions.read_rows([drift.row for drift in seen.drifts]) if seen.drifts else {}
        return reconcile.detect_drift(reconcile.still_drifted(seen, rows))

    return again


async def _invoices(run: Run, money_cap_cents: int) -> Again:
    seen, now, tried = await payments.read_invoices(), int(time.time()), payments.tried_targets(run.ledger)
    due = [one for one in seen if not payments.why_not(one, now, tried)]
    run.found(found := payments.detect_invoices(due))
    run.saw("invoices", due, sick=bool(found), money_cap_cents=money_cap_cents)
    for text in payments.notices_of(seen):
        run.notice(text)
    permit = await gate.ask(run, payments.plan_invoices(due, money_cap_cents), share=None)
    await permit.apply(HANDS)

    async def again() -> list[Finding]:
        left = await payments.read_invoices() if due else []
        return payments.detect_invoices([one for one in left if one.id in {planned.id for planned in due}])

    return again


def replay(stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of endpoints, rows or invoices as they were read then."""
    match stage:
        case "endpoints":
            read = [endpoints.Endpoint.model_validate(one) for one in seen]
            url, acts = str(given["url"]), ("enable_endpoint", "disable_endpoint")
            return Judged(endpoints.detect_endpoints(read, url), endpoints.plan_endpoints(read, url), actions=acts)
        case "events":
            missed = [events.Undelivered.model_validate(one) for one in seen]
            reached = [endpoints.Endpoint.model_validate(one) for one in given["reached"]]
            plan = events.plan_resend(missed, reached)
            return Judged(events.detect_undelivered(missed), plan, actions=("resend_event",))
        case "rows":
            rows = reconcile.Comparison.model_validate(seen)
            acts = ("copy_status", "restore_status")
            return Judged(reconcile.detect_drift(rows), reconcile.plan_drift(rows), rows.share, acts)
        case _:
            due = [payments.Invoice.model_validate(one) for one in seen]
            cap = int(given["money_cap_cents"])
            return Judged(payments.detect_invoices(due), payments.plan_invoices(due, cap), actions=("retry_payment",))
