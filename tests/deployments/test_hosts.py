"""The files a real host is set up from: every program, setting and path they name is one that exists."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.server.events.schemas.automations import EventTrigger
from prefect.settings import get_current_settings
from prefect.settings.legacy import _get_settings_fields

from runbook.model import Outcome
from runbook.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
UNITS = sorted((DEPLOYMENTS / "systemd").glob("*.service"))
PARTS = ("server", "worker", "responder", "ingress")
ELSEWHERE = {"DO_NOT_TRACK", "RUNBOOK_HOME", "TMPDIR", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"}


def known(setting: str) -> bool:
    """Prefect ignores a misspelled setting in silence, and so would our own parts."""
    ours = {name.upper() for name in Settings.model_fields}
    return setting in ours | ELSEWHERE | set(_get_settings_fields(type(get_current_settings())))


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text("utf-8"))
    return found


def unit(path: Path) -> configparser.RawConfigParser:
    made = configparser.RawConfigParser(strict=False)
    made.optionxform = str  # type: ignore[assignment,method-assign]
    made.read(path)
    return made


def runs(words: list[str]) -> bool:
    """True when this command's program or module is really there."""
    if words[0] == "python":
        return words[1] == "-c" or importlib.util.find_spec(words[2]) is not None
    if words[0] == "sh":
        return (ROOT / words[1].removeprefix("/opt/runbook/")).exists()
    return (Path(sys.executable).parent / words[0]).exists()


def test_compose_and_systemd_run_the_same_parts() -> None:
    assert {*PARTS, "postgres", "deploy"} == set(compose()["services"])
    assert [path.stem.removeprefix("runbook-") for path in UNITS] == sorted(PARTS)
    for path in UNITS:
        words = unit(path)["Service"]["ExecStart"].removeprefix("/opt/runbook/.venv/bin/").split()
        theirs = compose()["services"][path.stem.removeprefix("runbook-")]["command"]
        assert words[:3] == theirs[:3], path.name


@pytest.mark.parametrize("name", [*PARTS, "deploy"])
def test_a_service_is_spelled_right(name: str) -> None:
    service = compose()["services"][name]
    assert runs(service["command"]), service["command"]
    for setting in service["environment"]:
        assert known(setting), setting
    assert set(service["depends_on"]) <= set(compose()["services"])
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "nothing is open to the network without a proxy of yours"


def test_a_stop_lets_the_responder_end_its_runs() -> None:
    """Prefect takes SIGTERM away from a process that runs a flow, and ends the flow by it."""
    service = unit(DEPLOYMENTS / "systemd" / "runbook-responder.service")["Service"]
    assert (service["KillSignal"], service["KillMode"]) == ("SIGINT", "mixed")
    assert compose()["services"]["responder"]["stop_signal"] == "SIGINT"


def state_names() -> set[str]:
    """Every name a run of ours may end by: those the code gives its states, and the outcomes of a runbook."""
    trees = [ast.parse(path.read_text("utf-8")) for top in ("flows", "runbook") for path in (ROOT / top).glob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    ends = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id in {"Completed", "Failed"}]
    values = [word.value for one in ends for word in one.keywords if word.arg == "name"]
    found = {text.value for value in values for text in ast.walk(value) if isinstance(text, ast.Constant)}
    return {str(one) for one in found if isinstance(one, str)} | {one.value.capitalize() for one in Outcome}


@pytest.mark.parametrize("name", ["runbook-dead-runs", "runbook-never-begun"])
def test_a_run_that_has_ended_is_no_dead_run(name: str) -> None:
    document = yaml.safe_load((DEPLOYMENTS / "automations.yaml").read_text("utf-8"))["automations"]
    trigger = EventTrigger.model_validate(next(one for one in document if one["name"] == name)["trigger"])
    assert {"Firing", "Quiet", "Findings", "Reported", "Healthy", "Unsolved"} <= state_names()
    of_prefect = {"Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Suspended", "Paused", "AwaitingRetry"}
    for state in state_names() | of_prefect:
        assert trigger.expects(f"prefect.flow-run.{state}"), state
        assert not trigger.starts_after(f"prefect.flow-run.{state}"), state


def test_the_image_holds_what_the_services_need() -> None:
    copied = {line.split()[1] for line in (DEPLOYMENTS / "Containerfile").read_text().splitlines() if "COPY" in line}
    assert {"runbook", "tasks", "flows", "ingress", "deployments", "prefect.yaml", "requirements.lock"} <= copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_spelled_right(path: Path, tmp_path: Path) -> None:
    service = unit(path)["Service"]
    assert runs(service["ExecStart"].removeprefix("/opt/runbook/.venv/bin/").split())
    for line in path.read_text().splitlines():
        if line.startswith("Environment="):
            assert all(known(pair.partition("=")[0]) for pair in line.removeprefix("Environment=").split())
    if shutil.which("systemd-analyze"):
        here = tmp_path / path.name  # the same unit, as if it were installed on this machine
        words = service["ExecStart"]
        here.write_text(path.read_text().replace(words, "/bin/true").replace("User=runbook\n", ""))
        done = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, timeout=60)
        about_us = [line for line in done.stderr.splitlines() if path.name in line and "not found" not in line]
        assert about_us == []
