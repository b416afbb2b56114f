"""The command in daily use: incidents, ids that show, completion, and the live table in a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.paging_servers import PagerDuty
from demo.prefect_server import BIN, ROOT
from deployments import completing
from deployments.cli import main
from runbook import incidents, outbox, settings
from runbook.ledger import Ledger, ledger, now_ms
from runbook.model import Finding, Fix, FixState, Mode, Risk
from runbook.outbox import Call, Severity
from runbook.run import Run
from runbook.schema import hook
from runbook.settings import Settings

RUNBOOK = str(BIN / "runbook")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A whole environment for a process of its own."""
    clean = {key: value for key, value in os.environ.items() if key.lower() not in Settings.model_fields}
    return clean | {
        "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        "RUNBOOK_HOME": str(tmp_path),
        "RUNBOOK_DISK_PATHS": str(tmp_path),
        "RUNBOOK_LICENCE_DAYS": "0",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "COLUMNS": "200",
        "TERM": "xterm",
    }


@pytest.fixture
def book(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("RUNBOOK_LEDGER_URL", "RUNBOOK_HOME", "RUNBOOK_LICENCE_DAYS", "RUNBOOK_DISK_PATHS"):
        monkeypatch.setenv(name, env[name])
    settings.forget()
    made = ledger()
    yield made
    made.engine.dispose()
    settings.forget()


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command's own entry point, as its script calls it, without the seconds each new process takes."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["runbook", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


def document(command: Command, *words: str) -> tuple[int, dict[str, Any]]:
    code, said = command(*words, "--json")
    return code, json.loads(said.splitlines()[0])


def recorded(book: Ledger) -> dict[str, str]:
    """A ledger with one of everything that has an id; the ids by kind."""
    return asyncio.run(_recorded(book))


async def _recorded(book: Ledger) -> dict[str, str]:
    quota = Finding(subject="quota", detail="is used up", page=True)
    async with Run("failed-generations", Mode.observe) as run:
        run.found([quota])
        planned = Fix(
            action="use_fallback", target="flag", risk=Risk.person, why="asks", undo="-", state=FixState.refused
        )
        with book.write() as connection:
            fix = book.record(connection, run.id, "failed-generations", planned, "plan", 1000)
            values = {
                "id": "vercel:dpl_1",
                "event": "vercel.deployment.succeeded",
                "resource": "r",
                "payload": {"a": 1},
            }
            connection.execute(hook.insert().values(received_at_ms=now_ms(), **values))
            outbox.raise_page(
                connection, Call("alert:errors", Severity.critical, "errors 9/min", "boom"), "alert-watch"
            )
    assert fix is not None
    (one,) = incidents.every(book)
    return {"run": run.id, "fix": fix.id, "incident": one.id, "page": "alert:errors", "hook": "vercel:dpl_1"}


def test_an_incident_from_the_list_to_its_postmortem(book: Ledger, command: Command) -> None:
    ids = recorded(book)
    code, said = command("incident", "list")
    assert code == 0 and ids["incident"] in said and "quota" in said
    code, said = command("incident", "show", ids["incident"])
    assert code == 0 and "# Postmortem" in said and "vercel.deployment.succeeded" in said and ids["fix"] in said
    _, found = document(command, "incident", "show", ids["incident"])
    assert [one["id"] for one in found["runs"]] == [ids["run"]] and len(found["pages"]) == 2
    code, said = command("incident", "close", ids["incident"])
    assert code == 0 and "--postmortem WHERE" in said
    code, said = command("incident", "close", ids["incident"], "--postmortem", "https://wiki.example/1")
    assert code == 0 and "WHERE" not in said
    _, found = document(command, "incident", "list")
    assert [(one["state"], one["postmortem"]) for one in found["incidents"]] == [("closed", "https://wiki.example/1")]
    code, said = command("incident", "show", "inc_unknown")
    assert code == 2 and "Next: runbook incident list" in said


def test_every_id_that_is_printed_can_be_shown(book: Ledger, command: Command) -> None:
    ids = recorded(book)
    printed = ""
    for words in (["ledger"], ["pages"], ["incident", "list"], ["incident", "show", ids["incident"]], ["report"]):
        printed += command(*words)[1]
    known = set(re.findall(r"\b(?:run|fix|inc)_[0-9a-f]{12}\b|\balert:[\w-]+|\bfailed-generations:quota\b", printed))
    assert known >= {ids["run"], ids["fix"], ids["incident"], ids["page"], "failed-generations:quota"}
    for id_ in {*known, ids["hook"]}:
        code, found = document(command, "show", id_)
        assert code == 0 and found, id_
    assert document(command, "show", ids["page"])[1]["incident"] == ids["incident"]
    code, said = command("show", "nothing")
    assert code == 2 and "Next: runbook ledger" in said


def test_an_incident_can_be_acknowledged_as_a_whole(
    book: Ledger, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = recorded(book)
    with PagerDuty() as pagerduty:
        for name, value in pagerduty.env().items():
            monkeypatch.setenv(name, value)
        settings.forget()
        code, said = command("ack", ids["incident"])
    assert code == 0 and "Acknowledged" in said
    assert {one.state for one in outbox.pages(book)} == {"acknowledged"}
    assert len(pagerduty.incidents) == 1  # both pages of it, told as one


def test_the_shell_completes_names_and_ids(book: Ledger, env: dict[str, str]) -> None:
    ids = recorded(book)

    def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_RUNBOOK_COMPLETE": "complete_bash"}
        done = subprocess.run([RUNBOOK], env=env | words, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert not done.stderr
        return done.stdout.split()

    assert completed("runbook run po") == ["pool-exhaustion"]
    assert {ids["run"], ids["fix"], ids["incident"], ids["page"]} <= set(completed("runbook show "))


def test_what_is_completed_where(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = recorded(book)
    assert completing.fix_ids("fix_") == [ids["fix"]] and completing.fix_ids("run_") == []
    assert completing.incident_ids("") == [ids["incident"]]
    assert set(completing.page_keys("")) == {ids["page"], "failed-generations:quota", ids["incident"]}
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", "sqlite:////proc/nowhere/l.db")
    settings.forget()
    assert completing.ids("") == []


def test_what_is_typed_wrong_tells_the_next_step(book: Ledger, command: Command) -> None:
    for words in (
        ["nonsense"],
        ["run"],
        ["sweep", "--watch", "--json"],
        ["incident", "close"],
        ["report", "--since", "x"],
    ):
        code, said = command(*words)
        assert code == 2 and ("Next: " in said), (words, said)


def in_terminal(env: dict[str, str], *words: str, until: str) -> tuple[int, str]:
    """The command in a terminal of its own; Ctrl-C is typed once ``until`` is on the screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it
        os.execve(RUNBOOK, [RUNBOOK, *words], env)
    seen, typed, end = b"", False, time.monotonic() + 90
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        try:
            new = os.read(terminal, 65_536) if ready else b""
        except OSError:  # the terminal is closed: the command has ended
            break
        seen += new
        if not typed and until.encode() in seen:
            os.write(terminal, b"\x03")
            typed = True
    else:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode("utf-8", "replace")


def test_the_live_table_ends_cleanly_by_ctrl_c(env: dict[str, str]) -> None:
    code, seen = in_terminal(env, "sweep", "--watch", "--mode", "observe", until="next sweep in")
    assert code in {0, 3}
    assert "pool-exhaustion" in seen and "not configured" in seen and "Traceback" not in seen
    assert seen.rstrip().endswith("\x1b[?25h"), "the cursor is given back"


def test_the_live_table_can_be_ended_in_the_middle_of_a_sweep(env: dict[str, str]) -> None:
    code, seen = in_terminal(env, "sweep", "--watch", until="runbook ")
    assert code in {0, 3} and "Traceback" not in seen
