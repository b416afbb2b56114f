"""Both runbooks on a real Prefect server with a real worker: schedules, forms, artifacts, approval."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flows
from demo import database_faults, stripe_faults
from demo.prefect_api import Api
from demo.prefect_server import BIN, ROOT
from demo.stack import Stack
from runbook.ledger import Ledger

pytestmark = pytest.mark.prefect
DEPLOYED = ("pool-exhaustion", "failed-payments", "health-sweep")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(lambda _text: None, tmp_path_factory.mktemp("stack"), users=2_000, subscriptions=1_000) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.prefect.url)


def until(true: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """What ``true`` returns once it is truthy; the bound only ends a test that would never end."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"never saw {what}"
        time.sleep(0.6)
    return found


def ended(api: Api, run_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        run: dict[str, Any] = api.call("GET", f"/flow_runs/{run_id}")
        return run if run["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED", "PAUSED"} else None

    run: dict[str, Any] = until(look, f"the end of {run_id}")
    return run


def artifacts(api: Api, run_id: str) -> dict[str, Any]:
    found = api.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    return {one["key"]: one["data"] for one in found}


@pytest.mark.parametrize("name", DEPLOYED)
def test_the_schedule_creates_runs_by_itself(api: Api, name: str) -> None:
    deployment = api.call("GET", f"/deployments/name/{name}/{name}")

    def look() -> list[Any]:
        wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
        runs = api.call("POST", "/flow_runs/filter", wanted)
        return [one for one in runs if one["auto_scheduled"]]

    assert until(look, "a scheduled run")


def test_a_run_the_schedule_created_really_runs(api: Api, stack: Stack) -> None:
    api.pause_schedules("pool-exhaustion")

    def look() -> list[Any]:
        wanted = {
            "flows": {"name": {"any_": ["pool-exhaustion"]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        return [one for one in api.call("POST", "/flow_runs/filter", wanted) if one["auto_scheduled"]]

    run = until(look, "a scheduled run that completed")[0]
    assert run["state"]["name"] == "Healthy"
    api.pause_schedules()  # from here on only this file starts runs


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_deployment_says_what_it_does_and_bounds_its_form(api: Api, name: str) -> None:
    deployment = api.call("GET", f"/deployments/name/{name}/{name}")
    assert "Symptom:" in deployment["description"]
    assert "runbook" in deployment["tags"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    for key, schema in deployment["parameter_openapi_schema"]["properties"].items():
        assert schema["description"], key


def test_the_api_refuses_a_parameter_out_of_bounds(api: Api) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        api.start("pool-exhaustion", full_at=7)
    assert refused.value.code in {409, 422}


def test_a_run_shows_its_targets_and_leaves_table_and_report(api: Api, stack: Stack) -> None:
    writers = database_faults.idle_writers(stack.postgres, 2)
    blocked = database_faults.blocked_app(stack.postgres, 2, 2)
    try:
        time.sleep(3)  # the profile calls a wait of 2 s long
        run = ended(api, api.start("pool-exhaustion", mode="auto", hold_seconds=0))
        assert run["state"]["name"] == "Fixed", run["state"]["message"]
        assert writers.alive() == 0
        tasks = api.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        assert any("end session" in one["name"] for one in tasks)
        kept = artifacts(api, run["id"])
        assert {"pool-exhaustion-fixes", "pool-exhaustion-report"} < set(kept)
        (page,) = [text for key, text in kept.items() if key.startswith("incident-")]
        assert "# Postmortem" in page and "end_session" in page
        rows = json.loads(kept["pool-exhaustion-fixes"])
        assert {row["state"] for row in rows if row["what"] == "end_session"} == {"proven"}
        ledger_id = run["state"]["message"].rpartition(" ")[2]
        assert f"`{ledger_id}`" in kept["pool-exhaustion-report"]
        fixes = Ledger(stack.env()["RUNBOOK_LEDGER_URL"]).fixes(ledger_id)
        assert [fix.state for fix in fixes if fix.action == "end_session"] == ["proven"] * 2
    finally:
        writers.close()
        blocked.close()


def test_the_weekly_report_is_a_page(api: Api) -> None:
    run = ended(api, api.start("weekly-report", mail=False))
    assert run["state"]["name"] == "Reported", run["state"]["message"]
    page = artifacts(api, run["id"])["weekly-report"]
    assert "| pool-exhaustion |" in page and "minutes of a person saved" in page and "![trends]" in page


def command(stack: Stack, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of one ``runbook`` command."""
    done = subprocess.run(
        [str(BIN / "runbook"), *words, "--json"], env=stack.prefect.env, cwd=ROOT, capture_output=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout)


def question(api: Api, run: dict[str, Any]) -> str:
    """What a run that waits asks; Prefect stores it a moment after it says that the run waits."""
    key = run["state"]["state_details"]["run_input_keyset"]["description"]

    def look() -> Any:
        with contextlib.suppress(urllib.error.HTTPError):
            return api.call("GET", f"/flow_runs/{run['id']}/input/{key}")

    return str(until(look, f"the question of {run['id']}"))


def suspended(api: Api, stack: Stack) -> dict[str, Any]:
    """A run of failed-payments that waits for a person, started now."""
    run = ended(api, api.start("failed-payments", mode="approve", hold_seconds=0))
    assert run["state"]["name"] == "Suspended", run["state"]["message"]
    question(api, run)
    return run


def resumed(api: Api, run_id: str) -> dict[str, Any]:
    """The state of a run a person has answered, once it has ended."""

    def done() -> Any:
        state = api.call("GET", f"/flow_runs/{run_id}")["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

    state: dict[str, Any] = until(done, "the end of the answered run")
    return state


def test_a_payment_waits_for_a_person_and_is_charged_once(api: Api, stack: Stack) -> None:
    bill = stripe_faults.retryable_invoice(stack.stripe.store)
    run = ended(api, api.start("failed-payments", mode="auto", hold_seconds=0))
    assert run["state"]["name"] == "Refused"
    assert bill not in stack.stripe.store.tries

    run = suspended(api, stack)
    assert bill not in stack.stripe.store.tries
    keys = run["state"]["state_details"]["run_input_keyset"]
    assert bill in question(api, run)
    schema = api.call("GET", f"/flow_runs/{run['id']}/input/{keys['schema']}")
    form = {key: field.get("default") for key, field in schema["properties"].items()}
    answer = form | {"decision": "approve", "by": "a test"}
    said = api.call("POST", f"/flow_runs/{run['id']}/resume", {"run_input": answer})
    assert said["status"] == "ACCEPT"
    state = resumed(api, run["id"])
    assert state["name"] == "Fixed", state["message"]
    assert stack.stripe.store.pays == {bill: 1}


def test_a_person_answers_by_command(api: Api, stack: Stack) -> None:
    bills = [stack.stripe.store.add_invoice(f"open_{n}", 20 + n, "insufficient_funds")["id"] for n in range(3)]
    refused, paid, left = map(str, bills)
    run = suspended(api, stack)
    code, document = command(stack, "approve")
    assert code == 0 and [one["id"] for one in document["waiting"]] == [run["id"]]
    assert refused in document["waiting"][0]["question"]
    assert command(stack, "approve", "no-such-run")[0] == 2
    assert command(stack, "approve", run["id"], "--only", "in_nobody")[0] == 2
    assert command(stack, "approve", run["id"], "--only", paid)[0] == 2, "a part of a target"
    assert command(stack, "refuse", run["id"], "--reason", "not now")[0] == 0
    assert resumed(api, run["id"])["name"] == "Refused"
    assert not {refused, paid, left} & set(stack.stripe.store.tries)

    run = suspended(api, stack)
    said = command(stack, "approve")[1]["waiting"][0]["question"]
    ledger_run = re.search(r"run `(run_\w+)`", said)
    assert ledger_run
    assert command(stack, "approve", ledger_run[1], "--only", f"Invoice/{paid}", "--reason", "she called")[0] == 0
    state = resumed(api, run["id"])
    assert {bill for bill in (refused, paid, left) if bill in stack.stripe.store.pays} == {paid}, state["message"]
    with stack.stripe.store.lock:
        for bill in (refused, left):
            stack.stripe.store.invoices[bill]["status"] = "void"


def test_the_sweep_runs_every_runbook_as_a_subflow(api: Api) -> None:
    run = ended(api, api.start("health-sweep", mode="observe"))
    assert run["state"]["name"] == "Healthy", run["state"]["message"]
    page = artifacts(api, run["id"])["health-sweep"]
    for name in flows.names():
        assert f"| {name} | " in page
    assert "![trends](data:image/svg+xml;base64," in page


@pytest.mark.parametrize("words", [("run", "pool-exhaustion"), ("sweep",)])
def test_the_command_needs_no_prefect(stack: Stack, words: tuple[str, ...], tmp_path: Path) -> None:
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path)}
    env = {**os.environ, **stack.env(), **nowhere}
    done = subprocess.run(
        [str(BIN / "runbook"), *words, "--json"], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    document = json.loads(done.stdout)
    runs = document.get("runs", [document])
    assert {one["outcome"] for one in runs} == {"healthy"}
    assert done.returncode == 0
