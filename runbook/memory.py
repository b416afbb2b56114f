"""What runbooks remember between runs, in the ledger's database: states, series of readings, events of the app's log.

None of it is evidence; it is pruned by age. Personal data that a detection needs (an IP, a mail address) is kept in
``log_event.fields`` only, for ``KEEP_HOURS``, and masked wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from runbook.ledger import Ledger, now_ms
from runbook.model import Frozen, Json
from runbook.schema import log_event, memo, reading

KEEP_HOURS = 48
KEEP_READING_DAYS = 14


class LogEvent(Frozen):
    """One thing the app logged: its name, level (info, warning, error, critical) and the few fields kept of it."""

    name: str
    at_ms: int
    level: str
    fields: Mapping[str, Json]


def recall(ledger: Ledger, key: str) -> Json:
    """What was last remembered under ``key``, or None."""
    with ledger.read() as connection:
        return connection.execute(select(memo.c.body).where(memo.c.key == key)).scalar_one_or_none()


def remember(ledger: Ledger, key: str, body: Json) -> None:
    """Keep ``body`` under ``key`` in place of what was there; survives restarts, seen by every process."""
    with ledger.write() as connection:
        put(connection, key, body)


def put(connection: Connection, key: str, body: Json) -> None:
    """``remember`` inside a transaction of the caller's."""
    connection.execute(delete(memo).where(memo.c.key == key))
    connection.execute(insert(memo).values(key=key, at_ms=now_ms(), body=body))


def swap(connection: Connection, key: str, was: Json, body: Json) -> bool:
    """``put``, only while ``was`` is what is remembered (None: nothing); False when somebody else was first."""
    if connection.execute(select(memo.c.body).where(memo.c.key == key).with_for_update()).scalar_one_or_none() != was:
        return False
    if was is not None:
        connection.execute(update(memo).where(memo.c.key == key).values(at_ms=now_ms(), body=body))
        return True
    try:
        with connection.begin_nested():
            connection.execute(insert(memo).values(key=key, at_ms=now_ms(), body=body))
    except IntegrityError:
        return False
    return True


def drop_old(ledger: Ledger, prefix: str, days: int) -> None:
    """Forget what was remembered under keys that begin with ``prefix`` more than ``days`` ago."""
    old = memo.c.at_ms < now_ms() - days * 86_400_000
    with ledger.write() as connection:
        connection.execute(delete(memo).where(memo.c.key.startswith(prefix, autoescape=True), old))


def measure(ledger: Ledger, values: Mapping[str, float]) -> None:
    """Append one sample of each named reading, now; names carry their unit (``pool_used_share``, ``drift_rows``)."""
    moment = now_ms()
    with ledger.write() as connection:
        for name, value in values.items():
            connection.execute(insert(reading).values(name=name, at_ms=moment, value=value))
        connection.execute(delete(reading).where(reading.c.at_ms < moment - KEEP_READING_DAYS * 86_400_000))


def series(ledger: Ledger, name: str, since_ms: int) -> list[tuple[int, float]]:
    """The samples of one reading from ``since_ms`` on, oldest first, as (Unix ms, value)."""
    rule = select(reading.c.at_ms, reading.c.value).where(reading.c.name == name, reading.c.at_ms >= since_ms)
    with ledger.read() as connection:
        return [(row.at_ms, row.value) for row in connection.execute(rule.order_by(reading.c.at_ms))]


def names(ledger: Ledger, since_ms: int) -> list[str]:
    """Every reading that has a sample from ``since_ms`` on."""
    with ledger.read() as connection:
        return sorted(
            connection.execute(select(reading.c.name).where(reading.c.at_ms >= since_ms).distinct()).scalars()
        )


def events(ledger: Ledger, names: Collection[str], since_ms: int) -> list[LogEvent]:
    """The app's log events of these names from ``since_ms`` on, oldest first; ``tasks.logs.read_log`` brings them."""
    rule = select(log_event).where(log_event.c.name.in_(sorted(names)), log_event.c.at_ms >= since_ms)
    with ledger.read() as connection:
        rows = connection.execute(rule.order_by(log_event.c.at_ms, log_event.c.seq)).mappings()
        return [LogEvent.model_validate({name: row[name] for name in LogEvent.model_fields}) for row in rows]


def grave(ledger: Ledger, since_ms: int, limit: int = 10_000) -> list[LogEvent]:
    """The app's log events of level error or critical from ``since_ms`` on, at most the newest ``limit``, oldest first.

    Whatever their name; doubles are collapsed already.
    """
    rule = select(log_event).where(log_event.c.at_ms >= since_ms, log_event.c.level.in_(("error", "critical")))
    with ledger.read() as connection:
        rows = connection.execute(rule.order_by(log_event.c.at_ms.desc(), log_event.c.seq.desc()).limit(limit))
        found = [{name: row[name] for name in LogEvent.model_fields} for row in rows.mappings()]
    return [LogEvent.model_validate(row) for row in reversed(found)]


def every_event(ledger: Ledger, since_ms: int) -> Iterator[LogEvent]:
    """All events from ``since_ms`` on, oldest first, one by one: an attack logs more than memory holds."""
    rule = select(log_event).where(log_event.c.at_ms >= since_ms).order_by(log_event.c.at_ms, log_event.c.seq)
    with ledger.read() as connection:
        for row in connection.execution_options(yield_per=1_000).execute(rule):
            yield LogEvent.model_construct(name=row.name, at_ms=row.at_ms, level=row.level, fields=row.fields)


def keep(connection: Connection, found: Sequence[LogEvent]) -> None:
    """Append events of the log, in the transaction that moves the log's cursor; prunes those past ``KEEP_HOURS``."""
    if found:
        rows = [{"name": one.name, "at_ms": one.at_ms, "level": one.level, "fields": one.fields} for one in found]
        connection.execute(insert(log_event), rows)
    connection.execute(delete(log_event).where(log_event.c.at_ms < now_ms() - KEEP_HOURS * 3_600_000))
