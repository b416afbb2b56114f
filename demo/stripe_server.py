"""A stand-in for Stripe's API over HTTP, faithful enough for the official SDK, with faults that can be injected."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from demo.population import SUBSCRIPTIONS
from demo.serving import Served
from demo.stripe_objects import Object, as_list
from demo.stripe_store import Declined, Store

Form = dict[str, Any]


@dataclass
class Fault:
    """The next ``times`` requests whose method and path match fail in this way."""

    match: str
    kind: str
    """A status such as ``429``, or ``slow``, ``half``, ``garbage``, ``empty``, ``partial``, ``livemode``, ``lost``."""
    times: int = 1
    seconds: float = 0.0
    should_retry: bool = False
    skip: int = 0


class Refused(Exception):
    """Stripe's error answer."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": {"type": kind, "message": message, **more}}


def parse_form(text: str) -> Form:
    """Stripe's ``a[b]=c`` and ``a[0]=c`` as nested values."""
    form: Form = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        names = re.findall(r"[^\[\]]+", key)
        if len(names) == 1:
            form[names[0]] = [value] if key.endswith("[]") else value
        elif names[1].isdigit():
            form.setdefault(names[0], []).append(value)
        else:
            form.setdefault(names[0], {})[names[1]] = value
    return form


class StripeServer:
    """``with StripeServer(test_keys={…}, webhook_secret=…) as stripe``: at ``stripe.url`` until the block ends."""

    def __init__(
        self,
        subscriptions: int = SUBSCRIPTIONS,
        *,
        test_keys: set[str] | None = None,
        webhook_secret: str = "whsec_test_0123456789",
        port: int = 0,
    ) -> None:
        self.store = Store(subscriptions, webhook_secret)
        self.keys = test_keys if test_keys is not None else {"sk_test_0123456789"}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.faults: list[Fault] = []
        self._replies: dict[str, tuple[str, Form, int, str]] = {}
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

    async def _serve(self, request: Request) -> Response:
        form = parse_form(request.url.query if request.method == "GET" else (await request.body()).decode())
        template = re.sub(r"/(?:sub|we|evt|in|pi)_\w+", "/{id}", request.url.path)
        self.requests[request.method, template] += 1
        fault = self._fault(f"{request.method} {request.url.path}")
        if fault is not None and fault.kind.isdigit():
            headers = {"stripe-should-retry": "true"} if fault.should_retry else {}
            return _error(Refused(int(fault.kind), "api_error", "injected"), headers)
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        status, text = await run_in_threadpool(self._answer, request, form)
        return _spoiled(text, status, fault) if fault is not None else _json(text, status)

    def _fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if re.search(fault.match, line):
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def _answer(self, request: Request, form: Form) -> tuple[int, str]:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        try:
            self._authorise(request.headers.get("authorization", ""))
            if key is not None and key in self._replies:
                path, earlier, status, text = self._replies[key]
                if (path, earlier) != (request.url.path, form):
                    raise Refused(400, "idempotency_error", "Keys for idempotent requests can only be used once.")
                return status, text
            status, text = 200, self._route(request.method, request.url.path, form)
        except Refused as refused:
            status, text = refused.status, json.dumps(refused.body)
        if key is not None and status < 500 and status != 401:
            self._replies[key] = (request.url.path, form, status, text)
        return status, text

    def _authorise(self, header: str) -> None:
        if header.removeprefix("Bearer ") not in self.keys:
            raise Refused(401, "invalid_request_error", "Invalid API Key provided: sk_****")

    def _route(self, method: str, path: str, form: Form) -> str:
        parts = path.strip("/").split("/")[1:]
        store = self.store
        match method, *parts:
            case "GET", "balance":
                return json.dumps({"object": "balance", "available": [], "pending": [], "livemode": False})
            case "GET", "subscriptions":
                page, more = store.listed(
                    int(form.get("limit", 10)), form.get("starting_after"), form.get("status", "active")
                )
                head = f'{{"object":"list","url":"/v1/subscriptions","has_more":{str(more).lower()},"data":['
                return f"{head}{','.join(page)}]}}"
            case "GET", "subscriptions", sub_id:
                return store.subscription_json(sub_id) or _missing("subscription", sub_id)
            case "GET", ("webhook_endpoints" | "events" | "invoices") as kind:
                return self._list(kind, path, form)
            case "GET", ("webhook_endpoints" | "events" | "invoices" | "payment_intents") as kind, id_:
                return json.dumps(self._expanded(self._one(kind, id_), form))
            case "POST", "webhook_endpoints", id_:
                return json.dumps(self._switch(self._one("webhook_endpoints", id_), form))
            case "POST", "events", id_, "retry" if store.retry_known:
                return json.dumps(self._retry(self._one("events", id_), form))
            case "POST", "invoices", id_, "pay":
                return json.dumps(self._pay(self._one("invoices", id_)))
        raise Refused(404, "invalid_request_error", f"Unrecognized request URL ({method}: {path}).")

    def _table(self, kind: str) -> dict[str, Object]:
        store = self.store
        named = {"webhook_endpoints": store.endpoints, "events": store.events, "invoices": store.invoices}
        return {**named, "payment_intents": store.intents}[kind]

    def _one(self, kind: str, id_: str) -> Object:
        return self._table(kind).get(id_) or json.loads(_missing(kind, id_))

    def _list(self, kind: str, path: str, form: Form) -> str:
        rows = sorted(self._table(kind).values(), key=lambda one: (one["created"], one["id"]), reverse=True)
        if form.get("delivery_success") == "false":
            rows = [one for one in rows if one["pending_webhooks"]]
        types = form.get("types", [])
        span = form.get("created", {})
        rows = [
            one
            for one in rows
            if (not types or one["type"] in types)
            and all(one.get(name) == form[name] for name in ("status", "collection_method") if name in form)
            and int(span.get("gte", 0)) <= one["created"] <= int(span.get("lte", 1 << 40))
        ]
        ids = [one["id"] for one in rows]
        start = ids.index(form["starting_after"]) + 1 if form.get("starting_after") in ids else 0
        limit = int(form.get("limit", 10))
        return json.dumps(as_list(rows[start : start + limit], path, more=len(rows) > start + limit))

    def _expanded(self, one: Object, form: Form) -> Object:
        if one["object"] != "invoice" or not form.get("expand"):
            return one
        made: Object = json.loads(json.dumps(one))
        payment = made["payments"]["data"][0]["payment"]
        payment["payment_intent"] = self.store.intents[payment["payment_intent"]]
        details = made["parent"]["subscription_details"]
        details["subscription"] = json.loads(self.store.subscription_json(details["subscription"]) or "null")
        return made

    def _switch(self, one: Object, form: Form) -> Object:
        def do() -> Object:
            if "disabled" in form:
                one["status"] = "disabled" if form["disabled"].lower() == "true" else "enabled"
            return one

        return self.store.locked(do)

    def _retry(self, one: Object, form: Form) -> Object:
        target = form.get("webhook_endpoint", "")
        if self._one("webhook_endpoints", target)["status"] != "enabled":
            raise Refused(400, "invalid_request_error", "The webhook endpoint is disabled.")
        self.store.deliver(one, target)
        return one

    def _pay(self, bill: Object) -> Object:
        if bill["status"] == "paid":
            raise Refused(400, "invalid_request_error", "Invoice is already paid", code="invoice_already_paid")
        try:
            return self.store.pay(bill)
        except Declined as declined:
            said = {"code": "card_declined", "decline_code": declined.code}
            raise Refused(402, "card_error", "Your card was declined.", **said) from None


