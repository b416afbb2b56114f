"""What was asked of a person under Prefect: one ledger run from the question to its answer, or to its expiry.

Prefect begins a run again from its top after an answer, and ends one that nobody answered without running it. Here
the first is the same run going on, and the second is a refusal, written by the next run of any runbook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, RowMapping, select, update

from runbook import outbox, rowcheck
from runbook.ledger import Ledger, now_ms
from runbook.outbox import Call, Severity
from runbook.process import this_process
from runbook.schema import entry, run

EXPIRED = "the question expired before a person answered"
TAKE_UP_MS = 120_000
"""How long after its expiry an answer that came in time may still be taken up: a worker may have to start first."""

DAYS_3 = 3 * 24 * 60 * 60 * 1000
"""Longer than any question stays open: RUNBOOK_APPROVAL_SECONDS is a day at most."""


class Question(NamedTuple):
    """One plan, asked in one run of Prefect's; without an answer by then nothing is done."""

    prefect_run: str
    plan_hash: str
    expires_at_ms: int


def key(ledger: Ledger, run_id: str, plan: str) -> str:
    """Prefect's name of this question: an approval is used once, the same plan is then asked anew."""
    with ledger.read() as connection:
        given = select(entry.c.body).where(entry.c.kind == "approval", entry.c.run_id == run_id)
        bodies = connection.execute(given).scalars()
        count = sum(body["plan_hash"] == plan and not body["refusal"] for body in bodies)
    return f"approve-{plan}-{count}" if count else f"approve-{plan}"


def asked(ledger: Ledger, run_id: str, question: Question) -> None:
    """Write that a run waits for a person."""
    ledger.close_run(run_id, "waiting", {"error": ""})
    with ledger.write() as connection:
        ledger.note(connection, "asked", question._asdict(), run_id=run_id)


def go_on(ledger: Ledger, prefect_run: str, mode: str) -> str | None:
    """The ledger's run of this run of Prefect's, open again, where it waited; None where it is new or was closed."""
    with ledger.write() as connection:
        for row in _newest(connection):
            if row["body"]["prefect_run"] == prefect_run:
                again: dict[str, object] = {"outcome": None, "ended_at_ms": None, "owner": this_process(), "mode": mode}
                if not _move(connection, row, again):
                    return None
                ledger.note(connection, rowcheck.RESUMED, {"mode": mode}, run_id=row["run_id"])
                return str(row["run_id"])
    return None


def is_expired(ledger: Ledger, prefect_run: str, plan: str) -> bool:
    """True when this plan's answer is taken up too late to count."""
    with ledger.read() as connection:
        for row in _newest(connection):
            if row["body"]["prefect_run"] == prefect_run and row["body"]["plan_hash"] == plan:
                return _is_over(row)
    return False


def expire(ledger: Ledger) -> list[str]:
    """Refuse every question nobody has answered in time, whatever its runbook; a line for each."""
    with ledger.read() as connection:
        newest = {row["run_id"]: row for row in reversed(_newest(connection)) if row["outcome"] == "waiting"}
    return [_expire(ledger, row) for row in newest.values() if _is_over(row)]


def _expire(ledger: Ledger, row: RowMapping) -> str:
    name, run_id = row["runbook"], row["run_id"]
    report = {"outcome": "refused", "reason": EXPIRED}
    with ledger.write() as connection:
        if _move(connection, row, {"outcome": "refused", "ended_at_ms": now_ms(), "report": report}):
            refusal = {"by": "", "approved": [], "refusal": EXPIRED, "plan_hash": row["body"]["plan_hash"]}
            ledger.note(connection, "approval", refusal, run_id=run_id)
            ended = {"outcome": "refused", "reason": EXPIRED, "notices": [], "report": rowcheck.hash_of(report)}
            ledger.note(connection, rowcheck.ENDED, ended, run_id=run_id)
            text = f"{EXPIRED}: nothing was done. Next: runbook run {name} --mode approve\nrunbook show {run_id}"
            title = f"{name}: nobody answered its question"
            outbox.raise_page(connection, Call(f"{name}:approval", Severity.warning, title, text), name, run_id)
    return f"{name} {run_id}: {EXPIRED}, nothing was done. Next: runbook run {name} --mode approve"


def _newest(connection: Connection) -> Sequence[RowMapping]:
    """Every question of late and how its run stands, the newest first."""
    rule = select(entry.c.run_id, entry.c.body, run.c.runbook, run.c.outcome).join(run, run.c.id == entry.c.run_id)
    rule = rule.where(entry.c.kind == "asked", entry.c.at_ms > now_ms() - DAYS_3)
    return connection.execute(rule.order_by(entry.c.seq.desc())).mappings().all()


def _move(connection: Connection, row: RowMapping, values: dict[str, object]) -> bool:
    waits = update(run).where(run.c.id == row["run_id"], run.c.outcome == "waiting")
    return connection.execute(waits.values(**values)).rowcount == 1


def _is_over(row: RowMapping) -> bool:
    return bool(row["body"]["expires_at_ms"] + TAKE_UP_MS < now_ms())
