"""deploy.sh and the automations on a real Prefect server: safe to repeat, and only what is dead is called dead."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

import flows
from demo.postgres import Postgres
from demo.prefect_api import Api
from demo.prefect_server import BIN, ROOT, Prefect
from tests.e2e.test_prefect import until

pytestmark = pytest.mark.prefect
NAMES = ["runbook-dead-runs", "runbook-never-begun"]
EXECUTED, FAILED = "prefect.automation.action.executed", "prefect.automation.action.failed"
TRIGGERED = "prefect.automation.triggered"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("deploy")
    with Postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute("CREATE DATABASE prefect")
        with psycopg.connect(server.url("prefect"), autocommit=True) as owner:
            owner.execute("CREATE EXTENSION pg_trgm")
        url = server.url("prefect").replace("postgresql://", "postgresql+asyncpg://")
        running = Prefect(folder, {"RUNBOOK_HOME": str(folder)}, url)
        try:
            running.start_server()
            deploy(running)
            yield running
        finally:
            running.stop()


def deploy(prefect: Prefect) -> None:
    env = prefect.env | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = ["sh", str(ROOT / "deployments" / "deploy.sh")]
    done = subprocess.run(script, env=env, cwd="/", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def automations(api: Api) -> list[str]:
    found = api.call("POST", "/automations/filter", {})
    return sorted(one["name"] for one in found if one["name"].startswith("runbook-"))  # Prefect adds the triggers


def test_a_second_deploy_keeps_a_tuned_pool_and_doubles_nothing(prefect: Prefect) -> None:
    api = Api(prefect.url)
    template = api.call("GET", "/work_pools/runbook")["base_job_template"]
    template["job_configuration"]["env"] = {"OURS": "kept"}
    api.call("PATCH", "/work_pools/runbook", {"base_job_template": template})
    deploy(prefect)
    kept = api.call("GET", "/work_pools/runbook")["base_job_template"]
    assert kept["job_configuration"]["env"] == {"OURS": "kept"}
    assert automations(api) == NAMES
    assert sorted(one["name"] for one in api.call("POST", "/deployments/filter", {})) == sorted(flows.every())


def begun(api: Api, *states: tuple[str, str]) -> str:
    """A run that says these states of itself, one after the other, and then nothing more."""
    run_id = api.start("pool-exhaustion")
    for kind, name in states:
        api.call("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": kind, "name": name}, "force": True})
    return run_id


def test_a_run_that_ended_by_any_name_is_left_alone_and_a_silent_one_is_crashed(
    prefect: Prefect, tmp_path: Path
) -> None:
    api = Api(prefect.url)
    api.pause_schedules()
    document: dict[str, Any] = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text("utf-8"))
    for one in document["automations"]:
        prefect.command("--no-prompt", "automation", "delete", one["name"])
        one["trigger"]["within"] = 10  # the shortest Prefect takes
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(document))
    prefect.command("automation", "create", "--from-file", str(tmp_path / "short.yaml"))
    prefect.stop()
    prefect.start_server()  # one that runs learns of new automations some seconds later
    pending, running = ("PENDING", "Pending"), ("RUNNING", "Running")
    ended = {
        begun(api, pending, running, ("COMPLETED", "Healthy")): "Healthy",
        begun(api, pending, running, ("FAILED", "Unsolved")): "Unsolved",
        begun(api, pending, running, ("COMPLETED", "Firing")): "Firing",
    }
    silent = [begun(api, pending, running), begun(api, pending)]

    def state(run_id: str) -> str:
        return str(api.call("GET", f"/flow_runs/{run_id}")["state"]["name"])

    until(lambda: {state(run_id) for run_id in silent} == {"Crashed"}, "the crash of what is silent")
    assert {run_id: state(run_id) for run_id in ended} == ended

    def events(name: str) -> list[Any]:
        found = api.call("POST", "/events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})
        return list(found["events"])

    until(
        lambda: len(events(EXECUTED)) >= len(silent),
        "the word of both actions, which Prefect stores some seconds later",
    )
    assert events(FAILED) == []
    assert len(events(TRIGGERED)) == len(silent)
