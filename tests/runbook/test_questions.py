"""What waits for a person: one ledger run from the question to its answer; unanswered in time it is a refusal."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from runbook import outbox, questions
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState, Mode, Risk, plan_hash
from runbook.questions import EXPIRED, TAKE_UP_MS, Question
from runbook.run import Run
from runbook.schema import entry, run
from tests.runbook.parts import RUNBOOK, rows


def ask(
    book: Ledger, prefect_run: str = "p1", plan: str = "plan", in_ms: int = 60_000, unattended: bool = False
) -> str:
    """A run that waits for a person; ``in_ms`` from now its question expires."""
    run_id = book.open_run(RUNBOOK, "approve")
    questions.asked(book, run_id, RUNBOOK, Question(prefect_run, plan, now_ms() + in_ms, unattended))
    return run_id


def outcome(book: Ledger, run_id: str) -> str | None:
    with book.read() as connection:
        found: str | None = connection.execute(select(run.c.outcome).where(run.c.id == run_id)).scalar_one()
    return found


def approvals(book: Ledger, run_id: str) -> list[dict[str, object]]:
    with book.read() as connection:
        rule = select(entry.c.body).where(entry.c.run_id == run_id, entry.c.kind == "approval")
        return list(connection.execute(rule).scalars())


def test_an_answered_run_goes_on_as_the_same_run_and_once(book: Ledger) -> None:
    run_id = ask(book)
    assert outcome(book, run_id) == "waiting"
    assert questions.go_on(book, "another", "approve") is None
    assert questions.go_on(book, "p1", "approve") == run_id
    assert outcome(book, run_id) is None
    assert questions.go_on(book, "p1", "approve") is None


@pytest.mark.parametrize(("in_ms", "over"), [(60_000, False), (-TAKE_UP_MS + 5_000, False), (-TAKE_UP_MS - 1, True)])
def test_a_question_expires_with_time_for_a_worker_to_take_the_answer_up(book: Ledger, in_ms: int, over: bool) -> None:
    run_id = ask(book, in_ms=in_ms)
    assert questions.is_expired(book, "p1", "plan") is over
    assert questions.is_expired(book, "p1", "a plan nobody was asked about")
    said = questions.expire(book)
    assert (len(said), outcome(book, run_id)) == ((1, "refused") if over else (0, "waiting"))
    if over:
        assert EXPIRED in said[0] and run_id in said[0]
        assert [one["refusal"] for one in approvals(book, run_id)] == [EXPIRED]
        assert questions.expire(book) == []
        assert [(one.key, one.times) for one in outbox.pages(book)] == [(f"{RUNBOOK}:approval", 1)]
        assert questions.go_on(book, "p1", "approve") is None


def test_only_the_newest_question_of_a_run_counts(book: Ledger) -> None:
    run_id = ask(book, in_ms=-TAKE_UP_MS - 1)
    assert questions.go_on(book, "p1", "approve") == run_id
    questions.asked(book, run_id, RUNBOOK, Question("p1", "a drifted plan", now_ms() + 60_000))
    assert questions.expire(book) == []
    assert outcome(book, run_id) == "waiting"


def test_an_approval_is_used_once_and_a_refusal_stays(book: Ledger) -> None:
    run_id = ask(book)
    first = questions.key(book, run_id, "plan")
    for refusal, same in (("refused by me", True), ("", False)):
        with book.write() as connection:
            book.note(connection, "approval", {"refusal": refusal, "plan_hash": "plan"}, run_id=run_id)
        assert (questions.key(book, run_id, "plan") == first) is same
    assert questions.key(book, run_id, "another") == "approve-another"


def test_an_unattended_question_calls_a_person_until_it_is_answered(book: Ledger) -> None:
    ask(book)
    assert outbox.pages(book) == []  # whoever started it by hand knows
    run_id = ask(book, "p2", unattended=True)
    (page,) = outbox.pages(book)
    assert (page.key, page.state, f"runbook approve {run_id}" in page.text) == (f"{RUNBOOK}:approval", "open", True)
    questions.go_on(book, "p2", "approve")
    assert [one.state for one in outbox.pages(book)] == ["resolved"]


def test_one_question_of_a_runbook_is_enough(book: Ledger) -> None:
    plan = rows(2, Risk.person)
    assert not questions.why_not_ask(book, RUNBOOK, plan)
    run_id = ask(book, plan="another plan")
    assert f"{run_id} already waits" in questions.why_not_ask(book, RUNBOOK, plan)
    assert not questions.why_not_ask(book, "another-runbook", plan)
    questions.go_on(book, "p1", "approve")
    assert not questions.why_not_ask(book, RUNBOOK, plan)


def test_a_question_that_is_over_keeps_nobody_from_asking(book: Ledger) -> None:
    ask(book, in_ms=-TAKE_UP_MS - 1)
    assert not questions.why_not_ask(book, RUNBOOK, rows(1))


def test_what_a_person_declined_is_not_asked_for_again_within_the_hour(book: Ledger) -> None:
    plan, run_id = rows(3, Risk.person), book.open_run(RUNBOOK, "approve")
    with book.write() as connection:
        said = {"by": "somebody", "approved": [plan[0].key], "refusal": "", "plan_hash": plan_hash(plan)}
        book.note(connection, "approval", said, run_id=run_id)
        for one in plan[:2]:
            refused = one.model_copy(update={"state": FixState.refused})
            book.record(connection, run_id, RUNBOOK, refused, plan_hash(plan), 1000)
    assert "declined" in questions.why_not_ask(book, RUNBOOK, plan[1:2])
    assert not questions.why_not_ask(book, RUNBOOK, plan[:1])  # approved, and refused by something else
    assert not questions.why_not_ask(book, RUNBOOK, plan[1:])  # one of them nobody was shown
    with book.write() as connection:  # the next question of the same run
        book.note(connection, "approval", said | {"approved": []}, run_id=run_id)
    assert not questions.why_not_ask(book, RUNBOOK, plan[:1])
    with book.write() as connection:
        connection.execute(update(entry).where(entry.c.kind == "approval").values(at_ms=now_ms() - 3_600_001))
    assert not questions.why_not_ask(book, RUNBOOK, plan[1:2])


async def test_the_next_run_of_any_runbook_writes_and_tells_it(in_force: Ledger) -> None:
    run_id = ask(in_force, in_ms=-TAKE_UP_MS - 1)
    async with Run("another-runbook", Mode.auto) as later:
        pass
    assert later.report is not None
    (notice,) = later.report.notices
    assert run_id in notice and "expired" in notice
    assert outcome(in_force, run_id) == "refused"
