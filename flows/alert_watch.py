"""Seven alerts, looked at every minute: who must be told is told once, and the runbook that may mend it is started.

Symptom: errors pile up, the database or the API is slow, memory or disk runs out, payments or sign-ins fail.
Cause: any of the runbooks' causes; each alert names what it saw.
Fix: none here. A firing alert starts its runbooks by the event runbook.wanted, again after cooldown_minutes while it
    fires, and writes a page to the ledger, which goes to PagerDuty and Slack as often as it takes, and louder when
    nobody acknowledges it. An alert fires when enough of its last minutes were bad, clears when all of them are good by
    a margin of 20%, and is unknown when it could not be read: that is paged too, after blind_minutes.
Verify: the alert reads its source again each minute; its page is resolved when it clears.
Undo: nothing to undo. runbook ack KEY stops the escalation of a page.
By hand: runbook watch shows the seven alerts, runbook pages the pages; then open the runbook that the alert names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext
from prefect.states import Completed
from pydantic import Field
from sqlalchemy import Connection

import flows
from runbook import memory, outbox, questions
from runbook.alarm import Alarm, Rule, Sample, State, fresh, step
from runbook.errors import NotConfigured, RunbookError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.mask import mask
from runbook.model import Frozen, Json
from runbook.outbox import Call, Severity
from runbook.settings import parameter
from tasks.access_log import api_sample
from tasks.declines import payment_sample
from tasks.disk_trend import disk_sample
from tasks.host import memory_sample
from tasks.latency import latency_sample
from tasks.log_rates import error_sample, sign_in_sample
from tasks.paging import Delivered, channels, deliver
from tasks.wanted import want_once

NAME = "alert-watch"
EACH_SECONDS = 15.0
STATES = "alerts/states"
FOR: Mapping[str, tuple[int, int]] = {
    "error-rate": (3, 5),
    "database-latency": (3, 5),
    "memory": (4, 5),
    "disk": (2, 3),
    "payment-failures": (2, 3),
    "auth-failures": (2, 3),
    "api-p95": (3, 5),
}
"""How many of how many minutes must be bad before an alert fires."""

Count = Annotated[int, Field(ge=1, le=100_000)]
Milliseconds = Annotated[int, Field(ge=10, le=60_000)]
Seconds = Annotated[float, Field(ge=0.1, le=60)]
Share = Annotated[float, Field(ge=0.01, le=1)]
Minutes = Annotated[int, Field(ge=1, le=1440)]


class Alert(NamedTuple):
    """One row of the table: its rule and unit, how it is read, which runbooks may mend it, what a person does."""

    rule: Rule
    unit: str
    read: Callable[[], Awaitable[Sample]]
    runbooks: Sequence[str]
    person: str

    @property
    def action(self) -> str:
        """What happens when it fires, besides the page."""
        return "; ".join(filter(None, [", ".join(self.runbooks), self.person]))


class Row(Frozen):
    """One alert as a person reads it."""

    alert: str
    state: State
    value: str
    threshold: str
    since_ms: int
    action: str
    said: str
    evidence: Mapping[str, Json]


class Watch(Frozen):
    """What one look came to; ``notes`` is what could not be done."""

    rows: Sequence[Row]
    delivered: Delivered
    notes: Sequence[str]

    @property
    def sick(self) -> Sequence[Row]:
        """What fires or cannot be seen."""
        return [row for row in self.rows if row.state in {State.firing, State.unknown}]

    def as_json(self) -> dict[str, Json]:
        """The document ``--json`` prints."""
        found: dict[str, Json] = self.model_dump(mode="json")
        return {"alerts": found.pop("rows"), **found}


@flow(name=NAME, description=__doc__, flow_run_name=NAME)
async def alert_watch(
    errors_per_minute: Count = parameter(NAME, "errors_per_minute", 5),
    database_ms: Milliseconds = parameter(NAME, "database_ms", 500),
    memory_share: Share = parameter(NAME, "memory_share", 0.8),
    disk_free_share: Share = parameter(NAME, "disk_free_share", 0.1),
    payment_failure_share: Share = parameter(NAME, "payment_failure_share", 0.05),
    auth_failures_per_minute: Count = parameter(NAME, "auth_failures_per_minute", 10),
    api_p95_seconds: Seconds = parameter(NAME, "api_p95_seconds", 2.0),
    blind_minutes: Minutes = parameter(NAME, "blind_minutes", 10),
    cooldown_minutes: Minutes = parameter(NAME, "cooldown_minutes", 15),
    test_payments: bool = parameter(NAME, "test_payments", False),
) -> Any:
    """Read all seven sources side by side, judge them against what was so far, tell and start who is needed.

    Args:
        errors_per_minute: Errors a minute, in the app's log or in Sentry, above which a minute is bad.
        database_ms: Mean of a statement, or a round trip, above which the database is slow, in milliseconds.
        memory_share: Share of the memory bound above which memory is short, 0 to 1.
        disk_free_share: Share of the disk below which too little is free, 0 to 1.
        payment_failure_share: Share of the hour's payments that may fail for good, 0 to 1.
        auth_failures_per_minute: Failed sign-ins a minute above which a minute is bad.
        api_p95_seconds: 95th percentile of the slowest API route above which it is slow, in seconds.
        blind_minutes: How long an alert may be unreadable before a person is told, in minutes.
        cooldown_minutes: How long after it was started an alert starts the same runbook again, in minutes.
        test_payments: Whether payments of a Stripe test key count too.
    """
    book = ledger()
    errors = partial(error_sample, errors_per_minute)
    sign_ins = partial(sign_in_sample, auth_failures_per_minute)
    payments = partial(payment_sample, test_payments=test_payments)
    table = [
        _alert("error-rate", "/min", errors_per_minute, errors, "then a person reads the errors", "site-down"),
        _alert("database-latency", "ms", database_ms, latency_sample, "", "slow-queries"),
        _alert("memory", "", memory_share, memory_sample, "then a person scales up", "memory-pressure"),
        _alert("disk", " free", disk_free_share, disk_sample, "then a person adds storage", "full-disk", below=True),
        _alert("payment-failures", "", payment_failure_share, payments, "then a person asks Stripe", "failed-payments"),
        _alert("auth-failures", "/min", auth_failures_per_minute, sign_ins, "a person looks on", "broken-sessions"),
        _alert("api-p95", "s", api_p95_seconds, api_sample, "", "slow-queries", "pool-exhaustion"),
    ]
    samples = await asyncio.gather(*(_read(alert) for alert in table))
    alarms = judge(book, table, samples, blind_minutes)
    notes = await _want(book, table, alarms, cooldown_minutes)
    questions.expire(book)
    watch = Watch(
        rows=[_row(*each) for each in zip(table, alarms, strict=True)], delivered=await deliver(), notes=notes
    )
    return await _result(watch)


def _alert(
    name: str,
    unit: str,
    trigger: float,
    read: Callable[[], Awaitable[Sample]],
    person: str,
    *runbooks: str,
    below: bool = False,
) -> Alert:
    need, of = FOR[name]
    return Alert(Rule(name=name, trigger=trigger, need=need, of=of, below=below), unit, read, runbooks, person)


async def _read(alert: Alert) -> Sample:
    """One source, bounded in time; whatever happens to it is said in its own row and nowhere else."""
    name = alert.rule.name
    try:
        async with asyncio.timeout(EACH_SECONDS):
            return await alert.read()
    except TimeoutError:
        return Sample(unseen=f"{name}: its source gave no answer in {EACH_SECONDS:g} s")
    except NotConfigured as error:
        return Sample(unset=str(error))
    except RunbookError as error:
        return Sample(unseen=str(mask(str(error))))
    except Exception as error:  # noqa: BLE001 - one crashed source must not make the other six blind
        return Sample(unseen=f"{name}: its source crashed with {type(error).__name__}")


def judge(book: Ledger, table: Sequence[Alert], samples: Sequence[Sample], blind_minutes: int) -> list[Alarm]:
    """The alerts after these samples, remembered together with the pages they raise and resolve; where another watch
    was first, what that one found."""
    was, now = memory.recall(book, STATES), now_ms()
    alarms = []
    for alert, sample in zip(table, samples, strict=True):
        name = alert.rule.name
        before = Alarm.model_validate(was[name]) if was and name in was else fresh(name, now)
        alarms.append(step(before, alert.rule, sample, now, blind_minutes * 60_000))
    with book.write() as connection:
        if memory.swap(connection, STATES, was, {one.name: one.model_dump(mode="json") for one in alarms}):
            for alert, alarm in zip(table, alarms, strict=True):
                _note(book, connection, (was or {}).get(alarm.name, {}).get("state"), alarm)
                _page(connection, alert, alarm)
            return alarms
    theirs = memory.recall(book, STATES)
    return [Alarm.model_validate(theirs[alert.rule.name]) for alert in table]


def _note(book: Ledger, connection: Connection, was: str | None, alarm: Alarm) -> None:
    if State.firing in {was, alarm.state} and was != alarm.state:
        said = {"alert": alarm.name, "was": was, "is": alarm.state.value, "value": alarm.value, "said": alarm.said}
        book.note(connection, "alert", mask(said))


def _page(connection: Connection, alert: Alert, alarm: Alarm) -> None:
    key, blind = f"alert:{alarm.name}", f"alert:{alarm.name}:blind"
    if alarm.firing:
        title = f"{alarm.name} {_shown(alert, alarm.value)}: {alarm.said.splitlines()[0] if alarm.said else ''}"
        text = f"{alarm.said}\nThreshold {_threshold(alert)}. Next: {alert.action}"
        outbox.raise_page(connection, Call(key, Severity.critical, title, text), NAME)
    else:
        outbox.resolve(connection, key)
    if alarm.blind:
        text = f"{alarm.said}\nNobody knows whether it is well. Next: runbook watch"
        outbox.raise_page(connection, Call(blind, Severity.error, f"cannot see {alarm.name}", text), NAME)
    else:
        outbox.resolve(connection, blind)


async def _want(book: Ledger, table: Sequence[Alert], alarms: Sequence[Alarm], cooldown: int) -> list[str]:
    """Start the runbooks of what fires; the notes say what Prefect has not taken, which is asked again next time."""
    known, notes = flows.acting(), list[str]()
    for alert, alarm in zip(table, alarms, strict=True):
        for runbook in alert.runbooks if alarm.firing else ():
            if runbook in known:
                notes += await want_once(book, runbook, alarm, cooldown * 60_000)
    return list(dict.fromkeys(notes))


def _shown(alert: Alert, value: float | None) -> str:
    if value is None:
        return "-"
    share = alert.unit in {"", " free"}
    return (
        f"{value:.1%}{alert.unit}"
        if share
        else f"{value:.4g}{alert.unit if alert.unit[0] == '/' else f' {alert.unit}'}"
    )


def _threshold(alert: Alert) -> str:
    rule = alert.rule
    return f"{'<' if rule.below else '>'} {_shown(alert, rule.trigger)}, {rule.need} of {rule.of} min"


def _row(alert: Alert, alarm: Alarm) -> Row:
    return Row(
        alert=alarm.name,
        state=alarm.state,
        value=_shown(alert, alarm.value),
        threshold=_threshold(alert),
        since_ms=alarm.since_ms,
        action=alert.action,
        said=str(mask(alarm.said)),
        evidence=mask(dict(alarm.evidence)),
    )


async def _result(watch: Watch) -> Any:
    if not channels():
        names = "PAGERDUTY_ROUTING_KEY, SLACK_WEBHOOK_URL, RUNBOOK_NOTIFY_URLS"
        note = f"not configured: {names}, so pages stay in the ledger: runbook pages"
        watch = watch.model_copy(update={"notes": [*watch.notes, note]})
    if FlowRunContext.get() is None:
        return watch
    rows = [row.model_dump(mode="json", exclude={"evidence"}) for row in watch.rows]
    await acreate_table_artifact(key=NAME, table=rows, description="; ".join(watch.notes) or "The seven alerts, now")
    said = ", ".join(f"{row.alert} {row.state}" for row in watch.sick)
    return Completed(name="Firing" if said else "Quiet", message=said or "all seven are quiet", data=watch)
