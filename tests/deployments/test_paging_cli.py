"""watch, pages and ack as a person and a script use them: a process of its own, one JSON document, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.paging_servers import PagerDuty
from demo.prefect_server import BIN, ROOT
from runbook.settings import Settings
from tests.alert_parts import away_from_the_minute, minute, write_json


@pytest.fixture
def pagerduty() -> Iterator[PagerDuty]:
    with PagerDuty() as server:
        yield server


def command(tmp_path: Path, *words: str, **env: str) -> tuple[int, dict[str, Any], str]:
    clean = {key: value for key, value in os.environ.items() if key.lower() not in Settings.model_fields}
    base = {
        "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        "RUNBOOK_HOME": str(tmp_path),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    done = subprocess.run(
        [str(BIN / "runbook"), *words], env=clean | base | env, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stdout + done.stderr
    found = json.loads(done.stdout) if "--json" in words else {}
    return done.returncode, found, done.stdout + done.stderr


def test_an_alert_from_the_first_look_to_who_is_at_it(tmp_path: Path, pagerduty: PagerDuty) -> None:
    log = tmp_path / "app.log"
    away_from_the_minute()
    for back in (2, 3, 4):
        write_json(log, minute() - back, 9, "boom")
    env = {"APP_LOG": str(log), **pagerduty.env()}
    code, found, _ = command(tmp_path, "watch", "--json", **env)
    by_name = {row["alert"]: row for row in found["alerts"]}
    assert code == 3 and len(by_name) == 7
    assert by_name["error-rate"]["state"] == "firing" and found["delivered"]["sent"] == {"pagerduty": 1}
    assert pagerduty.opened == ["alert:error-rate"]
    _, found, _ = command(tmp_path, "pages", "--json", **env)
    assert [(one["key"], one["state"]) for one in found["pages"]] == [("alert:error-rate", "open")]
    code, _, said = command(tmp_path, "ack", "alert:error-rate", **env)
    assert code == 0 and "Acknowledged" in said
    assert pagerduty.incidents == {"alert:error-rate": "acknowledged"}
    code, _, said = command(tmp_path, "pages", **env)
    assert code == 0 and "acknowledged by" in said and "pagerduty" in said


def test_an_unknown_key_and_no_channel_are_named(tmp_path: Path) -> None:
    code, _, said = command(tmp_path, "ack", "alert:nothing")
    assert code == 2 and "runbook pages lists them" in said
    code, _, said = command(tmp_path, "pages")
    assert code == 0 and "PAGERDUTY_ROUTING_KEY" in said
    code, _, said = command(tmp_path, "watch")
    assert code == 0 and "unset" in said and "APP_LOG" in said


def test_a_run_delivers_what_waits(tmp_path: Path, pagerduty: PagerDuty) -> None:
    env = {"RUNBOOK_DISK_PATHS": str(tmp_path), **pagerduty.env()}
    command(tmp_path, "run", "full-disk", "--set", "free_at=1.0", **env)  # more inodes than any disk has
    assert [key.partition("-of")[0] for key in pagerduty.opened] == ["full-disk:inodes"]
