"""The weekly report on a ledger of real runs: its page, its mail through SendGrid's own client, its seal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

import flows
from demo.sendgrid_server import Fault, SendGridServer
from flows.weekly_report import Reported, figures, ranges, weekly_report
from runbook import chain, memory, settings
from runbook.ledger import Ledger, ledger, now_ms
from runbook.model import Finding, Mode
from runbook.run import Run
from runbook.schema import entry, run
from runbook.settings import Settings

DAY_MS = 86_400_000


@pytest.fixture
def sendgrid() -> Iterator[SendGridServer]:
    with SendGridServer() as running:
        yield running


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sendgrid: SendGridServer) -> Iterator[Ledger]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    env = {
        "RUNBOOK_HOME": str(tmp_path),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/l.db",
        "RUNBOOK_LICENCE_DAYS": "0",
    }
    env |= {"RUNBOOK_REPORT_TO": "ann@app.example, bob@app.example", **sendgrid.env()}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.forget()
    yield ledger()
    settings.forget()


async def found_once(name: str = "full-disk") -> str:
    async with Run(name, Mode.observe) as one:
        one.found([Finding(subject="disk of jane.doe@app.example", detail="is 91% full")])
    return one.id


async def report(**given: bool) -> Reported:
    told: Reported = await weekly_report.fn(**given)
    return told


async def test_the_page_is_mailed_once_a_week_with_its_drawing(book: Ledger, sendgrid: SendGridServer) -> None:
    await found_once()
    memory.measure(book, {"disk_free_share": 0.2})
    told = await report()
    assert told.notes[0] == "mailed to 2" and sendgrid.sent == ["ann@app.example", "bob@app.example"]
    (mail,) = sendgrid.mails
    assert mail["subject"].startswith("Runbooks, ") and "| full-disk | 1 | 1 |" in mail["content"][0]["value"]
    assert "jane.doe" not in mail["content"][0]["value"]
    assert [one["filename"] for one in mail["attachments"]] == ["trends.svg"]
    assert [one["to"] for one in mail["personalizations"]] == [
        [{"email": "ann@app.example"}],
        [{"email": "bob@app.example"}],
    ]  # nobody sees who else gets it
    assert "was sent" in (await report()).notes[0] and len(sendgrid.mails) == 1


@pytest.mark.parametrize(
    ("kind", "says"),
    [("429", "limits our rate"), ("500", "failed (500)"), ("drop", "did not answer"), ("garbage", "mailed")],
)
async def test_a_mail_that_does_not_leave_is_a_note_and_goes_next_time(
    book: Ledger, sendgrid: SendGridServer, kind: str, says: str
) -> None:
    sendgrid.faults.append(Fault("POST /v3/mail/send", kind))
    told = await report()
    assert says in told.notes[0] and len(told.week.figures) == len(flows.acting())
    if "mailed" not in says:
        assert (await report()).notes[0] == "mailed to 2"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"RUNBOOK_REPORT_TO": ""}, "RUNBOOK_REPORT_TO is empty"),
        ({"RUNBOOK_REPORT_TO": "ann"}, "no mail address"),
        ({"SENDGRID_API_KEY": ""}, "SENDGRID_API_KEY"),
        ({"SENDGRID_API_KEY": "SG.wrong0123456789.wrong0123456789"}, "does not accept this key"),
    ],
)
async def test_what_is_missing_is_named(
    book: Ledger, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], says: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.forget()
    assert says in (await report()).notes[0]


async def test_what_is_too_old_is_sealed_and_the_chain_holds(book: Ledger) -> None:
    old = await found_once()
    with book.write() as connection:
        long_ago = now_ms() - 500 * DAY_MS
        connection.execute(update(run).where(run.c.id == old).values(started_at_ms=long_ago, ended_at_ms=long_ago))
    young = await found_once()
    told = await report(mail=False)
    assert told.notes == ("sealed nothing older than 400 days",)  # its entries are young: they are the chain
    with book.write() as connection:
        connection.execute(update(entry).where(entry.c.run_id == old).values(at_ms=now_ms() - 500 * DAY_MS))
    told = await report(mail=False)
    assert told.notes == ("sealed 1 run older than 400 days",)
    with book.read() as connection:
        assert connection.execute(run.select()).mappings().one()["id"] == young
        assert chain.verify(connection).head


async def test_a_look_mails_and_seals_nothing(book: Ledger, sendgrid: SendGridServer) -> None:
    await found_once()
    assert figures(book, 7).figures[3].found == 1
    assert not sendgrid.mails
    assert (await report(mail=False, seal=False)).notes == ()


def test_pure_the_thresholds_it_may_move() -> None:
    known = ranges("pool-exhaustion")
    assert (known["full_at"].low, known["full_at"].high, known["full_at"].whole) == (0.3, 1, False)
    assert known["idle_seconds"].whole and "mode" not in known
