"""What makes the ledger evidence: every entry carries a hash over itself and the one before, checked without its owner.

An entry changed, removed or slipped in breaks the chain at its place. Entries cut off at the end leave no break: for
that ``verify`` takes a hash that somebody noted elsewhere, and every report in Prefect shows one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, RowMapping, delete, func, insert, select

from runbook.model import FixState, Frozen, Json
from runbook.schema import OPEN_STATES, entry, finding, fix, incident, incident_item, link, page, run

BATCH = 1_000
SEALED = "sealed"
STATES = frozenset(state.value for state in FixState)


class Checked(Frozen):
    """What a walk along the chain showed: how many entries, the last hash, and the first row that is not as written."""

    entries: int
    head: str
    broken: str = ""
    noted: bool = True

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


def verify(connection: Connection, noted: str = "") -> Checked:
    """Walk the whole chain, then hold every fix against its entries; ``noted`` is a hash that must be found on the way.

    Entries written before the chain began, by an older version, are not judged.
    """
    last, count, found = _start(connection), 0, not noted
    for row in _linked(connection):
        count += 1
        hashed = digest(last, dict(row))
        if row["hash"] != hashed:
            return Checked(entries=count, head=last, broken=f"entry {row['seq']} ({row['kind']})", noted=found)
        last = hashed
        found = found or hashed.startswith(noted)
    return Checked(entries=count, head=last, broken=_strange(connection), noted=found)


def summary(connection: Connection, before_ms: int) -> Mapping[str, Json]:
    """What stands in for all that is older than ``before_ms``; empty where nothing is.

    What an open fix belongs to is never old.
    """
    open_runs = select(fix.c.run_id).where(fix.c.state.in_(OPEN_STATES))
    begun = connection.execute(select(func.min(run.c.started_at_ms)).where(run.c.id.in_(open_runs))).scalar_one()
    edge = before_ms if begun is None else min(before_ms, begun)
    young = connection.execute(select(func.min(entry.c.seq)).where(entry.c.at_ms >= edge)).scalar_one()
    rule = select(link.c.seq, link.c.hash).order_by(link.c.seq.desc()).limit(1)
    last = connection.execute(rule if young is None else rule.where(link.c.seq < young)).first()
    if last is None:
        return {}
    old = select(run.c.id).where(run.c.started_at_ms < edge)
    outcomes = connection.execute(select(run.c.runbook, run.c.outcome).where(run.c.id.in_(old)))
    states = connection.execute(select(fix.c.action, fix.c.state).where(fix.c.run_id.in_(old)))
    return {
        "to_seq": last.seq,
        "last_hash": last.hash,
        "before_ms": edge,
        "runs": dict(Counter(f"{one.runbook} {one.outcome}" for one in outcomes)),
        "fixes": dict(Counter(f"{one.action} {one.state}" for one in states)),
    }


def forget(connection: Connection, summed: Mapping[str, Json]) -> None:
    """Delete what ``summed`` stands in for, once it is itself an entry."""
    old = select(run.c.id).where(run.c.started_at_ms < summed["before_ms"])
    for table in (finding, fix):
        connection.execute(delete(table).where(table.c.run_id.in_(old)))
    connection.execute(delete(run).where(run.c.started_at_ms < summed["before_ms"]))
    closed = select(incident.c.id).where(incident.c.closed_at_ms < summed["before_ms"])
    connection.execute(delete(incident_item).where(incident_item.c.incident_id.in_(closed)))
    connection.execute(delete(incident).where(incident.c.closed_at_ms < summed["before_ms"]))
    of_open = select(incident_item.c.page_seq).where(incident_item.c.page_seq.is_not(None))
    connection.execute(delete(page).where(page.c.resolved_at_ms < summed["before_ms"], page.c.seq.not_in(of_open)))
    for one in (link, entry):
        connection.execute(delete(one).where(one.c.seq <= summed["to_seq"]))


def _start(connection: Connection) -> str:
    newest = select(entry.c.body).where(entry.c.kind == SEALED).order_by(entry.c.seq.desc()).limit(1)
    body = connection.execute(newest).scalar_one_or_none()
    return str(body["last_hash"]) if body else ""


def _linked(connection: Connection) -> Iterator[RowMapping]:
    """Every entry from the first linked one on, with its hash; one without a hash comes with None."""
    first = connection.execute(select(func.min(link.c.seq))).scalar_one_or_none()
    at = (first or 0) - 1
    rule = select(entry, link.c.hash).outerjoin(link, link.c.seq == entry.c.seq).order_by(entry.c.seq).limit(BATCH)
    while first is not None:
        rows = connection.execute(rule.where(entry.c.seq > at)).mappings().all()
        yield from rows
        if len(rows) < BATCH:
            return
        at = rows[-1]["seq"]


def _strange(connection: Connection) -> str:
    """The first fix that is not as its own entries say; they alone are chained."""
    told = select(entry.c.fix_id, entry.c.kind, entry.c.body).join(link, link.c.seq == entry.c.seq)
    told = told.where(entry.c.fix_id.is_not(None), entry.c.kind.in_(STATES)).order_by(entry.c.seq)
    state: dict[str, str] = {}
    image: dict[str, str] = {}
    for row in connection.execute(told):
        state[row.fix_id] = row.kind
        if "image" in row.body:
            image[row.fix_id] = row.body["image"]
    for one in connection.execute(select(fix).order_by(fix.c.seq)).mappings():
        if one["id"] not in state:
            continue  # an older version's, or sealed away
        if state[one["id"]] != one["state"] or image.get(one["id"], "") not in {"", fix_image(dict(one))}:
            return f"fix {one['id']}"
    return ""


def fix_image(row: Mapping[str, Json]) -> str:
    """A hash over what a fix is: its act, target, images of before and after, and how it is undone."""
    said = {name: row[name] for name in ("action", "target", "risk", "undo", "expect", "want")}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
