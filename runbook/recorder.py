"""Readings as they were, masked and packed, so that another rule can be tried on what really happened."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping

from sqlalchemy import delete, func, insert, select

from runbook.ledger import Ledger
from runbook.mask import mask
from runbook.model import Frozen, Json
from runbook.schema import snapshot
from runbook.settings import settings

EVERY_MS = 15 * 60 * 1000
"""Of readings in which nothing was wrong, one in this time is kept: they are nearly all alike."""

BYTES = 1024 * 1024
"""A larger reading, packed, is not kept: the ledger is no archive."""

BATCH = 200


class Snapshot(Frozen):
    """One reading of one stage of a run, with the parameters it was judged by then."""

    run_id: str
    stage: str
    at_ms: int
    parameters: Mapping[str, Json]
    reading: Json


def keep(ledger: Ledger, seen: Snapshot, runbook: str, *, sick: bool) -> None:
    """Keep one reading in which something was wrong; of the healthy ones enough to tell what is usual."""
    with ledger.read() as connection:
        last = select(func.max(snapshot.c.at_ms)).where(snapshot.c.runbook == runbook, snapshot.c.stage == seen.stage)
        before = connection.execute(last).scalar_one()
    if not sick and before is not None and seen.at_ms - before < EVERY_MS:
        return
    body = zlib.compress(json.dumps(mask(seen.reading), separators=(",", ":"), default=str).encode())
    if len(body) > BYTES:
        return
    values = seen.model_dump(exclude={"reading"}) | {"runbook": runbook, "body": body}
    with ledger.write() as connection:
        connection.execute(insert(snapshot).values(**values))
        old = seen.at_ms - settings().runbook_keep_reading_days * 86_400_000
        connection.execute(delete(snapshot).where(snapshot.c.at_ms < old))


def snapshots(ledger: Ledger, runbook: str, since_ms: int) -> Iterator[Snapshot]:
    """The readings of a runbook from ``since_ms`` on, oldest first."""
    rule = select(snapshot).where(snapshot.c.runbook == runbook, snapshot.c.at_ms >= since_ms)
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
