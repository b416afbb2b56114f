"""Pages: raised once for one incident, ended only by what really looked, acknowledged by whoever is at it."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import insert, update

from runbook import gate, outbox, schema
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger, now_ms
from runbook.model import Finding, Fix, FixState, Mode, Outcome, Report, Share
from runbook.outbox import Call, Page, Severity
from runbook.run import Run
from runbook.schema import hook
from tests.runbook.parts import World, rows

NEEDED = Finding(subject="quota", detail="is used up", page=True)
QUIET = Finding(subject="rows", detail="are old")
CALL = Call("a:quota", Severity.critical, "a: quota is used up", "buy more")


def opened(book: Ledger) -> list[Page]:
    return [one for one in outbox.pages(book) if not one.resolved_at_ms]


def keys(book: Ledger) -> list[str]:
    return [one.key for one in opened(book)]


async def a_run(*findings: Finding, name: str = "a", fails: bool = False, pages: bool = True) -> Report:
    async with Run(name, Mode.auto, pages=pages) as one:
        one.found(findings)
        if fails:
            raise OutsideError("vendor", "went away", "look")
    assert one.report is not None
    return one.report


def raised(book: Ledger, call: Call = CALL) -> None:
    with book.write() as connection:
        outbox.raise_page(connection, call, "a")


async def test_a_finding_no_machine_can_mend_is_one_page_however_often_it_is_found(in_force: Ledger) -> None:
    report = await a_run(NEEDED, QUIET)
    await a_run(NEEDED, QUIET)
    (page,) = outbox.pages(in_force)
    assert (page.key, page.times, page.state, page.run_id) == ("a:quota", 2, "open", report.id)
    assert page.severity is Severity.critical and f"runbook show {report.id}" not in page.title


async def test_a_page_ends_when_two_whole_runs_do_not_find_it(in_force: Ledger) -> None:
    await a_run(NEEDED)
    await a_run()
    assert keys(in_force) == ["a:quota"]  # one run may have been blind
    await a_run(QUIET)
    assert keys(in_force) == []
    await a_run(NEEDED)
    assert [one.state for one in outbox.pages(in_force)] == ["resolved", "open"]


async def test_runs_that_stopped_early_or_looked_at_one_thing_only_end_nothing(in_force: Ledger) -> None:
    await a_run(NEEDED)
    for _ in range(3):
        await a_run(fails=True)
        await a_run(pages=False)  # an undo
        await a_run(name="other")
    assert keys(in_force) == ["a:quota"]


async def test_found_again_in_between_starts_the_count_anew(in_force: Ledger) -> None:
    await a_run(NEEDED)
    await a_run()
    await a_run(NEEDED)
    await a_run()
    assert keys(in_force) == ["a:quota"]


async def test_many_findings_are_one_page(in_force: Ledger) -> None:
    await a_run(*[Finding(subject=f"row {i}", detail="is lost", page=True) for i in range(30)])
    (page,) = opened(in_force)
    assert page.key == "a:many" and "30 findings" in page.title


async def test_what_was_acted_on_and_not_proven_is_paged_until_a_run_is_well(in_force: Ledger, world: World) -> None:
    world.dark = {"row 0"}
    for _ in range(2):
        async with Run("a", Mode.auto) as one:
            one.found([QUIET])
            permit = await gate.ask(one, rows(1), share=None)
            await permit.apply(world.hands())
    assert keys(in_force) == ["a:unsolved"]
    for _ in range(3):
        await a_run(QUIET)  # refused: still nobody mended it
    assert keys(in_force) == ["a:unsolved"]
    await a_run()
    await a_run()
    assert keys(in_force) == []


async def test_a_mass_failure_that_nothing_was_done_about_is_paged(in_force: Ledger) -> None:
    async with Run("a", Mode.auto) as one:
        one.found([QUIET])
        await gate.ask(one, rows(9), share=Share(sick=9, of=10))
    (page,) = opened(in_force)
    assert page.key == "a:mass-failure" and "9 of 10" in page.title and page.severity is Severity.critical


def test_pure_an_ordinary_refusal_is_no_page() -> None:
    fix = Fix(action="set", target="row", risk="person", why="needs a person", undo="-", state=FixState.refused)
    report = Report(id="run_1", runbook="a", mode=Mode.auto, outcome=Outcome.refused, findings=[QUIET], fixes=[fix])
    assert outbox.calls_of(report) == []


async def test_secrets_and_addresses_are_masked(in_force: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await a_run(Finding(subject="jane.doe@example.com", detail="key sk_live_0123456789abcd", page=True))
    (page,) = opened(in_force)
    said = f"{page.key} {page.title} {page.text}"
    assert "jane.doe" not in said and "0123456789abcd" not in said


def test_raised_by_many_at_once_is_one_page(in_force: Ledger) -> None:
    threads = [threading.Thread(target=raised, args=(in_force,)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (page,) = opened(in_force)
    assert page.times == 8


def test_acknowledged_stays_open_and_keeps_who_was_first(in_force: Ledger) -> None:
    raised(in_force)
    assert outbox.acknowledge(in_force, "a:quota", "ann").acked_by == "ann"
    assert outbox.acknowledge(in_force, "a:quota", "bob").acked_by == "ann"
    raised(in_force)
    assert [(one.state, one.times) for one in opened(in_force)] == [("acknowledged", 2)]
    with pytest.raises(BadSetting, match="open page"):
        outbox.acknowledge(in_force, "a:other", "ann")


def test_an_acknowledgement_in_pagerduty_is_heard_once(in_force: Ledger) -> None:
    raised(in_force)
    told(in_force, "pagerduty.incident.triggered", "a:quota", 1)
    outbox.hear(in_force)
    assert opened(in_force)[0].state == "open"
    told(in_force, "pagerduty.incident.acknowledged", "b:other", 2)
    told(in_force, "pagerduty.incident.acknowledged", "a:quota", 3)
    outbox.hear(in_force)
    assert opened(in_force)[0].acked_by == "PagerDuty incident 3"
    with in_force.write() as connection:
        outbox.resolve(connection, "a:quota")
    raised(in_force)
    outbox.hear(in_force)
    assert opened(in_force)[0].state == "open"  # the old acknowledgement was for the old incident


def told(book: Ledger, event: str, key: str, number: int) -> None:
    values = {"id": f"pagerduty:{number}", "event": event, "resource": "runbook.pagerduty.P1"}
    payload = {"incident_key": key, "number": number, "status": "acknowledged"}
    with book.write() as connection:
        connection.execute(insert(hook).values(**values, payload=payload, received_at_ms=now_ms()))


def test_an_older_ledger_gets_the_table(in_force: Ledger) -> None:
    with in_force.write() as connection:
        schema.page.drop(connection)
        connection.execute(update(schema.version).values(version=2))
    schema.migrate(in_force.engine)
    raised(in_force)
    assert keys(in_force) == ["a:quota"]
