"""What people are told of a slow database: what is no emergency, what is not done and why, what a fix did. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from runbook.model import Finding
from tasks.catalog import Catalog, Index
from tasks.plans import Plan
from tasks.slowness import MIN_ROWS, Advice, Bounds, Latency, held_up, index_name

UNUSED_BYTES = 10 * 1024**2
UNUSED_DAYS = 14
N_PLUS_ONE_CALLS = 50  # a second
HELD_SECONDS = 3600.0
OLD_XIDS = 500_000_000
"""Half of what autovacuum's default lets happen twice over: old, and no reason yet to wake anybody."""


def notices(seen: Latency, at: Bounds) -> Iterator[str]:
    """Each thing worth knowing in one line, with what to type."""
    yield from seen.window.notices
    yield from _indexes(seen.catalog)
    yield from _ages(seen.catalog)
    slow = {one.id for one in seen.slow(at)}
    if not seen.catalog.hypopg and any(one.statement in slow for one in seen.advice()):
        yield "hypopg would prove an index before it is built: install it, then CREATE EXTENSION hypopg"
    for one in seen.window.statements:
        often = one.calls / seen.window.seconds >= N_PLUS_ONE_CALLS and one.rows <= one.calls
        if often and one.excluded is None and seen.window.load(one) >= at.busy_share:
            calls = f"{one.calls / seen.window.seconds:.0f} calls a second for a row each"
            yield f"looks like N+1 ({calls}): {one.shape}; read them at once with include, or WHERE id IN (…)"


def _indexes(catalog: Catalog) -> Iterator[str]:
    for one in catalog.indexes:
        if not one.valid and not one.in_progress and not one.ours:
            drop = f'DROP INDEX CONCURRENTLY "{one.db_schema}"."{one.name}"'
            yield f"index {one.name} is INVALID and not a runbook's: it slows writes and answers nothing: {drop}"
        if (better := _covered_by(one, catalog)) is not None:
            yield f"index {one.name} repeats the front of {better.name}: a person may drop it in a migration"
        unused = one.scans == 0 and one.valid and not (one.needed or one.is_unique) and one.bytes >= UNUSED_BYTES
        if unused and catalog.counted_days >= UNUSED_DAYS:
            size = f"{one.bytes / 1e6:.0f} MB, no scan in {catalog.counted_days:.0f} days"
            yield f"index {one.name} is unused here ({size}); a replica may use it: never dropped by a runbook"
    for key in catalog.bare:
        table, refers = catalog.by_oid(key.table_oid), catalog.by_oid(key.refers_to)
        if table is not None and refers is not None and table.rows >= MIN_ROWS:
            columns = ", ".join(f'"{name}"' for name in key.columns)
            create = f'CREATE INDEX CONCURRENTLY "{index_name(table.name, key.columns)}" ON "{table.db_schema}"'
            said = f"each delete of a {refers.name} reads all {table.rows:,.0f} rows of {table.name}"
            yield f'foreign key {key.name} has no index: {said}: {create}."{table.name}" ({columns})'


def _covered_by(one: Index, catalog: Catalog) -> Index | None:
    """An index that answers all that ``one`` does; of two that are the same, the older stays."""
    if one.needed or one.is_unique or not (one.plain and one.valid) or one.includes:
        return None
    for other in catalog.indexes:
        if other.table_oid != one.table_oid or other.oid == one.oid or not (other.plain and other.valid):
            continue
        size = len(one.columns)
        front = list(zip(other.columns, other.kinds, strict=True))[:size] == list(
            zip(one.columns, one.kinds, strict=True)
        )
        if front and (len(other.columns) > size or other.is_unique or other.oid < one.oid):
            return other
    return None


def _ages(catalog: Catalog) -> Iterator[str]:
    if catalog.xid_age >= OLD_XIDS or catalog.multixact_age >= OLD_XIDS:
        yield (
            f"database {catalog.database}: {catalog.xid_age:,} transactions old, multixacts {catalog.multixact_age:,}; "
            "see that autovacuum gets through: nothing may hold old rows for long"
        )
    for one in catalog.transactions:
        if one.xids and (one.seconds is None or one.seconds >= HELD_SECONDS):
            since = f"for {one.seconds / 3600:.1f} h" if one.seconds is not None else "until it is read or dropped"
            yield f"{one.name} keeps dead rows {since} ({one.xids:,} transactions): end it, or find out whose it is"


def blocked(seen: Latency, at: Bounds) -> Iterator[str]:
    """Why something that would help is not done now, with what a person can do about it."""
    slow = {one.id for one in seen.slow(at)}
    for one in seen.advice():
        if one.statement in slow and (why := seen.against(one)):
            yield f"index {seen.index_name(one)} not built: {why}"
    for index in seen.catalog.indexes:
        table = seen.catalog.by_oid(index.table_oid)
        if index.left_behind and table:
            why = seen.not_owned(table) or held_up(seen.catalog, table, by_readers=True)
            yield from [f"index {index.name} not dropped: {why}"] if why else []
    for table in seen.bloated(at):
        if why := seen.against_vacuum(table):
            yield f"table {table.name} not vacuumed: {why}"


def beside(before: Latency, after: Latency, built: Collection[str]) -> Iterator[str]:
    """Each statement an index was built for: its mean before and in the window after, and what its plan uses now."""
    for advised in before.advice():
        was, name = before.window.statement(advised.statement), before.index_name(advised)
        if was is None or name not in built:
            continue
        now = after.window.statement(was.id)
        mean = f"{now.mean_ms:,.2f} ms over {now.calls:.0f} calls" if now else "not called since"
        used = "its plan uses" if uses(after, advised, name) else "its plan does not use"
        yield f"statement {was.shape[:80]}: mean {was.mean_ms:,.1f} ms -> {mean}; {used} {name}"


def useless(before: Latency, after: Latency, built: Collection[str]) -> list[Finding]:
    """Indexes that were built and that the statement they were built for does not use."""
    return [
        Finding(subject=f"index {name}", detail="built, and the planner does not use it: runbook undo drops it again")
        for one in before.advice()
        if (name := before.index_name(one)) in built and not uses(after, one, name)
    ]


def uses(after: Latency, advised: Advice, name: str) -> bool:
    """True where the statement's plan names the index; what a delete looks up by a foreign key is in no plan."""
    now = after.plans.get(advised.statement, Plan())
    return name in now.indexes or bool(now.deletes_from)
