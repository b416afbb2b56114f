"""Asks Prefect for a runbook: one event ``runbook.wanted``, which the runbook's own deployment waits for."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL

from runbook import memory
from runbook.alarm import Alarm
from runbook.errors import OutsideError
from runbook.ledger import Ledger, now_ms
from runbook.mask import mask
from runbook.model import Json
from tasks.web import call

EVENT = "runbook.wanted"
SECONDS = 3.0
TRIES = 2
IDS = uuid.UUID("0f5a7b06-9a1c-4f0e-8a55-2a8d8f1f6c07")
"""The namespace of our event ids: asked twice for the same reason is one event."""


async def want_once(book: Ledger, runbook: str, alarm: Alarm, cooldown_ms: int) -> list[str]:
    """Emit for a firing alert, once for each firing and cooldown; in one line why Prefect has not taken it."""
    key, now = f"wanted/{alarm.name}/{runbook}", now_ms()
    was = memory.recall(book, key)
    same = was is not None and was["since_ms"] == alarm.since_ms
    if same and now - was["at_ms"] < cooldown_ms:
        return []
    times = was["times"] + 1 if same else 1
    try:
        payload = {"alert": alarm.name, "value": alarm.value, "said": alarm.said}
        await want(runbook, f"{alarm.name} {alarm.since_ms} {times}", payload)
    except OutsideError as error:
        return [str(error)]
    memory.remember(book, key, {"since_ms": alarm.since_ms, "at_ms": now, "times": times})
    return []


async def want(runbook: str, reason: str, payload: Mapping[str, Json]) -> None:
    """Emit the event; ``reason`` is the same for as long as it is the same wish.

    Raises ``OutsideError`` where Prefect has not taken it: ask again later, nothing was started.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise OutsideError("PREFECT_API_URL", "is not set, so no runbook can be asked for", f"runbook run {runbook}")
    event = {
        "id": str(uuid.uuid5(IDS, f"{runbook} {reason}")),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {"prefect.resource.id": f"runbook.{runbook}"},
        "related": [],
        "payload": mask(dict(payload)),
    }
    status = 0
    for at in range(TRIES):  # a server on SQLite answers 503 while it writes
        answer = await call(
            "PREFECT_API_URL", "POST", f"{url}/events", headers=_headers(), json=[event], seconds=SECONDS
        )
        status = answer.status
        if status < 300:
            return
        await asyncio.sleep(0.3 if at < TRIES - 1 else 0)
    raise OutsideError(
        "PREFECT_API_URL", f"did not take the event ({status})", f"runbook run {runbook}", transient=True
    )


def _headers() -> dict[str, str]:
    pair, key = PREFECT_API_AUTH_STRING.value(), PREFECT_API_KEY.value()
    if pair:
        return {"Authorization": f"Basic {base64.b64encode(pair.get_secret_value().encode()).decode()}"}
    return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
