"""Open invoices at Stripe: which of them may be tried again, and the one hand that moves money."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from runbook.errors import BadSetting
from runbook.ledger import Ledger
from runbook.model import Finding, Fix, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks.stripe_api import TurnedDown, ask, asked, pages

HARD = frozenset(
    {
        "authentication_required",
        "do_not_try_again",
        "expired_card",
        "fraudulent",
        "highest_risk_level",
        "incorrect_number",
        "invalid_account",
        "lost_card",
        "pickup_card",
        "stolen_card",
        "stop_payment_order",
        "transaction_not_allowed",
    }
)
"""Declines that no second try cures; every ``revocation_…`` is one too."""

ENDED = frozenset({"canceled", "incomplete_expired"})
SMART_RETRY_HOURS = 24
"""Stripe's own next try this near makes ours needless."""

CANDIDATES_AT_MOST = 50
EXPAND = ["payments.data.payment.payment_intent", "parent.subscription_details.subscription"]


class Invoice(Frozen):
    """One open invoice: money in the smallest unit of its currency, times in Unix seconds."""

    id: str
    status: str
    collection_method: str
    amount_remaining: int
    currency: str
    created: int
    attempt_count: int = 0
    next_payment_attempt: int | None = None
    hosted_invoice_url: str | None = None
    subscription_status: str | None = None
    payment_status: str | None = None
    decline: tuple[str, ...] = ()
    advice: str = ""


def cheap_no(invoice: Invoice, now: int) -> str:
    """Why the list alone says that it may not be tried, or nothing."""
    if invoice.status != "open":
        return f"it is {invoice.status}"
    if invoice.collection_method != "charge_automatically":
        return f"it is collected by {invoice.collection_method}"
    if invoice.amount_remaining <= 0:
        return "nothing remains to be paid"
    if invoice.attempt_count == 0:
        return "Stripe has not tried it yet"
    if invoice.next_payment_attempt is not None and invoice.next_payment_attempt < now + SMART_RETRY_HOURS * 3600:
        return "Stripe tries it again by itself soon"
    return ""


def hard_decline(invoice: Invoice) -> str:
    """The decline that only the customer or the bank can cure, or nothing."""
    if invoice.advice == "do_not_try_again":
        return "do_not_try_again"
    return next((word for word in invoice.decline if word in HARD or word.startswith("revocation_")), "")


def why_not(invoice: Invoice, now: int, tried: Collection[str]) -> str:
    """Why this invoice may not be tried now; empty when it may. The whole rule in one place."""
    if no := cheap_no(invoice, now):
        return no
    if invoice.subscription_status in ENDED:
        return f"its subscription is {invoice.subscription_status}"
    if invoice.payment_status in {"processing", "succeeded"}:
        return f"its payment is {invoice.payment_status}"
    if word := hard_decline(invoice):
        return f"hard decline: {word}"
    return "it was tried within a day" if f"Invoice/{invoice.id}" in tried else ""


@reader("read the open invoices")
async def read_invoices() -> list[Invoice]:
    """Open invoices that the list does not rule out, the oldest first, each with its decline and its subscription."""
    return await asyncio.to_thread(_read_invoices)


def _read_invoices() -> list[Invoice]:
    now, found = int(time.time()), []
    for page in pages("/v1/invoices", status="open", collection_method="charge_automatically"):
        found += [invoice for invoice in map(_plain, page) if not cheap_no(invoice, now)]
    found.sort(key=lambda invoice: (invoice.created, invoice.id))
    return [_read_one(invoice.id) for invoice in found[:CANDIDATES_AT_MOST]]


def _plain(row: Mapping[str, Json], **more: Json) -> Invoice:
    fields = {name: row[name] for name in Invoice.model_fields if row.get(name) is not None}
    return Invoice(**fields | more)


def _read_one(invoice_id: str) -> Invoice:
    row = asked("get", f"/v1/invoices/{invoice_id}", {"expand": EXPAND})
    about = ((row.get("parent") or {}).get("subscription_details") or {}).get("subscription")
    subscription = _opened(about, "subscriptions")
    payments = (row.get("payments") or {}).get("data") or [{}]
    newest = max(payments, key=lambda payment: (payment.get("is_default", False), payment.get("created", 0)))
    intent = _opened((newest.get("payment") or {}).get("payment_intent"), "payment_intents")
    failure = intent.get("last_payment_error") or {}
    words = tuple(str(failure[name]) for name in ("decline_code", "code") if failure.get(name))
    return _plain(
        row,
        subscription_status=subscription.get("status"),
        payment_status=intent.get("status"),
        decline=words,
        advice=str(failure.get("advice_code") or ""),
    )


