"""The memory, on both databases, and what happens when it cannot be written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from runbook.errors import LedgerError
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState
from runbook.process import is_dead, this_process
from tests.runbook.parts import a_fix, grant

MAKE = "import sys; from runbook.ledger import Ledger; Ledger(sys.argv[1]).open_run('x', 'auto')"


def test_a_ledger_makes_itself_even_for_four_at_once(ledger_url: str) -> None:
    started = [subprocess.Popen([sys.executable, "-c", MAKE, ledger_url]) for _ in range(4)]
    assert [one.wait(60) for one in started] == [0, 0, 0, 0]
    with Ledger(ledger_url).read() as connection:
        assert connection.execute(text("SELECT count(*) FROM run")).scalar_one() == 4
        assert connection.execute(text("SELECT count(*) FROM runbook_version")).scalar_one() == 1


def test_a_ledger_of_a_newer_version_is_refused(book: Ledger, ledger_url: str) -> None:
    with book.write() as connection:
        connection.execute(text("UPDATE runbook_version SET version = 99"))
    with pytest.raises(LedgerError, match=r"RUNBOOK_LEDGER_URL: has schema 99, this version knows 1.*upgrade"):
        Ledger(ledger_url)


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


def test_a_move_happens_once_and_is_told(book: Ledger) -> None:
    one = grant(book, a_fix())
    assert book.move(one.id, [FixState.granted], FixState.intended, {})
    assert not book.move(one.id, [FixState.granted], FixState.intended, {})
    assert book.state(one.id) is FixState.intended
    with book.read() as connection:
        kinds = [row.kind for row in connection.execute(text("SELECT kind FROM entry ORDER BY seq"))]
    assert kinds == ["granted", "intended"]


def test_an_expired_grant_is_given_back(book: Ledger) -> None:
    one = grant(book, a_fix(), ttl_ms=-1)
    assert not book.move(one.id, [FixState.granted], FixState.intended, {}, fresh=True)
    with book.write() as connection:
        book.expire_grants(connection)
    assert book.state(one.id) is FixState.refused


def test_a_live_process_keeps_its_grant_and_its_intent(book: Ledger) -> None:
    one, other = grant(book, a_fix("a")), grant(book, a_fix("b"))
    book.move(other.id, [FixState.granted], FixState.intended, {})
    with book.write() as connection:
        book.expire_grants(connection)
    assert book.state(one.id) is FixState.granted
    assert book.unsettled("a-runbook", 120_000) == []
    assert [fix.id for fix in book.unsettled("a-runbook", -1000)] == [other.id]


def test_history_counts_grants_and_what_was_attempted(book: Ledger) -> None:
    waiting, begun, refused = (grant(book, a_fix(name)) for name in "abc")
    book.move(begun.id, [FixState.granted], FixState.intended, {})
    book.move(begun.id, [FixState.intended], FixState.refused, {"why": "moved on"})
    book.move(refused.id, [FixState.granted], FixState.refused, {"why": "given back untried"})
    with book.read() as connection:
        assert {past.target for past in book.history(connection)} == {waiting.target, begun.target}


def test_this_process_lives_and_an_ended_one_is_dead() -> None:
    assert not is_dead(this_process())
    ask = "from runbook.process import this_process; print(this_process())"
    gone = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    assert is_dead(gone)
    host, pid, _started = this_process().rsplit(":", 2)
    assert is_dead(f"{host}:{pid}:1"), "another process that had this number"
    assert not is_dead(f"elsewhere:{pid}:1"), "nobody can tell from here"


def broken(url: str) -> str:
    with pytest.raises(LedgerError) as refused:
        Ledger(url).press("stop", "x")
    message = str(refused.value)
    assert message.startswith("RUNBOOK_LEDGER_URL: ")
    assert "\n" not in message
    return message


def test_a_ledger_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_text("this is not a database, however long it may go on " * 50)
    assert "not a database" in broken(f"sqlite:///{tmp_path}/l.db")


def test_a_ledger_in_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "unable to open" in broken(f"sqlite:///{tmp_path}/file/l.db")


def test_a_url_that_is_none() -> None:
    assert "not a database URL" in broken("what is this")


def test_an_unreachable_server_does_not_tell_its_password() -> None:
    assert "secret-word" not in broken("postgresql://someone:secret-word@127.0.0.1:9/ledger")


def test_a_locked_ledger_is_an_error_and_not_a_wait_for_ever(tmp_path: Path) -> None:
    book = Ledger(f"sqlite:///{tmp_path}/l.db")
    holder = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="locked"):
        book.press("stop", "x")
    holder.execute("ROLLBACK")
    book.press("stop", "x")
    holder.close()


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    book = Ledger(f"sqlite:///{tmp_path}/l.db")
    book.press("stop", "before")
    with book.engine.connect() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    from sqlalchemy import event

    @event.listens_for(book.engine, "begin")
    def small(connection: object) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used}")  # type: ignore[attr-defined]

    with pytest.raises(LedgerError, match="full"):
        for _ in range(200):
            book.press("start", "x" * 2000)
    with book.read() as connection:
        assert book.stopped(connection) in {"before", None}


def test_a_read_only_ledger_is_named(tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path}/l.db").engine.dispose()
    message = broken(f"sqlite:///file:{tmp_path}/l.db?mode=ro&uri=true")
    assert "readonly" in message
    assert now_ms() > 0
