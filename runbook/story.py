"""All the ledger holds of one incident, for whoever tells it: what was found, tried and answered, and its impact."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, select

from runbook import incidents, memory
from runbook.burst import Incident
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState, Frozen, Json
from runbook.schema import entry, finding, fix, hook, incident_item, log_event, page, run

LEAD_MS = 30 * 60_000
"""How long before an incident its readings are drawn and its first sign is looked for."""

DEPLOYED_MS = 2 * 3_600_000
PANELS = 6
PAYMENT = re.compile(r"payment.*(fail|declin)|card_declined|(fail|declin).*payment")
USERS = ("userId", "user", "email", "identifier", "ip")


class RunSeen(Frozen):
    """One run of an incident."""

    id: str
    runbook: str
    mode: str
    started_at_ms: int
    ended_at_ms: int | None
    outcome: str | None
    notices: Sequence[str] = ()


class Found(Frozen):
    """The first time that something was found in an incident."""

    at_ms: int
    run_id: str
    runbook: str
    subject: str
    detail: str


class Tried(Frozen):
    """One fix: when each state was reached, and what the proof saw."""

    id: str
    run_id: str
    runbook: str
    action: str
    target: str
    risk: str
    state: FixState
    why: str
    at: Mapping[str, int]
    seen: str = ""


class Told(Frozen):
    """One page and how people took it; ``first_told_ms`` is when the first channel had it."""

    key: str
    title: str
    opened_at_ms: int
    acked_at_ms: int | None
    acked_by: str | None
    resolved_at_ms: int | None
    first_told_ms: int | None


class Said(Frozen):
    """One more line of the timeline, and the id that shows it."""

    at_ms: int
    text: str
    ref: str = ""


class Impact(Frozen):
    """What the app's log shows of an incident: errors by name, payments that failed, people in those lines."""

    errors: Mapping[str, int] = {}
    failed_payments: int = 0
    users: int = 0


class Story(Frozen):
    """One incident in full; ``until_ms`` is when it was over, or now. ``before`` is the last look that saw nothing."""

    incident: Incident
    until_ms: int
    runs: Sequence[RunSeen] = ()
    found: Sequence[Found] = ()
    tried: Sequence[Tried] = ()
    answers: Sequence[Said] = ()
    pages: Sequence[Told] = ()
    notes: Sequence[Said] = ()
    deployed: Sequence[Said] = ()
    impact: Impact = Impact()
    before: Said | None = None
    first_sign: Said | None = None
    series: Mapping[str, Sequence[tuple[int, float]]] = {}


def gather(ledger: Ledger, id_: str) -> Story:
    """The story of one incident as the ledger has it now; raises ``BadSetting`` for an unknown id."""
    one = incidents.one(ledger, id_)
    until = over_ms(one) or one.closed_at_ms or now_ms()
    ids = [each.ref for each in incidents.items(ledger, id_) if each.kind == "run"]
    with ledger.read() as connection:
        runs = _runs(connection, ids)
        before = _before(connection, runs, one.opened_at_ms)
        first = _first_sign(connection, one.opened_at_ms, before)
        return Story(
            incident=one,
            until_ms=until,
            runs=runs,
            found=_found(connection, runs),
            tried=_tried(connection, ids),
            answers=_answers(connection, ids),
            pages=_pages(connection, id_),
            notes=_notes(connection, id_),
            deployed=_deployed(connection, one.opened_at_ms, until),
            impact=_impact(connection, first.at_ms if first else one.opened_at_ms, until),
            before=before,
            first_sign=first,
            series=moved(_series(ledger, one.opened_at_ms - LEAD_MS, until)),
        )


def over_ms(one: Incident) -> int | None:
    """When the last of its symptoms was gone; None while one is there."""
    gone = [each.well_ms for each in one.symptoms.values()]
    return None if None in gone else max((at for at in gone if at), default=None)


def moved(series: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Sequence[tuple[int, float]]]:
    """The readings that say most: those that moved furthest for their size, at most ``PANELS``."""

    def span(samples: Sequence[tuple[int, float]]) -> float:
        values = [value for _at, value in samples]
        return (max(values) - min(values)) / (max(map(abs, values)) or 1.0)

    most = sorted((name for name in series if span(series[name]) > 0), key=lambda name: (-span(series[name]), name))
    return {name: series[name] for name in sorted(most[:PANELS])}


def _series(ledger: Ledger, since_ms: int, until_ms: int) -> dict[str, Sequence[tuple[int, float]]]:
    names = [name for name in memory.names(ledger, since_ms) if re.fullmatch(r"[a-z_]+", name)]
    whole = {name: memory.series(ledger, name, since_ms) for name in names}
    kept = {name: [each for each in samples if each[0] <= until_ms + LEAD_MS] for name, samples in whole.items()}
    return {name: samples for name, samples in kept.items() if len(samples) > 1}


def _runs(connection: Connection, ids: Collection[str]) -> list[RunSeen]:
    rows = connection.execute(select(run).where(run.c.id.in_(ids)).order_by(run.c.started_at_ms, run.c.id)).mappings()
    return [
        RunSeen(
            **{name: row[name] for name in RunSeen.model_fields if name != "notices"},
            notices=(row["report"] or {}).get("notices", []),
        )
        for row in rows
    ]


