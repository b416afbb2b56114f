"""A ledger that cannot be read or written: one line that names its setting, in bounded time, and no hand opens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from demo.postgres import Postgres
from runbook import answering, engine, gate, memory, schema, settings
from runbook.errors import LedgerError
from runbook.ledger import WRITE_LOCK, Ledger
from runbook.model import FixState, Mode
from runbook.permit import Permit
from runbook.process import this_process
from runbook.run import Run
from tests.runbook.parts import FINDING, RUNBOOK, a_fix, grant

PATIENCE = 30
"""Only ends a test that would never end; what is promised is an error, not how soon."""


@contextmanager
def at_the_latest(end: Callable[[], object]) -> Iterator[None]:
    """Frees by force what a test would otherwise wait for without end."""
    timer = threading.Timer(PATIENCE, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def line(error: LedgerError) -> str:
    said = str(error)
    assert said.startswith("RUNBOOK_LEDGER_URL: "), said
    assert "Next: " in said and "\n" not in said
    return said


def broken(url: str) -> str:
    with pytest.raises(LedgerError) as refused:
        Ledger(url).press("stop", "x")
    return line(refused.value)


def test_a_newer_ledger_is_refused(book: Ledger, ledger_url: str) -> None:
    with book.write() as connection:
        connection.execute(text("UPDATE runbook_version SET version = 99"))
    assert f"has schema 99, this version knows {schema.VERSION}. Next: upgrade" in broken(ledger_url)


def test_an_older_ledger_is_brought_up_to_date_and_keeps_what_it_holds(book: Ledger, ledger_url: str) -> None:
    book.press("stop", "kept")
    with book.write() as connection:
        for table in ("memo", "reading", "log_event"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE runbook_version SET version = 1"))
    newer = Ledger(ledger_url)
    memory.remember(newer, "key", {"a": 1})
    with newer.read() as connection:
        assert newer.stopped(connection) == "kept"
    assert memory.recall(Ledger(ledger_url), "key") == {"a": 1}


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_text("this is not a database, however long it may go on " * 50)
    assert "not a database" in broken(f"sqlite:///{tmp_path}/l.db")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "unable to open" in broken(f"sqlite:///{tmp_path}/file/l.db")


@pytest.mark.parametrize("url", ["what is this", "oracle+nothing://x", ""])
def test_a_url_that_is_none(url: str) -> None:
    assert "not a database URL" in broken(url)


def test_an_unreachable_server_does_not_tell_its_password() -> None:
    assert "secret-word" not in broken("postgresql://someone:secret-word@127.0.0.1:9/ledger")


def test_a_missing_database_is_named(postgres_url: str) -> None:
    assert 'database "nowhere" does not exist' in broken(postgres_url.rpartition("/")[0] + "/nowhere")


def test_a_server_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, at_the_latest(mute.close):
        assert "timeout" in broken(f"postgresql://u@127.0.0.1:{mute.getsockname()[1]}/ledger")


# -- locked ---------------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Ledger]:
    """An SQLite ledger that another process holds."""
    book = Ledger(f"sqlite:///{tmp_path}/own.db")
    words = [sys.executable, "-c", HOLD, str(tmp_path / "own.db")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield book
        other.communicate("go\n", timeout=PATIENCE)
    book.press("start", "it is free again")


async def test_a_locked_ledger_opens_no_run(holder: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    settings.forget()
    with pytest.raises(LedgerError, match="locked") as refused:
        async with Run(RUNBOOK, Mode.auto):
            raise AssertionError("a run that nobody remembers")
    line(refused.value)


def test_a_file_that_another_is_just_making_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    assert Ledger(f"sqlite:///{tmp_path}/ledger.db").open_run(RUNBOOK, "auto")
    other.close()


def test_a_grant_lock_nobody_lets_go(postgres_url: str) -> None:
    book = Ledger(postgres_url)
    with psycopg.connect(postgres_url) as other, at_the_latest(other.close):
        other.execute("SELECT pg_advisory_lock(%s)", [WRITE_LOCK])
        with pytest.raises(LedgerError, match="lock timeout") as refused:
            grant(book, a_fix())
    line(refused.value)
    grant(book, a_fix())


@contextmanager
def standing_still(server: Postgres) -> Iterator[None]:
    """The whole server stopped as a machine that hangs: its sockets stay open and say nothing."""
    with psycopg.connect(server.url("postgres")) as owner:
        found = owner.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
    pids = [int((server.data / "postmaster.pid").read_text().split()[0]), *(pid for (pid,) in found)]

    def go_on() -> None:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)

    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with at_the_latest(go_on):
            yield
    finally:
        go_on()


def test_a_server_that_stands_still_is_an_error_and_then_found_again(
    ledger_server: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "ANSWER_SECONDS", 0.5)
    url = f"{postgres_url}?connect_timeout=2"
    book = Ledger(url)
    with book.read() as open_already, standing_still(ledger_server):
        with pytest.raises(DBAPIError, match="has not answered"):
            open_already.execute(text("SELECT 1"))
        with pytest.raises(LedgerError) as refused:
            book.press("stop", "x")
        line(refused.value)
        assert "timeout" in broken(url)
    book.press("stop", "it answers again")
    with book.read() as connection:
        assert book.stopped(connection) == "it answers again"


def test_a_statement_that_does_not_end_is_ended(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STATEMENT_SECONDS", 1)
    with pytest.raises(LedgerError, match="statement timeout"), Ledger(postgres_url).read() as connection:
        connection.execute(text(f"SELECT pg_sleep({PATIENCE})"))


def test_a_writer_that_hangs_does_not_keep_a_person_from_the_red_button(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "IDLE_SECONDS", 1)
    hanging, book = Ledger(postgres_url), Ledger(postgres_url)
    with pytest.raises(LedgerError), hanging.write() as connection:
        hanging.note(connection, "x", {})
        book.press("stop", "not now")
    with book.read() as connection:
        assert book.stopped(connection) == "not now"


# -- full -----------------------------------------------------------------------------------------------------------


def fill(book: Ledger) -> None:
    """From now on the ledger's file may not grow any more."""
    with book.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    @event.listens_for(book.engine, "begin")
    def no_more(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_keeps_all_it_took_and_takes_no_half(tmp_path: Path) -> None:
    book = Ledger(f"sqlite:///{tmp_path}/l.db")
    fill(book)
    taken = 0
    with pytest.raises(LedgerError, match="full") as refused:
        while taken < 1000:
            book.press("stop", f"{taken} " + "x" * 500)
            taken += 1
    line(refused.value)
    with book.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM entry")).scalar_one() == taken
        assert (book.stopped(connection) or "").startswith(f"{taken - 1} ")


def test_on_a_full_disk_no_hand_opens(tmp_path: Path) -> None:
    book = Ledger(f"sqlite:///{tmp_path}/l.db")
    fixes = [grant(book, a_fix(f"row {i}")) for i in range(200)]
    fill(book)
    entered, turned_away = set(), set()
    for one in fixes:
        try:
            with Permit(book, [one]).attempt(one):
                entered.add(one.id)
        except LedgerError as error:
            assert "full" in line(error)
            turned_away.add(one.id)
    untouched = {one.id for one in fixes if book.state(one.id) is FixState.granted}
    assert turned_away - entered
    assert untouched == {one.id for one in fixes} - entered, "entered means written down first"


# -- read-only ------------------------------------------------------------------------------------------------------

READ_ONLY = textwrap.dedent("""
    import os, sys
    from runbook.errors import LedgerError
    from runbook.ledger import Ledger
    from runbook.process import is_dead
    Ledger(sys.argv[2]).press("stop", "everything is imported now")
    if os.geteuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)  # root may write what nobody may write
    try:
        Ledger(sys.argv[1]).press("stop", "x")
    except LedgerError as error:
        print(error)
    print(is_dead(sys.argv[3]))
""")


def test_a_read_only_ledger_and_the_life_of_another_users_process(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        Ledger(f"sqlite:///{folder}/l.db").engine.dispose()
        (folder / "l.db").chmod(0o444)
        folder.chmod(0o555)
        words = [f"sqlite:///{folder}/l.db", f"sqlite:///{tmp_path}/writable.db", this_process()]
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, *words], capture_output=True, text=True, check=True, timeout=PATIENCE
        )
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    said, dead = done.stdout.splitlines()
    assert said.startswith("RUNBOOK_LEDGER_URL: the ledger refused: ")
    assert "Next: make it writable" in said
    assert dead == "False"


