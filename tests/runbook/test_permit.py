"""The only key that opens a hand: once, for one fix, for a time, and not when the red button is pressed."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import event

from runbook import settings
from runbook.errors import LedgerError, NotPermitted
from runbook.ledger import Ledger
from runbook.model import Fix, FixState
from runbook.permit import Permit
from tests.runbook.parts import a_fix, grant, told


def test_an_attempt_writes_the_intent_before_and_the_outcome_after(book: Ledger) -> None:
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one) as attempt:
        assert book.state(one.id) is FixState.intended
        attempt.did(rows=1)
    assert book.state(one.id) is FixState.applied
    assert told(book, one.id)[1:] == [("intended", {}), ("applied", {"rows": 1})]


@pytest.mark.parametrize(("say", "end"), [("moved_on", FixState.refused), ("failed", FixState.failed)])
def test_what_the_hand_says_is_kept(book: Ledger, say: str, end: FixState) -> None:
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one) as attempt:
        getattr(attempt, say)("because")
    assert book.state(one.id) is end
    assert told(book, one.id)[-1] == (end.value, {"why": "because"})


def test_what_the_hand_says_is_masked(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "canary-value-1234")
    settings.forget()
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one) as attempt:
        attempt.did(answer="key canary-value-1234 of someone@example.com")
    assert told(book, one.id)[-1] == ("applied", {"answer": "key *** of s***@example.com"})


def test_an_attempt_that_breaks_stays_intended(book: Ledger) -> None:
    one = grant(book, a_fix())
    with pytest.raises(ZeroDivisionError), Permit(book, [one]).attempt(one):
        _ = 1 / 0
    assert book.state(one.id) is FixState.intended
    assert told(book, one.id)[-1] == ("interrupted", {"error": "ZeroDivisionError"})
    refused(Permit(book, [one]), one)


def test_an_outcome_that_comes_after_another_run_settled_the_fix_is_noted(book: Ledger) -> None:
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one) as attempt:
        book.move(one.id, [FixState.intended], FixState.failed, {"seen": "old"})
        attempt.did(rows=1)
    assert book.state(one.id) is FixState.failed
    assert told(book, one.id)[-1] == ("late", {"outcome": "applied", "rows": 1})


def refused(permit: Permit, one: Fix) -> str:
    entered = False
    with pytest.raises(NotPermitted) as error, permit.attempt(one):
        entered = True
    assert not entered
    return str(error.value)


def test_a_used_permit_opens_nothing(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])
    with permit.attempt(one):
        pass
    assert "used up or expired" in refused(permit, one)
    refused(Permit(book, [one]), one)
    assert book.state(one.id) is FixState.applied


def test_two_hands_cannot_be_in_one_fix(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])
    with permit.attempt(one):
        refused(permit, one)
    assert book.state(one.id) is FixState.applied


def test_an_expired_permit_opens_nothing(book: Ledger) -> None:
    one = grant(book, a_fix(), ttl_ms=-1)
    assert "used up or expired" in refused(Permit(book, [one]), one)
    assert book.state(one.id) is FixState.granted


def test_a_permit_that_was_given_back_opens_nothing(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])
    permit.refuse(one, "drifted")
    refused(permit, one)
    assert (book.state(one.id), told(book, one.id)[-1]) == (FixState.refused, ("refused", {"why": "drifted"}))


def test_giving_back_changes_nothing_that_was_begun(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])
    with permit.attempt(one):
        permit.refuse(one, "too late")
    assert book.state(one.id) is FixState.applied


@pytest.mark.parametrize(
    "change",
    [
        {"want": {"v": "evil"}},
        {"expect": {"v": "anything"}},
        {"target": "another row"},
        {"action": "drop"},
        {"id": "fix_000000000000"},
        {"id": ""},
    ],
)
def test_a_forged_fix_opens_nothing(book: Ledger, change: dict[str, object]) -> None:
    one = grant(book, a_fix())
    forged = one.model_copy(update=change)
    assert "no permit for it" in refused(Permit(book, [one]), forged)
    assert book.state(one.id) is FixState.granted


def test_a_permit_for_what_the_ledger_never_granted_opens_nothing(book: Ledger) -> None:
    grant(book, a_fix())
    invented = a_fix("row 2").model_copy(update={"id": "fix_000000000000"})
    refused(Permit(book, [invented]), invented)
    planned = a_fix("row 2")
    refused(Permit(book, [planned]), planned)


def test_the_red_button_stops_a_fix_that_was_granted_already(book: Ledger) -> None:
    one, other = grant(book, a_fix("a")), grant(book, a_fix("b"))
    book.press("stop", "fire")
    assert "red button" in refused(Permit(book, [one]), one)
    assert book.state(one.id) is FixState.refused
    book.press("start", "out")
    refused(Permit(book, [one]), one)
    with Permit(book, [other]).attempt(other):
        pass


def test_the_red_button_stops_a_hand_that_waits_for_its_turn_to_write(book: Ledger, ledger_url: str) -> None:
    one, waits, acted = grant(book, a_fix()), threading.Event(), threading.Event()

    def asks_for_its_turn(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if "IMMEDIATE" in statement or "pg_advisory_xact_lock" in statement:
            waits.set()

    def act() -> None:
        with suppress(NotPermitted), Permit(book, [one]).attempt(one):
            acted.set()

    hand = threading.Thread(target=act)
    event.listen(book.engine, "before_cursor_execute", asks_for_its_turn)
    with Ledger(ledger_url).write() as connection:
        hand.start()
        assert waits.wait(10)
        book.note(connection, "stop", {"reason": "fire"})
    hand.join()
    assert (acted.is_set(), book.state(one.id)) == (False, FixState.refused)


def test_when_the_outcome_cannot_be_written_the_intent_stays(tmp_path: Path) -> None:
    book = Ledger(f"sqlite:///{tmp_path}/l.db")
    one = grant(book, a_fix())
    with pytest.raises(LedgerError), Permit(book, [one]).attempt(one):
        book.engine.dispose()
        (tmp_path / "l.db").rename(tmp_path / "away.db")
        (tmp_path / "l.db").mkdir()
    (tmp_path / "l.db").rmdir()
    (tmp_path / "away.db").rename(tmp_path / "l.db")
    assert book.state(one.id) is FixState.intended
