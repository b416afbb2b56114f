"""What the app itself logged of webhooks that went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from runbook import memory
from runbook.ledger import ledger
from runbook.model import Finding
from runbook.settings import settings
from tasks.logs import read_log

PROBE_CUSTOMER = "cus_runbook_probe"
"""Nobody's: whoever asks the app for its database asks for this customer, and what the app logs of that is no error."""

BY_HAND: Mapping[str, str] = {
    "webhook_verification_failed": "compare STRIPE_WEBHOOK_SECRET of the app with the endpoint's signing secret",
    "webhook_secret_missing": "set STRIPE_WEBHOOK_SECRET in the app's environment and restart it",
    "webhook_stripe_not_configured": "set STRIPE_SECRET_KEY in the app's environment and restart it",
    "webhook_handler_error": "read the stack trace beside it; the app's database may be the cause",
    "subscription_not_found_for_update": "an event came for a customer without a row; see the notices below",
}
"""Names the app logs, and what a person does about each."""


async def read_webhook_errors(since: float) -> dict[str, int]:
    """Webhook errors at or after ``since`` (Unix seconds) by name; none where no log is configured."""
    if not settings().has_app_log:
        return {}
    await read_log()
    found = memory.events(ledger(), BY_HAND, round(since * 1000))
    counts = Counter(one.name for one in found if PROBE_CUSTOMER not in one.fields.values())
    return {name: counts[name] for name in BY_HAND if counts[name]}


def detect_webhook_errors(errors: Mapping[str, int]) -> list[Finding]:
    """One finding for each name, with what a person does about it."""
    return [
        Finding(
            subject=f"app log: {name}",
            detail=f"{times} times within the hour: {BY_HAND[name]}",
            evidence={"count": times},
        )
        for name, times in errors.items()
    ]
