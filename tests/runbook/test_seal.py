"""Sealing: what is old is summed up, the chain goes on, and nothing that a guard still reads is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select, update

from runbook import ledger, licence, settings
from runbook.errors import BadSetting
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState
from runbook.schema import entry, finding, fix, link, run
from runbook.seal import DAY_MS, FLOOR_DAYS, seal
from tests.runbook.parts import RUNBOOK, a_fix, grant
from tests.runbook.test_chain import change, check, story


@contextmanager
def days_ago(days: float) -> Iterator[None]:
    """The ledger's clock, set back."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "now_ms", lambda: now_ms() - round(days * DAY_MS))
        patched.setattr(licence, "now_ms", lambda: now_ms() - round(days * DAY_MS))
        yield


def older_than(days: float) -> int:
    return now_ms() - round(days * DAY_MS)


def test_what_is_old_is_summed_up_and_the_chain_goes_on(in_force: Ledger) -> None:
    with days_ago(60):
        story(in_force)
    noted = check(in_force).head
    summed = seal(in_force, older_than(50))
    assert summed["runs"] == {f"{RUNBOOK} None": 1, f"{RUNBOOK} fixed": 1}
    assert summed["fixes"] == {"set proven": 1}
    assert summed["last_hash"] == noted
    with in_force.read() as connection:
        assert [row.kind for row in connection.execute(select(entry))] == ["sealed"]
        assert not any(connection.execute(select(table)).first() for table in (run, fix, finding))
    story(in_force, "row 2")
    after = check(in_force)
    assert (after.broken, after.entries) == ("", 9)
    change(
        in_force,
        lambda it: it.execute(update(entry).where(entry.c.kind == "sealed").values(body={**summed, "runs": {}})),
    )
    assert check(in_force).broken == "entry 9 (sealed)"


def test_a_hash_from_before_a_seal_is_told_from_one_that_was_cut_off(in_force: Ledger) -> None:
    with days_ago(60):
        story(in_force)
        earlier = check(in_force).head
        story(in_force, "row 2")
    last = check(in_force).head
    summed = seal(in_force, older_than(50))
    assert check(in_force, last[:16]).noted, "the seal itself carries it"
    found = check(in_force, earlier)
    assert (found.noted, found.sealed_before_ms) == (False, summed["before_ms"])


def test_nothing_of_an_open_fix_is_sealed_away(in_force: Ledger) -> None:
    with days_ago(60):
        one = grant(in_force, a_fix())
        in_force.move(one.id, [FixState.granted], FixState.intended, {})
    assert seal(in_force, older_than(50)) == {}
    assert in_force.state(one.id) is FixState.intended
    assert not check(in_force).broken


def test_a_stop_outlives_every_seal(in_force: Ledger) -> None:
    with days_ago(90):
        story(in_force)
        in_force.press("stop", "the money is wrong")
        pressed = ledger.now_ms()
    for days in (80, 31):
        with days_ago(days - FLOOR_DAYS):
            story(in_force, f"row {days}")
        seal(in_force, older_than(days))
        with in_force.read() as connection:
            assert in_force.stopped(connection) == "the money is wrong"
            (stop,) = connection.execute(select(entry).where(entry.c.kind == "stop")).mappings()
        assert abs(stop["body"]["since_ms"] - pressed) < DAY_MS
        assert not check(in_force).broken


def test_a_stop_that_ended_stays_ended(in_force: Ledger) -> None:
    with days_ago(60):
        in_force.press("stop", "x")
        in_force.press("start", "y")
    assert seal(in_force, older_than(50))
    with in_force.read() as connection:
        assert in_force.stopped(connection) is None


def test_what_guards_look_back_on_is_not_sealed(in_force: Ledger) -> None:
    story(in_force)
    for days in (0, 1, 30.9):
        with pytest.raises(BadSetting, match="31 days"):
            seal(in_force, older_than(days))
    assert check(in_force).entries == 8


def test_a_licence_in_force_and_what_speaks_against_it_are_not_sealed(
    in_force: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "365")
    settings.forget()
    with days_ago(300):
        story(in_force)
    with days_ago(200):
        licence.issue(in_force, RUNBOOK, {})
    with days_ago(100):
        one = grant(in_force, a_fix())
        in_force.move(one.id, [FixState.granted], FixState.intended, {})
        in_force.move(one.id, [FixState.intended], FixState.applied, {})
        in_force.move(one.id, [FixState.applied], FixState.failed, {})
    seal(in_force, older_than(50))
    assert f"{one.id} was done and not proven" in licence.standing(in_force, RUNBOOK).why
    with days_ago(60):
        licence.issue(in_force, RUNBOOK, {})
    assert licence.standing(in_force, RUNBOOK).valid
    seal(in_force, older_than(50))
    assert licence.standing(in_force, RUNBOOK).valid


def test_a_run_that_a_seal_cuts_in_two_stays_whole_and_held_against_its_entries(in_force: Ledger) -> None:
    with days_ago(60):
        one = grant(in_force, a_fix())
        in_force.move(one.id, [FixState.granted], FixState.intended, {})
        in_force.move(one.id, [FixState.intended], FixState.applied, {})
    with days_ago(40):
        in_force.move(one.id, [FixState.applied], FixState.proven, {})
        story(in_force, "row 2")
    for days in (50, 35):
        seal(in_force, older_than(days))
        assert not check(in_force).broken
    assert in_force.state(one.id) is FixState.proven
    change(in_force, lambda it: it.execute(update(fix).where(fix.c.id == one.id).values(why="all is well")))
    assert check(in_force).broken == f"fix {one.id} (why)"


def test_a_seal_takes_what_came_before_the_chain_along(in_force: Ledger, ledger_url: str) -> None:
    with days_ago(60):
        story(in_force)
        change(in_force, lambda it: link.drop(it))
        change(in_force, lambda it: it.exec_driver_sql("UPDATE runbook_version SET version = 1"))
        story(Ledger(ledger_url), "row 2")
    assert check(in_force).older == 8
    seal(in_force, older_than(50))
    assert (check(in_force).broken, check(in_force).older) == ("", 0)
