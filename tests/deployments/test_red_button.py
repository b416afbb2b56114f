"""The red button with nothing else alive: Prefect and the database under care are closed ports."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from demo.prefect_server import BIN, ROOT
from runbook import gate, settings
from runbook.ledger import Ledger, ledger
from runbook.model import Mode
from runbook.run import Run
from tests.runbook.parts import FINDING, RUNBOOK, World, rows

ASKS = """
import asyncio
from runbook import gate
from runbook.model import Mode, Risk
from runbook.run import Run
from tests.runbook.parts import FINDING, RUNBOOK, World, rows

async def go():
    world = World()
    async with Run(RUNBOOK, Mode.approve) as run:
        run.found([FINDING])
        permit = await gate.ask(run, rows(1, Risk.person), share=None)
        await permit.apply(world.hands())
    print(world.acts, [fix.why for fix in run.report.fixes], flush=True)

asyncio.run(go())
"""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger of a host on which all else is gone."""
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in {
        "RUNBOOK_DATABASE_URL": "postgresql://runbook@127.0.0.1:9/app",
        "DATABASE_URL": "postgresql://app@127.0.0.1:9/app",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        "RUNBOOK_HOME": str(tmp_path),
        "RUNBOOK_MODE": "auto",
        "RUNBOOK_LICENCE_DAYS": "0",
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    settings.forget()
    return ledger()


def stop() -> None:
    done = subprocess.run(
        [str(BIN / "runbook"), "stop", "fire", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, json.loads(done.stdout)["stopped"]) == (0, True), done.stderr


@pytest.mark.usefixtures("book")
async def test_a_granted_fix_that_waits_for_its_hand_is_refused() -> None:
    world = World()
    async with Run(RUNBOOK, Mode.auto) as run:
        run.found([FINDING])
        permit = await gate.ask(run, rows(2), share=None)
        assert len(permit.fixes) == 2
        stop()
        await permit.apply(world.hands())
    assert run.report is not None and world.acts == []
    assert [(fix.state.value, fix.why) for fix in run.report.fixes] == [
        ("refused", "the red button is pressed: fire")
    ] * 2


@pytest.mark.usefixtures("book")
def test_a_fix_that_waits_for_a_person_is_refused_though_they_say_yes() -> None:
    outer, inner = pty.openpty()
    words = [sys.executable, "-c", ASKS]
    with subprocess.Popen(
        words, stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as run:
        os.close(inner)
        assert run.stderr is not None
        shown = ""
        while "Type yes" not in shown:
            more = run.stderr.read(1)
            assert more, f"it ended without a question: {shown}"
            shown += more
        stop()
        os.write(outer, b"yes\n")
        said, _ = run.communicate(timeout=60)
        os.close(outer)
    assert said == "[] ['the red button is pressed: fire']\n"