# -- lost while a run is under way ----------------------------------------------------------------------------------


async def test_a_gate_that_cannot_read_its_facts_grants_nothing(in_force: Ledger, ledger_url: str) -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        run.found([FINDING])
        with in_force.write() as connection:
            connection.execute(text("ALTER TABLE entry RENAME TO hidden"))
        with pytest.raises(LedgerError) as refused:
            await gate.ask(run, [a_fix()], share=None)
        line(refused.value)
        with in_force.write() as connection:
            connection.execute(text("ALTER TABLE hidden RENAME TO entry"))
    assert run.report is not None
    assert run.report.fixes == []


def test_a_hand_that_cannot_read_the_red_button_stays_shut(book: Ledger) -> None:
    one = grant(book, a_fix())
    with book.write() as connection:
        connection.execute(text("ALTER TABLE entry RENAME TO hidden"))
    entered = False
    with pytest.raises(LedgerError), Permit(book, [one]).attempt(one):
        entered = True
    assert not entered
    assert book.state(one.id) is FixState.granted


def test_a_server_that_was_restarted_is_found_again(postgres_url: str) -> None:
    book = Ledger(postgres_url)
    book.press("stop", "before")
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
    with book.read() as connection:
        assert book.stopped(connection) == "before"


def test_the_ledger_is_a_wal_file_that_syncs(tmp_path: Path) -> None:
    book = Ledger(f"sqlite:///{tmp_path}/l.db")
    with book.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
    with sqlite3.connect(tmp_path / "l.db") as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
