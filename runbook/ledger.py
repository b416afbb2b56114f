"""The append-only memory: runs, findings, fixes, every step of each fix, approvals and the red button.

It never lives in the database under care. SQLite in WAL mode by default, PostgreSQL by ``RUNBOOK_LEDGER_URL``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from runbook import chain, rowcheck, schema
from runbook.engine import connect
from runbook.errors import LedgerError
from runbook.mask import mask
from runbook.model import Finding, Fix, FixState, Json
from runbook.policy import HOURS_24, Attempt, cents
from runbook.process import ACTING, is_alive, is_dead, this_process
from runbook.schema import entry, finding, fix, run
from runbook.settings import ledger_url

DONE_STATES = (FixState.applied.value, FixState.proven.value)
WRITE_LOCK = 4_726_733  # one writer at a time, as on SQLite: caps are counted and granted, entries are chained


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def new_id(kind: str) -> str:
    """A fresh id such as ``fix_3f9c2a71b04d``; the kind is read off its front."""
    return f"{kind}_{secrets.token_hex(6)}"


class Ledger:
    """One ledger database; every method is one transaction and safe between processes and machines."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)
        with self._problems():
            schema.migrate(self.engine)

    @contextmanager
    def _problems(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            problem = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise LedgerError(
                "RUNBOOK_LEDGER_URL",
                f"the ledger refused: {problem}",
                "make it writable; nothing acts without it",
            ) from error

    @contextmanager
    def read(self, *, steady: bool = False) -> Iterator[Connection]:
        """A connection that only reads; a ``steady`` one sees one moment throughout, as SQLite's always do."""
        with self._problems(), self.engine.connect() as connection:
            if steady and self.engine.dialect.name == "postgresql":
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; no other begins until it ends."""
        options: dict[str, Any] = {"runbook_write": True}
        with (
            self._problems(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            if self.engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITE_LOCK})
            yield connection

    def note(
        self,
        connection: Connection,
        kind: str,
        body: Mapping[str, Json],
        *,
        run_id: str | None = None,
        fix_id: str | None = None,
    ) -> None:
        """Append one entry to the chain, masked; entries are never changed."""
        values = {"at_ms": now_ms(), "kind": kind, "run_id": run_id, "fix_id": fix_id, "body": mask(dict(body))}
        chain.append(connection, values | {"actor": this_process()})

    # -- runs and findings --------------------------------------------------------------------------------------

    def open_run(self, runbook: str, mode: str) -> str:
        """Write that a run began and return its id; grants that nobody will use any more are given back on the way."""
        run_id = new_id("run")
        with self.write() as connection:
            self.expire_grants(connection)
            values = {"runbook": runbook, "mode": mode, "started_at_ms": now_ms(), "owner": this_process()}
            connection.execute(insert(run).values(id=run_id, **values))
            self.note(connection, "run", {"runbook": runbook, "mode": mode}, run_id=run_id)
        return run_id

    def close_run(self, run_id: str, outcome: str, report: Mapping[str, Json]) -> str:
        """Write what a run came to; the hash of the chain so far, to be noted elsewhere."""
        with self.write() as connection:
            values = {"ended_at_ms": now_ms(), "outcome": outcome, "report": dict(report)}
            connection.execute(update(run).where(run.c.id == run_id).values(**values))
            told = {"outcome": outcome, "reason": report.get("reason", ""), "notices": report.get("notices", [])}
            told["report"] = rowcheck.hash_of(dict(report))
            self.note(connection, "ended", told, run_id=run_id)
            return chain.head(connection)

    def found(self, run_id: str, findings: Sequence[Finding]) -> None:
        """Write findings with their evidence."""
        with self.write() as connection:
            for one in findings:
                values = mask({"subject": one.subject, "detail": one.detail, "evidence": dict(one.evidence)})
                connection.execute(insert(finding).values(run_id=run_id, at_ms=now_ms(), **values))
                self.note(connection, "found", values, run_id=run_id)

    # -- fixes --------------------------------------------------------------------------------------------------

    def record(self, connection: Connection, run_id: str, runbook: str, one: Fix, plan: str, ttl_ms: int) -> Fix | None:
        """Write one decided fix; None when another run holds its target (the unique index is the lock)."""
        recorded = one.model_copy(update={"id": new_id("fix"), "why": str(mask(one.why))})
        granted = recorded.state is FixState.granted
        values = recorded.model_dump(mode="json", exclude={"state"})
        moment = now_ms()
        values |= {"run_id": run_id, "runbook": runbook, "plan_hash": plan, "state": recorded.state.value}
        values |= {
            "owner": this_process(),
            "decided_at_ms": moment,
            "granted_until_ms": moment + ttl_ms if granted else None,
        }
        try:
            with connection.begin_nested():
                connection.execute(insert(fix).values(**values))
        except IntegrityError:
            return None
        self.note(
            connection,
            recorded.state.value,
            {"why": recorded.why, "plan_hash": plan, "granted_until_ms": values["granted_until_ms"]}
            | {"image": rowcheck.fix_image(values)},
            run_id=run_id,
            fix_id=recorded.id,
        )
        return recorded

    def move(
        self,
        fix_id: str,
        old: Sequence[FixState],
        new: FixState,
        body: Mapping[str, Json],
        *,
        fresh: bool = False,
    ) -> bool:
        """Move one fix from one of ``old`` to ``new`` and append why; False when it was not there any more.

        ``fresh`` also demands that its grant has not expired and the red button is out. Exactly one caller ever sees
        True for one move.
        """
        with self.write() as connection:
            moment = now_ms()  # read under the lock, like the button: another may have written for seconds before
            rule = update(fix).where(fix.c.id == fix_id, fix.c.state.in_([state.value for state in old]))
            values: dict[str, Any] = {"state": new.value}
            if fresh:
                rule = rule.where(fix.c.granted_until_ms > moment)
            if new is FixState.intended:
                values |= {"intended_at_ms": moment, "owner": this_process()}
            elif new is FixState.refused:
                values |= {"why": str(mask(body.get("why", "")))}
            if fresh and self.stopped(connection) is not None:
                return False
            if connection.execute(rule.values(**values)).rowcount != 1:
                return False
            self.note(connection, new.value, body, fix_id=fix_id)
        return True

    def history(self, connection: Connection, run_id: str = "") -> list[Attempt]:
        """Every grant of the last 24 hours, and of this run at any time, that was or may still be attempted."""
        attempted = (fix.c.intended_at_ms.is_not(None)) | (fix.c.state == FixState.granted.value)
        recent = (fix.c.decided_at_ms > now_ms() - HOURS_24) | (fix.c.run_id == run_id)
        rows = connection.execute(select(fix).where(attempted, recent)).mappings()
        return [
            Attempt(
                row["runbook"],
                row["action"],
                row["target"],
                row["decided_at_ms"],
                FixState(row["state"]),
                row["run_id"],
                cents(row["expect"]),
            )
            for row in rows
        ]

    def open_targets(self, connection: Connection) -> set[str]:
        """Targets that a live grant or an unsettled intent holds."""
        rows = connection.execute(select(fix.c.target).where(fix.c.state.in_(schema.OPEN_STATES)))
        return {row.target for row in rows}

    def expire_grants(self, connection: Connection) -> None:
        """Refuse the grants nobody began in time or whose process is gone: they were never acted on."""
        rows = connection.execute(select(fix).where(fix.c.state == FixState.granted.value)).mappings().all()
        for row in rows:
            if row["granted_until_ms"] <= now_ms() or is_dead(row["owner"]):
                why = "its grant expired before it was begun"
                gone = update(fix).where(fix.c.id == row["id"], fix.c.state == FixState.granted.value)
                connection.execute(gone.values(state=FixState.refused.value, why=why))
                self.note(connection, "refused", {"why": why}, fix_id=row["id"])

    def unsettled(self, runbook: str, older_than_ms: int) -> list[Fix]:
        """Fixes that nobody is at any more, or so old that nobody can tell, and which nobody has seen to hold.

        Those left ``intended``, whenever that was; those ``applied`` and never proven for two days: a look-up may need
        one to say that nothing came of it, and later what it sees says more of the world than of the fix.
        """
        begun, now = fix.c.state == FixState.intended.value, now_ms()
        done = (fix.c.state == FixState.applied.value) & (fix.c.intended_at_ms > now - 2 * HOURS_24)
        broken = select(entry.c.seq).where(entry.c.fix_id == fix.c.id, entry.c.kind == "interrupted").exists()
        rule = select(fix, broken.label("broken")).where(fix.c.runbook == runbook, begun | done).order_by(fix.c.seq)
        with self.read() as connection:
            rows = connection.execute(rule).mappings().all()
        return [as_fix(row) for row in rows if _is_left(row, now - older_than_ms)]

    def disproven(self, runbook: str, action: str) -> list[Fix]:
        """Fixes of the last 24 hours that were certainly done and then seen to have had no effect."""
        done = select(entry.c.seq).where(entry.c.fix_id == fix.c.id, entry.c.kind == FixState.applied.value).exists()
        rule = select(fix).where(fix.c.runbook == runbook, fix.c.action == action, done)
        rule = rule.where(fix.c.state == FixState.failed.value, fix.c.decided_at_ms > now_ms() - HOURS_24)
        with self.read() as connection:
            return [as_fix(row) for row in connection.execute(rule).mappings()]

    def state(self, fix_id: str) -> FixState:
        """Where one fix stands now."""
        with self.read() as connection:
            return FixState(connection.execute(select(fix.c.state).where(fix.c.id == fix_id)).scalar_one())

    def fixes(self, run_id: str) -> list[Fix]:
        """All fixes of a run as they stand now, in the order they were decided."""
        with self.read() as connection:
            rows = connection.execute(select(fix).where(fix.c.run_id == run_id).order_by(fix.c.seq)).mappings()
            return [as_fix(row) for row in rows]

    # -- the red button -----------------------------------------------------------------------------------------

    def press(self, kind: str, reason: str) -> None:
        """Append ``stop`` or ``start`` with the person's reason."""
        with self.write() as connection:
            self.note(connection, kind, {"reason": reason})

    def stopped(self, connection: Connection) -> str | None:
        """The reason everything is stopped, or None; the latest press counts."""
        rule = select(entry).where(entry.c.kind.in_(["stop", "start"])).order_by(entry.c.seq.desc()).limit(1)
        row = connection.execute(rule).mappings().first()
        return str(row["body"].get("reason", "")) if row is not None and row["kind"] == "stop" else None


def _is_left(row: RowMapping, before_ms: int) -> bool:
    """Whether nobody is at it any more: a living process of this host may be for as long as an act takes."""
    if row["state"] == FixState.applied.value or not is_alive(row["owner"]):
        return int(row["intended_at_ms"]) < before_ms or is_dead(row["owner"])
    return bool(row["broken"]) or (row["owner"] == this_process() and row["id"] not in ACTING)


def as_fix(row: RowMapping) -> Fix:
    """The fix a ledger row holds."""
    return Fix.model_validate({name: row[name] for name in Fix.model_fields})


@lru_cache(maxsize=4)
def _ledger(url: str) -> Ledger:
    return Ledger(url)


def ledger() -> Ledger:
    """The ledger of this process; the other settings may be wrong, so a run must have read them before it acts."""
    return _ledger(ledger_url())
