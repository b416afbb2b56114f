"""The only key that opens a hand: once, for one fix, for a time, and not when the red button is pressed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runbook.errors import NotPermitted
from runbook.ledger import Ledger
from runbook.model import FixState
from runbook.permit import Permit
from tests.runbook.parts import a_fix, grant


def test_an_attempt_writes_the_intent_before_and_the_outcome_after(book: Ledger) -> None:
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one) as attempt:
        assert book.state(one.id) is FixState.intended
        attempt.did(rows=1)
    assert book.state(one.id) is FixState.applied


@pytest.mark.parametrize(("say", "end"), [("moved_on", FixState.refused), ("failed", FixState.failed)])
def test_what_the_hand_says_is_kept(book: Ledger, say: str, end: FixState) -> None:
    one = grant(book, a_fix())
    with Permit(book, [one]).attempt(one) as attempt:
        getattr(attempt, say)("because")
    assert book.state(one.id) is end


def test_an_attempt_that_breaks_stays_intended(book: Ledger) -> None:
    one = grant(book, a_fix())
    with pytest.raises(ZeroDivisionError), Permit(book, [one]).attempt(one):
        _ = 1 / 0
    assert book.state(one.id) is FixState.intended


def refused(permit: Permit, one: object) -> None:
    entered = False
    with pytest.raises(NotPermitted), permit.attempt(one):  # type: ignore[arg-type]
        entered = True
    assert not entered


def test_a_used_permit_opens_nothing(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])
    with permit.attempt(one):
        pass
    refused(permit, one)
    refused(Permit(book, [one]), one)


def test_an_expired_permit_opens_nothing(book: Ledger) -> None:
    one = grant(book, a_fix(), ttl_ms=-1)
    refused(Permit(book, [one]), one)


def test_a_forged_fix_opens_nothing(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])
    refused(permit, a_fix("another row"))
    refused(permit, one.model_copy(update={"want": {"v": "evil"}}))
    refused(permit, one.model_copy(update={"id": "fix_000000000000"}))
    refused(Permit(book, [one.model_copy(update={"id": "fix_000000000000"})]), one)
    assert book.state(one.id) is FixState.granted


def test_the_red_button_stops_a_fix_that_was_granted_already(book: Ledger) -> None:
    one = grant(book, a_fix())
    book.press("stop", "fire")
    refused(Permit(book, [one]), one)
    assert book.state(one.id) is FixState.refused


def test_of_many_threads_one_enters(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])

    def race(_n: int) -> int:
        try:
            with permit.attempt(one):
                return 1
        except NotPermitted:
            return 0

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(race, range(64))) == 1


RACE = textwrap.dedent("""
    import sys
    from runbook.errors import NotPermitted
    from runbook.ledger import Ledger
    from runbook.permit import Permit
    book = Ledger(sys.argv[1])
    one = next(fix for fix in book.fixes(sys.argv[2]) if fix.id == sys.argv[3])
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with Permit(book, [one]).attempt(one):
            print("entered", flush=True)
    except NotPermitted:
        print("refused", flush=True)
""")


def run_of(book: Ledger, fix_id: str) -> str:
    from sqlalchemy import select

    from runbook.schema import fix

    with book.read() as connection:
        return str(connection.execute(select(fix.c.run_id).where(fix.c.id == fix_id)).scalar_one())


def test_of_many_processes_one_enters(book: Ledger, ledger_url: str) -> None:
    one = grant(book, a_fix())
    words = [sys.executable, "-c", RACE, ledger_url, run_of(book, one.id), one.id]
    started = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(6)
    ]
    for each in started:
        assert each.stdout and each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin
        each.stdin.write("go\n")
    said = [each.communicate(timeout=30)[0].strip() for each in started]
    assert sorted(said) == ["entered"] + ["refused"] * 5


DIE = textwrap.dedent("""
    import os, signal, sys
    from runbook.ledger import Ledger
    from runbook.permit import Permit
    sys.path.insert(0, os.getcwd())
    from tests.runbook.parts import a_fix, grant
    book = Ledger(sys.argv[1])
    one = grant(book, a_fix("left behind"))
    with Permit(book, [one]).attempt(one):
        print(one.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
""")


def test_a_killed_process_leaves_its_intent_for_the_next_run_at_once(book: Ledger, ledger_url: str) -> None:
    died = subprocess.run([sys.executable, "-c", DIE, ledger_url], capture_output=True, text=True, cwd=Path.cwd())
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = book.unsettled("a-runbook", 120_000)
    assert [fix.id for fix in left] == [died.stdout.strip()]
    with book.read() as connection:
        assert book.open_targets(connection) == {"left behind"}
