"""The reading of a slow database: what ran, how, who waits, what the catalogue says; and what follows from it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from runbook.mask import statement
from runbook.model import Frozen
from tasks import pool
from tasks.catalog import OURS, Catalog, Table, Transaction
from tasks.plans import Plan
from tasks.pool import Pool, Session
from tasks.statements import Statement, Window

MIN_ROWS = 10_000
"""A table with fewer rows is read from end to end in no time."""

SELECTIVE = 0.05
"""An index pays when the wanted rows are no more than this share; above it, reading everything is right."""

FEW = 1_000
"""Rows one value may still mean before a second column is worth its place in the index."""

HOLD_SECONDS = 5.0
"""A transaction this old may stay for long: an index build would wait for it."""

VAIN_SECONDS = 600.0
"""Dead rows that a transaction this old may still see cannot be removed."""

SHAPE = 4_000
"""Characters of a statement that are kept of a reading."""

DISK = 0.8  # of what is free may an index take, with what its build needs beside it
BLIND_BYTES = 256 * 1024**2
"""An index larger than this needs a person where the server's free disk cannot be seen."""


class Bounds(NamedTuple):
    """From where on something is slow or sick: milliseconds, calls, shares, seconds, megabytes."""

    slow_ms: float
    min_calls: int
    busy_share: float
    active_seconds: int
    runaway_seconds: int
    wait_seconds: int
    dead_share: float
    max_table_mb: int

    @property
    def pool(self) -> pool.Bounds:
        """The bounds on sessions that the lock trees are judged by."""
        return pool.Bounds(1.0, self.runaway_seconds, self.active_seconds, self.wait_seconds)


class Advice(Frozen):
    """An index that would answer a statement which now reads a whole table."""

    statement: str
    table: int
    columns: Sequence[str]
    width: int
    why: str


class Trial(Frozen):
    """What hypopg said of one index that was not built: the planner's costs, and whether it would be used."""

    before: float
    after: float
    used: bool

    @property
    def helps(self) -> bool:
        return self.used and self.after < self.before / 2


class Latency(Frozen):
    """One look at a database. ``plans`` by statement; ``trials`` by the name of the index that was tried."""

    window: Window
    pool: Pool
    catalog: Catalog
    plans: Mapping[str, Plan] = {}
    trials: Mapping[str, Trial] = {}

    def without_literals(self) -> Latency:
        """The same with only the shape of each statement: what it is judged by, and nothing of a customer's."""
        shapes = [one.model_copy(update={"text": statement(one.text, SHAPE)}) for one in self.window.statements]
        return self.model_copy(update={"window": self.window.model_copy(update={"statements": shapes})})

    def advice(self) -> list[Advice]:
        """One index for each table and columns, the dearest statement first; none that is there already."""
        found: dict[str, Advice] = {}
        for one in self.window.statements:
            for new in _advise(one, self.plans.get(one.id, Plan()), self.catalog):
                found.setdefault(self.index_name(new), new)
        return list(found.values())

    def slow(self, at: Bounds) -> list[Statement]:
        """Statements of the app that take too long on average; or keep a processor busy though an index would help."""
        helped = {one.statement for one in self.advice()}
        return [
            one
            for one in suspects(self.window, at)
            if one.mean_ms >= at.slow_ms or (one.id in helped and self.window.load(one) >= at.busy_share)
        ]

    def table(self, advice: Advice) -> Table:
        """The table an advice is for."""
        found = self.catalog.by_oid(advice.table)
        assert found is not None, "an advice is made from this very catalogue"
        return found

    def index_name(self, advice: Advice) -> str:
        """The name the index will have."""
        return index_name(self.table(advice).name, advice.columns)

    def against(self, advice: Advice) -> str | None:
        """Why this index is not built now, with what to do about it; None where nothing speaks against it."""
        table, name = self.table(advice), self.index_name(advice)
        trial = self.trials.get(name)
        if trial is not None and not trial.helps:
            return f"hypopg says the planner would not gain by it (cost {trial.before:.0f} -> {trial.after:.0f})"
        owned = self.not_owned(table)
        return owned or held_up(self.catalog, table) or no_room(self.catalog, table, advice.width)

    def not_owned(self, table: Table) -> str | None:
        """What to grant where our role may not act as the table's owner."""
        return None if table.owned else f"only its owner may: {grant(self.catalog, table)}"

    def against_vacuum(self, table: Table) -> str | None:
        """Why vacuuming would not be allowed, or would remove nothing."""
        if not table.maintained and (why := self.not_owned(table)):
            return why
        holder = self.holder()
        return f"{holder.name} still sees the dead rows: end that first" if holder else None

    def bloated(self, at: Bounds) -> list[Table]:
        """Tables full of dead rows that nothing is cleaning up, the fullest first."""
        full = (
            one
            for one in self.catalog.tables
            if one.dead >= MIN_ROWS and one.dead_share >= at.dead_share and not one.vacuuming
        )
        return sorted(full, key=lambda one: -one.dead)

    def holder(self) -> Transaction | None:
        """Who keeps the oldest dead rows alive, where it has done so for too long to wait for it."""
        old = (one for one in self.catalog.transactions if one.xids and (one.seconds or VAIN_SECONDS) >= VAIN_SECONDS)
        return max(old, key=lambda one: one.xids, default=None)

    def runaways(self, at: Bounds) -> list[Session]:
        """Queries that have run so long that nobody can be waiting for their answer."""
        long = self.pool.endless(at.pool._replace(active_seconds=at.runaway_seconds))
        return [one for one in long if one.spared is None]