def _found(connection: Connection, runs: Sequence[RunSeen]) -> list[Found]:
    names = {one.id: one.runbook for one in runs}
    first: dict[tuple[str, str], Found] = {}
    rule = select(finding).where(finding.c.run_id.in_(names)).order_by(finding.c.seq)
    for row in connection.execute(rule):
        seen = Found(
            at_ms=row.at_ms, run_id=row.run_id, runbook=names[row.run_id], subject=row.subject, detail=row.detail
        )
        first.setdefault((seen.runbook, seen.subject), seen)
    return list(first.values())


def _tried(connection: Connection, ids: Collection[str]) -> list[Tried]:
    rows = connection.execute(select(fix).where(fix.c.run_id.in_(ids)).order_by(fix.c.seq)).mappings().all()
    at: dict[str, dict[str, int]] = {row["id"]: {} for row in rows}
    seen: dict[str, str] = {}
    rule = select(entry).where(entry.c.fix_id.in_(at)).order_by(entry.c.seq)
    for said in connection.execute(rule):
        at[said.fix_id].setdefault(said.kind, said.at_ms)
        seen[said.fix_id] = str(said.body.get("seen") or said.body.get("why") or seen.get(said.fix_id, ""))
    plain = [name for name in Tried.model_fields if name not in {"at", "seen"}]
    return [
        Tried(**{name: row[name] for name in plain}, at=at[row["id"]], seen=seen.get(row["id"], "")) for row in rows
    ]


def _answers(connection: Connection, ids: Collection[str]) -> list[Said]:
    rule = select(entry).where(entry.c.run_id.in_(ids), entry.c.kind.in_(["approval", "asked"]))
    rows = connection.execute(rule.order_by(entry.c.seq))
    return [
        Said(at_ms=row.at_ms, text="a person is asked" if row.kind == "asked" else _answer(row.body), ref=row.run_id)
        for row in rows
    ]


def _answer(body: Mapping[str, Json]) -> str:
    count = len(body.get("approved", []))
    text = (
        f"{body.get('by') or 'a person'} approved {count} fix{'' if count == 1 else 'es'}" if count else "not approved"
    )
    said = body.get("reason") or (body.get("refusal") if not count else "")
    return f"{text}: {said}" if said else text


def _pages(connection: Connection, id_: str) -> list[Told]:
    rule = select(page).join(incident_item, incident_item.c.page_seq == page.c.seq)
    rows = connection.execute(rule.where(incident_item.c.incident_id == id_).order_by(page.c.seq)).mappings()
    plain = [name for name in Told.model_fields if name != "first_told_ms"]
    return [Told(**{name: row[name] for name in plain}, first_told_ms=_first_told(row["sent"])) for row in rows]


def _first_told(sent: Mapping[str, Json]) -> int | None:
    return min((each["told_ms"] for each in sent.values() if each.get("told_ms")), default=None)


def _notes(connection: Connection, id_: str) -> list[Said]:
    rule = select(incident_item).where(incident_item.c.incident_id == id_, incident_item.c.kind == "note")
    rows = connection.execute(rule.order_by(incident_item.c.seq))
    return [Said(at_ms=row.at_ms, text=row.body["text"], ref=row.ref) for row in rows]


def _deployed(connection: Connection, opened_ms: int, until_ms: int) -> list[Said]:
    rule = select(hook).where(hook.c.received_at_ms.between(opened_ms - DEPLOYED_MS, until_ms))
    rows = connection.execute(rule.where(hook.c.event.contains("deployment")).order_by(hook.c.seq))
    return [Said(at_ms=row.received_at_ms, text=row.event, ref=row.id) for row in rows]


def _impact(connection: Connection, since_ms: int, until_ms: int) -> Impact:
    """Doubles in the log are collapsed already; a line without a person in it counts for nobody."""
    errors, payments, users = Counter[str](), 0, set[str]()
    rule = select(log_event).where(log_event.c.at_ms.between(since_ms, until_ms))
    for row in connection.execution_options(yield_per=1_000).execute(rule):
        grave, payment = row.level in {"error", "critical"}, bool(PAYMENT.search(row.name.lower()))
        errors[row.name] += grave
        payments += payment
        if grave or payment:
            users.update([f"{name} {row.fields[name]}" for name in USERS if row.fields.get(name)][:1])
    return Impact(errors=dict(+errors), failed_payments=payments, users=len(users))


def _before(connection: Connection, runs: Sequence[RunSeen], opened_ms: int) -> Said | None:
    """The last run of the runbook that found it first which saw nothing, before that."""
    if not runs:
        return None
    rule = select(run).where(run.c.runbook == runs[0].runbook, run.c.started_at_ms < opened_ms)
    rule = rule.where(run.c.outcome.in_(["healthy", "fixed"]), run.c.id != runs[0].id)
    row = connection.execute(rule.order_by(run.c.started_at_ms.desc()).limit(1)).first()
    return Said(at_ms=row.ended_at_ms, text=f"{row.runbook}: {row.outcome}", ref=row.id) if row else None


def _first_sign(connection: Connection, opened_ms: int, before: Said | None) -> Said | None:
    """The first error in the app's log since that look; of one that is long past nobody knows what it belongs to."""
    since = max(opened_ms - LEAD_MS, before.at_ms if before else 0)
    rule = select(log_event).where(
        log_event.c.at_ms.between(since, opened_ms), log_event.c.level.in_(["error", "critical"])
    )
    row = connection.execute(rule.order_by(log_event.c.at_ms).limit(1)).first()
    return Said(at_ms=row.at_ms, text=f"{row.name} in the app's log") if row else None
