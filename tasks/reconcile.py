"""Stripe's subscriptions held against the app's rows: both streamed in one order, so memory stays flat at any size."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from runbook.errors import OutsideError
from runbook.model import Finding, Fix, Frozen, Json, Risk, Share
from runbook.settings import profile
from runbook.step import reader
from tasks.stripe_api import pages
from tasks.subscriptions import NoStripeId, Row, app_database, stream_rows, without_stripe_id

STATUSES = frozenset(
    {"active", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid"}
)
"""Every word Stripe has for a subscription; another one is reported and not copied."""

TERMINAL = frozenset({"canceled", "incomplete_expired"})
PLAN_AT_MOST = 1_000
"""Rows planned in one run, as many as its cap allows; the rest are counted and wait for the next."""

FEW = 5
"""Up to so many drifted rows are no mass failure, however small the app is."""

LOST_SHARE = 0.5
"""With more of the app's rows unknown to Stripe than this, the list is taken for partial or another account's."""

SAMPLE = 10


class Drift(Frozen):
    """One row that does not say what Stripe says."""

    row: str
    stripe_id: str
    ours: str | None
    theirs: str

    @property
    def anomaly(self) -> str:
        """What is odd about the old word, for the person who reads the evidence."""
        if self.ours in TERMINAL:
            return f"{self.ours} is final at Stripe, yet it is {self.theirs}: a stale event may have come late"
        return "" if self.ours in STATUSES else f"{self.ours} is no word of Stripe's"


class Comparison(Frozen):
    """What a full comparison saw. Counts are of all rows; ``drifts`` and the id samples are bounded."""

    listed: int = 0
    rows: int = 0
    compared: int = 0
    drifted: int = 0
    young: int = 0
    busy: int = 0
    drifts: tuple[Drift, ...] = ()
    changes: Mapping[str, int] = {}
    unknown: Mapping[str, int] = {}
    lost: int = 0
    lost_ids: tuple[str, ...] = ()
    unseen: int = 0
    unseen_ids: tuple[str, ...] = ()
    without_id: NoStripeId = NoStripeId(0, ())

    @property
    def share(self) -> Share | None:
        """How much of the population is sick, for the gate."""
        return Share(sick=self.drifted, of=self.compared) if self.drifted > FEW else None


class Tally:
    """Counts while two streams go by; pure, so that every case fits in a table."""

    def __init__(self, busy: Collection[str]) -> None:
        self.busy_ids = busy
        self.counts = Counter[str]()
        self.changes, self.unknown = Counter[str](), Counter[str]()
        self.drifts: list[Drift] = []
        self.lost_ids: list[str] = []
        self.unseen_ids: list[str] = []

    def unseen(self, stripe_id: str, theirs: str) -> None:
        """A subscription of Stripe's that no row names; an ended one is nobody's loss."""
        if theirs not in TERMINAL and stripe_id not in self.busy_ids:
            self.counts["unseen"] += 1
            self.unseen_ids += [stripe_id] if len(self.unseen_ids) < SAMPLE else []

    def row(self, row: Row, theirs: str | None) -> None:
        """One row of the app and Stripe's word for it, None where Stripe has no such subscription."""
        self.counts["rows"] += 1
        if row.young or row.stripe_id in self.busy_ids:
            self.counts["young" if row.young else "busy"] += 1
        elif theirs is None:
            self.counts["lost"] += 1
            self.lost_ids += [row.id] if len(self.lost_ids) < SAMPLE else []
        elif theirs not in STATUSES:
            self.unknown[theirs] += 1
        else:
            self.counts["compared"] += 1
            if row.status != theirs:
                self._drifted(Drift(row=row.id, stripe_id=row.stripe_id, ours=row.status, theirs=theirs))

    def _drifted(self, drift: Drift) -> None:
        self.counts["drifted"] += 1
        self.changes[f"{drift.ours} → {drift.theirs}"] += 1
        if len(self.drifts) < PLAN_AT_MOST:
            self.drifts.append(drift)


class Merge:
    """Walks Stripe's sorted list beside the app's sorted rows, one step at a time."""

    def __init__(self, theirs: Iterator[tuple[str, str]], tally: Tally) -> None:
        self._theirs, self._tally = theirs, tally
        self._next = next(theirs, None)
        self._matched = ""

    def feed(self, row: Row) -> None:
        """Take the app's next row; several rows may name one subscription."""
        while self._next is not None and self._next[0] < row.stripe_id:
            self._pass()
        found = self._next is not None and self._next[0] == row.stripe_id
        self._tally.row(row, self._next[1] if found and self._next else None)
        self._matched = row.stripe_id if found else self._matched

    def end(self) -> None:
        """No rows are left: what Stripe still has, no row names."""
        while self._next is not None:
            self._pass()

    def _pass(self) -> None:
        assert self._next is not None
        if self._next[0] != self._matched:
            self._tally.unseen(*self._next)
        self._next = next(self._theirs, None)


def spill(path: Path) -> int:
    """Write Stripe's whole list, id and status, to a file sorted by id; returns how many there are."""
    with closing(sqlite3.connect(path)) as file:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16000", "temp_store=FILE"):
            file.execute(f"PRAGMA {pragma}")
        file.execute("CREATE TABLE theirs (id TEXT PRIMARY KEY, status TEXT NOT NULL) WITHOUT ROWID")
        for page in pages("/v1/subscriptions", status="all"):
            file.executemany("INSERT OR REPLACE INTO theirs VALUES (?, ?)", map(_id_and_status, page))
        file.commit()
        return int(file.execute("SELECT count(*) FROM theirs").fetchone()[0])


