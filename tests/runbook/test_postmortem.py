"""The draft of a postmortem from recorded ledgers: each line it must have, none it must not, ids that all show."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from runbook import incidents, postmortem, story
from runbook.ledger import Ledger
from runbook.plot import trends
from runbook.schema import entry, finding, fix, hook, incident, incident_item, log_event, page, reading, run

RECORDED = tomllib.loads((Path(__file__).parents[1] / "corpus" / "postmortems.toml").read_text("utf-8"))["ledger"]
ZERO = 1_700_000_000_000
ID = "inc_recorded"


def at(seconds: float) -> int:
    return ZERO + round(seconds * 1000)


def load(book: Ledger, told: dict[str, Any]) -> None:
    """Write one recorded ledger, as the runs of then left it."""
    with book.write() as connection:

        def put(table: Any, **values: Any) -> None:
            connection.execute(insert(table).values(**values))

        def item(kind: str, ref: str, seconds: float, body: Any, page_seq: int | None = None) -> None:
            put(incident_item, incident_id=ID, at_ms=at(seconds), kind=kind, ref=ref, page_seq=page_seq, body=body)

        held = {
            key: {"since_ms": at(each[0]), "seen_ms": at(each[0]), "well_ms": at(each[1]) if len(each) > 1 else None}
            for key, each in told["symptoms"].items()
        }
        closed = told.get("closed", {})
        put(
            incident,
            id=ID,
            title="recorded",
            opened_at_ms=ZERO,
            news_ms=ZERO,
            closed_at_ms=at(closed["at"]) if closed else None,
            closed_by=closed.get("by"),
            postmortem=told.get("postmortem"),
            symptoms=held,
        )
        for one in told["runs"]:
            put(
                run,
                id=one["id"],
                runbook=one["runbook"],
                mode="auto",
                started_at_ms=at(one["at"]),
                ended_at_ms=at(one["ends"]),
                outcome=one["outcome"],
                owner="x",
                report={},
            )
            for subject, detail in one.get("found", []):
                moment = at(one["at"] + 1)
                put(finding, run_id=one["id"], at_ms=moment, subject=subject, detail=detail, evidence={})
            if one.get("found"):
                item("run", one["id"], one["at"], {})
        for one in told.get("fixes", []):
            plain = {"risk": "auto", "why": "it is wrong", "undo": "-", "expect": {}, "want": {}, "plan_hash": "p"}
            named = {key: one[key] for key in ("id", "action", "target", "state")} | {"run_id": one["run"]}
            why = {"why": one["why"]} if "why" in one else {}
            put(fix, **plain | named | why, runbook="a", owner="x", decided_at_ms=at(1))
            for kind in ("intended", "applied", "failed", "proven", "undone"):
                if kind in one:
                    body = {"seen": "gone"} if kind in {"proven", "failed"} else {}
                    put(entry, at_ms=at(one[kind]), kind=kind, fix_id=one["id"], actor="x", body=body)
        for one in told.get("said", []):
            put(entry, at_ms=at(one["at"]), kind=one["kind"], run_id=one["run"], actor="x", body=one["body"])
        for seq, one in enumerate(told.get("pages", []), start=1):
            sent = {"pagerduty": {"level": 1, "told_ms": at(one["told"])}} if "told" in one else {}
            moments = {"opened_at_ms": at(one["at"]), "seen_at_ms": at(one["at"])}
            moments |= {"acked_at_ms": at(one["acked"])} if "acked" in one else {}
            moments |= {"resolved_at_ms": at(one["over"])} if "over" in one else {}
            named = {"key": one["key"], "title": one["title"], "text": "", "severity": "critical", "sent": sent}
            put(page, seq=seq, source="a", times=1, missed=0, acked_by=one.get("by"), **named, **moments)
            item("page", str(seq), one["at"], {"key": one["key"], "group": seq, "lead": one["key"]}, seq)
        for one in told.get("notes", []):
            item("note", "", one["at"], {"text": one["text"]})
        for one in told.get("log", []):
            put(log_event, name=one["name"], at_ms=at(one["at"]), level=one["level"], fields=one.get("fields", {}))
        for one in told.get("hooks", []):
            put(hook, id=one["id"], event=one["event"], resource="r", payload={}, received_at_ms=at(one["at"]))
        for name, samples in told.get("readings", {}).items():
            for moment, value in samples:
                put(reading, name=name, at_ms=at(moment), value=value)


@pytest.mark.parametrize("told", RECORDED, ids=[one["name"] for one in RECORDED])
def test_the_draft_of_a_recorded_ledger(book: Ledger, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "now_ms", lambda: at(told.get("now", 3600)))
    load(book, told)
    text = postmortem.draft(book, ID)
    for line in told["says"]:
        assert line in text, text
    for line in told["silent"]:
        assert line not in text, text
    known = {one["id"] for kind in ("runs", "fixes", "hooks") for one in told.get(kind, [])} | {ID}
    known |= {one["key"] for one in told.get("pages", [])}
    shown = set(re.findall(r"`([^` ]+)`", text))
    assert shown <= known, "evidence that runbook show would not know"
    assert text.count("**Owner: ____**") == len(re.findall(r"^- \[ \]", text, re.MULTILINE)) >= 1


def test_the_timeline_is_in_order_and_bounded(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    told = RECORDED[0] | {"notes": [{"at": second, "text": f"note {second}"} for second in range(500, 1000)]}
    load(book, told)
    lines = postmortem.timeline(story.gather(book, ID))[2:]
    clocks = [line.split("|")[1].strip() for line in lines if "…" not in line]
    assert clocks == sorted(clocks) and len(lines) == postmortem.ROWS + 1
    assert "runbook incident show" in "".join(lines)


def test_what_is_secret_stays_so(book: Ledger) -> None:
    told = RECORDED[0] | {"notes": [{"at": 1, "text": "key sk_live_0123456789abcdef of jane.doe@app.example"}]}
    load(book, told)
    text = postmortem.draft(book, ID)
    assert "0123456789abcdef" not in text and "jane.doe" not in text


def test_the_readings_that_moved_most_are_drawn_with_what_happened(book: Ledger) -> None:
    moved = story.moved(
        {f"r{number}": [(0, 1.0), (9, 1.0 + number)] for number in range(9)} | {"flat": [(0, 1), (9, 1)]}
    )
    assert list(moved) == ["r3", "r4", "r5", "r6", "r7", "r8"]
    drawn = trends({"r": [(0, 1.0), (100, 2.0)]}, {"found": 50, "over": 500})
    assert drawn.count("<line ") == 1 and ">found<" in drawn


def test_pure_a_span_as_a_person_says_it() -> None:
    assert [postmortem.span(ms) for ms in (0, 1_499, 119_000, 120_000, 7_199_000, 7_260_000)] == [
        "0 s", "1 s", "119 s", "2 min", "119 min", "2 h 1 min",
    ]  # fmt: skip


def test_an_incident_with_nothing_in_it_has_a_draft_too(book: Ledger) -> None:
    one = incidents.open_(book, "site-down", "the site is down")
    text = postmortem.draft(book, one)
    assert "Nothing was done." in text and "Mend site-down: it is still there." in text
