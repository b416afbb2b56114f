"""Stripe's events that never reached the app, and the hand that sends them again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence

import httpx
import stripe
from sqlalchemy import select

from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger, ledger
from runbook.model import Finding, Fix, FixState, Frozen, Json, Proof, Risk
from runbook.permit import Attempt, Permit
from runbook.schema import entry
from runbook.schema import fix as fix_table
from runbook.settings import settings
from runbook.step import hand, reader
from tasks.endpoints import CHANGING, Endpoint, webhook_url
from tasks.stripe_api import TurnedDown, ask, asked_text, pages
from tasks.subscriptions import status_at_stripe, statuses_of

TYPES = (*CHANGING, "invoice.payment_failed", "invoice.payment_succeeded", "payment_intent.payment_failed")
"""Events looked for among the undelivered (Stripe takes at most 20 types in one question)."""

EVENTS_AT_MOST = 200
"""Re-sent one after the other in one run; the rest wait for the next."""

SIGNED = "signed and posted by us"
POST_SECONDS = 10
ARRIVES_WITHIN = (0.0, 0.1, 0.2, 0.4, 0.8, 1.5)
"""Pauses in seconds between looks at an event that Stripe was asked to send again."""


class Undelivered(Frozen):
    """One event that some endpoint has not accepted; ``created`` in Unix seconds."""

    id: str
    type: str
    created: int
    pending: int


def _id(fix: Fix) -> str:
    return fix.target.partition("/")[2]


@reader("read the undelivered events of {days} days")
async def read_undelivered(days: int, skip_minutes: int) -> list[Undelivered]:
    """Undelivered events, the oldest first, without those so young that Stripe is still at it and those proven."""
    now = int(time.time())
    since = {"gte": now - days * 86_400, "lte": now - skip_minutes * 60}
    rows = await asyncio.to_thread(
        lambda: [
            Undelivered(id=row["id"], type=row["type"], created=row["created"], pending=row["pending_webhooks"])
            for page in pages("/v1/events", delivery_success=False, types=list(TYPES), created=since)
            for row in page
        ]
    )
    proven = proven_targets(ledger(), "resend_event")
    return sorted(
        (row for row in rows if f"Event/{row.id}" not in proven and row.pending > 0),
        key=lambda row: (row.created, row.id),
    )


def proven_targets(book: Ledger, action: str) -> set[str]:
    """Targets on which the ledger holds a proven fix of this action."""
    rule = select(fix_table.c.target).where(fix_table.c.action == action, fix_table.c.state == FixState.proven.value)
    with book.read() as connection:
        return {row.target for row in connection.execute(rule)}


def detect_undelivered(events: Sequence[Undelivered]) -> list[Finding]:
    """One finding for all of them, by type."""
    if not events:
        return []
    detail = f"{len(events)} events never reached the app, the oldest of {_day(events[0].created)}"
    evidence = {"types": dict(Counter(event.type for event in events)), "ids": [event.id for event in events[:10]]}
    return [Finding(subject="Stripe events", detail=detail, evidence=evidence)]


def _day(unix: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))


def plan_resend(events: Sequence[Undelivered], endpoints: Collection[Endpoint]) -> list[Fix]:
    """Send each again to the app's endpoint, the oldest first; without an endpoint nothing can be proven."""
    target = next(iter(endpoints), None)
    if target is None:
        return []
    return [
        Fix(
            action="resend_event",
            target=f"Event/{event.id}",
            risk=Risk.auto,
            why=f"{event.type} of {_day(event.created)} was never accepted",
            undo="an event cannot be unsent; the rows it changed are copied from Stripe afterwards",
            expect={"pending": event.pending, "endpoint": target.id},
            want={"pending": 0},
        )
        for event in events[:EVENTS_AT_MOST]
    ]


