"""What was asked of a person under Prefect: one ledger run from the question to its answer, or to its expiry.

Prefect begins a run again from its top after an answer, and ends one that nobody answered without running it. Here
the first is the same run going on, and the second is a refusal, written by the next run of any runbook.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.objects import State
from prefect.states import Scheduled
from sqlalchemy import Connection, RowMapping, select, update

from runbook import outbox, rowcheck
from runbook.ledger import Ledger, as_fix, now_ms
from runbook.model import Fix, FixState
from runbook.outbox import Call, Severity
from runbook.process import this_process
from runbook.schema import entry, fix, run

EXPIRED = "the question expired before an answer was taken up"
TAKE_UP_MS = 120_000
"""How long after its expiry an answer that came in time may still be taken up: a worker may have to start first."""

DECLINED_MS = 60 * 60 * 1000
"""How long what a person declined is not asked for again by a run that nobody started by hand."""

SLOT_TAKEN = "Deployment concurrency limit reached."
"""What Prefect says of a run it cancels because another one of its deployment is under way."""

BEGIN_AGAIN = timedelta(seconds=5)

DAYS_3 = 3 * 24 * 60 * 60 * 1000
"""Longer than any question stays open: RUNBOOK_APPROVAL_SECONDS is a day at most."""


class Question(NamedTuple):
    """One plan, asked in one run of Prefect's; without an answer by then nothing is done. Whom nobody started by hand
    is ``unattended``: a person must be told."""

    prefect_run: str
    plan_hash: str
    expires_at_ms: int
    unattended: bool = False


def key(ledger: Ledger, run_id: str, plan: str) -> str:
    """Prefect's name of this question: an approval is used once, the same plan is then asked anew."""
    with ledger.read() as connection:
        given = select(entry.c.body).where(entry.c.kind == "approval", entry.c.run_id == run_id)
        bodies = connection.execute(given).scalars()
        count = sum(body["plan_hash"] == plan and not body["refusal"] for body in bodies)
    return f"approve-{plan}-{count}" if count else f"approve-{plan}"


def asked(ledger: Ledger, run_id: str, runbook: str, question: Question) -> None:
    """Write that a run waits for a person; the question first, as only one that is known can expire."""
    with ledger.write() as connection:
        ledger.note(connection, "asked", question._asdict(), run_id=run_id)
        if question.unattended:
            minutes = round((question.expires_at_ms - now_ms()) / 60_000)
            text = f"Without an answer within {minutes} min nothing is done. Next: runbook approve {run_id}"
            call = Call(_page(runbook), Severity.error, f"{runbook} waits for a person's yes", text)
            outbox.raise_page(connection, call, runbook, run_id)
    ledger.close_run(run_id, "waiting", {"error": ""})


def go_on(ledger: Ledger, prefect_run: str, mode: str) -> str | None:
    """The ledger's run of this run of Prefect's, open again, where it waited; None where it is new or was closed."""
    with ledger.write() as connection:
        for row in _newest(connection):
            if row["body"]["prefect_run"] == prefect_run:
                again: dict[str, object] = {"outcome": None, "ended_at_ms": None, "owner": this_process(), "mode": mode}
                if not _move(connection, row, again):
                    return None
                outbox.resolve(connection, _page(row["runbook"]))
                ledger.note(connection, rowcheck.RESUMED, {"mode": mode}, run_id=row["run_id"])
                return str(row["run_id"])
    return None


def is_expired(ledger: Ledger, prefect_run: str, plan: str) -> bool:
    """True when this plan's answer is taken up too late to count, or is one to a question nobody knows of."""
    with ledger.read() as connection:
        for row in _newest(connection):
            if row["body"]["prefect_run"] == prefect_run and row["body"]["plan_hash"] == plan:
                return _is_over(row)
    return True


