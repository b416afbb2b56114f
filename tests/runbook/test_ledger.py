"""The memory, on both databases."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import select, update

from runbook.ledger import Ledger, ledger, now_ms
from runbook.model import Finding, FixState
from runbook.permit import Permit
from runbook.policy import HOURS_24
from runbook.process import is_alive, is_dead, this_process
from runbook.schema import entry, finding, fix, run
from tests.runbook.parts import FINDING, RUNBOOK, a_fix, grant, told

MINUTES_2 = 120_000
NAMED = "from runbook.process import this_process; print(this_process(), flush=True)"


def gone() -> str:
    """The name of a process that has ended."""
    return subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True).stdout.strip()


def owned_by(book: Ledger, fix_id: str, owner: str) -> None:
    with book.write() as connection:
        connection.execute(update(fix).where(fix.c.id == fix_id).values(owner=owner))


def expire(book: Ledger) -> None:
    with book.write() as connection:
        book.expire_grants(connection)


def test_the_ledger_is_the_named_one(in_force: Ledger, ledger_url: str) -> None:
    assert ledger() is in_force
    assert in_force.engine.dialect.name == ("sqlite" if "sqlite" in ledger_url else "postgresql")


def test_entries_are_kept_in_order_with_who_and_when(book: Ledger) -> None:
    before = now_ms()
    body = {"text": "naïve ☃ \u0000", "number": 1.5, "none": None, "list": [1, {"deep": True}]}
    with book.write() as connection:
        for kind in "abc":
            book.note(connection, kind, body, run_id="run_x")
    with book.read() as connection:
        rows = connection.execute(select(entry).order_by(entry.c.seq)).mappings().all()
    assert [row["kind"] for row in rows] == ["a", "b", "c"]
    assert all(row["body"] == body and row["run_id"] == "run_x" and row["actor"] == this_process() for row in rows)
    assert all(before <= row["at_ms"] <= now_ms() for row in rows)


def test_a_write_that_breaks_leaves_nothing(book: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), book.write() as connection:
        book.note(connection, "half", {})
        _ = 1 / 0
    with book.read() as connection:
        assert connection.execute(select(entry)).all() == []


def test_a_run_is_kept_with_what_it_found_and_came_to(book: Ledger) -> None:
    run_id = book.open_run(RUNBOOK, "auto")
    book.found(run_id, [FINDING, Finding(subject="b", detail="c", evidence={"n": 1})])
    book.close_run(run_id, "fixed", {"exit": 0})
    with book.read() as connection:
        (row,) = connection.execute(select(run)).mappings()
        assert (row["id"], row["outcome"], row["report"], row["owner"]) == (
            run_id,
            "fixed",
            {"exit": 0},
            this_process(),
        )
        assert row["ended_at_ms"] >= row["started_at_ms"]
        found = connection.execute(select(finding.c.subject, finding.c.evidence).order_by(finding.c.seq)).all()
    assert [tuple(each) for each in found] == [("rows", {}), ("b", {"n": 1})]


def test_a_fix_comes_back_as_it_was_written(book: Ledger) -> None:
    one = a_fix().model_copy(update={"expect": {"v": None, "at": "2026-01-01T00:00:00+00:00", "share": 0.1}})
    granted = grant(book, one)
    with book.read() as connection:
        run_id = connection.execute(select(fix.c.run_id)).scalar_one()
    (back,) = book.fixes(run_id)
    assert back == granted
    assert back.key == one.key, "the key is what a permit compares"


def test_the_latest_press_of_the_red_button_counts(book: Ledger) -> None:
    def stopped() -> str | None:
        with book.read() as connection:
            return book.stopped(connection)

    assert stopped() is None
    book.press("stop", "fire")
    assert stopped() == "fire"
    book.press("stop", "")
    assert stopped() == ""
    book.press("start", "out")
    assert stopped() is None
    book.press("stop", "again")
    assert stopped() == "again"


def test_a_move_happens_once_and_is_told(book: Ledger) -> None:
    one = grant(book, a_fix())
    assert book.move(one.id, [FixState.granted], FixState.intended, {})
    assert not book.move(one.id, [FixState.granted], FixState.intended, {})
    assert not book.move("fix_none", [FixState.granted], FixState.intended, {})
    assert book.state(one.id) is FixState.intended
    assert [kind for kind, _body in told(book, one.id)] == ["granted", "intended"]


def test_an_expired_grant_is_given_back_and_a_live_one_is_kept(book: Ledger) -> None:
    old, live, begun = grant(book, a_fix("a"), ttl_ms=-1), grant(book, a_fix("b")), grant(book, a_fix("c"))
    assert not book.move(old.id, [FixState.granted], FixState.intended, {}, fresh=True)
    assert book.move(begun.id, [FixState.granted], FixState.intended, {}, fresh=True)
    expire(book)
    assert [book.state(one.id) for one in (old, live, begun)] == [
        FixState.refused,
        FixState.granted,
        FixState.intended,
    ]
    assert told(book, old.id)[-1] == ("refused", {"why": "its grant expired before it was begun"})


def test_a_dead_process_gives_back_its_grants_and_never_its_intents(book: Ledger) -> None:
    dead, waiting, begun = gone(), grant(book, a_fix("a")), grant(book, a_fix("b"))
    book.move(begun.id, [FixState.granted], FixState.intended, {})
    for one in (waiting, begun):
        owned_by(book, one.id, dead)
    expire(book)
    assert (book.state(waiting.id), book.state(begun.id)) == (FixState.refused, FixState.intended)
    with book.read() as connection:
        assert book.open_targets(connection) == {"b"}


def test_an_intent_is_unsettled_once_its_process_is_gone_or_it_is_old(book: Ledger) -> None:
    one, other = grant(book, a_fix("a")), grant(book, a_fix("b"), runbook="another")
    for each in (one, other):
        book.move(each.id, [FixState.granted], FixState.intended, {})
    owned_by(book, one.id, gone())
    assert [each.id for each in book.unsettled(RUNBOOK, MINUTES_2)] == [one.id]
    owned_by(book, one.id, "elsewhere:1:1")
    assert book.unsettled(RUNBOOK, MINUTES_2) == [], "from here nobody can tell, so it waits"
    with book.write() as connection:
        connection.execute(update(fix).values(intended_at_ms=now_ms() - MINUTES_2 - 1000))
    assert [each.id for each in book.unsettled(RUNBOOK, MINUTES_2)] == [one.id]
    book.move(one.id, [FixState.intended], FixState.proven, {})
    assert book.unsettled(RUNBOOK, MINUTES_2) == []


def test_an_intent_of_a_living_process_is_left_alone_until_that_says_it_broke(book: Ledger) -> None:
    one = grant(book, a_fix("a"))
    book.move(one.id, [FixState.granted], FixState.intended, {})
    with book.write() as connection:
        connection.execute(update(fix).values(intended_at_ms=now_ms() - HOURS_24))
    words = [sys.executable, "-c", f"{NAMED}; input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lives:
        assert lives.stdout is not None
        owned_by(book, one.id, lives.stdout.readline().strip())
        assert book.unsettled(RUNBOOK, MINUTES_2) == [], "an index may take hours to build"
        with book.write() as connection:
            book.note(connection, "interrupted", {}, fix_id=one.id)
        assert [each.id for each in book.unsettled(RUNBOOK, MINUTES_2)] == [one.id]
        lives.communicate("\n")


def test_an_intent_of_this_process_is_left_alone_while_its_hand_is_open(book: Ledger) -> None:
    one = grant(book, a_fix("a"))
    with Permit(book, [one]).attempt(one):
        assert book.unsettled(RUNBOOK, 0) == []
    other = grant(book, a_fix("b"))
    book.move(other.id, [FixState.granted], FixState.intended, {})  # and its outcome could not be written
    assert [each.id for each in book.unsettled(RUNBOOK, MINUTES_2)] == [other.id]


@pytest.mark.parametrize(("hours", "looked"), [(47, True), (49, False)])
def test_an_act_nobody_saw_the_effect_of_is_looked_for_two_days(book: Ledger, hours: int, looked: bool) -> None:
    one = grant(book, a_fix("a"))
    book.move(one.id, [FixState.granted], FixState.intended, {})
    book.move(one.id, [FixState.intended], FixState.applied, {})
    with book.write() as connection:
        connection.execute(update(fix).values(intended_at_ms=now_ms() - hours * HOURS_24 // 24))
    assert bool(book.unsettled(RUNBOOK, MINUTES_2)) is looked


def test_history_counts_grants_and_what_was_attempted(book: Ledger) -> None:
    waiting, begun, refused, old = (grant(book, a_fix(name)) for name in "abcd")
    for one in (begun, old):
        book.move(one.id, [FixState.granted], FixState.intended, {})
        book.move(one.id, [FixState.intended], FixState.refused, {"why": "moved on"})
    book.move(refused.id, [FixState.granted], FixState.refused, {"why": "given back untried"})
    with book.write() as connection:
        day = now_ms() - HOURS_24
        connection.execute(update(fix).where(fix.c.id == old.id).values(decided_at_ms=day - 1))
        connection.execute(update(fix).where(fix.c.id == begun.id).values(decided_at_ms=now_ms() + HOURS_24))
        past = {each.target: each for each in book.history(connection)}
        its_run = connection.execute(select(fix.c.run_id).where(fix.c.id == old.id)).scalar_one()
        of_its_run = {each.target for each in book.history(connection, its_run)}
    assert set(past) == {waiting.target, begun.target}
    assert old.target in of_its_run, "a run may last longer than a day, and its own caps with it"
    assert (past["a"].runbook, past["a"].action, past["a"].state) == (RUNBOOK, "set", FixState.granted)


def test_this_process_lives_and_an_ended_one_is_dead() -> None:
    assert is_alive(this_process()) and not is_dead(this_process())
    assert is_dead(gone()) and not is_alive(gone())
    assert not is_alive("elsewhere:1:1")
    host, pid, _started = this_process().rsplit(":", 2)
    assert is_dead(f"{host}:{pid}:1"), "another process that had this number"
    assert not is_dead(f"{host}:{pid}:?"), "who cannot tell when it started is not called dead"
    assert not is_dead(f"elsewhere:{pid}:1"), "nobody can tell from here"
