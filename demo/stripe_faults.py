"""What goes wrong with payments in the demo, and what only looks as if it had."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo import population
from demo.stripe_objects import Object
from demo.stripe_store import ENDED, HOUR, Store


@dataclass(frozen=True)
class Changed:
    """Subscriptions whose status at Stripe the app does not know: number and Stripe's word."""

    expected: dict[int, str]


@dataclass(frozen=True)
class Lookalike:
    """Objects that must be left alone; ``untouched`` reads the store."""

    name: str
    ids: tuple[str, ...]
    untouched: Callable[[], bool]


def _spread(store: Store, n: int, step: int, first: int) -> list[int]:
    """``n`` numbers from ``first`` on, ``step`` apart, or as far apart as the account is large."""
    wide = min(step, (store.count - first - 1) // max(1, n - 1)) if n > 1 else step
    if wide < 1 or first >= store.count:
        raise ValueError(f"{n} faults do not fit into {store.count} subscriptions. Next: ask for fewer")
    return [first + j * wide for j in range(n)]


# -- faults ---------------------------------------------------------------------------------------------------------


def drift(store: Store, n: int = 200) -> Changed:
    """``n`` subscriptions changed at Stripe with no event left to tell: about every 211th, all over the list."""
    changed: dict[int, str] = {}
    for i in _spread(store, n, 211, 13):
        while population.status(i) in ENDED:  # what has ended at Stripe stays so
            i = (i + 1) % store.count
        word = "past_due" if population.status(i) == "active" else "active"
        store.set_status(i, word)
        changed[i] = word
    return Changed(changed)


def undelivered_events(store: Store, n: int = 20) -> Changed:
    """``n`` subscriptions whose event of two hours ago the app never accepted."""
    changed: dict[int, str] = {}
    for i in _spread(store, n, 2_003, 20):
        word = "canceled" if len(changed) % 2 else "past_due"
        store.emit(i, word, age=2 * HOUR + (n - len(changed)))
        changed[i] = word
    return Changed(changed)


def disable_endpoints(store: Store) -> None:
    """Stripe gave up on the app and switched its endpoints off."""
    with store.lock:
        for one in store.endpoints.values():
            one["status"] = "disabled"


def retryable_invoice(store: Store) -> str:
    """An open invoice whose card had no money yesterday: a person may have it tried again."""
    return str(store.add_invoice("retryable", 4, "insufficient_funds")["id"])


# -- look-alikes ----------------------------------------------------------------------------------------------------


def _uncharged(store: Store, name: str, i: int, decline: str = "", advice: str = "", **more: Any) -> Lookalike:
    bill = store.add_invoice(name, i, decline, advice, **more)
    intent = store.intents[f"pi_{name}"]
    at_first = json.dumps([bill, intent])

    def untouched() -> bool:
        with store.lock:
            refunded = any(one["payment_intent"] == intent["id"] for one in store.refunds.values())
            return bill["id"] not in store.tries and not refunded and json.dumps([bill, intent]) == at_first

    return Lookalike(f"invoice {name.replace('_', ' ')}", (bill["id"],), untouched)


def already_paid_invoice(store: Store) -> Lookalike:
    """An invoice that is paid."""
    return _uncharged(store, "already_paid", 104, status="paid", amount_remaining=0, amount_paid=900)


def hard_declined_invoice(store: Store) -> Lookalike:
    """An open invoice whose card was reported lost."""
    return _uncharged(store, "lost_card", 204, "lost_card")


def advised_invoice(store: Store) -> Lookalike:
    """An open invoice whose bank advises not to try again."""
    return _uncharged(store, "advice", 304, "generic_decline", "do_not_try_again")


def authentication_required_invoice(store: Store) -> Lookalike:
    """An open invoice that only its customer can confirm."""
    return _uncharged(store, "authenticate", 404, "authentication_required")


def smart_retry_due_soon(store: Store) -> Lookalike:
    """An open invoice that Stripe tries again by itself in three hours."""
    soon = int(time.time()) + 3 * HOUR
    return _uncharged(store, "smart_retry", 504, "insufficient_funds", next_payment_attempt=soon)


def send_invoice(store: Store) -> Lookalike:
    """An open invoice that goes to its customer by mail."""
    return _uncharged(store, "by_mail", 604, "insufficient_funds", collection_method="send_invoice")


def canceled_subscription_invoice(store: Store) -> Lookalike:
    """An open invoice of a subscription that has ended."""
    assert store.status(7) in ENDED
    return _uncharged(store, "ended", 7, "insufficient_funds")


def invoice_lookalikes(store: Store) -> list[Lookalike]:
    """Every invoice nobody may charge."""
    makers = (
        *(already_paid_invoice, hard_declined_invoice, advised_invoice, authentication_required_invoice),
        *(smart_retry_due_soon, send_invoice, canceled_subscription_invoice),
    )
    return [make(store) for make in makers]


def lookalike_invoices(store: Store) -> list[str]:
    """The ids of ``invoice_lookalikes``."""
    return [one.ids[0] for one in invoice_lookalikes(store)]


def young_subscription(store: Store) -> Lookalike:
    """A subscription of this minute, whose webhook is still on its way to the app."""
    made: Object = store.add_subscription("sub_young", "cus_young", "active", int(time.time()))
    at_first = json.dumps(made)
    return Lookalike("young subscription", ("sub_young",), lambda: json.dumps(store.more.get("sub_young")) == at_first)