def why_not_ask(ledger: Ledger, runbook: str, plan: Sequence[Fix]) -> str:
    """Why a run that nobody started by hand leaves a person in peace; empty when it shall ask.

    One question of a runbook is enough, whatever its plan: its run reads the world anew after the answer. What a
    person declined, in whole or in part, is not asked for again within the hour.
    """
    with ledger.read() as connection:
        for row in _waiting(connection):
            if row["runbook"] == runbook and not _is_over(row):
                return (
                    f"{row['run_id']} already waits for a person: runbook approve, or run it by hand to be asked anew"
                )
        declined = _declined(connection, runbook)
    if all(one.key in declined for one in plan):
        return "a person declined it within the hour: run it by hand to be asked again"
    return ""


def _declined(connection: Connection, runbook: str) -> Collection[str]:
    """The keys of what was shown to a person of late and not approved."""
    since_ms = now_ms() - DECLINED_MS
    said = select(entry.c.run_id, entry.c.body).where(entry.c.kind == "approval", entry.c.at_ms > since_ms)
    answers = [row for row in connection.execute(said) if row.body["by"]]  # one run may ask more than once
    runs, approved = {row.run_id for row in answers}, {key for row in answers for key in row.body["approved"]}
    of_them = fix.c.run_id.in_(runs), fix.c.runbook == runbook, fix.c.state == FixState.refused.value
    return {as_fix(row).key for row in connection.execute(select(fix).where(*of_them)).mappings()} - approved


async def begin_again(ledger: Ledger) -> None:
    """Begin every answered run again that Prefect cancelled because its deployment's only slot was taken just then.

    A run gives its slot back while it waits, and Prefect cancels whatever finds none; the answer is kept with the run.
    """
    with ledger.read() as connection:
        ids = [UUID(row["body"]["prefect_run"]) for row in _waiting(connection) if not _is_over(row)]
    if not ids:
        return
    cancelled = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Cancelled"]))
    with contextlib.suppress(httpx.HTTPError):  # where Prefect is away a later run does it
        async with get_client() as client:
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids), state=cancelled)
            for one in await client.read_flow_runs(flow_run_filter=wanted):
                if one.state is not None and one.state.message == SLOT_TAKEN:
                    # By force, or Prefect would forget that it was answered.
                    again: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) + BEGIN_AGAIN)
                    await client.set_flow_run_state(one.id, again, force=True)


def expire(ledger: Ledger) -> list[str]:
    """Refuse every question nobody has answered in time, whatever its runbook; a line for each."""
    with ledger.read() as connection:
        waiting = _waiting(connection)
    return [_expire(ledger, row) for row in waiting if _is_over(row)]


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
            outbox.raise_page(connection, Call(_page(name), Severity.warning, title, text), name, run_id)
    return f"{name} {run_id}: {EXPIRED}, nothing was done. Next: runbook run {name} --mode approve"


def _page(runbook: str) -> str:
    return f"{runbook}:approval"


def _newest(connection: Connection) -> Sequence[RowMapping]:
    """Every question of late and how its run stands, the newest first."""
    rule = select(entry.c.run_id, entry.c.body, run.c.runbook, run.c.outcome).join(run, run.c.id == entry.c.run_id)
    rule = rule.where(entry.c.kind == "asked", entry.c.at_ms > now_ms() - DAYS_3)
    return connection.execute(rule.order_by(entry.c.seq.desc())).mappings().all()


def _waiting(connection: Connection) -> Sequence[RowMapping]:
    """The newest question of every run that waits for its answer."""
    return [*{row["run_id"]: row for row in reversed(_newest(connection)) if row["outcome"] == "waiting"}.values()]


def _move(connection: Connection, row: RowMapping, values: dict[str, object]) -> bool:
    waits = update(run).where(run.c.id == row["run_id"], run.c.outcome == "waiting")
    return connection.execute(waits.values(**values)).rowcount == 1


def _is_over(row: RowMapping) -> bool:
    return bool(row["body"]["expires_at_ms"] + TAKE_UP_MS < now_ms())
