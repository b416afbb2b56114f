"""Readings as they were, masked and packed, so that another rule can be tried on what really happened."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping

from sqlalchemy import delete, func, insert, select

from runbook.ledger import Ledger
from runbook.mask import mask
from runbook.model import Frozen, Json
from runbook.schema import run, snapshot
from runbook.settings import settings

EVERY_MS = 15 * 60 * 1000
"""Of readings in which nothing was wrong, one in this time is kept: they are nearly all alike."""

BYTES = 1024 * 1024
"""A larger reading, packed, is not kept, since the ledger is no archive; an empty one in its place says that it was."""

BATCH = 200


class Snapshot(Frozen):
    """One reading of one stage of a run, with the parameters it was judged by then."""

    run_id: str
    stage: str
    at_ms: int
    parameters: Mapping[str, Json]
    reading: Json


class Kept(Frozen):
    """How much a replay can know: runs of that time, how many left a reading, from when on, how many were too large."""

    runs: int
    with_reading: int
    first_ms: int | None
    too_large: int


def keep(ledger: Ledger, seen: Snapshot, runbook: str, *, sick: bool) -> None:
    """Keep one reading in which something was wrong; of the healthy ones enough to tell what is usual."""
    with ledger.read() as connection:
        last = select(func.max(snapshot.c.at_ms)).where(snapshot.c.runbook == runbook, snapshot.c.stage == seen.stage)
        before = connection.execute(last).scalar_one()
    if not sick and before is not None and seen.at_ms - before < EVERY_MS:
        return
    body = zlib.compress(json.dumps(mask(seen.reading), separators=(",", ":"), default=str).encode())
    if len(body) > BYTES:
        body = b""
    values = seen.model_dump(exclude={"reading"}) | {"runbook": runbook, "body": body}
    with ledger.write() as connection:
        connection.execute(insert(snapshot).values(**values))
        old = seen.at_ms - settings().runbook_keep_reading_days * 86_400_000
        connection.execute(delete(snapshot).where(snapshot.c.at_ms < old))


def snapshots(ledger: Ledger, runbook: str, since_ms: int) -> Iterator[Snapshot]:
    """The readings of a runbook from ``since_ms`` on, oldest first."""
    whole = func.length(snapshot.c.body) > 0
    rule = select(snapshot).where(snapshot.c.runbook == runbook, snapshot.c.at_ms >= since_ms, whole)
    rule, at = rule.order_by(snapshot.c.seq).limit(BATCH), 0
    while True:
        with ledger.read() as connection:
            rows = connection.execute(rule.where(snapshot.c.seq > at)).mappings().all()
        for row in rows:
            reading = json.loads(zlib.decompress(row["body"]))
            yield Snapshot(
                run_id=row["run_id"],
                stage=row["stage"],
                at_ms=row["at_ms"],
                parameters=row["parameters"],
                reading=reading,
            )
        if len(rows) < BATCH:
            return
        at = rows[-1]["seq"]


def kept(ledger: Ledger, runbook: str, since_ms: int) -> Kept:
    """What is known of a runbook's readings from ``since_ms`` on, so that a replay can say what it has not seen."""
    mine, whole = snapshot.c.runbook == runbook, func.length(snapshot.c.body) > 0
    rule = select(func.count(snapshot.c.run_id.distinct()), func.min(snapshot.c.at_ms)).where(mine, whole)
    large = select(func.count()).select_from(snapshot).where(mine, ~whole, snapshot.c.at_ms >= since_ms)
    ran = select(func.count()).select_from(run).where(run.c.runbook == runbook, run.c.started_at_ms >= since_ms)
    with ledger.read() as connection:
        with_reading, first_ms = connection.execute(rule.where(snapshot.c.at_ms >= since_ms)).one()
        too_large, runs = connection.execute(large).scalar_one(), connection.execute(ran).scalar_one()
    return Kept(runs=runs, with_reading=with_reading, first_ms=first_ms, too_large=too_large)
