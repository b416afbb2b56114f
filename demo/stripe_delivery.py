"""How things leave the Stripe stand-in: events signed to the app, answers whole, spoiled or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import httpx
import stripe
from starlette.responses import Response

from demo.stripe_objects import VERSION, as_list

BAD = "invalid_request_error"
LIMITED = "Request rate limit exceeded."
RESET = struct.pack("ii", 1, 0)
Form = dict[str, Any]
Reply = tuple[str, Form, int, str]
"""Path, parameters, status and body."""


class Courier:
    """Sends events to webhook endpoints, signed over the exact bytes that are sent."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    @cached_property
    def _http(self) -> httpx.Client:
        # A connection kept alive to an app that restarted would fail a delivery that the app would have taken.
        return httpx.Client(timeout=10, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    def send(self, url: str, body: str) -> int:
        """The HTTP status with which ``url`` took the event; 0 when nobody answered."""
        header = stripe.WebhookSignature.generate_signature_header(body, self.secret)
        headers = {"stripe-signature": header, "content-type": "application/json; charset=utf-8"}
        try:
            return self._http.post(url, content=body.encode(), headers=headers).status_code
        except httpx.HTTPError:
            return 0

    def close(self) -> None:
        """Give the client's connections back."""
        if "_http" in vars(self):
            self._http.close()


@dataclass
class Fault:
    """After ``skip`` of them, the next ``times`` requests whose ``METHOD /path`` matches fail in this way.

    Kinds: a status such as ``429``; ``slow`` (waits ``seconds``, then answers); ``half`` (announces the whole body,
    closes after half of it); ``garbage`` (half a body as if it were whole); ``empty`` (an empty list); ``partial``
    (half a page, with more to come); ``endless`` (no rows, with more to come); ``livemode`` (objects of the live
    mode); ``drop`` (a reset before anything is done); ``killed`` (acts, then a reset without a byte); ``lost`` (acts,
    then closes in the middle of the answer).
    """

    match: str
    kind: str
    times: int = 1
    seconds: float = 0.0
    should_retry: bool | None = False
    """The header ``stripe-should-retry`` of a status: true when True, false when None, absent when False."""

    skip: int = 0


def pick(faults: list[Fault], line: str) -> Fault | None:
    """The fault that this request meets, used up by one; called by one thread only."""
    for fault in faults:
        if re.search(fault.match, line):
            if fault.skip > 0:
                fault.skip -= 1
            elif fault.times > 0:
                fault.times -= 1
                return fault
    return None


class Refused(Exception):
    """Stripe's error answer."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": {"type": kind, "message": message, **more}}


def parse_form(text: str) -> Form:
    """Stripe's ``a[b][c]=d``, ``a[0]=c`` and ``a[]=c`` as nested values."""
    form: Form = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        *path, last = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key) or [""]
        at: Any = form
        for name in path:
            at = at.setdefault(name or str(len(at)), {})
            if not isinstance(at, dict):
                raise Refused(400, BAD, f"Invalid parameter: {key}", param=key)
        at[last or str(len(at))] = value
    return {name: _listed(value) for name, value in form.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    values = {name: _listed(inner) for name, inner in value.items()}
    return list(values.values()) if all(name.isdigit() for name in values) else values


class Replies:
    """Answers by Idempotency-Key: the first request of a key acts, every later one is told the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Reply | None] = {}  # None while the first request of its key is under way

    def claim(self, key: str, path: str, form: Form) -> Reply | None:
        """The stored answer of this key; None when it was new and is from now on the caller's."""
        with self._lock:
            if key not in self._known:
                self._known[key] = None
                return None
            reply = self._known[key]
        if reply is None:
            said = "There is currently another in-progress request using this Idempotent Key."
            raise Refused(409, "idempotency_error", said, code="idempotency_key_in_use")
        if reply[:2] != (path, form):
            said = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            raise Refused(400, "idempotency_error", said)
        return reply

    def keep(self, key: str, reply: Reply | None) -> None:
        """Store the answer of a claimed key, or give the key back where there is none."""
        with self._lock:
            if reply is None:
                del self._known[key]
            else:
                self._known[key] = reply


def answer(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """One whole answer, with its own request id."""
    more = {"request-id": f"req_{time.monotonic_ns():x}", "stripe-version": VERSION, **(headers or {})}
    return Response(text, status, more, "application/json")


def failure(fault: Fault) -> Response:
    """The error answer of a fault whose kind is a status, in Stripe's words for that status."""
    status = int(fault.kind)
    if status == 429:
        refused = Refused(429, BAD, LIMITED, code="rate_limit")
    elif status == 402:
        declined = {"code": "card_declined", "decline_code": "generic_decline"}
        refused = Refused(402, "card_error", "Your card was declined.", **declined)
    else:
        refused = Refused(status, "api_error" if status >= 500 else BAD, "injected")
    header = {True: "true", None: "false"}.get(fault.should_retry)
    return answer(json.dumps(refused.body), status, {"stripe-should-retry": header} if header else {})


class Half(Response):
    """Announces the whole body, sends half of it, then closes the connection."""

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        """Raise after half the body: uvicorn then closes the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body[: len(self.body) // 2]), "more_body": True})
        raise ConnectionResetError("injected")


class Hangup(Response):
    """Resets the connection without a byte of an answer."""

    async def __call__(self, scope: Any, _receive: Any, _send: Any) -> None:
        """Return once the connection is gone."""
        transport: asyncio.Transport = scope["state"]["transport"]
        connection = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()
        await asyncio.sleep(0)  # lets uvicorn see the end, so that it does not answer by itself


def spoil(text: str, status: int, fault: Fault) -> Response:
    """The answer ``text`` as the fault leaves it."""
    match fault.kind:
        case "half" | "lost":
            return Half(text if fault.kind == "half" else " " * 64, status, media_type="application/json")
        case "killed":
            return Hangup()
        case "garbage":
            return answer(text[: len(text) // 2], status)
        case "empty" | "endless":
            return answer(json.dumps(as_list([], "/v1", more=fault.kind == "endless")), status)
        case "partial":
            body = json.loads(text)
            rows = body["data"][: len(body["data"]) // 2]
            return answer(json.dumps(body | {"data": rows, "has_more": True}), status)
        case "livemode":
            return answer(as_live(text), status)
    return answer(text, status)


def as_live(text: str) -> str:
    """The same objects, of the live mode."""
    return text.replace('"livemode":false', '"livemode":true').replace('"livemode": false', '"livemode": true')
