"""What makes the ledger evidence: every entry carries a hash over itself and the one before, checked without its owner.

An entry changed, removed or slipped in breaks the chain at its place. Entries cut off at the end leave no break: for
that ``verify`` takes a hash that somebody noted elsewhere, and every report in Prefect shows one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, RowMapping, func, insert, select

from runbook import rowcheck
from runbook.model import Frozen, Json
from runbook.process import this_process
from runbook.schema import entry, link

BATCH = 1_000
SEALED, MIGRATED = "sealed", "migrated"


class Checked(Frozen):
    """What a walk along the chain showed: how many entries, the last hash, and the first row that is not as written.

    ``older`` counts entries from before there was a chain. ``noted`` says that the hash asked for was met, as an
    entry's or as the last one sealed; ``sealed_before_ms`` is what the newest seal stands in for.
    """

    entries: int
    head: str
    broken: str = ""
    noted: bool = True
    older: int = 0
    sealed_before_ms: int | None = None

    def as_json(self) -> dict[str, Json]:
        """The form of ``--json``."""
        return self.model_dump(mode="json") | {"whole": not self.broken and self.noted}


def append(connection: Connection, values: Mapping[str, Json]) -> str:
    """Write one entry and link it to the one before; the caller's transaction is the only one that writes."""
    seq = connection.execute(insert(entry).values(**values).returning(entry.c.seq)).scalar_one()
    hashed = digest(head(connection), {**values, "seq": seq})
    connection.execute(insert(link).values(seq=seq, hash=hashed))
    return hashed


def head(connection: Connection) -> str:
    """The hash of the last entry; empty where there is none."""
    return connection.execute(select(link.c.hash).order_by(link.c.seq.desc()).limit(1)).scalar_one_or_none() or ""


def digest(before: str, row: Mapping[str, Json]) -> str:
    """SHA-256 over the hash before and every field of the entry, in a form that both databases give back alike."""
    said = {name: row.get(name) for name in entry.c.keys()}  # noqa: SIM118 - a column collection, not a mapping
    text = json.dumps([before, said], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def adopt(connection: Connection, version: int, at_ms: int) -> None:
    """Take the entries of a ledger that had no chain yet under one hash, in an entry that says so."""
    count, last, hashed = _older(connection)
    if count:
        body = {"from": version, "older": count, "to_seq": last, "hash": hashed}
        append(connection, {"at_ms": at_ms, "kind": MIGRATED, "actor": this_process(), "body": body})


def verify(connection: Connection, noted: str = "") -> Checked:
    """Walk the whole chain, then hold every run, finding and fix against its entries.

    ``noted`` is a hash that must be met on the way. Where somebody may write meanwhile, ``connection`` must see one
    moment throughout (``Ledger.read(steady=True)``).
    """
    seal = _newest(connection, SEALED)
    last, count = str(seal["last_hash"]) if seal else "", 0
    met = not noted or last.startswith(noted)
    before_ms = seal["before_ms"] if seal else None
    for row in _linked(connection):
        count += 1
        hashed = digest(last, dict(row))
        if row["hash"] != hashed:
            at = f"entry {row['seq']} ({row['kind']})"
            return Checked(entries=count, head=last, broken=at, noted=met, sealed_before_ms=before_ms)
        last = hashed
        met = met or hashed.startswith(noted)
    older, broken = _adopted(connection)
    broken = broken or rowcheck.strange(connection, judge_missing=not seal or "kept" in seal)
    return Checked(entries=count, head=last, broken=broken, noted=met, older=older, sealed_before_ms=before_ms)


def _newest(connection: Connection, kind: str) -> Mapping[str, Json]:
    rule = select(entry.c.body).join(link, link.c.seq == entry.c.seq).where(entry.c.kind == kind)
    return connection.execute(rule.order_by(entry.c.seq.desc()).limit(1)).scalar_one_or_none() or {}


def _linked(connection: Connection) -> Iterator[RowMapping]:
    """Every entry from the first linked one on, with its hash; one without a hash comes with None."""
    first = connection.execute(select(func.min(link.c.seq))).scalar_one_or_none()
    at = (first or 0) - 1
    rule = select(entry, link.c.hash).outerjoin(link, link.c.seq == entry.c.seq).order_by(entry.c.seq).limit(BATCH)
    while first is not None:
        found = connection.execute(rule.where(entry.c.seq > at)).mappings().all()
        yield from found
        if len(found) < BATCH:
            return
        at = found[-1]["seq"]


def _older(connection: Connection) -> tuple[int, int, str]:
    """The entries before the first linked one: how many, the last of them, and one hash over all."""
    first = connection.execute(select(func.min(link.c.seq))).scalar_one_or_none()
    rule = select(entry).order_by(entry.c.seq).execution_options(yield_per=BATCH)
    if first is not None:
        rule = rule.where(entry.c.seq < first)
    count, last, hashed = 0, 0, ""
    for row in connection.execute(rule).mappings():
        count, last, hashed = count + 1, row["seq"], digest(hashed, dict(row))
    return count, last, hashed


def _adopted(connection: Connection) -> tuple[int, str]:
    """How many entries no hash is linked to, and what is strange of that: only an update's own entry explains them."""
    count, last, hashed = _older(connection)
    record = _newest(connection, MIGRATED)
    if record and record["to_seq"] <= int(_newest(connection, SEALED).get("to_seq", 0)):
        record = {}
    if (count, last, hashed) == (record.get("older", 0), record.get("to_seq", 0), record.get("hash", "")):
        return count, ""
    return count, f"{count} entries without a hash" if count else f"{record['older']} entries from before the chain"
