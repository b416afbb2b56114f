"""Senders that sign as the real ones do, and a Prefect API that can be down."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import stripe
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.serving import Served
from runbook.ledger import Ledger

SECRET = "hush-0123456789"
SENDGRID_KEY = generate_private_key(SECP256R1())
PUBLIC = base64.b64encode(SENDGRID_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

Signed = tuple[str, dict[str, str]]
"""The path and the headers a sender would use for a body."""


def signed(provider: str, body: bytes, *, at: float | None = None, secret: str = SECRET) -> Signed:
    """Path and headers as the sender makes them, at ``at`` (Unix seconds, now by default)."""
    stamp = str(int(time.time() if at is None else at))

    def mac(message: bytes, digest: str = "sha256") -> str:
        return hmac.new(secret.encode(), message, digest).hexdigest()

    written = f"{stamp}.{body.decode(errors='ignore')}"
    stripe_header = f"t={stamp},v1={stripe.WebhookSignature._compute_signature(written, secret)}"
    ecdsa = base64.b64encode(SENDGRID_KEY.sign(stamp.encode() + body, ECDSA(SHA256()))).decode()
    twilio = "X-Twilio-Email-Event-Webhook"
    made: dict[str, Signed] = {
        "stripe": ("stripe", {"Stripe-Signature": stripe_header}),
        "sendgrid": ("sendgrid", {f"{twilio}-Signature": ecdsa, f"{twilio}-Timestamp": stamp}),
        "sentry": ("sentry", {"Sentry-Hook-Signature": mac(body)}),
        "pagerduty": ("pagerduty", {"X-PagerDuty-Signature": f"v1={'0' * 64},v1={mac(body)}"}),
        "vercel": ("vercel", {"x-vercel-signature": mac(body, "sha1")}),
        "alertmanager": ("alertmanager", {"Authorization": f"Bearer {secret}"}),
        "app": (f"app/{secret}", {}),
        "generic": (
            "generic",
            {"X-Runbook-Timestamp": stamp, "X-Runbook-Signature": f"v1={mac(f'{stamp}.'.encode() + body)}"},
        ),
    }
    return made[provider]


class Events:
    """The part of Prefect's API that takes events; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.status, self.batches, self.refuses = 204, list[list[dict[str, Any]]](), ""
        self.loses = False
        routes = [("/api/events", self._take), ("/api/events/filter", self._show)]
        self._served = Served(Starlette(routes=[Route(path, to, methods=["POST"]) for path, to in routes]), 0)
        self.url = f"{self._served.url}/api"
        self._served.start()

    @property
    def taken(self) -> list[dict[str, Any]]:
        return [event for batch in self.batches for event in batch]

    async def _take(self, request: Request) -> Response:
        batch = await request.json()
        if self.refuses and any(self.refuses in event["event"] for event in batch):
            return Response(status_code=422)
        if self.status == 204:
            self.batches.append(batch)
        return Response(status_code=self.status)

    async def _show(self, request: Request) -> Response:
        wanted = (await request.json())["filter"]["id"]["id"]
        shown = [] if self.loses else [one for one in self.taken if one["id"] in wanted]
        return JSONResponse({"events": shown, "total": len(shown)})

    def stop(self) -> None:
        self._served.stop()


class Receiver:
    """The receiver at ``url``, and the senders."""

    def __init__(self, url: str, book: Ledger) -> None:
        self.url, self.book = url, book

    def send(self, provider: str, body: object, **how: Any) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        path, headers = signed(provider, raw, **how)
        return self.post(path, raw, headers)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(f"{self.url}/hooks/{path}", content=body, headers=headers, timeout=20)

    def count(self, name: str) -> float:
        """The sum of one counter over its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}_total"))


def until(true: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Return once ``true``; the bound only ends a test that would never end."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"never saw {what}"
        time.sleep(0.02)
