"""How many payments failed for good, out of those that were tried, and why the cards said no."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

from runbook.alarm import MINUTE_MS, Point, Sample
from runbook.ledger import now_ms
from runbook.model import Frozen, Json
from runbook.settings import settings
from runbook.step import reader
from tasks.stripe_api import key_is_live, pages

WINDOW_SECONDS = 3600
MOST_PAGES = 10
LEAST_TRIED = 20
LEAST_FAILED = 3
ENDED = ("requires_payment_method", "canceled")


class Payments(Frozen):
    """Payment intents of the last hour that were tried, those that failed and were not paid since, by decline code."""

    tried: int
    failed: int
    codes: Mapping[str, int]


@reader("read the payments of the last hour")
async def read_payments() -> Payments:
    """The newest 1,000 payment intents of the last hour. Source: Stripe, GET /v1/payment_intents."""
    since = int(time.time()) - WINDOW_SECONDS
    listed = lambda: [  # noqa: E731 - one call in another thread
        row for page in islice(pages("/v1/payment_intents", created={"gte": since}), MOST_PAGES) for row in page
    ]
    return counted(await asyncio.to_thread(listed))


def counted(intents: Iterable[Mapping[str, Json]]) -> Payments:
    """Each intent once: paid in the end is no failure, and one nobody has put a card to was not tried."""
    tried, codes = 0, Counter[str]()
    for one in intents:
        error = one.get("last_payment_error") or {}
        failed = bool(error) and one["status"] in ENDED
        tried += failed or one["status"] == "succeeded"
        if failed:
            codes[str(error.get("decline_code") or error.get("code") or "unknown")] += 1
    return Payments(tried=tried, failed=codes.total(), codes=dict(codes.most_common(10)))


async def payment_sample(*, test_payments: bool) -> Sample:
    """The share of tried payments that failed; a test key's payments count only where they shall."""
    settings().need("STRIPE_SECRET_KEY")
    if not key_is_live() and not test_payments:
        return Sample(unset="STRIPE_SECRET_KEY is a test key: test payments are no alert")
    seen = await read_payments()
    said = f"{seen.failed} of {seen.tried} payments failed within the hour"
    if seen.codes:
        said += f" ({', '.join(f'{code} {count}' for code, count in seen.codes.items())})"
    if seen.tried < LEAST_TRIED:
        return Sample(said=f"{said}: fewer than {LEAST_TRIED} say nothing")
    few = False if seen.failed < LEAST_FAILED else None
    point = Point(minute=now_ms() // MINUTE_MS, value=seen.failed / seen.tried, alarm=few)
    return Sample(points=[point], said=said, evidence=seen.model_dump())