def _id_and_status(row: Mapping[str, Json]) -> tuple[str, str]:
    if row.get("object") != "subscription" or not isinstance(row.get("status"), str) or "livemode" not in row:
        raise OutsideError("Stripe", "a page of /v1/subscriptions is malformed", "run it again; nothing was changed")
    return row["id"], row["status"]


def _spilled(path: Path) -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        file.execute("PRAGMA cache_size=-4000")
        yield from file.execute("SELECT id, status FROM theirs ORDER BY id")


def _busy(since: int) -> set[str]:
    """Subscriptions with an event since then: their webhook may be on its way right now."""
    types = [f"customer.subscription.{word}" for word in ("created", "updated", "deleted", "paused", "resumed")]
    found = pages("/v1/events", types=types, created={"gte": since})
    return {str(row["data"]["object"].get("id")) for page in found for row in page}


@reader("compare Stripe with the app's rows")
async def read_comparison(skip_minutes: int) -> Comparison:
    """One list call per 100 subscriptions, one sorted cursor over the app's rows, nothing changed.

    Raises ``OutsideError`` when Stripe's list is empty, partial or malformed: no comparison is better than half a one.
    """
    began = int(time.time())
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        path = Path(folder) / "stripe.sqlite"
        try:
            listed = await asyncio.to_thread(spill, path)
            busy = await asyncio.to_thread(_busy, began - skip_minutes * 60)
        except OutsideError as error:  # each page was tried again already: do not start the whole list over
            raise OutsideError(error.subject, error.problem, error.next_step) from None
        async with app_database() as connection:
            without = await without_stripe_id(connection)
            tally = await _tally(path, busy, stream_rows(connection, skip_minutes))
    return _checked(tally, listed, without)


async def _tally(path: Path, busy: set[str], rows: AsyncIterator[list[Row]]) -> Tally:
    tally = Tally(busy)
    merge = Merge(_spilled(path), tally)
    async for batch in rows:
        for row in batch:
            merge.feed(row)
        await asyncio.sleep(0)  # a heartbeat between batches: this loop is also Prefect's
    merge.end()
    return tally


def _checked(tally: Tally, listed: int, without: NoStripeId) -> Comparison:
    counts, table = tally.counts, profile().tables.subscription
    step = "see whether STRIPE_SECRET_KEY belongs to this app's account"
    if listed == 0 and counts["rows"]:
        problem = f"lists no subscription while {table} has {counts['rows']} rows that name one"
        raise OutsideError("Stripe", problem, step)
    if counts["lost"] > FEW and counts["lost"] > LOST_SHARE * counts["rows"]:
        problem = f"does not know {counts['lost']} of the {counts['rows']} subscriptions in {table}"
        raise OutsideError("Stripe", problem, step)
    return Comparison(
        listed=listed,
        drifts=tuple(tally.drifts),
        changes=dict(tally.changes.most_common(20)),
        unknown=dict(tally.unknown.most_common(20)),
        lost_ids=tuple(tally.lost_ids),
        unseen_ids=tuple(tally.unseen_ids),
        without_id=without,
        **{name: counts[name] for name in ("rows", "compared", "drifted", "young", "busy", "lost", "unseen")},
    )


def detect_drift(seen: Comparison) -> list[Finding]:
    """Rows that differ, and words of Stripe's that nobody here knows."""
    findings, table = [], profile().tables.subscription
    if seen.drifted:
        odd = Counter(drift.anomaly for drift in seen.drifts if drift.anomaly)
        evidence = {
            "changes": dict(seen.changes),
            "anomalies": dict(odd.most_common(10)),
            "rows": [drift.row for drift in seen.drifts[:SAMPLE]],
        }
        detail = f"{seen.drifted} of {seen.compared} rows do not say what Stripe says"
        findings.append(Finding(subject=f"table {table}", detail=detail, evidence=evidence))
    if seen.unknown:
        words = ", ".join(seen.unknown)
        detail = f"Stripe has a status this version does not know ({words}): not copied, a person must look"
        findings.append(Finding(subject="Stripe subscriptions", detail=detail, evidence=dict(seen.unknown)))
    return findings


def plan_drift(seen: Comparison) -> list[Fix]:
    """Copy Stripe's word, row by row."""
    return [
        Fix(
            action="copy_status",
            target=f"{profile().tables.subscription}/{drift.row}",
            risk=Risk.auto,
            why=f"the row says {drift.ours}, Stripe says {drift.theirs}"
            + (f" ({drift.anomaly})" if drift.anomaly else ""),
            undo="set the row back to its old word, if nothing else has changed it",
            expect={"status": drift.ours, "stripe_id": drift.stripe_id},
            want={"status": drift.theirs},
        )
        for drift in seen.drifts
    ]


def still_drifted(seen: Comparison, rows: Mapping[str, tuple[str, str | None]]) -> Comparison:
    """The same comparison with the planned rows as they are now; a row that moved on is not drifted any more."""
    left = tuple(drift for drift in seen.drifts if rows.get(drift.row) == (drift.stripe_id, drift.ours))
    changes = Counter(f"{drift.ours} → {drift.theirs}" for drift in left)
    drifted = seen.drifted - len(seen.drifts) + len(left)
    return seen.model_copy(update={"drifts": left, "drifted": drifted, "changes": dict(changes)})


def notices_of(seen: Comparison) -> list[str]:
    """What a person should know and no machine may touch."""
    table = profile().tables.subscription
    told = (
        (seen.lost, f"rows of {table} name a subscription Stripe does not have", seen.lost_ids),
        (seen.without_id.rows, f"rows of {table} name no subscription of Stripe's", seen.without_id.ids),
        (seen.unseen, f"running subscriptions of Stripe's are in no row of {table}", seen.unseen_ids),
    )
    return [
        f"{count} {what}: {', '.join(ids)}" + (" …" if count > len(ids) else "") for count, what, ids in told if count
    ]
