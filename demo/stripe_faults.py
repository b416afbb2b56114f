"""What goes wrong with payments in the demo, and what only looks as if it had."""

from __future__ import annotations

import time
from dataclasses import dataclass

from demo import population
from demo.stripe_store import HOUR, Store


@dataclass(frozen=True)
class Changed:
    """Subscriptions whose status at Stripe the app does not know: number and Stripe's word."""

    expected: dict[int, str]


def drift(store: Store, n: int = 200) -> Changed:
    """``n`` subscriptions changed at Stripe with no event left to tell: every 211th, so they lie all over the list."""
    changed: dict[int, str] = {}
    for i in (j * 211 + 13 for j in range(n)):
        word = "past_due" if population.status(i) == "active" else "active"
        store.set_status(i, word)
        changed[i] = word
    return Changed(changed)


def undelivered_events(store: Store, n: int = 20) -> Changed:
    """``n`` subscriptions whose event of two hours ago the app never accepted."""
    changed: dict[int, str] = {}
    for i in (j * 2_003 + 20 for j in range(n)):
        word = "canceled" if len(changed) % 2 else "past_due"
        store.emit(i, word, age=2 * HOUR + (n - len(changed)))
        changed[i] = word
    return Changed(changed)


def disable_endpoints(store: Store) -> None:
    """Stripe gave up on the app and switched its endpoint off."""
    for one in store.endpoints.values():
        one["status"] = "disabled"


def retryable_invoice(store: Store) -> str:
    """An open invoice whose card had no money yesterday: a person may have it tried again."""
    return str(store.add_invoice("retryable", 4, "insufficient_funds")["id"])


def lookalike_invoices(store: Store) -> list[str]:
    """Invoices nobody may charge: paid, hard declines, Stripe's own retry due, sent by mail, subscription ended."""
    soon = int(time.time()) + 3 * HOUR
    made = [
        store.add_invoice("already_paid", 104, status="paid", amount_remaining=0, amount_paid=900),
        store.add_invoice("lost_card", 204, "lost_card"),
        store.add_invoice("advice", 304, "generic_decline", "do_not_try_again"),
        store.add_invoice("authenticate", 404, "authentication_required"),
        store.add_invoice("smart_retry", 504, "insufficient_funds", next_payment_attempt=soon),
        store.add_invoice("by_mail", 604, "insufficient_funds", collection_method="send_invoice"),
        store.add_invoice("ended", 7, "insufficient_funds"),
    ]
    return [str(one["id"]) for one in made]
