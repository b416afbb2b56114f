"""The ledger as evidence: whatever is altered, taken out or slipped in is named; what is sealed away carries on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from runbook import chain
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState
from runbook.schema import entry, finding, fix, link, run
from tests.runbook.parts import FINDING, RUNBOOK, a_fix, grant


def story(book: Ledger, target: str = "row 1") -> str:
    """A run that found something and mended it; the id of its fix."""
    one = grant(book, a_fix(target))
    book.move(one.id, [FixState.granted], FixState.intended, {}, fresh=True)
    book.move(one.id, [FixState.intended], FixState.applied, {"rows": 1})
    book.move(one.id, [FixState.applied], FixState.proven, {"seen": "new"})
    run_id = book.open_run(RUNBOOK, "auto")
    book.found(run_id, [FINDING])
    book.close_run(run_id, "fixed", {"reason": ""})
    return one.id


def check(book: Ledger, noted: str = "") -> chain.Checked:
    with book.read() as connection:
        return chain.verify(connection, noted)


def change(book: Ledger, what: Callable[[Connection], object]) -> None:
    """Somebody with the database in hand: no method of the ledger's does this."""
    with book.engine.begin() as connection:
        what(connection)


def test_an_untouched_ledger_is_whole(book: Ledger) -> None:
    assert check(book) == chain.Checked(entries=0, head="")
    story(book)
    first = check(book)
    assert (first.broken, first.entries) == ("", 8)
    story(book, "row 2")
    later = check(book, first.head)
    assert later.noted and not later.broken
    assert later.head != first.head


def altered(connection: Connection) -> None:
    third = connection.execute(select(entry.c.seq).order_by(entry.c.seq).offset(2).limit(1)).scalar_one()
    connection.execute(update(entry).where(entry.c.seq == third).values(body={"why": "all is well"}))


def backdated(connection: Connection) -> None:
    connection.execute(update(entry).where(entry.c.kind == "proven").values(at_ms=1))


def taken_out(connection: Connection) -> None:
    seq = connection.execute(select(entry.c.seq).where(entry.c.kind == "intended").limit(1)).scalar_one()
    connection.execute(delete(link).where(link.c.seq == seq))
    connection.execute(delete(entry).where(entry.c.seq == seq))


def slipped_in(connection: Connection) -> None:
    values = {"at_ms": now_ms(), "kind": "approval", "actor": "nobody", "body": {"by": "somebody"}}
    connection.execute(insert(entry).values(**values))


def linked_in(connection: Connection) -> None:
    slipped_in(connection)
    seq = connection.execute(select(entry.c.seq).order_by(entry.c.seq.desc()).limit(1)).scalar_one()
    connection.execute(insert(link).values(seq=seq, hash="0" * 64))


def another_target(connection: Connection) -> None:
    connection.execute(update(fix).values(target="row 9"))


def another_image(connection: Connection) -> None:
    connection.execute(update(fix).values(expect={"v": "never so"}))


def another_end(connection: Connection) -> None:
    connection.execute(update(fix).values(state=FixState.undone.value))


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (altered, "entry 3 (intended)"),
        (backdated, "entry 5 (proven)"),
        (taken_out, "entry 4 (applied)"),
        (slipped_in, "entry 9 (approval)"),
        (linked_in, "entry 9 (approval)"),
        (another_target, "fix fix_"),
        (another_image, "fix fix_"),
        (another_end, "fix fix_"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_the_first_row_that_is_not_as_written_is_named(
    book: Ledger, tamper: Callable[[Connection], None], named: str
) -> None:
    story(book)
    change(book, tamper)
    assert check(book).broken.startswith(named)


def test_what_was_cut_off_is_missed_by_who_noted_the_hash(book: Ledger) -> None:
    story(book)
    noted = check(book).head

    def cut(connection: Connection) -> None:
        last = connection.execute(select(entry.c.seq).order_by(entry.c.seq.desc()).limit(1)).scalar_one()
        connection.execute(delete(link).where(link.c.seq == last))
        connection.execute(delete(entry).where(entry.c.seq == last))

    change(book, cut)
    assert not check(book).broken
    assert not check(book, noted).noted
    assert not check(book, noted[:16]).as_json()["whole"]


def test_what_is_old_is_summed_up_and_the_chain_goes_on(book: Ledger) -> None:
    story(book)
    noted = check(book).head
    summed = book.seal(now_ms() + 1)
    assert summed["runs"] == {f"{RUNBOOK} None": 1, f"{RUNBOOK} fixed": 1}
    assert summed["fixes"] == {"set proven": 1}
    assert summed["last_hash"] == noted
    with book.read() as connection:
        assert [row.kind for row in connection.execute(select(entry))] == ["sealed"]
        assert not any(connection.execute(select(table)).first() for table in (run, fix, finding))
    story(book, "row 2")
    after = check(book)
    assert (after.broken, after.entries) == ("", 9)
    change(
        book, lambda it: it.execute(update(entry).where(entry.c.kind == "sealed").values(body=dict(summed, runs={})))
    )
    assert check(book).broken == "entry 9 (sealed)"


def test_nothing_of_an_open_fix_is_sealed_away(book: Ledger) -> None:
    one = grant(book, a_fix())
    assert book.seal(now_ms() + 1_000) == {}
    assert book.state(one.id) is FixState.granted
    assert not check(book).broken


def test_an_older_ledger_is_chained_from_its_update_on(book: Ledger) -> None:
    story(book)
    change(book, lambda it: it.execute(delete(link)))
    assert check(book) == chain.Checked(entries=0, head="")
    story(book, "row 2")
    assert (check(book).broken, check(book).entries) == ("", 8)
