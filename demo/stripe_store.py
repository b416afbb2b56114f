"""What the Stripe stand-in knows: subscriptions as functions of a number, and what was changed since."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import stripe

from demo import population
from demo.stripe_objects import Object, endpoint, event, invoice, payment_intent, subscription, subscription_text

HOUR = 3600


class Declined(Exception):
    """A card said no."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Store:
    """One Stripe account; every method is safe between threads."""

    def __init__(self, subscriptions: int, webhook_secret: str) -> None:
        self.count, self.secret = subscriptions, webhook_secret
        self.lock = threading.RLock()
        self.statuses: dict[int, str] = {}
        self.more: dict[str, Object] = {}  # subscriptions outside the population, the newest last
        self.endpoints: dict[str, Object] = {}
        self.events: dict[str, Object] = {}
        self.invoices: dict[str, Object] = {}
        self.intents: dict[str, Object] = {}
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
        return int(digits) if digits.isdigit() and int(digits) < self.count else None

    def subscription_json(self, sub_id: str) -> str | None:
        """One subscription as JSON text."""
        if sub_id in self.more:
            return json.dumps(self.more[sub_id])
        i = self.number(sub_id)
        return None if i is None else subscription_text(i, self.status(i))

    def listed(self, limit: int, after: str | None, wanted: str) -> tuple[list[str], bool]:
        """One page of subscriptions as JSON texts, the newest first, and whether there are more."""
        page: list[str] = []
        for text, status in self._from(after):
            if wanted == "all" or status == wanted:
                if len(page) == limit:
                    return page, True
                page.append(text)
        return page, False

    def _from(self, after: str | None) -> Iterator[tuple[str, str]]:
        extra = sorted(self.more.values(), key=lambda one: (one["created"], one["id"]), reverse=True)
        start = self.number(after) if after else None
        if start is None:
            ids = [one["id"] for one in extra]
            for one in extra[ids.index(after) + 1 if after in ids else 0 :]:
                yield json.dumps(one), one["status"]
            start = self.count
        for i in range(start - 1, -1, -1):
            yield subscription_text(i, self.status(i)), self.status(i)

    def set_status(self, i: int, status: str) -> None:
        """Change subscription ``i`` and tell nobody, as when its event was lost for good."""
        with self.lock:
            self.statuses[i] = status

    def add_subscription(self, sub_id: str, customer: str, status: str, created: int) -> Object:
        """A subscription outside the population."""
        with self.lock:
            self.more[sub_id] = subscription(sub_id, customer, status, created)
            return self.more[sub_id]

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
        if deliver:
            self.deliver(made)
        return made

    def deliver(self, made: Object, only: str | None = None) -> bool:
        """Send an event, signed, to every enabled endpoint (or one); True when all accepted it."""
        with self.lock:
            going = [one for one in self.endpoints.values() if one["status"] == "enabled" and only in (None, one["id"])]
            body = json.dumps(made)
        header = stripe.WebhookSignature.generate_signature_header(body, self.secret)
        accepted = [self._post(one["url"], body, header, made["id"]) for one in going]
        done = bool(accepted) and all(accepted)
        if done:
            with self.lock:
                made["pending_webhooks"] = 0
        return done

    def _post(self, url: str, body: str, header: str, event_id: str) -> bool:
        headers = {"stripe-signature": header, "content-type": "application/json"}
        try:
            status = httpx.post(url, content=body.encode(), headers=headers, timeout=10).status_code
        except httpx.HTTPError:
            status = 0
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
        """Charge an open invoice; raises ``Declined`` where the card says no again."""
        with self.lock:
            self.tries[bill["id"]] = self.tries.get(bill["id"], 0) + 1
            bill["attempt_count"] += 1
            intent = self.intents[bill["payments"]["data"][0]["payment"]["payment_intent"]]
            code = (intent["last_payment_error"] or {}).get("decline_code", "")
            if code not in {"", "insufficient_funds", "try_again_later", "processing_error"}:
                raise Declined(code)
            self.pays[bill["id"]] = self.pays.get(bill["id"], 0) + 1
            intent |= {"status": "succeeded", "last_payment_error": None, "amount_received": bill["amount_due"]}
            bill |= {"status": "paid", "amount_paid": bill["amount_due"], "amount_remaining": 0}
            bill["payments"]["data"][0]["status"] = "paid"
            return bill

    def locked(self, do: Callable[[], Object]) -> Object:
        """Run ``do`` while nobody else changes anything."""
        with self.lock:
            return do()
