"""Pages to people, kept in the ledger before anybody is told: one open page for one incident, whoever raises it again.

``tasks.paging`` delivers them, at least once, as often as it takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from runbook import incidents
from runbook.burst import slug
from runbook.errors import BadSetting
from runbook.ledger import Ledger, now_ms
from runbook.mask import mask
from runbook.memory import put, recall
from runbook.model import FixState, Frozen, Json, Outcome, Report
from runbook.policy import MASS_FAILURE
from runbook.schema import hook, incident_item, page

MANY = 5
"""Findings of one run beyond this number are one page: nobody reads thirty at night."""

GONE_AFTER = 2
"""Runs in a row that must not find it any more: one of them may not have seen all."""

DAY_MS = 86_400_000
WHOLE = frozenset({"unsolved", "mass-failure", "approval", "many"})
"""What only a run that left nothing behind puts an end to."""

HEARD = "paging/heard"


class Severity(StrEnum):
    """PagerDuty's words; ``critical`` and ``error`` are escalated when nobody answers."""

    critical = "critical"
    error = "error"
    warning = "warning"


class Call(NamedTuple):
    """A page as its source raises it; ``key`` is the same for as long as it is the same incident."""

    key: str
    severity: Severity
    title: str
    text: str


class Page(Frozen):
    """One page; ``sent`` is how far each channel has been told. ``missed`` counts runs that did not find it.

    Pages of one ``incident`` that came before anybody answered are one ``group``: who is told of them is called once.
    ``lead`` is the key of its first page.
    """

    seq: int
    key: str
    source: str
    run_id: str | None
    severity: Severity
    title: str
    text: str
    times: int
    missed: int
    opened_at_ms: int
    seen_at_ms: int
    acked_at_ms: int | None
    acked_by: str | None
    resolved_at_ms: int | None
    sent: Mapping[str, Json]
    incident: str = ""
    group: int = 0
    lead: str = ""

    @property
    def state(self) -> str:
        """``open``, ``acknowledged`` or ``resolved``."""
        return "resolved" if self.resolved_at_ms else "acknowledged" if self.acked_at_ms else "open"


def raise_page(connection: Connection, call: Call, source: str, run_id: str | None = None) -> None:
    """Write a page, or note on the open one of that key that it was raised again."""
    told = {"severity": call.severity.value, "title": str(mask(call.title))[:300], "text": str(mask(call.text))[:4000]}
    again = update(page).where(page.c.key == call.key, page.c.resolved_at_ms.is_(None))
    values = told | {"seen_at_ms": now_ms(), "times": page.c.times + 1, "missed": 0}
    if connection.execute(again.values(**values)).rowcount:
        return
    first: dict[str, Json] = told | {
        "key": call.key,
        "source": source,
        "run_id": run_id,
        "times": 1,
        "missed": 0,
        "sent": {},
    }
    try:
        with connection.begin_nested():
            made = insert(page).values(opened_at_ms=now_ms(), seen_at_ms=now_ms(), **first).returning(page.c.seq)
            seq = connection.execute(made).scalar_one()
    except IntegrityError:  # somebody else was first
        connection.execute(again.values(**values))
        return
    incidents.join_page(connection, seq, call.key, source, run_id, told["title"])


def resolve(connection: Connection, key: str) -> None:
    """The incident is over; nothing happens where no page of it is open."""
    rule = update(page).where(page.c.key == key, page.c.resolved_at_ms.is_(None))
    if connection.execute(rule.values(resolved_at_ms=now_ms())).rowcount:
        incidents.page_over(connection, key)


# -- what a run raises ----------------------------------------------------------------------------------------------


def calls_of(report: Report) -> list[Call]:
    """What a person must be told of one run: findings no machine can mend, what it acted on and did not mend, and a
    mass failure that it would not touch."""
    name, calls = report.runbook, list[Call]()
    where = f"runbook show {report.id}"
    found: dict[str, list[str]] = {}
    for one in report.findings:
        if one.page:
            found.setdefault(f"{name}:{slug(one.subject)}", []).append(f"{one.subject}: {one.detail}")
    if len(found) > MANY:
        lines = [line for told in found.values() for line in told]
        title = f"{name}: {len(lines)} findings need a person"
        calls.append(Call(f"{name}:many", Severity.critical, title, "\n".join([*lines[:20], where])))
    else:
        for key, told in found.items():
            calls.append(Call(key, Severity.critical, f"{name}: {told[0]}", "\n".join([*told, where])))
    if report.outcome is Outcome.unsolved:
        said = report.reason or "it acted, and the world does not show that it helped"
        calls.append(Call(f"{name}:unsolved", Severity.error, f"{name}: unsolved", f"{said}\n{where}"))
    refused = [fix for fix in report.fixes if fix.state is FixState.refused and fix.why.startswith(MASS_FAILURE)]
    if refused:
        text = f"{refused[0].why}\nNothing was done about {len(refused)} targets: a person must look first.\n{where}"
        calls.append(Call(f"{name}:{slug(MASS_FAILURE)}", Severity.critical, f"{name}: {refused[0].why}", text))
    return calls


