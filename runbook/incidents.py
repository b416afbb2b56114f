"""Incidents in the ledger: every run and every page finds its own, so that nobody has to open one.

The rules are in ``runbook.burst``; ``runbook.postmortem`` writes what was learnt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from runbook import chain
from runbook.burst import QUIET_MS, Incident, Item, Symptom, home, keys_of, over
from runbook.errors import BadSetting
from runbook.ledger import Ledger, new_id, now_ms
from runbook.mask import mask
from runbook.model import Finding, FixState, Json, Outcome, Report
from runbook.process import this_process
from runbook.schema import incident, incident_item, page

NOT_ACTED = frozenset({FixState.planned, FixState.granted, FixState.refused})


# -- what runs and pages do -------------------------------------------------------------------------------------------


def found(ledger: Ledger, run_id: str, runbook: str, findings: Sequence[Finding]) -> None:
    """Let what a run has just found join its incident."""
    if findings:
        with ledger.write() as connection:
            for key, title in keys_of(runbook, findings).items():
                _join(connection, key, title, run_id)


def ended(ledger: Ledger, report: Report) -> Sequence[str]:
    """Note what a whole run did not find any more, keep the runs that acted, and close what has been well for long.

    The ids of the incidents of which there is news.
    """
    with ledger.write() as connection:
        sick = set() if report.outcome is Outcome.fixed else set(keys_of(report.runbook, report.findings))
        acted = any(one.state not in NOT_ACTED for one in report.fixes)
        for one in _open(connection):
            own = [key for key in one.symptoms if key.startswith(f"{report.runbook}:")]
            gone = [] if report.reason else [key for key in own if key in one.sick and key not in sick]
            _well(connection, one, gone, report.id)
            if gone or (acted and set(own) & set(keys_of(report.runbook, report.findings))):
                _link(connection, one.id, "run", report.id, {"outcome": report.outcome.value})
        closed = _close_quiet(connection)
        linked = select(incident_item.c.incident_id).where(
            incident_item.c.kind == "run", incident_item.c.ref == report.id
        )
        return sorted({*closed, *connection.execute(linked).scalars()})


def join_page(connection: Connection, seq: int, key: str, source: str, run_id: str | None, title: str) -> None:
    """Let a new page join its run's incident, its source's or the burst's; an unanswered one there speaks for it."""
    where = _of_run(connection, run_id) or next(
        (one.id for one in reversed(_open(connection)) if any(k.startswith(f"{source}:") for k in one.sick)), None
    )
    one = where or _join(connection, key, title, None)
    unanswered = select(incident_item.c.body).join(page, page.c.seq == incident_item.c.page_seq)
    unanswered = unanswered.where(incident_item.c.incident_id == one, page.c.resolved_at_ms.is_(None))
    first = connection.execute(unanswered.where(page.c.acked_at_ms.is_(None)).order_by(page.c.seq).limit(1)).first()
    leader = {name: first.body[name] for name in ("group", "lead")} if first else {"group": seq, "lead": key}
    _link(connection, one, "page", str(seq), {"key": key, **leader}, page_seq=seq)


def page_over(connection: Connection, key: str) -> None:
    """A page ended: where it is a symptom by itself, as an alert is, that is gone."""
    for one in _open(connection):
        if key in one.sick:
            _well(connection, one, [key], None)


# -- what people and flows do -----------------------------------------------------------------------------------------


def open_(ledger: Ledger, key: str, title: str, run_id: str | None = None) -> str:
    """The id of the incident of this symptom (``site-down``), opened where there is none; sick until ``well``."""
    with ledger.write() as connection:
        return _join(connection, key, str(mask(title)), run_id)


def well(ledger: Ledger, key: str) -> None:
    """Say that a symptom opened by ``open_`` is gone."""
    with ledger.write() as connection:
        page_over(connection, key)


def note(ledger: Ledger, id_: str, text: str, run_id: str | None = None) -> None:
    """Write one line into an incident's timeline."""
    one(ledger, id_)
    with ledger.write() as connection:
        _link(connection, id_, "note", run_id or "", {"text": str(mask(text))[:4000], "by": this_process()})
        _entry(connection, "note", id_, {"text": str(mask(text))[:4000]}, run_id)


def close(ledger: Ledger, id_: str, by: str, postmortem: str = "") -> Incident:
    """Close an incident by a person's word; ``postmortem`` is where the finished one is, of a closed one too.

    What is still wrong opens another one when it is found again.
    """
    found = one(ledger, id_)
    with ledger.write() as connection:
        if found.state == "open":
            _closed(connection, id_, by)
        if postmortem:
            where = str(mask(postmortem))[:500]
            connection.execute(update(incident).where(incident.c.id == id_).values(postmortem=where))
            _entry(connection, "postmortem", id_, {"where": where, "by": by})
    return one(ledger, id_)


def one(ledger: Ledger, id_: str) -> Incident:
    """One incident; raises ``BadSetting`` where there is none of that id."""
    with ledger.read() as connection:
        row = connection.execute(select(incident).where(incident.c.id == id_)).mappings().first()
    if row is None:
        raise BadSetting(id_, "the ledger holds no such incident", "runbook incident list")
    return _incident(row)


