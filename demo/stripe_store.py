"""What the Stripe stand-in knows: subscriptions as functions of a number, and what was changed since."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from demo import population
from demo.stripe_delivery import Courier
from demo.stripe_objects import Object, endpoint, event, invoice, payment_intent, subscription, subscription_text

HOUR = 3600
ENDED = ("canceled", "incomplete_expired")
SOFT = ("", "insufficient_funds", "try_again_later", "processing_error")
"""Declines that pass when the card is tried again."""

NULL_IN_REFUND = ["charge", "payment_method", "balance_transaction", "failure_balance_transaction", "pending_reason"]
NULL_IN_REFUND += ["source_transfer_reversal", "transfer_reversal"]

Lazy = tuple[str, Callable[[], str]]
"""A subscription's status, and how to spell it whole: what a filter passes over is never spelled."""


class Declined(Exception):
    """A card said no."""

    def __init__(self, code: str, advice: str = "") -> None:
        super().__init__(code)
        self.code, self.advice = code, advice


class NotAllowed(Exception):
    """The object is not in a state for this; ``code`` is Stripe's word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Unknown(Exception):
    """No such object; ``param`` is where its id was given."""

    def __init__(self, kind: str, id_: str, param: str = "id") -> None:
        super().__init__(f"No such {kind}: '{id_}'")
        self.param = param


class Store:
    """One Stripe account; every method is safe between threads."""

    def __init__(self, subscriptions: int, webhook_secret: str) -> None:
        self.count, self.secret, self.courier = subscriptions, webhook_secret, Courier(webhook_secret)
        self.lock = threading.RLock()
        self.statuses: dict[int, str] = {}
        self.more: dict[str, Object] = {}  # subscriptions outside the population; the newest of them come first
        self.endpoints: dict[str, Object] = {}
        self.events: dict[str, Object] = {}
        self.owed: dict[str, set[str]] = {}  # which endpoints have not accepted an event
        self.invoices: dict[str, Object] = {}
        self.intents: dict[str, Object] = {}
        self.refunds: dict[str, Object] = {}
        self.pays: dict[str, int] = {}  # how often each invoice was charged with success
        self.tries: dict[str, int] = {}
        self.deliveries: list[tuple[str, int]] = []
        self.retry_known = True

    # -- subscriptions ------------------------------------------------------------------------------------------

    def status(self, i: int) -> str:
        """The status of subscription ``i`` now."""
        return self.statuses.get(i) or population.status(i)

    def number(self, sub_id: str) -> int | None:
        """The number of a subscription of the population, or None."""
        digits = sub_id.removeprefix("sub_demo")
        i = int(digits) if digits.isascii() and digits.isdigit() else self.count
        return i if i < self.count and population.subscription_id(i) == sub_id else None

    def subscription_json(self, sub_id: str) -> str | None:
        """One subscription as JSON text."""
        with self.lock:
            if sub_id in self.more:
                return json.dumps(self.more[sub_id])
            i = self.number(sub_id)
            return subscription_text(i, self.status(i)) if i is not None else None

    def listed(
        self, limit: int, after: str | None, wanted: str, *, before: str | None = None, customer: str = ""
    ) -> tuple[list[str], bool]:
        """One page of subscriptions as JSON texts, the newest first, and whether there are more.

        ``wanted`` is a status, ``all``, ``ended``, or empty for all that are not canceled. Raises ``Unknown`` for a
        cursor that is no subscription.
        """
        page: list[str] = []
        with self.lock:
            for status, spell in self._of(customer) if customer else self._from(after, before):
                if _wants(wanted, status):
                    if len(page) == limit:
                        return page[::-1] if before else page, True
                    page.append(spell())
        return page[::-1] if before else page, False

    def _of(self, customer: str) -> Iterator[Lazy]:
        yield from (_added(one) for one in self._extra() if one["customer"] == customer)
        i = self.number(customer.replace("cus_", "sub_", 1))
        if i is not None:
            yield self._numbered(i)

    def _from(self, after: str | None, before: str | None) -> Iterator[Lazy]:
        """From the cursor downward in time, or upward from ``before``."""
        extra = self._extra()
        ids = [one["id"] for one in extra]
        start = self._place(after or before, ids) if after or before else -1
        if before:
            yield from (self._numbered(i) for i in range(self.count - (start - len(ids)), self.count))
            yield from (_added(one) for one in reversed(extra[:start]))
            return
        yield from (_added(one) for one in extra[start + 1 :])
        yield from (self._numbered(i) for i in range(self.count - 1 - max(0, start + 1 - len(ids)), -1, -1))

    def _place(self, cursor: str | None, extra: list[str]) -> int:
        """How many subscriptions come before this one."""
        i = self.number(cursor or "")
        if cursor in extra:
            return extra.index(cursor)
        if i is None:
            raise Unknown("subscription", str(cursor), "starting_after")
        return len(extra) + self.count - 1 - i

    def _extra(self) -> list[Object]:
        return sorted(self.more.values(), key=lambda one: (one["created"], one["id"]), reverse=True)

    def _numbered(self, i: int) -> Lazy:
        status = self.status(i)
        return status, lambda: subscription_text(i, status)

    def set_status(self, i: int, status: str) -> None:
        """Change subscription ``i`` and tell nobody, as when its event was lost for good."""
        with self.lock:
            self.statuses[i] = status

    def add_subscription(self, sub_id: str, customer: str, status: str, created: int) -> Object:
        """A subscription outside the population."""
        with self.lock:
            self.more[sub_id] = subscription(sub_id, customer, status, created)
            return self.more[sub_id]

    # -- other objects ------------------------------------------------------------------------------------------

    def table(self, kind: str) -> dict[str, Object]:
        """All objects of a kind but subscriptions, by id."""
        return {
            "webhook_endpoints": self.endpoints,
            "events": self.events,
            "invoices": self.invoices,
            "payment_intents": self.intents,
            "refunds": self.refunds,
            "invoice_payments": {row["id"]: row for one in self.invoices.values() for row in one["payments"]["data"]},
        }[kind]

    def one(self, kind: str, id_: str) -> Object:
        """The object itself, not a copy; raises ``Unknown``."""
        with self.lock:
            if found := self.table(kind).get(id_):
                return found
            raise Unknown(kind.removesuffix("s"), id_)

    def page(
        self, kind: str, fits: Callable[[Object], bool], limit: int, after: str | None, before: str | None = None
    ) -> tuple[list[Object], bool]:
        """One page of the objects that fit, the newest first, and whether there are more; raises ``Unknown``."""
        with self.lock:
            rows = sorted(self.table(kind).values(), key=lambda one: (one["created"], one["id"]), reverse=True)
            if before:
                rows.reverse()
            if cursor := after or before:
                ids = [one["id"] for one in rows]
                if cursor not in ids:
                    raise Unknown(kind.removesuffix("s"), cursor, "starting_after" if after else "ending_before")
                rows = rows[ids.index(cursor) + 1 :]
            rows = [one for one in rows if fits(one)]
            page = json.loads(json.dumps(rows[:limit]))
            return page[::-1] if before else page, len(rows) > limit

    # -- endpoints and events -----------------------------------------------------------------------------------

    def add_endpoint(self, url: str) -> Object:
        """Register a webhook endpoint for everything."""
        with self.lock:
            made = endpoint(f"we_demo{len(self.endpoints):04d}", url, population.EPOCH)
            self.endpoints[made["id"]] = made
            return made

    def emit(self, i: int, status: str, *, age: int = 2 * HOUR, deliver: bool = False) -> Object:
        """Change subscription ``i`` and keep its event, ``age`` seconds old; delivered only when asked."""
        with self.lock:
            before = self.status(i)
            self.statuses[i] = status
            thing = json.loads(subscription_text(i, status))
            kind = "customer.subscription.deleted" if status == "canceled" else "customer.subscription.updated"
            made = event(f"evt_demo{len(self.events):06d}", kind, thing, int(time.time()) - age, {"status": before})
            self.events[made["id"]] = made
            self.owed[made["id"]] = {one["id"] for one in self.endpoints.values() if _listens(one, kind)}
            made["pending_webhooks"] = max(1, len(self.owed[made["id"]]))
        if deliver:
            self.deliver(made)
        return made

    def deliver(self, made: Object, only: str | None = None) -> bool:
        """Send an event, signed, to every enabled endpoint (or one); True when all accepted it."""
        with self.lock:
            going = [
                one for one in self.endpoints.values() if only in (None, one["id"]) and _listens(one, made["type"])
            ]
            going = [one for one in going if one["status"] == "enabled"]
            body = json.dumps(made)
        accepted = [one["id"] for one in going if self._post(one["url"], body, made["id"])]
        if accepted:
            with self.lock:
                owed = self.owed.setdefault(made["id"], set())
                owed.difference_update(accepted)
                made["pending_webhooks"] = len(owed)
        return bool(going) and len(accepted) == len(going)

    def _post(self, url: str, body: str, event_id: str) -> bool:
        status = self.courier.send(url, body)
        with self.lock:
            self.deliveries.append((event_id, status))
        return 200 <= status < 300

    # -- money --------------------------------------------------------------------------------------------------

    def add_invoice(self, name: str, i: int, decline: str = "", advice: str = "", **more: Any) -> Object:
        """An open invoice of subscription ``i``, a day old, whose last try failed with ``decline``."""
        with self.lock:
            made, customer = int(time.time()) - 24 * HOUR, population.customer_id(i)
            intent = payment_intent(f"pi_{name}", customer, 900, made, decline, advice)
            sub_id = more.pop("subscription", population.subscription_id(i))
            bill = invoice(f"in_{name}", sub_id, customer, intent["id"], 900, made, **more)
            self.intents[intent["id"]], self.invoices[bill["id"]] = intent, bill
            return bill

    def pay(self, bill: Object) -> Object:
        """Charge an invoice; raises ``NotAllowed`` unless it is open, ``Declined`` where the card says no again."""
        with self.lock:
            if bill["status"] != "open":
                code = "invoice_already_paid" if bill["status"] == "paid" else "invoice_not_editable"
                raise NotAllowed(code, f"Invoice is already {bill['status']}")
            self.tries[bill["id"]] = self.tries.get(bill["id"], 0) + 1
            bill |= {"attempt_count": bill["attempt_count"] + 1, "attempted": True}
            payment = bill["payments"]["data"][0]
            intent = self.intents[payment["payment"]["payment_intent"]]
            failed = intent["last_payment_error"] or {}
            if failed.get("decline_code", "") not in SOFT or failed.get("advice_code") == "do_not_try_again":
                raise Declined(failed["decline_code"], failed.get("advice_code", ""))
            self.pays[bill["id"]] = self.pays.get(bill["id"], 0) + 1
            now, due = int(time.time()), bill["amount_due"]
            intent |= {"status": "succeeded", "last_payment_error": None, "amount_received": due}
            bill |= {"status": "paid", "amount_paid": due, "amount_remaining": 0, "next_payment_attempt": None}
            bill["status_transitions"] |= {"paid_at": now}
            payment |= {
                "status": "paid",
                "amount_paid": due,
                "status_transitions": {"canceled_at": None, "paid_at": now},
            }
            return bill

    def refund(self, intent_id: str, amount: int | None, reason: str | None = None) -> Object:
        """Give back a payment or a part of it; raises ``Unknown`` and ``NotAllowed``."""
        with self.lock:
            intent = self.one("payment_intents", intent_id)
            given = sum(one["amount"] for one in self.refunds.values() if one["payment_intent"] == intent_id)
            left = intent["amount_received"] - given
            if not 0 < (wanted := left if amount is None else amount) <= left:
                raise NotAllowed("charge_already_refunded", f"Refund amount ({wanted}) exceeds what is left ({left})")
            made: Object = dict.fromkeys(NULL_IN_REFUND) | {"id": f"re_demo{len(self.refunds):06d}", "object": "refund"}
            made |= {"amount": wanted, "currency": intent["currency"], "created": int(time.time()), "reason": reason}
            made |= {"payment_intent": intent_id, "customer": intent["customer"], "status": "succeeded", "metadata": {}}
            self.refunds[made["id"]] = made
            return made


def _added(one: Object) -> Lazy:
    return one["status"], lambda: json.dumps(one)


def _wants(wanted: str, status: str) -> bool:
    return status in ENDED if wanted == "ended" else wanted in {"all", status} or (not wanted and status != "canceled")


def _listens(one: Object, kind: str) -> bool:
    return "*" in one["enabled_events"] or kind in one["enabled_events"]
