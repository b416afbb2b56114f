"""The ledger as evidence: whatever is altered, taken out or slipped in is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, update

from runbook import chain, questions
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState
from runbook.schema import entry, finding, fix, link, run, version
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
    with book.read(steady=True) as connection:
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


def rewritten(table: Table, **values: object) -> Callable[[Connection], object]:
    """A way to change every row of a table."""

    def rewrite(connection: Connection) -> None:
        connection.execute(update(table).values(**values))

    rewrite.__name__ = f"{table.name}.{next(iter(values))}"
    return rewrite


def moved_to_another_run(connection: Connection) -> None:
    other = connection.execute(select(finding.c.run_id)).scalar_one()
    connection.execute(update(fix).values(run_id=other))


def forged(table: Table) -> Callable[[Connection], object]:
    """A way to add a row that is like another."""

    def forge(connection: Connection) -> None:
        values = dict(connection.execute(select(table).limit(1)).mappings().one())
        values.pop("seq", None)
        connection.execute(insert(table).values(**values | ({"id": f"{table.name}_forged"} if "id" in values else {})))

    forge.__name__ = f"a {table.name} more"
    return forge


def gone(table: Table) -> Callable[[Connection], object]:
    """A way to take every row of a table out."""

    def take_out(connection: Connection) -> None:
        for each in (fix, finding, run) if table is run else (table,):
            connection.execute(delete(each))

    take_out.__name__ = f"no {table.name}"
    return take_out


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (altered, "entry 3 (intended)"),
        (backdated, "entry 5 (proven)"),
        (taken_out, "entry 4 (applied)"),
        (slipped_in, "entry 9 (approval)"),
        (linked_in, "entry 9 (approval)"),
        (rewritten(fix, target="row 9"), "fix fix_"),
        (rewritten(fix, expect={"v": "never so"}), "fix fix_"),
        (rewritten(fix, state="undone"), "fix fix_"),
        (rewritten(fix, why="all is well"), "fix fix_"),
        (rewritten(fix, plan_hash="another"), "fix fix_"),
        (rewritten(fix, runbook="another"), "fix fix_"),
        (rewritten(fix, owner="nobody:1:1"), "fix fix_"),
        (rewritten(fix, decided_at_ms=1), "fix fix_"),
        (rewritten(fix, intended_at_ms=None), "fix fix_"),
        (rewritten(fix, granted_until_ms=1), "fix fix_"),
        (moved_to_another_run, "fix fix_"),
        (forged(fix), "fix fix_forged (no entry tells of it)"),
        (gone(fix), "fix fix_"),
        (rewritten(run, runbook="another"), "run run_"),
        (rewritten(run, mode="observe"), "run run_"),
        (rewritten(run, owner="nobody:1:1"), "run run_"),
        (rewritten(run, outcome="healthy"), "run run_"),
        (rewritten(run, report={"reason": "all was well"}), "run run_"),
        (rewritten(run, started_at_ms=1), "run run_"),
        (rewritten(run, ended_at_ms=1), "run run_"),
        (forged(run), "run run_forged (no entry tells of it)"),
        (gone(run), "run run_"),
        (rewritten(finding, subject="another"), "a finding of run run_"),
        (rewritten(finding, detail="is well"), "a finding of run run_"),
        (rewritten(finding, evidence={"n": 0}), "a finding of run run_"),
        (rewritten(finding, at_ms=1), "a finding of run run_"),
        (forged(finding), "a finding of run run_"),
        (gone(finding), "a finding of run run_"),
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
        connection.execute(update(run).values(outcome=None, ended_at_ms=None, report=None))

    change(book, cut)
    assert not check(book).broken
    assert not check(book, noted).noted
    assert not check(book, noted[:16]).as_json()["whole"]


def test_a_row_of_a_run_that_waited_and_went_on_is_as_its_entries_say(in_force: Ledger) -> None:
    run_id = in_force.open_run(RUNBOOK, "approve")
    questions.asked(in_force, run_id, RUNBOOK, questions.Question("p", "plan", now_ms() + 60_000))
    assert questions.go_on(in_force, "p", "auto") == run_id
    assert not check(in_force).broken
    questions.asked(in_force, run_id, RUNBOOK, questions.Question("p", "plan", now_ms() - questions.TAKE_UP_MS - 1))
    assert len(questions.expire(in_force)) == 1
    assert not check(in_force).broken
    change(in_force, rewritten(run, outcome="fixed"))
    assert check(in_force).broken.startswith("run run_")


def as_an_older_version_wrote(connection: Connection) -> None:
    """The same entries with only what they said before, in a chain of their own."""
    connection.execute(delete(link))
    for row in connection.execute(select(entry).order_by(entry.c.seq)).mappings().all():
        body = {name: value for name, value in row["body"].items() if name not in {"report", "granted_until_ms"}}
        connection.execute(update(entry).where(entry.c.seq == row["seq"]).values(body=body))
        hashed = chain.digest(chain.head(connection), {**row, "body": body})
        connection.execute(insert(link).values(seq=row["seq"], hash=hashed))


def test_an_older_versions_entries_are_held_against_for_what_they_say(book: Ledger) -> None:
    story(book)
    run_id = book.open_run(RUNBOOK, "approve")
    book.close_run(run_id, "waiting", {"error": ""})
    change(book, as_an_older_version_wrote)
    change(book, lambda it: it.execute(update(run).where(run.c.id == run_id).values(outcome="refused")))
    assert not check(book).broken, "that a question had expired was once told by no entry of the run's"
    change(book, lambda it: it.execute(update(run).where(run.c.outcome == "fixed").values(report={"reason": "x"})))
    assert "(reason)" in check(book).broken


def test_entries_that_lost_their_hashes_are_missed(book: Ledger) -> None:
    story(book)
    change(book, lambda it: it.execute(delete(link)))
    assert check(book).broken == "8 entries without a hash"
    story(book, "row 2")
    assert check(book).broken == "8 entries without a hash"


def test_an_older_ledger_is_chained_from_its_update_on(book: Ledger, ledger_url: str) -> None:
    story(book)
    change(book, lambda it: it.execute(delete(link)))
    change(book, lambda it: it.execute(update(version).values(version=1)))
    newer = Ledger(ledger_url)
    story(newer, "row 2")
    found = check(newer)
    assert (found.broken, found.entries, found.older) == ("", 9, 8)
    change(newer, altered)
    assert check(newer).broken == "8 entries without a hash"
    change(newer, lambda it: it.execute(delete(entry).where(entry.c.seq <= 8)))
    assert check(newer).broken == "8 entries from before the chain"