def suspects(window: Window, at: Bounds) -> list[Statement]:
    """The statements worth planning: called often enough not to be somebody's one-off, and dear."""
    often = (one for one in window.statements if one.calls >= at.min_calls and one.excluded is None)
    return [one for one in often if one.mean_ms >= at.slow_ms or window.load(one) >= at.busy_share]


def _advise(one: Statement, plan: Plan, catalog: Catalog) -> Iterable[Advice]:
    for scan in plan.scans:
        table = catalog.table(scan.db_schema, scan.table)
        if table is None or scan.rows < MIN_ROWS or not scan.equals:
            continue
        first, *others = scan.equals
        chosen, share = [first], first.selectivity
        if others and share * scan.rows > FEW:
            chosen, share = [first, others[0]], share * others[0].selectivity
        names = [column.name for column in chosen]
        if share < SELECTIVE and not covered(catalog, table.oid, names):
            why = f"reads all {scan.rows:,.0f} rows of {table.name} for about {max(share * scan.rows, 1):,.0f}"
            width = sum(column.width for column in chosen)
            yield Advice(statement=one.id, table=table.oid, columns=names, width=width, why=why)
    for key in catalog.bare:
        refers, table = catalog.by_oid(key.refers_to), catalog.by_oid(key.table_oid)
        if refers and table and plan.deletes_from == refers.name and table.rows >= MIN_ROWS:
            why = f"each deleted row of {refers.name} reads all {table.rows:,.0f} rows of {table.name}"
            yield Advice(statement=one.id, table=table.oid, columns=list(key.columns), width=16, why=why)


def covered(catalog: Catalog, table_oid: int, columns: Sequence[str]) -> bool:
    """True when a whole index begins with these columns, or one is being built."""
    return any(
        one.plain and (one.valid or one.in_progress) and set(one.columns[: len(columns)]) == set(columns)
        for one in catalog.indexes
        if one.table_oid == table_oid
    )


def index_name(table: str, columns: Sequence[str]) -> str:
    """``runbook_<table>_<columns>``, in the 63 bytes PostgreSQL keeps of a name."""
    name = f"{OURS}{table}_{'_'.join(columns)}"
    if len(name.encode()) <= 63:
        return name
    return f"{name.encode()[:54].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def grant(catalog: Catalog, table: Table) -> str:
    """The words that let our role act as the table's owner."""
    only = " WITH INHERIT FALSE, SET TRUE" if catalog.version >= 160_000 else ""
    return f'GRANT "{table.owner}" TO "{catalog.role}"{only}'


def held_up(catalog: Catalog, table: Table, *, by_readers: bool = False) -> str | None:
    """Who an index build on ``table`` would wait for, or None; a drop waits for its readers too, for no snapshot."""
    if catalog.migrating:
        return "a migration is changing the schema"
    if table.vacuuming:
        return f"VACUUM is at work on {table.name}"
    for one in catalog.transactions:
        locks = one.touched if by_readers else one.written
        waits = table.oid in locks or (one.has_snapshot and not by_readers)
        if waits and (one.seconds or 0.0) >= HOLD_SECONDS:
            return f"it would wait for {one.name}, {one.seconds:.0f} s in its transaction"
    return None


def index_bytes(table: Table, width: int) -> int:
    """What an index on columns of ``width`` bytes takes, about."""
    return round(table.rows * (width + 16) * 1.3)


def no_room(catalog: Catalog, table: Table, width: int) -> str | None:
    """Why the disk would not do: the index, as much again to sort it, and as much again in the write-ahead log."""
    need = 3 * index_bytes(table, width)
    if catalog.free_bytes is None or not table.default_space or need <= DISK * catalog.free_bytes:
        return None
    return f"it needs about {need / 1e6:,.0f} MB of disk and {catalog.free_bytes / 1e6:,.0f} MB are free"