def _opened(value: Json, kind: str) -> Mapping[str, Json]:
    """An expanded object; where Stripe gave only its id, the object asked for."""
    if isinstance(value, str):
        value = asked("get", f"/v1/{kind}/{value}")
    return value if isinstance(value, dict) else {}


def tried_targets(book: Ledger, more_than: int = 0) -> set[str]:
    """Invoices this product has tried more often than that within 24 hours, whatever came of it."""
    with book.read() as connection:
        tries = Counter(past.target for past in book.history(connection) if past.action == "retry_payment")
    return {target for target, count in tries.items() if count > more_than}


def detect_invoices(invoices: Sequence[Invoice]) -> list[Finding]:
    """One finding for all that may be tried, with their sum by currency."""
    if not invoices:
        return []
    sums: dict[str, int] = {}
    for invoice in invoices:
        sums[invoice.currency] = sums.get(invoice.currency, 0) + invoice.amount_remaining
    money = ", ".join(f"{amount} {currency} (smallest unit)" for currency, amount in sums.items())
    declines = {invoice.id: ", ".join(invoice.decline) for invoice in invoices[:10]}
    detail = f"{len(invoices)} open invoices may be tried again: {money}"
    return [Finding(subject="open invoices", detail=detail, evidence={"declines": declines, "sums": sums})]


def plan_invoices(invoices: Sequence[Invoice], money_cap_cents: int) -> list[Fix]:
    """Try each once; a person decides, but for what fits under the cap a person set, in one currency only."""
    left = money_cap_cents if len({invoice.currency for invoice in invoices}) == 1 else 0
    fixes = []
    for invoice in invoices:
        covered = invoice.amount_remaining <= left
        left -= invoice.amount_remaining if covered else 0
        fixes.append(
            Fix(
                action="retry_payment",
                target=f"Invoice/{invoice.id}",
                risk=Risk.auto if covered else Risk.person,
                why=f"its last decline ({', '.join(invoice.decline) or 'unknown'}) may pass on another try",
                undo="a refund, made by a person in the Stripe dashboard",
                expect={
                    "status": "open",
                    "amount": invoice.amount_remaining,
                    "currency": invoice.currency,
                    "attempts": invoice.attempt_count,
                },
                want={"status": "paid", "attempt": f"{invoice.attempt_count}-{time.strftime('%Y%m%d', time.gmtime())}"},
            )
        )
    return fixes


def notices_of(invoices: Sequence[Invoice]) -> list[str]:
    """Hard declines: what to tell which customer."""
    told = []
    for invoice in invoices:
        word = hard_decline(invoice)
        if word == "authentication_required":
            told.append(f"{invoice.id}: the customer must confirm the payment at {invoice.hosted_invoice_url}")
        elif word:
            told.append(f"{invoice.id}: {word}, so it is not tried again; the customer needs another card")
    return told[:10] + ([f"{len(told) - 10} more invoices with hard declines"] if len(told) > 10 else [])


@hand("retry the payment of {fix.target}")
async def retry_payment(fix: Fix, permit: Permit) -> None:
    """Charge one invoice once, if it still may be; its idempotency key makes a second charge of it impossible."""
    invoice = fix.target.partition("/")[2]
    with permit.attempt(fix) as attempt:
        try:
            tried = tried_targets(permit.ledger, more_than=1)  # this attempt is one
            if why := _moved_on(fix, await asyncio.to_thread(_read_one, invoice), tried):
                attempt.moved_on(why)
                return
            key = f"runbook-{invoice}-{fix.want['attempt']}"
            paid = await ask("post", f"/v1/invoices/{invoice}/pay", None, key)
            attempt.did(status=paid["status"], key=key)
        except (TurnedDown, BadSetting) as no:
            attempt.failed(str(no))


def _moved_on(fix: Fix, now: Invoice, tried: Collection[str]) -> str:
    """Why it may not be charged any more, by the rule that planned it: a person's yes may come hours later."""
    seen = {"amount": now.amount_remaining, "currency": now.currency, "attempts": now.attempt_count}
    if changed := [f"{name} {value}" for name, value in seen.items() if fix.expect[name] != value]:
        return f"it is {now.status} with {', '.join(changed)} by now"
    return why_not(now, int(time.time()), tried)


@reader("look up {fix.target}")
async def look_up_invoice(fix: Fix) -> Proof:
    """Paid or not, in Stripe's own words; a payment still under way is neither."""
    try:
        invoice = await asyncio.to_thread(_read_one, fix.target.partition("/")[2])
    except TurnedDown as gone:
        return Proof(held=False, seen=str(gone))
    seen = f"invoice {invoice.status}, payment {invoice.payment_status}"
    if invoice.status == "open" and invoice.payment_status == "processing":
        return Proof(held=None, seen=seen)
    return Proof(held=invoice.status == "paid", seen=seen)
