"""A drill breaks a real stack: who mends it and touches nothing else may act alone."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flows
from demo import drill as stack
from demo.prefect_server import BIN
from deployments import drilling
from deployments.cli import app
from deployments.ledger_view import status
from runbook import licence, settings
from runbook.errors import OutsideError
from runbook.ledger import Ledger

DEMO = """
import json, sys
said = {"passed": True, "faults_mended": "1 of 1", "lookalikes_touched": "0 of 1", "not_mended": [], "touched": []}
print(json.dumps(said | {"runbook": sys.argv[2], "outcome": "fixed", "reason": "", "seconds": 0}))
"""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "30")
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    settings.forget()
    yield Ledger(f"sqlite:///{tmp_path}/ledger.db")
    settings.forget()


def test_a_passed_drill_is_a_licence(book: Ledger) -> None:
    figures = drilling.drill(book, "failed-payments")
    assert figures["passed"], figures
    assert figures["faults_mended"] == "3 of 3"
    found = licence.standing(book, "failed-payments")
    assert found.valid and found.figures["lookalikes_touched"].startswith("0 of ")
    assert not licence.standing(book, "pool-exhaustion").valid


def test_the_emergency_is_drilled_and_its_licence_is_shown(book: Ledger) -> None:
    figures = drilling.drill(book, "site-down")
    assert figures["passed"] and figures["faults_mended"] == "1 of 1", figures
    shown = status(book)["may_act_alone"]
    assert list(shown) == flows.acting()
    assert shown["site-down"].startswith("until ") and shown["full-disk"] == "no: it was never drilled here"


def test_without_a_name_all_that_may_act_are_drilled(
    book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_stack(tmp_path, DEMO)
    monkeypatch.setattr(drilling, "ROOT", tmp_path)
    done = CliRunner().invoke(app, ["drill"])
    assert done.exit_code == 0, done.output
    assert {name for name in flows.every() if licence.standing(book, name).valid} == set(flows.acting())


@pytest.mark.parametrize("said", ["", "print('no json')", "raise SystemExit(3)"])
def test_a_drill_that_says_nothing_takes_the_licence_away(
    book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    licence.issue(book, "full-disk", {})
    put_stack(tmp_path, said)
    monkeypatch.setattr(drilling, "ROOT", tmp_path)
    with pytest.raises(OutsideError, match="did not end"):
        drilling.drill(book, "full-disk")
    assert licence.standing(book, "full-disk").why == "its drill did not end"


def put_stack(root: Path, main: str) -> None:
    """A checkout whose stack is one script."""
    (root / "demo").mkdir()
    for name in ("__init__", "drill"):
        (root / "demo" / f"{name}.py").touch()
    (root / "demo" / "__main__.py").write_text(main)


def test_a_run_that_crashes_has_not_passed_though_all_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "runbook"
    program.write_text(f'#!/bin/sh\n{BIN}/runbook "$@" >&2\necho went away >&2\nkill -9 $$\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(stack, "BIN", tmp_path)
    figures = stack.drill("broken-sessions")
    assert figures["faults_mended"] == "2 of 2" and not figures["passed"]
    assert (figures["outcome"], figures["reason"]) == ("crashed", "went away")
    assert "FAILED (crashed)" in drilling.as_text(figures) and "went away" in drilling.as_text(figures)
