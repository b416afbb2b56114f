"""A stand-in for Stripe's API over HTTP, faithful enough for the official SDK, with faults that can be injected."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from collections import Counter
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from demo.population import SUBSCRIPTIONS
from demo.serving import Served
from demo.stripe_delivery import (
    BAD,
    Fault,
    Form,
    Hangup,
    Refused,
    Replies,
    Reply,
    answer,
    as_live,
    failure,
    parse_form,
    pick,
    spoil,
)
from demo.stripe_objects import Object, as_list
from demo.stripe_store import Declined, NotAllowed, Store, Unknown

__all__ = ["Fault", "Refused", "StripeServer", "parse_form"]

ID = re.compile(r"/(?:sub|we|evt|in|inpay|pi|re)_\w+")
EQUAL = ("status", "collection_method", "customer", "type", "invoice", "payment_intent")
SCOPES = {
    "balance": "balance",
    "events": "event",
    "invoices": "invoice",
    "invoice_payments": "invoice",
    "payment_intents": "payment_intent",
    "refunds": "charge",
    "subscriptions": "subscription",
    "webhook_endpoints": "webhook",
}


def whole(form: Form, name: str, default: int, least: int = 0, most: int = 1 << 40) -> int:
    """An integer parameter, inside its bounds."""
    text = str(form.get(name, default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise Refused(400, BAD, f"Invalid integer: {text}", param=name, code="parameter_invalid_integer")
    return int(text)


class StripeServer:
    """``with StripeServer(test_keys={…}, webhook_secret=…) as stripe``: at ``stripe.url`` until the block ends.

    ``live_keys`` see every object in live mode, ``expired_keys`` once worked. ``scopes`` limits a key to what it names,
    such as ``{"rk_test_1": {"subscription_read"}}``. ``requests`` counts calls by method and path template.
    """

    def __init__(
        self,
        subscriptions: int = SUBSCRIPTIONS,
        *,
        test_keys: set[str] | None = None,
        live_keys: set[str] | None = None,
        webhook_secret: str = "whsec_test_0123456789",
        port: int = 0,
    ) -> None:
        self.store = Store(subscriptions, webhook_secret)
        self.keys = test_keys if test_keys is not None else {"sk_test_0123456789"}
        self.live_keys = live_keys or set()
        self.expired_keys: set[str] = set()
        self.scopes: dict[str, set[str]] = {}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.faults: list[Fault] = []
        self._replies = Replies()
        routes = [Route("/{path:path}", self._serve, methods=["GET", "POST", "DELETE"])]
        self._served = Served(Starlette(routes=routes), port)
        self.url = self._served.url

    def __enter__(self) -> StripeServer:
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()
        self.store.courier.close()

    async def _serve(self, request: Request) -> Response:
        body = request.url.query if request.method == "GET" else (await request.body()).decode()
        self.requests[request.method, ID.sub("/{id}", request.url.path)] += 1
        fault = pick(self.faults, f"{request.method} {request.url.path}")
        if fault is not None and fault.kind.isdigit():
            return failure(fault)
        if fault is not None and fault.kind == "drop":
            return Hangup()
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        status, text, headers = await run_in_threadpool(self._answer, request, body)
        return spoil(text, status, fault) if fault is not None else answer(text, status, headers)

    # -- keys and idempotency -----------------------------------------------------------------------------------

    def _answer(self, request: Request, body: str) -> tuple[int, str, dict[str, str]]:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        try:
            form = parse_form(body)
            live = self._authorise(request)
            earlier = self._replies.claim(key, request.url.path, form) if key else None
        except Refused as refused:
            return refused.status, json.dumps(refused.body), {}
        if earlier is not None:
            return earlier[2], earlier[3], {"idempotent-replayed": "true"}
        reply: Reply | None = None
        try:
            status, text = self._act(request.method, request.url.path, form)
            text = as_live(text) if live else text
            reply = (request.url.path, form, status, text)
        finally:
            if key:
                self._replies.keep(key, reply)
        return status, text, {}

    def _authorise(self, request: Request) -> bool:
        """Whether the key is a live one; raises ``Refused`` where it may not do this."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        hidden = f"{key[:7]}_****{key[-4:]}" if len(key) > 20 else "****"
        if key in self.expired_keys:
            raise Refused(401, BAD, f"Expired API Key provided: {hidden}", code="api_key_expired")
        if key not in self.keys | self.live_keys:
            raise Refused(401, BAD, f"Invalid API Key provided: {hidden}")
        kind = [*request.url.path.split("/"), "", ""][2]
        scope = f"{SCOPES.get(kind, kind)}_{'read' if request.method == 'GET' else 'write'}"
        if key in self.scopes and not {scope, scope.replace("_read", "_write")} & self.scopes[key]:
            said = f"The provided key '{hidden}' does not have the required permissions for this endpoint."
            raise Refused(403, BAD, f"{said} Having the 'rak_{scope}' permission would allow this request to continue.")
        return key in self.live_keys

    # -- what it answers ----------------------------------------------------------------------------------------

    def _act(self, method: str, path: str, form: Form) -> tuple[int, str]:
        try:
            return 200, self._route(method, path, form)
        except Refused as refused:
            return refused.status, json.dumps(refused.body)
        except NotAllowed as no:
            return 400, json.dumps({"error": {"type": BAD, "code": no.code, "message": str(no)}})
        except Unknown as unknown:
            error = {"type": BAD, "code": "resource_missing", "message": str(unknown), "param": unknown.param}
            return 404 if unknown.param == "id" else 400, json.dumps({"error": error})

    def _route(self, method: str, path: str, form: Form) -> str:
        store = self.store
        match method, *path.strip("/").split("/")[1:]:
            case "GET", "balance":
                return json.dumps({"object": "balance", "available": [], "pending": [], "livemode": False})
            case "GET", "subscriptions":
                return self._subscriptions(form)
            case "GET", "subscriptions", sub_id:
                if (text := store.subscription_json(sub_id)) is None:
                    raise Unknown("subscription", sub_id)
                return text
            case "GET", kind if kind in SCOPES:
                return self._list(kind, path, form)
            case "GET", kind, id_ if kind in SCOPES and kind != "balance":
                return self._spelled(lambda: self._expanded(store.one(kind, id_), form))
            case "POST", "webhook_endpoints", id_:
                return self._spelled(lambda: _switched(store.one("webhook_endpoints", id_), form))
            case "POST", "events", id_, "retry" if store.retry_known:
                return self._retry(store.one("events", id_), form)
            case "POST", "invoices", id_, "pay":
                return self._spelled(lambda: self._pay(store.one("invoices", id_)))
            case "POST", "refunds":
                return self._spelled(lambda: self._refund(form))
        raise Refused(404, BAD, f"Unrecognized request URL ({method}: {path}).")

    def _spelled(self, do: Any) -> str:
        """What ``do`` returns as JSON, spelled before anybody else may change it."""
        with self.store.lock:
            return json.dumps(do())

    def _subscriptions(self, form: Form) -> str:
        page, more = self.store.listed(
            whole(form, "limit", 10, 1, 100),
            form.get("starting_after"),
            form.get("status", ""),
            before=form.get("ending_before"),
            customer=form.get("customer", ""),
        )
        head = f'{{"object":"list","url":"/v1/subscriptions","has_more":{str(more).lower()},"data":['
        return f"{head}{','.join(page)}]}}"

    def _list(self, kind: str, path: str, form: Form) -> str:
        types, span = form.get("types", []), form.get("created", {})
        if len(types) > 20:
            raise Refused(400, BAD, "You may pass at most 20 types.", param="types")
        span = span if isinstance(span, dict) else {"gte": span, "lte": span}
        least = max(whole(span, "gte", 0), whole(span, "gt", -1) + 1 if "gt" in span else 0)
        most = min(whole(span, "lte", 1 << 40), whole(span, "lt", 1 << 40) - 1)
        undelivered = {"false": True, "true": False}.get(form.get("delivery_success", ""))

        def fits(one: Object) -> bool:
            return (
                (not types or one["type"] in types)
                and least <= one["created"] <= most
                and (undelivered is None or bool(one["pending_webhooks"]) is undelivered)
                and ("subscription" not in form or _subscription_of(one) == form["subscription"])
                and all(one.get(name) == form[name] for name in EQUAL if name in form)
            )

        limit = whole(form, "limit", 10, 1, 100)
        rows, more = self.store.page(kind, fits, limit, form.get("starting_after"), form.get("ending_before"))
        return json.dumps(as_list(rows, path, more=more))

    def _expanded(self, one: Object, form: Form) -> Object:
        if one["object"] != "invoice" or not form.get("expand"):
            return one
        made: Object = json.loads(json.dumps(one))
        payment = made["payments"]["data"][0]["payment"]
        payment["payment_intent"] = self.store.intents[payment["payment_intent"]]
        details = made["parent"]["subscription_details"]
        details["subscription"] = json.loads(self.store.subscription_json(details["subscription"]) or "null")
        return made

    def _retry(self, one: Object, form: Form) -> str:
        """Send the event once more to this endpoint; a disabled one, or one that refuses, leaves it undelivered."""
        self.store.deliver(one, self.store.one("webhook_endpoints", form.get("webhook_endpoint", ""))["id"])
        return self._spelled(lambda: one)

    def _pay(self, bill: Object) -> Object:
        try:
            return self.store.pay(bill)
        except Declined as no:
            asks = no.code == "authentication_required"
            said = {"code": no.code if asks else "card_declined", "decline_code": no.code}
            said |= {"advice_code": no.advice} if no.advice else {}
            raise Refused(402, "card_error", "Your card was declined.", **said) from None

    def _refund(self, form: Form) -> Object:
        amount = whole(form, "amount", 0, 1) if "amount" in form else None
        return self.store.refund(form.get("payment_intent", ""), amount, form.get("reason"))


def _switched(one: Object, form: Form) -> Object:
    if "disabled" in form:
        one["status"] = "disabled" if form["disabled"].lower() == "true" else "enabled"
    one |= {name: form[name] for name in ("url", "description", "enabled_events", "metadata") if name in form}
    return one


def _subscription_of(one: Object) -> str | None:
    details = (one.get("parent") or {}).get("subscription_details") or {}
    found: str | None = details.get("subscription")
    return found


def main() -> None:
    """Serve until a signal ends it; prints the address first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--subscriptions", type=int, default=SUBSCRIPTIONS)
    parser.add_argument("--key", default="sk_test_0123456789")
    given = parser.parse_args()
    with StripeServer(given.subscriptions, test_keys={given.key}, port=given.port) as server:
        print(server.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
