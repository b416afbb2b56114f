"""Tells Prefect of every stored hook, in order, as often as it takes; the event's id is always the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from ingress.providers import Hook
from ingress.store import Store
from runbook.ledger import now_ms

log = logging.getLogger(__name__)

AT_ONCE = 200
SHOWN_MS = 15_000
"""By when Prefect shows an event it took: it keeps what came in memory first, and writes it every five seconds."""
LOOK_BACK_MS = 120_000
"""How far a new process looks back for events that Prefect may have lost."""
ASKED_AT_ONCE = 50
TOLD_AGAIN = 3
"""How often what Prefect took and does not show is told again: beyond its size limit it drops an event in silence."""

RETRY_SECONDS = (0.2, 0.5, 1, 2, 5, 10)
IDS = uuid.UUID("7b1f5c1e-3a52-4c4e-9d0e-2f6f3a1c9b11")
"""The namespace of our event ids: the same hook is the same event, however often it is told."""

Pending = tuple[int, Hook, int]
"""Its number in the store, the hook, and when it was received in Unix ms."""


class Teller:
    """Delivers what the store holds; ``wake`` says that there is something new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.wake = asyncio.Event()
        self._confirmed_ms = now_ms() - LOOK_BACK_MS
        self._lost: Counter[str] = Counter()  # how often each was lost, by the event's id

    async def run(self) -> None:
        """Deliver for ever; ends by cancellation only."""
        failures = 0
        while True:
            try:
                await self._deliver()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever fails, the hooks are stored and told again
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                log.warning("Prefect has not taken the events (%s); again in %s s", type(error).__name__, wait)
                failures += 1
                await asyncio.sleep(wait)

    async def _deliver(self) -> None:
        if not PREFECT_API_URL.value():  # without it Prefect's client would start a server of its own
            raise httpx.ConnectError("PREFECT_API_URL is not set")
        async with get_client() as client:
            while True:
                self.wake.clear()
                if not await self.tell(client._client):
                    await self._sleep()
                    await self.confirm(client._client)

    async def _sleep(self) -> None:
        """Until something new came, what a cooldown holds may be due, or Prefect should show what it took."""
        due = self._store.again_at_ms
        wait = min(SHOWN_MS, SHOWN_MS if due is None else max(50, due - now_ms()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), wait / 1000)

    async def confirm(self, http: httpx.AsyncClient) -> None:
        """Put back what Prefect took and does not show: its server died with it in memory. The id stays the same.

        What is lost time and again is given up: it stays in the ledger only.
        """
        until = now_ms() - SHOWN_MS
        if until - self._confirmed_ms < SHOWN_MS / 3:
            return
        told = await asyncio.to_thread(self._store.told, self._confirmed_ms, until)
        for at in range(0, len(told), ASKED_AT_ONCE):
            some = {event_id(one): number for number, one in told[at : at + ASKED_AT_ONCE]}
            wanted = {"filter": {"id": {"id": list(some)}}, "limit": ASKED_AT_ONCE}
            found = {one["id"] for one in (await http.post("/events/filter", json=wanted)).json()["events"]}
            await self._put_back({key: number for key, number in some.items() if key not in found})
            self._lost = Counter({key: times for key, times in self._lost.items() if key not in found})
        self._confirmed_ms = until

    async def _put_back(self, lost: Mapping[str, int]) -> None:
        self._lost.update(lost.keys())
        given_up = [number for key, number in lost.items() if self._lost[key] > TOLD_AGAIN]
        again = [number for number in lost.values() if number not in given_up]
        if again:
            log.warning("Prefect has lost %s events it had taken; they are told again", len(again))
            await asyncio.to_thread(self._store.put_back, again)
        if given_up:
            log.error("Prefect never shows hooks %s, too large for it perhaps; they are in the ledger only", given_up)
            await asyncio.to_thread(self._store.drop, given_up)

    async def tell(self, http: httpx.AsyncClient) -> bool:
        """Deliver one batch; True when there may be more."""
        batch = await asyncio.to_thread(self._store.pending, AT_ONCE)
        if not batch:
            return False
        if not await _taken(http, batch):
            for one in batch:  # one of them is what Prefect will never take: it must not hold up the others
                if not await _taken(http, [one]):
                    log.error("Prefect refuses %s as an event; it is kept in the ledger only", one[1].id)
                    await asyncio.to_thread(self._store.drop, [one[0]])
        await asyncio.to_thread(self._store.handled, [number for number, _, _ in batch])
        return True


async def _taken(http: httpx.AsyncClient, batch: Sequence[Pending]) -> bool:
    try:
        await http.post("/events", json=[as_event(hook, at_ms) for _, hook, at_ms in batch])
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            return False
        raise
    return True


def event_id(hook: Hook) -> str:
    """The id of a hook's event, the same however often it is told."""
    return str(uuid.uuid5(IDS, hook.id))


def as_event(hook: Hook, received_at_ms: int) -> dict[str, object]:
    """The Prefect event of one hook."""
    return {
        "id": event_id(hook),
        "occurred": datetime.fromtimestamp(received_at_ms / 1000, UTC).isoformat(),
        "event": hook.event,
        "resource": {"prefect.resource.id": hook.resource},
        "related": [],
        "payload": dict(hook.payload),
    }
