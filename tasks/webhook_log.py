"""What the app itself logged of webhooks that went wrong, from the end of its log."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from runbook.errors import OutsideError
from runbook.model import Finding
from runbook.settings import settings
from runbook.step import reader

TAIL_BYTES = 1024 * 1024
BY_HAND: Mapping[str, str] = {
    "webhook_verification_failed": "compare STRIPE_WEBHOOK_SECRET of the app with the endpoint's signing secret",
    "webhook_secret_missing": "set STRIPE_WEBHOOK_SECRET in the app's environment and restart it",
    "webhook_stripe_not_configured": "set STRIPE_SECRET_KEY in the app's environment and restart it",
    "webhook_handler_error": "read the stack trace beside it; the app's database may be the cause",
    "subscription_not_found_for_update": "an event came for a customer without a row; see the notices below",
}
"""Names the app logs, and what a person does about each."""

AUDIT = re.compile(r"\[AUDIT[A-Z-]*\] (\w+) \{")
TIMESTAMP = re.compile(r"timestamp: '([^']+)'")


@reader("read the app's webhook errors")
async def read_webhook_errors(since: float) -> dict[str, int]:
    """Webhook errors at or after ``since`` (Unix seconds) by name; at most the last MiB of each file is read."""
    return await asyncio.to_thread(_count, settings().app_log, since)


def _count(files: Sequence[Path], since: float) -> dict[str, int]:
    total = Counter[str]()
    for path in files:
        try:
            with path.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
                lines = log.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise OutsideError("APP_LOG", f"{path}: {error.strerror}", "name readable files in APP_LOG") from None
        total.update(count(lines, since))
    return {name: total[name] for name in BY_HAND if total[name]}


def count(lines: Sequence[str], since: float) -> Counter[str]:
    """Errors by name; one failure is often written in both of the app's forms, so the larger count of the two."""
    plain = Counter(name for name, at in _json_lines(lines) if at >= since)
    audit = Counter(name for name, at in _audit_blocks(lines) if at >= since)
    return plain | audit


def _json_lines(lines: Sequence[str]) -> Iterator[tuple[str, float]]:
    for line in lines:
        if not line.startswith("{") or not any(name in line for name in BY_HAND):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("msg") in BY_HAND:
            yield entry["msg"], _unix(entry.get("time"))


def _audit_blocks(lines: Sequence[str]) -> Iterator[tuple[str, float]]:
    for place, line in enumerate(lines):
        head = AUDIT.match(line)
        if head is None or head[1] not in BY_HAND:
            continue
        stamp = TIMESTAMP.search("\n".join(lines[place : place + 4]))
        yield head[1], _unix(stamp[1] if stamp else None)


def _unix(text: object) -> float:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return 0.0
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


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