def tell(ledger: Ledger, report: Report) -> None:
    """Raise the pages of a run, and end those that this and the run before it did not find any more."""
    calls = calls_of(report)
    raised = {call.key for call in calls}
    with ledger.write() as connection:
        for call in calls:
            raise_page(connection, call, report.runbook, report.id)
        if report.reason:
            return  # it stopped early: what it did not find may well be there
        rule = select(page.c.seq, page.c.key, page.c.missed)
        rule = rule.where(page.c.source == report.runbook, page.c.resolved_at_ms.is_(None))
        for row in connection.execute(rule).all():
            if row.key in raised or not _ends(row.key, report):
                continue
            connection.execute(update(page).where(page.c.seq == row.seq).values(missed=row.missed + 1))
            if row.missed + 1 >= GONE_AFTER:
                resolve(connection, row.key)


def _ends(key: str, report: Report) -> bool:
    whole = key.rpartition(":")[2] in WHOLE
    return not whole or report.outcome in {Outcome.healthy, Outcome.fixed}


# -- what people and channels did about them ------------------------------------------------------------------------


def acknowledge(ledger: Ledger, key: str, by: str) -> Page:
    """Somebody is at it: no more escalation of this page, nor of those that are told with it.

    ``key`` may be an incident's id too. Raises ``BadSetting`` where no open page has it.
    """
    found = [one for one in pages(ledger) if key in {one.key, one.incident} and not one.resolved_at_ms]
    if not found:
        raise BadSetting(key, "is the key of no open page", "runbook pages lists them")
    with ledger.write() as connection:
        _acknowledge(connection, [one.group for one in found], by)
    return next(one for one in pages(ledger) if one.seq == found[0].seq)


def _acknowledge(connection: Connection, groups: Collection[int], by: str) -> None:
    seqs = [one.seq for one in _pages(connection, now_ms()) if one.group in groups]
    rule = update(page).where(page.c.seq.in_(seqs), page.c.resolved_at_ms.is_(None), page.c.acked_at_ms.is_(None))
    connection.execute(rule.values(acked_at_ms=now_ms(), acked_by=by[:128]))


def hear(ledger: Ledger) -> None:
    """Take the acknowledgements out of PagerDuty's webhooks, which the receiver has stored."""
    heard = recall(ledger, HEARD) or 0
    answered = ("pagerduty.incident.acknowledged", "pagerduty.incident.resolved")
    rule = select(hook.c.payload).where(hook.c.seq > heard, hook.c.event.in_(answered)).order_by(hook.c.seq)
    with ledger.read() as connection:
        newest = connection.execute(select(func.max(hook.c.seq))).scalar_one() or 0
        rows = connection.execute(rule.where(hook.c.seq <= newest)).all()
    if newest == heard:
        return
    with ledger.write() as connection:
        for row in rows:
            told = [one.group for one in _pages(connection, now_ms()) if one.lead == row.payload.get("incident_key")]
            _acknowledge(connection, told, f"PagerDuty incident {row.payload.get('number') or '?'}")
        put(connection, HEARD, newest)


def pages(ledger: Ledger, since_ms: int | None = None) -> list[Page]:
    """Every page that is open, or was resolved after ``since_ms`` (default: a day ago), the oldest first."""
    with ledger.read() as connection:
        return _pages(connection, now_ms() - DAY_MS if since_ms is None else since_ms)


def _pages(connection: Connection, after_ms: int) -> list[Page]:
    where = incident_item.c.page_seq == page.c.seq
    rule = select(page, incident_item.c.incident_id, incident_item.c.body).outerjoin(incident_item, where)
    rule = rule.where(page.c.resolved_at_ms.is_(None) | (page.c.resolved_at_ms > after_ms))
    found = []
    for row in connection.execute(rule.order_by(page.c.seq)).mappings():
        own = {name: row[name] for name in page.c.keys()}  # noqa: SIM118 - a column collection, not a mapping
        # A page that an older version raised belongs to no incident and speaks for itself.
        told = row["body"] or {"group": row["seq"], "lead": row["key"]}
        found.append(Page(**own, incident=row["incident_id"] or "", group=told["group"], lead=told["lead"]))
    return found


def mark(ledger: Ledger, seqs: Sequence[int], channel: str, progress: Mapping[str, Json]) -> None:
    """Note how far one channel has been told of these pages; other channels' notes stay as they are."""
    with ledger.write() as connection:
        rows = connection.execute(select(page.c.seq, page.c.sent).where(page.c.seq.in_(seqs)).with_for_update()).all()
        for row in rows:
            sent = dict(row.sent) | {channel: dict(row.sent.get(channel, {})) | dict(progress)}
            connection.execute(update(page).where(page.c.seq == row.seq).values(sent=sent))
