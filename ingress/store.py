"""Where hooks wait: written before the sender is answered, marked when Prefect has them, dropped when seen before."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ingress.cooling import settle
from ingress.providers import Hook
from runbook.errors import LedgerError, RunbookError
from runbook.ledger import Ledger, now_ms
from runbook.schema import hook
from runbook.settings import profile

AT_ONCE = 500
"""Deliveries that share one transaction: the disk is asked once for all that came meanwhile."""

KEEP_DAYS = 30
"""How long a handled hook is remembered, so that a late double is still one. Stripe delivers for three days."""

Waiting = tuple[Sequence[Hook], asyncio.AbstractEventLoop, "asyncio.Future[int]"]


class Store:
    """Keeps hooks in the ledger's database; one thread writes for every request at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.dropped = 0  # by a cooldown
        self.held = 0  # by a cooldown, at the last look
        self.again_at_ms: int | None = None  # when one of those may be due
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="ingress-store", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    def stop(self) -> None:
        """Write what is waiting and end."""
        self._queue.put(None)
        self._writer.join()

    async def keep(self, hooks: Sequence[Hook]) -> int:
        """Return how many of ``hooks`` are new, once they are safely on the disk; raises ``LedgerError``."""
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[int] = loop.create_future()
        self._queue.put((hooks, loop, kept))
        return await kept

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            batch: list[Waiting] = [first]
            while len(batch) < AT_ONCE and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            self._write_batch(batch)

    def _write_batch(self, batch: Sequence[Waiting]) -> None:
        try:
            with self._ledger.write() as connection:
                new = _insert(connection, [one for hooks, _, _ in batch for one in hooks])
        except Exception as error:  # noqa: BLE001 - whatever it is, senders wait, and this thread is the only writer
            problem = f"cannot be written ({type(error).__name__})"
            said = LedgerError("webhook", problem, "its sender comes again")
            for _, loop, kept in batch:
                loop.call_soon_threadsafe(_fail, kept, error if isinstance(error, RunbookError) else said)
            return
        for hooks, loop, kept in batch:
            mine = {one.id for one in hooks} & new
            new -= mine  # of two senders of one hook in one batch, the first has stored it
            loop.call_soon_threadsafe(_done, kept, len(mine))

    def pending(self, limit: int) -> list[tuple[int, Hook, int]]:
        """The oldest hooks Prefect shall have and does not yet, as (number, hook, received in Unix ms)."""
        rule = select(hook).where(hook.c.handled_at_ms.is_(None)).order_by(hook.c.seq).limit(limit)
        if rules := profile().cooldown:
            cooled = settle(self._ledger, rules)
            self.dropped, self.held, self.again_at_ms = self.dropped + cooled.dropped, cooled.held, cooled.again_at_ms
            names = [*rules, *(f"runbook.{name}" for name in rules)]
            free = hook.c.event.not_in(names) & hook.c.resource.not_in(names)
            rule = rule.where(or_(free, hook.c.seq.in_(cooled.tell[:limit])))
        with self._ledger.read() as connection:
            rows = connection.execute(rule).mappings()
            return [(row["seq"], _as_hook(dict(row)), row["received_at_ms"]) for row in rows]

    def backlog(self) -> int:
        """How many hooks Prefect shall have and does not yet: what a cooldown holds is not one."""
        with self._ledger.read() as connection:
            rule = select(func.count()).select_from(hook).where(hook.c.handled_at_ms.is_(None))
            return max(0, int(connection.execute(rule).scalar_one()) - self.held)

    def handled(self, numbers: Sequence[int]) -> None:
        """Mark hooks that Prefect has taken, and forget those handled long ago."""
        with self._ledger.write() as connection:
            waits = hook.c.seq.in_(numbers) & hook.c.handled_at_ms.is_(None)
            connection.execute(update(hook).where(waits).values(handled_at_ms=now_ms() + 1))
            old = now_ms() - KEEP_DAYS * 86_400_000
            connection.execute(delete(hook).where(hook.c.handled_at_ms < old))

    def drop(self, numbers: Sequence[int]) -> None:
        """Mark hooks that Prefect shall not have: a hook handled in the moment it came was not told."""
        with self._ledger.write() as connection:
            connection.execute(update(hook).where(hook.c.seq.in_(numbers)).values(handled_at_ms=hook.c.received_at_ms))

    def told(self, since_ms: int, until_ms: int) -> list[tuple[int, Hook]]:
        """The hooks Prefect took in that time, as (number, hook)."""
        inside = (hook.c.handled_at_ms > since_ms) & (hook.c.handled_at_ms <= until_ms)
        rule = select(hook).where(inside, hook.c.handled_at_ms != hook.c.received_at_ms).order_by(hook.c.seq)
        with self._ledger.read() as connection:
            return [(row["seq"], _as_hook(dict(row))) for row in connection.execute(rule).mappings()]

    def put_back(self, numbers: Sequence[int]) -> None:
        """Let hooks be told again."""
        with self._ledger.write() as connection:
            connection.execute(update(hook).where(hook.c.seq.in_(numbers)).values(handled_at_ms=None))


def _insert(connection: Connection, hooks: Sequence[Hook]) -> set[str]:
    """Write what is not there yet, in one statement; the ids of what was new."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    moment = now_ms()
    values = [one.model_dump() | {"payload": dict(one.payload), "received_at_ms": moment} for one in hooks]
    rule = insert(hook).on_conflict_do_nothing(index_elements=["id"]).returning(hook.c.id)
    return set(connection.execute(rule, values).scalars())


def _as_hook(row: dict[str, object]) -> Hook:
    return Hook.model_validate({name: row[name] for name in Hook.model_fields})


def _done(kept: asyncio.Future[int], count: int) -> None:
    if not kept.done():  # the sender may have hung up meanwhile
        kept.set_result(count)


def _fail(kept: asyncio.Future[int], error: RunbookError) -> None:
    if not kept.done():
        kept.set_exception(error)
