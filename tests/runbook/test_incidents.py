"""Incidents on both databases: runs and pages find their own, and it is over when all that was found is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from runbook import burst, chain, gate, incidents, ledger, outbox, schema
from runbook import seal as sealing
from runbook.burst import Incident
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger
from runbook.model import Finding, Mode, Report
from runbook.outbox import Call, Severity
from runbook.run import Run
from runbook.schema import entry
from tests.runbook.parts import World, rows

ROWS = Finding(subject="rows", detail="are old")
QUOTA = Finding(subject="quota", detail="is used up", page=True)
MINUTE = 60_000


class Clock:
    """The ledger's clock, moved by hand."""

    def __init__(self) -> None:
        self.at = 1_700_000_000_000

    def __call__(self) -> int:
        return self.at

    def later(self, minutes: float) -> None:
        self.at += round(minutes * MINUTE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    for module in (ledger, incidents, outbox):
        monkeypatch.setattr(module, "now_ms", made)
    yield made


async def a_run(*found: Finding, name: str = "a", fails: bool = False, left: bool = True, **more: Any) -> Report:
    async with Run(name, Mode.observe, **more) as one:
        one.found(found)
        if fails:
            raise OutsideError("vendor", "went away", "look")
    assert one.report is not None
    return one.report


def opened(book: Ledger) -> list[Incident]:
    return [one for one in incidents.every(book) if one.state == "open"]


async def test_a_burst_is_one_incident_whoever_found_it(in_force: Ledger, clock: Clock) -> None:
    first = await a_run(ROWS)
    clock.later(10)
    await a_run(QUOTA, name="b")
    await a_run(name="c")
    (one,) = opened(in_force)
    assert one.title == "a: rows: are old" and set(one.symptoms) == {"a:rows", "b:quota"}
    kinds = [(each.kind, each.body.get("key")) for each in incidents.items(in_force, one.id)]
    assert kinds == [("run", None), ("run", None), ("page", "b:quota")]
    assert incidents.items(in_force, one.id)[0].ref == first.id
    (page,) = outbox.pages(in_force)
    assert page.incident == one.id


async def test_what_is_always_wrong_does_not_swallow_what_comes_later(in_force: Ledger, clock: Clock) -> None:
    await a_run(ROWS)
    for _ in range(4):
        clock.later(20)
        await a_run(ROWS)
    await a_run(QUOTA, name="b")
    assert [sorted(one.symptoms) for one in opened(in_force)] == [["b:quota"], ["a:rows"]]
    assert len([each for one in opened(in_force) for each in incidents.items(in_force, one.id)]) == 3


async def test_it_is_over_when_all_is_gone_for_a_while(in_force: Ledger, clock: Clock) -> None:
    await a_run(ROWS)
    await a_run(QUOTA, name="b")
    clock.later(1)
    await a_run()
    await a_run(fails=True, name="b")  # it stopped early: what it did not find may well be there
    await a_run(name="b", pages=False)
    clock.later(20)
    await a_run()
    assert opened(in_force)[0].sick == ["b:quota"]
    await a_run(name="b")
    await a_run(name="b")  # the page ends with the second
    clock.later(14)
    await a_run()
    assert opened(in_force)
    clock.later(2)
    await a_run()
    (one,) = incidents.every(in_force)
    assert one.state == "closed" and one.closed_by == "all being well for 15 minutes"
    await a_run(ROWS)
    assert len(incidents.every(in_force)) == 2


async def test_found_and_mended_in_one_run_is_an_incident_with_its_fixes(
    in_force: Ledger, clock: Clock, world: World
) -> None:
    async with Run("a", Mode.auto) as run:
        run.found([ROWS])
        permit = await gate.ask(run, rows(2), share=None)
        await permit.apply(world.hands())
        run.remains([])
    (one,) = opened(in_force)
    assert one.sick == []
    (item,) = incidents.items(in_force, one.id)
    assert (item.ref, item.body) == (run.id, {"outcome": "fixed"})


async def test_a_run_that_crashed_has_opened_its_incident_already(in_force: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Run("a", Mode.observe) as run:
            run.found([ROWS])
            raise ZeroDivisionError
    assert opened(in_force)[0].sick == ["a:rows"]


async def test_an_alert_opens_one_and_its_end_is_seen(in_force: Ledger, clock: Clock) -> None:
    with in_force.write() as connection:
        outbox.raise_page(connection, Call("alert:errors", Severity.critical, "errors", "40"), "alert-watch")
    await a_run(ROWS)
    (one,) = opened(in_force)
    assert set(one.symptoms) == {"alert:errors", "a:rows"}
    with in_force.write() as connection:
        outbox.resolve(connection, "alert:errors")
        outbox.resolve(connection, "alert:errors")
    assert opened(in_force)[0].sick == ["a:rows"]


async def test_a_persons_word_closes_and_completes(in_force: Ledger, clock: Clock) -> None:
    await a_run(ROWS)
    (one,) = opened(in_force)
    incidents.note(in_force, one.id, "called the vendor with sk_live_0123456789")
    assert incidents.close(in_force, one.id, "ann").closed_by == "ann"
    assert incidents.close(in_force, one.id, "bob", "https://wiki.example/1").postmortem == "https://wiki.example/1"
    assert incidents.one(in_force, one.id).closed_by == "ann"
    assert "0123456789" not in str(incidents.items(in_force, one.id))
    await a_run(ROWS)
    assert len(opened(in_force)) == 1  # still wrong: another one
    for act in (incidents.one, incidents.close, incidents.note):
        with pytest.raises(BadSetting, match="incident list"):
            act(in_force, "inc_unknown", *(["x"] if act is not incidents.one else []))


async def test_opened_by_a_flow_and_ended_by_it(in_force: Ledger, clock: Clock) -> None:
    await a_run(ROWS)
    one = incidents.open_(in_force, "site-down", "the site is down")
    assert one == incidents.open_(in_force, "site-down", "the site is down") == opened(in_force)[0].id
    incidents.well(in_force, "site-down")
    assert opened(in_force)[0].sick == ["a:rows"]


def test_opened_by_many_at_once_is_one(in_force: Ledger) -> None:
    calls = [lambda: incidents.open_(in_force, "site-down", "down")] * 8
    threads = [threading.Thread(target=one) for one in calls]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(opened(in_force)) == 1


async def test_every_step_is_in_the_chain(in_force: Ledger, clock: Clock) -> None:
    await a_run(ROWS)
    await a_run(QUOTA, name="b")
    await a_run()
    (one,) = opened(in_force)
    incidents.close(in_force, one.id, "ann", "wiki")
    with in_force.read() as connection:
        said = [row.body["what"] for row in connection.execute(select(entry).where(entry.c.kind == "incident"))]
        assert not chain.verify(connection).broken
    assert said == ["opened", "joined", "well", "closed", "postmortem"]


async def test_what_is_old_goes_with_the_seal(in_force: Ledger, clock: Clock) -> None:
    await a_run(QUOTA)
    (one,) = opened(in_force)
    for _ in range(2):
        clock.later(20)
        await a_run()
    clock.later(20)
    await a_run()
    assert opened(in_force) == []
    clock.later(500 * 24 * 60)
    await a_run(ROWS)
    sealing.seal(in_force, clock() - 400 * 24 * 60 * MINUTE)
    assert [each.title for each in incidents.every(in_force)] == ["a: rows: are old"]
    with pytest.raises(BadSetting):
        incidents.one(in_force, one.id)
    assert outbox.pages(in_force, 0) == []


def test_an_older_ledger_gets_the_tables(in_force: Ledger) -> None:
    with in_force.write() as connection:
        schema.incident_item.drop(connection)
        schema.incident.drop(connection)
        connection.execute(update(schema.version).values(version=3))
    schema.migrate(in_force.engine)
    assert incidents.open_(in_force, "x", "x").startswith("inc_")
    assert burst.QUIET_MS < burst.BURST_MS