@hand("resend {fix.target}")
async def resend_event(fix: Fix, permit: Permit) -> None:
    """Have Stripe send the event again; where its API does not, sign the very same bytes and post them."""
    path = f"/v1/events/{_id(fix)}"
    with permit.attempt(fix) as attempt:
        if _given_up(fix, permit):
            attempt.moved_on("the three before it were not accepted either: look at the app first")
            return
        try:
            if (await ask("get", path))["pending_webhooks"] == 0:
                attempt.did(how="was delivered meanwhile")
                return
            await ask("post", f"{path}/retry", {"webhook_endpoint": fix.expect["endpoint"]}, f"runbook-{fix.id}")
            attempt.did(how="sent again by Stripe")
        except TurnedDown as no:
            if no.status in {404, 405}:
                await _post_signed(await asyncio.to_thread(asked_text, path), attempt)
            else:
                attempt.failed(str(no))
        except BadSetting as no:
            attempt.failed(str(no))


def _given_up(fix: Fix, permit: Permit) -> bool:
    place = [one.id for one in permit.fixes].index(fix.id)
    before = [permit.ledger.state(one.id) for one in permit.fixes[max(0, place - 3) : place]]
    return len(before) == 3 and all(state in {FixState.failed, FixState.refused} for state in before)


async def _post_signed(body: str, attempt: Attempt) -> None:
    if settings().stripe_webhook_secret is None:
        attempt.failed("Stripe does not send it again by its API, and STRIPE_WEBHOOK_SECRET is not set to sign it")
        return
    secret = settings().secret("STRIPE_WEBHOOK_SECRET")
    signature = stripe.WebhookSignature.generate_signature_header(body, secret)
    headers = {"stripe-signature": signature, "content-type": "application/json; charset=utf-8"}
    try:
        async with httpx.AsyncClient(timeout=POST_SECONDS, trust_env=False) as http:
            answer = await http.post(webhook_url(), content=body.encode(), headers=headers)
    except httpx.HTTPError as error:
        step = "see whether the app is up"
        raise OutsideError("APP_URL", f"did not answer the event ({type(error).__name__})", step) from None
    if answer.is_success:
        attempt.did(how=SIGNED, status=answer.status_code)
    else:
        attempt.failed(f"the app answered {answer.status_code} to the signed event")


@reader("look up {fix.target}")
async def look_up_event(fix: Fix) -> Proof:
    """Stripe's own count of pending deliveries; for an event we posted ourselves, the row it was about."""
    signed = _how(fix) == SIGNED
    event: Json = {}
    for pause in ARRIVES_WITHIN:
        await asyncio.sleep(pause)
        try:
            event = await ask("get", f"/v1/events/{_id(fix)}")
        except TurnedDown as gone:
            return Proof(held=False, seen=str(gone))
        if event["pending_webhooks"] < fix.expect["pending"]:
            return Proof(held=True, seen=f"{event['pending_webhooks']} deliveries pending")
        if signed:
            return await _row_shows(event)
    return Proof(held=False, seen=f"{event['pending_webhooks']} deliveries still pending")


def _how(fix: Fix) -> str:
    rule = select(entry.c.body).where(entry.c.fix_id == fix.id, entry.c.kind == FixState.applied.value)
    with ledger().read() as connection:
        row = connection.execute(rule).first()
    return str(row.body.get("how", "")) if row else ""


async def _row_shows(event: Json) -> Proof:
    about = event["data"]["object"]
    if event["type"] not in CHANGING or about.get("mode", "subscription") != "subscription":
        return Proof(held=True, seen="the app accepted it; this event changes no row")
    wanted = about.get("status") if about["object"] == "subscription" else None
    found = await statuses_of(about.get("subscription") or about["id"])
    held = bool(found) and (wanted is None or wanted in found)
    if found and not held:  # an app that minds the order of events rightly keeps what is newer
        held = await status_at_stripe(about["id"]) in found
    return Proof(held=held, seen=f"the app accepted it and its rows say {', '.join(map(str, found)) or 'nothing'}")
