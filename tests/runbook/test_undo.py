"""What a person took back is known from the moment they said so, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from runbook import undo
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState
from runbook.permit import settle
from runbook.policy import HOURS_24
from runbook.schema import entry, fix
from tests.runbook.parts import World, a_fix, grant, told


def taken_back(book: Ledger) -> set[str]:
    with book.read() as connection:
        return undo.taken_back(connection)


def done(book: Ledger, target: str) -> str:
    made = grant(book, a_fix(target))
    book.move(made.id, [FixState.granted], FixState.intended, {}, fresh=True)
    book.move(made.id, [FixState.intended], FixState.proven, {})
    return made.id


def test_what_a_person_took_back_is_known_for_a_day_by_when_they_did(book: Ledger) -> None:
    old, kept = done(book, "row 1"), done(book, "row 2")
    with book.write() as connection:
        connection.execute(update(fix).where(fix.c.id == old).values(decided_at_ms=now_ms() - 5 * HOURS_24))
    assert taken_back(book) == set()
    book.move(old, [FixState.proven], FixState.undone, {"by": done(book, "row 1")})
    assert taken_back(book) == {"row 1"} and book.state(kept) is FixState.proven
    with book.write() as connection:
        connection.execute(update(entry).where(entry.c.kind == "undone").values(at_ms=now_ms() - HOURS_24 - 1))
    assert taken_back(book) == set()


def test_what_was_done_again_since_is_taken_back_no_more(book: Ledger) -> None:
    book.move(done(book, "row 1"), [FixState.proven], FixState.undone, {"by": done(book, "row 1")})
    grant(book, a_fix("row 1"))  # only granted: nothing was done yet
    assert taken_back(book) == {"row 1"}
    with book.write() as connection:
        connection.execute(update(fix).where(fix.c.state == "granted").values(state="refused"))
    done(book, "row 1")
    assert taken_back(book) == set()


def test_what_was_done_between_an_act_and_its_undo_does_not_count_as_since(book: Ledger) -> None:
    first, _ = done(book, "row 1"), done(book, "row 1")
    book.move(first, [FixState.proven], FixState.undone, {"by": done(book, "row 1")})
    assert taken_back(book) == {"row 1"}


def test_a_second_undo_that_failed_does_not_hide_the_first(book: Ledger) -> None:
    first = done(book, "row 1")
    for state in (FixState.applied, FixState.failed):
        inverse = grant(book, a_fix("row 1", was="new"))
        undo.intend(book, first, inverse.id)
        book.move(inverse.id, [FixState.granted], state, {})
    assert taken_back(book) == {"row 1"}


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (FixState.granted, True),
        (FixState.intended, True),
        (FixState.applied, True),
        (FixState.proven, True),
        (FixState.failed, False),
        (FixState.refused, False),
    ],
)
def test_an_undo_that_was_cut_short_counts_unless_it_certainly_came_to_nothing(
    book: Ledger, state: FixState, counts: bool
) -> None:
    first = done(book, "row 1")
    inverse = grant(book, a_fix("row 1", was="new"))
    undo.intend(book, first, inverse.id)
    book.move(inverse.id, [FixState.granted], state, {})
    assert taken_back(book) == ({"row 1"} if counts else set())


async def test_an_inverse_that_is_proven_later_calls_undone_what_it_took_back(book: Ledger, world: World) -> None:
    first, other = done(book, "row 1"), done(book, "row 2")
    inverse = grant(book, a_fix("row 1"))
    undo.intend(book, first, inverse.id)
    book.move(inverse.id, [FixState.granted], FixState.intended, {})
    world.rows["row 1"] = "new"
    assert await settle(book, inverse, world.hands()["set"])
    assert (book.state(first), book.state(other)) == (FixState.undone, FixState.proven)
    assert told(book, first)[-1] == ("undone", {"by": inverse.id})
    with book.read() as connection:
        kinds = connection.execute(select(entry.c.kind).where(entry.c.fix_id == first)).scalars().all()
    assert kinds.count("undone") == 1
