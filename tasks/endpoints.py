"""Stripe's webhook endpoint of the app: whether it is there, switched on and sent what it needs; and its switch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from runbook.errors import BadSetting
from runbook.model import Finding, Fix, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.settings import settings
from runbook.step import hand, reader
from tasks.stripe_api import TurnedDown, ask, pages

CHANGING = (
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
)
"""Events that change the app's rows: without one of them subscriptions drift."""


class Endpoint(Frozen):
    """One webhook endpoint as Stripe has it."""

    id: str
    url: str
    status: str
    enabled_events: tuple[str, ...]


def webhook_url() -> str:
    """The address at which the app takes Stripe's events."""
    return f"{settings().secret('APP_URL')}{settings().runbook_webhook_path}"


def _same(one: str, other: str) -> bool:
    left, right = urlsplit(one), urlsplit(other)
    return (left.scheme, left.netloc.lower(), left.path.rstrip("/")) == (
        right.scheme,
        right.netloc.lower(),
        right.path.rstrip("/"),
    )


@reader("read the webhook endpoints")
async def read_endpoints() -> list[Endpoint]:
    """Every webhook endpoint of the account."""
    found = await asyncio.to_thread(lambda: [row for page in pages("/v1/webhook_endpoints") for row in page])
    return [Endpoint(**{name: row[name] for name in Endpoint.model_fields}) for row in found]


def of_app(endpoints: Iterable[Endpoint], url: str) -> list[Endpoint]:
    """The endpoints which are the app's own."""
    return [endpoint for endpoint in endpoints if _same(endpoint.url, url)]


def detect_endpoints(endpoints: Sequence[Endpoint], url: str) -> list[Finding]:
    """Disabled, deaf to an event that changes rows, or not there at all."""
    ours = of_app(endpoints, url)
    if not ours:
        detail = "Stripe has no webhook endpoint for this address: a person must add it and set its new secret"
        return [Finding(subject=url, detail=detail, evidence={"endpoints": [one.url for one in endpoints][:10]})]
    findings = []
    for one in ours:
        evidence: dict[str, Json] = {"id": one.id, "status": one.status}
        if one.status != "enabled":
            findings.append(Finding(subject=one.url, detail=f"webhook endpoint is {one.status}", evidence=evidence))
        deaf = [name for name in CHANGING if name not in one.enabled_events and "*" not in one.enabled_events]
        if deaf:
            detail = f"is not sent {', '.join(deaf)}: a person must add them in the Stripe dashboard"
            findings.append(Finding(subject=one.url, detail=detail, evidence=evidence | {"missing": deaf}))
    return findings


def plan_endpoints(endpoints: Sequence[Endpoint], url: str) -> list[Fix]:
    """Enable what is disabled; nothing is ever deleted or made anew, since a secret is shown only once."""
    return [
        Fix(
            action="enable_endpoint",
            target=f"WebhookEndpoint/{one.id}",
            risk=Risk.auto,
            why=f"Stripe sends nothing to {one.url} while it is disabled",
            undo="disable the endpoint again",
            expect={"status": "disabled"},
            want={"status": "enabled"},
        )
        for one in of_app(endpoints, url)
        if one.status == "disabled"
    ]


def _id(fix: Fix) -> str:
    return fix.target.partition("/")[2]


@hand("switch {fix.target}")
async def switch_endpoint(fix: Fix, permit: Permit) -> None:
    """Enable or disable one endpoint, if it still stands as the fix expects."""
    path = f"/v1/webhook_endpoints/{_id(fix)}"
    with permit.attempt(fix) as attempt:
        try:
            now = (await ask("get", path))["status"]
            if now != fix.expect["status"]:
                attempt.moved_on(f"the endpoint is {now} by now")
                return
            await ask("post", path, {"disabled": fix.want["status"] == "disabled"}, f"runbook-{fix.id}")
        except (TurnedDown, BadSetting) as no:
            attempt.failed(str(no))


@reader("look up {fix.target}")
async def look_up_endpoint(fix: Fix) -> Proof:
    """Whether the endpoint stands as the fix wanted it."""
    try:
        now = (await ask("get", f"/v1/webhook_endpoints/{_id(fix)}"))["status"]
    except TurnedDown as gone:
        return Proof(held=False, seen=str(gone))
    return Proof(held=now == fix.want["status"], seen=f"status {now}")


def undo_switch(fix: Fix) -> Fix:
    """The same switch, turned back."""
    back = "disable_endpoint" if fix.action == "enable_endpoint" else "enable_endpoint"
    return fix.model_copy(update={"action": back, "expect": fix.want, "want": fix.expect, "why": f"undo of {fix.id}"})