def _missing(kind: str, id_: str) -> str:
    raise Refused(404, "invalid_request_error", f"No such {kind}: '{id_}'", code="resource_missing", param="id")


def _json(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    more = {"request-id": f"req_{time.monotonic_ns():x}", **(headers or {})}
    return Response(text, status, more, "application/json")


def _error(refused: Refused, headers: dict[str, str]) -> Response:
    return _json(json.dumps(refused.body), refused.status, headers)


class _Half(Response):
    """Announces the whole body, sends half, then drops the connection."""

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body[: len(self.body) // 2]), "more_body": True})
        raise ConnectionResetError("injected")


def _spoiled(text: str, status: int, fault: Fault) -> Response:
    match fault.kind:
        case "half" | "lost":
            return _Half(text if fault.kind == "half" else " " * 64, status, media_type="application/json")
        case "garbage":
            return _json(text[: len(text) // 2], status)
        case "empty":
            return _json(json.dumps(as_list([], "/v1")), status)
        case "partial":
            body = json.loads(text)
            return _json(json.dumps(body | {"data": body["data"][: len(body["data"]) // 2], "has_more": True}), status)
        case "livemode":
            return _json(
                text.replace('"livemode":false', '"livemode":true').replace('"livemode": false', '"livemode": true'),
                status,
            )
    return _json(text, status)


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