def every(ledger: Ledger, since_ms: int = 0) -> Sequence[Incident]:
    """Every incident that is open or was closed after ``since_ms``, the newest first."""
    rule = select(incident).where(incident.c.closed_at_ms.is_(None) | (incident.c.closed_at_ms > since_ms))
    with ledger.read() as connection:
        rows = connection.execute(rule.order_by(incident.c.opened_at_ms.desc(), incident.c.id)).mappings()
        return tuple(map(_incident, rows))


def items(ledger: Ledger, id_: str) -> Sequence[Item]:
    """What belongs to an incident, in the order it came."""
    rule = select(incident_item).where(incident_item.c.incident_id == id_).order_by(incident_item.c.seq)
    with ledger.read() as connection:
        rows = connection.execute(rule).mappings()
        return tuple(Item.model_validate({name: row[name] for name in Item.model_fields}) for row in rows)


# -- in one transaction -----------------------------------------------------------------------------------------------


def _incident(row: RowMapping) -> Incident:
    return Incident.model_validate(dict(row))


def _open(connection: Connection) -> Sequence[Incident]:
    rule = select(incident).where(incident.c.closed_at_ms.is_(None)).order_by(incident.c.opened_at_ms)
    return tuple(map(_incident, connection.execute(rule).mappings()))


def _of_run(connection: Connection, run_id: str | None) -> str | None:
    rule = select(incident.c.id).join(incident_item, incident_item.c.incident_id == incident.c.id)
    rule = rule.where(incident_item.c.kind == "run", incident_item.c.ref == run_id, incident.c.closed_at_ms.is_(None))
    return connection.execute(rule.order_by(incident.c.opened_at_ms.desc()).limit(1)).scalar_one_or_none()


def _join(connection: Connection, key: str, title: str, run_id: str | None) -> str:
    now = now_ms()
    into = home(key, now, _open(connection))
    if into is None:
        id_ = new_id("inc")
        values: dict[str, Json] = {"title": title[:300], "opened_at_ms": now, "news_ms": now}
        first = {key: Symptom(since_ms=now, seen_ms=now).model_dump()}
        connection.execute(insert(incident).values(id=id_, symptoms=first, **values))
        _entry(connection, "opened", id_, {"symptom": key, "title": title[:300]}, run_id)
        _link(connection, id_, "run", run_id, {})
        return id_
    known = into.symptoms.get(key)
    news = known is None or known.well_ms is not None
    since = now if known is None else known.since_ms
    symptoms = {**into.symptoms, key: Symptom(since_ms=since, seen_ms=now)}
    _put(connection, into.id, symptoms, {"news_ms": now} if known is None else {})
    if news:
        _entry(connection, "joined", into.id, {"symptom": key, "title": title[:300]}, run_id)
        _link(connection, into.id, "run", run_id, {})
    return into.id


def _put(connection: Connection, id_: str, symptoms: Mapping[str, Symptom], more: Mapping[str, Json]) -> None:
    said = {key: each.model_dump() for key, each in symptoms.items()}
    connection.execute(update(incident).where(incident.c.id == id_).values(symptoms=said, **more))


def _well(connection: Connection, one: Incident, keys: Collection[str], run_id: str | None) -> None:
    if not keys:
        return
    now = now_ms()
    after = {
        key: each.model_copy(update={"well_ms": now}) if key in keys else each for key, each in one.symptoms.items()
    }
    _put(connection, one.id, after, {})
    _entry(connection, "well", one.id, {"symptoms": sorted(keys)}, run_id)


def _close_quiet(connection: Connection) -> Sequence[str]:
    closed = []
    waiting = select(func.count()).select_from(incident_item).join(page, page.c.seq == incident_item.c.page_seq)
    waiting = waiting.where(page.c.resolved_at_ms.is_(None))
    for one in _open(connection):
        left = connection.execute(waiting.where(incident_item.c.incident_id == one.id)).scalar_one()
        if over(one, left, now_ms()):
            _closed(connection, one.id, f"all being well for {QUIET_MS // 60_000} minutes")
            closed.append(one.id)
    return closed


def _closed(connection: Connection, id_: str, by: str) -> None:
    rule = update(incident).where(incident.c.id == id_, incident.c.closed_at_ms.is_(None))
    if connection.execute(rule.values(closed_at_ms=now_ms(), closed_by=by[:128])).rowcount:
        _entry(connection, "closed", id_, {"by": by[:128]})


def _link(
    connection: Connection,
    id_: str,
    kind: str,
    ref: str | None,
    body: Mapping[str, Json],
    *,
    page_seq: int | None = None,
) -> None:
    """Each run is linked once; a later word on it says how it ended."""
    if kind == "run" and not ref:
        return
    same = (incident_item.c.incident_id == id_, incident_item.c.kind == kind, incident_item.c.ref == (ref or ""))
    if kind == "run" and connection.execute(update(incident_item).where(*same).values(body=dict(body))).rowcount:
        return
    values = {"incident_id": id_, "at_ms": now_ms(), "kind": kind, "ref": ref or "", "body": dict(body)}
    connection.execute(insert(incident_item).values(page_seq=page_seq, **values))


def _entry(connection: Connection, what: str, id_: str, body: Mapping[str, Json], run_id: str | None = None) -> None:
    said = {"incident": id_, "what": what, **body}
    values = {"at_ms": now_ms(), "kind": "incident", "run_id": run_id, "fix_id": None, "body": said}
    chain.append(connection, values | {"actor": this_process()})
