"""Stripe's objects in the shape of API version 2026-10-28.endive, made from a few facts each."""

from __future__ import annotations

import json
from typing import Any

from demo import population

VERSION = "2026-10-28.endive"
MONTH = 30 * 86_400
Object = dict[str, Any]


def as_list(rows: list[Object], path: str, *, more: bool = False) -> Object:
    """One page of a list."""
    return {"object": "list", "data": rows, "has_more": more, "url": path}


def subscription(sub_id: str, customer: str, status: str, created: int, *, livemode: bool = False) -> Object:
    """A subscription; its period sits on its item."""
    plan = {"id": "price_pro", "object": "plan", "active": True, "amount": 900, "currency": "usd", "interval": "month"}
    price = {"id": "price_pro", "object": "price", "active": True, "currency": "usd", "unit_amount": 900}
    item = {
        "id": f"si_{sub_id[4:]}",
        "object": "subscription_item",
        "created": created,
        "current_period_end": created + MONTH,
        "current_period_start": created,
        "discounts": [],
        "metadata": {},
        "plan": plan,
        "price": price,
        "quantity": 1,
        "subscription": sub_id,
    }
    return {
        "id": sub_id,
        "object": "subscription",
        "application": None,
        "automatic_tax": {"enabled": False},
        "billing_cycle_anchor": created,
        "billing_mode": {"type": "classic"},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "canceled_at": created + MONTH if status == "canceled" else None,
        "collection_method": "charge_automatically",
        "created": created,
        "currency": "usd",
        "customer": customer,
        "default_payment_method": None,
        "default_source": None,
        "discounts": [],
        "invoice_settings": {"issuer": {"type": "self"}},
        "items": as_list([item], f"/v1/subscription_items?subscription={sub_id}"),
        "latest_invoice": None,
        "livemode": livemode,
        "metadata": {},
        "on_behalf_of": None,
        "pending_setup_intent": None,
        "schedule": None,
        "start_date": created,
        "status": status,
        "test_clock": None,
    }


def _template() -> str:
    marked = subscription("sub_@I", "cus_@C", "@S", 111222333)
    text = (
        json.dumps(marked, separators=(",", ":"))
        .replace("%", "%%")
        .replace('"canceled_at":null', '"canceled_at":%(canceled)s')
    )
    text = text.replace("sub_@I", "%(id)s").replace("si_@I", "si_%(number)s").replace("cus_@C", "%(customer)s")
    text = text.replace("@S", "%(status)s").replace(str(111222333 + MONTH), "%(end)d")
    return text.replace("111222333", "%(created)d")


_TEMPLATE = _template()


def subscription_text(i: int, status: str) -> str:
    """Subscription ``i`` of the population as JSON text, fast enough to list a million."""
    sub_id, created = population.subscription_id(i), population.created(i)
    return _TEMPLATE % {
        "id": sub_id,
        "number": sub_id[4:],
        "customer": population.customer_id(i),
        "status": status,
        "created": created,
        "end": created + MONTH,
        "canceled": str(created + MONTH) if status == "canceled" else "null",
    }


def endpoint(endpoint_id: str, url: str, created: int) -> Object:
    """A webhook endpoint that is switched on and sent everything."""
    return {
        "id": endpoint_id,
        "object": "webhook_endpoint",
        "api_version": VERSION,
        "application": None,
        "created": created,
        "description": None,
        "enabled_events": ["*"],
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


def event(event_id: str, kind: str, thing: Object, created: int, before: Object | None = None) -> Object:
    """An event about ``thing``, which no endpoint has accepted yet."""
    data: Object = {"object": thing} | ({"previous_attributes": before} if before else {})
    return {
        "id": event_id,
        "object": "event",
        "api_version": VERSION,
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def payment_intent(
    intent_id: str, customer: str, amount: int, created: int, decline: str = "", advice: str = ""
) -> Object:
    """A payment; with ``decline`` its last try failed for that reason."""
    error: Object | None = None
    if decline:
        error = {"type": "card_error", "code": "card_declined", "decline_code": decline, "message": "Declined."}
        error |= {"advice_code": advice} if advice else {}
        if decline == "authentication_required":
            error["code"] = "authentication_required"
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0 if decline else amount,
        "application": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "confirmation_method": "automatic",
        "created": created,
        "currency": "usd",
        "customer": customer,
        "last_payment_error": error,
        "latest_charge": None,
        "livemode": False,
        "metadata": {},
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_types": ["card"],
        "payment_record": None,
        "review": None,
        "setup_future_usage": None,
        "source": None,
        "status": "requires_payment_method" if decline else "succeeded",
    }


def invoice(
    invoice_id: str, sub_id: str, customer: str, intent_id: str, amount: int, created: int, **more: Any
) -> Object:
    """An open invoice of a subscription; ``more`` overrides any field."""
    payment = {
        "id": f"inpay_{invoice_id[3:]}",
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": amount,
        "created": created,
        "currency": "usd",
        "invoice": invoice_id,
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": intent_id},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
    details = {"metadata": {}, "subscription": sub_id}
    made: Object = {
        "id": invoice_id,
        "object": "invoice",
        "amount_due": amount,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": amount,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 1,
        "attempted": True,
        "automatic_tax": {"enabled": False},
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": created,
        "currency": "usd",
        "customer": customer,
        "customer_tax_exempt": "none",
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "discounts": [],
        "hosted_invoice_url": f"https://invoice.stripe.com/i/{invoice_id}",
        "issuer": {"type": "self"},
        "latest_revision": None,
        "lines": as_list([], f"/v1/invoices/{invoice_id}/lines"),
        "livemode": False,
        "next_payment_attempt": None,
        "on_behalf_of": None,
        "parent": {"type": "subscription_details", "subscription_details": details, "quote_details": None},
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "payments": as_list([payment], f"/v1/invoice_payments?invoice={invoice_id}"),
        "period_end": created,
        "period_start": created - MONTH,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "open",
        "status_transitions": {
            "finalized_at": created,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": amount,
        "test_clock": None,
        "total": amount,
    }
    return made | more
