"""A signed webhook starts its runbook at once and once, whoever dies meanwhile: responder, receiver or nobody."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.states import Scheduled

from demo import database_faults
from demo.prefect_api import Api
from demo.stack import HOOKS_TOKEN, Stack
from deployments.responder import Responder
from tests.e2e.test_prefect import until
from tests.ingress.parts import SECRET, signed

pytestmark = pytest.mark.prefect
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SETTLE_SECONDS = 5
"""By when a worker has begun what a responder left."""


class Listening:
    """A stack with receiver and responder; ``post`` sends an alert, ``runs`` are those it started."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.api = stack, Api(stack.prefect.url)
        self.api.pause_schedules()
        self.responder, self.ingress = stack.responder, stack.ingress

    def post(self, key: str = "") -> None:
        """One alert that names pool-exhaustion; the same key is the same alert."""
        alert = {"status": "firing", "labels": {"alertname": "slow", "runbook": "pool-exhaustion"}}
        body = json.dumps({"alerts": [alert | {"startsAt": key or str(uuid.uuid4())}]}).encode()
        headers = {"Authorization": f"Bearer {HOOKS_TOKEN}", "Content-Type": "application/json"}
        urllib.request.urlopen(
            urllib.request.Request(f"{self.stack.hooks_url}/hooks/alertmanager", body, headers), timeout=5
        )

    def runs(self) -> list[dict[str, Any]]:
        """Every run that exists, the oldest first."""
        found: list[dict[str, Any]] = self.api.call("POST", "/flow_runs/filter", {})
        return sorted(found, key=lambda run: str(run["created"]))

    def ended(self, count: int) -> list[dict[str, Any]]:
        """The runs, once this many have ended."""

        def look() -> list[dict[str, Any]] | None:
            done = [one for one in self.runs() if one["state"]["type"] in ENDED]
            return done if len(done) >= count else None

        found: list[dict[str, Any]] = until(look, f"{count} runs that ended")
        return found


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with Stack(lambda _text: None, tmp_path_factory.mktemp("events"), events=True, standins=()) as stack:
        yield Listening(stack)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def by_responder(run: dict[str, Any]) -> bool:
    """A worker notes the process it has started for a run."""
    return run["infrastructure_pid"] is None


def test_a_webhook_is_one_run_and_doubles_are_none(listening: Listening) -> None:
    before = len(listening.runs())
    for _ in range(20):
        listening.post("the same")
    (run,) = listening.ended(before + 1)[before:]
    assert run["state"]["name"] == "Healthy"
    assert run["deployment_id"]
    time.sleep(SETTLE_SECONDS)
    assert len(listening.runs()) == before + 1


def test_a_warm_process_runs_it(listening: Listening) -> None:
    seen = []
    for _ in range(5):
        before = len(listening.runs())
        listening.post()
        seen += listening.ended(before + 1)[before:]
    assert len(seen) == 5
    assert any(by_responder(run) for run in seen)


def test_a_run_that_was_deleted_ends_no_listening(listening: Listening) -> None:
    log = listening.stack.folder / "responder.log"
    gone = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.Scheduled",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{uuid.uuid4()}"},
    }
    listening.api.call("POST", "/events", [gone])
    before = len(listening.runs())
    listening.post()
    listening.ended(before + 1)
    assert "Prefect is away" not in log.read_text()


async def test_a_responder_that_stalled_does_not_run_again_what_is_done(listening: Listening) -> None:
    done = next(one for one in listening.runs() if one["state"]["type"] == "COMPLETED")
    async with PrefectClient(api=f"{listening.stack.prefect.url}/api") as client:
        run = await client.read_flow_run(uuid.UUID(done["id"]))
        heard = run.model_copy(update={"state": Scheduled()})
        assert await Responder(client, {})._claim(heard) is None
        now = await client.read_flow_run(run.id)
        assert now.state is not None
        assert now.state.is_completed()


def test_a_burst_ends_with_a_run_that_began_after_it(listening: Listening) -> None:
    before = len(listening.runs())
    for _ in range(8):
        listening.post()
    last = datetime.now(UTC)
    runs = listening.ended(before + 8)[before:]
    assert {run["state"]["name"] for run in runs} <= {"Healthy", "Cancelled"}
    begun = [datetime.fromisoformat(run["start_time"]) for run in runs if run["state"]["name"] == "Healthy"]
    assert max(begun) > last - timedelta(milliseconds=200)


def test_a_receiver_that_was_killed_tells_what_it_had_stored(listening: Listening) -> None:
    before = len(listening.runs())
    known = listening.stack.prefect.env["PREFECT_API_URL"]
    listening.stack.prefect.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    kill(listening.ingress)
    listening.ingress = listening.stack.start_ingress()  # one that cannot reach Prefect
    listening.post()
    kill(listening.ingress)
    assert len(listening.runs()) == before
    listening.stack.prefect.env["PREFECT_API_URL"] = known
    listening.ingress = listening.stack.start_ingress()
    assert listening.ended(before + 1)[before]["state"]["name"] == "Healthy"
    time.sleep(SETTLE_SECONDS)
    assert len(listening.runs()) == before + 1


def test_without_a_responder_a_worker_runs_it_and_a_new_responder_does_not_again(listening: Listening) -> None:
    before = len(listening.runs())
    kill(listening.responder)
    listening.post()
    (run,) = listening.ended(before + 1)[before:]
    assert run["state"]["name"] == "Healthy"
    assert not by_responder(run)
    listening.responder = listening.stack.start_responder()
    time.sleep(SETTLE_SECONDS)
    (again,) = listening.runs()[before:]
    assert again["run_count"] == 1


def test_what_a_sender_says_starts_the_runbook_that_looks_at_it_and_a_storm_of_it_once(listening: Listening) -> None:
    before = len(listening.runs())
    listening.stack.prefect.env["INGRESS_STRIPE_SECRET"] = SECRET
    kill(listening.ingress)
    listening.ingress = listening.stack.start_ingress()
    for number in range(20):
        invoice = {"id": f"in_{number}", "object": "invoice", "customer": "cus_1"}
        said = {"id": f"evt_{number}", "type": "invoice.payment_failed", "data": {"object": invoice}}
        body = json.dumps(said).encode()
        path, headers = signed("stripe", body)
        urllib.request.urlopen(
            urllib.request.Request(f"{listening.stack.hooks_url}/hooks/{path}", body, headers), timeout=5
        )
    (run,) = listening.ended(before + 1)[before:]
    deployment = listening.api.call("GET", "/deployments/name/failed-payments/failed-payments")
    assert run["deployment_id"] == deployment["id"]
    assert run["state"]["type"] == "COMPLETED"
    time.sleep(SETTLE_SECONDS)
    assert len(listening.runs()) == before + 1


def test_a_responder_that_is_stopped_ends_the_run_it_has_begun(listening: Listening) -> None:
    busy = {"PENDING", "RUNNING"}
    until(lambda: not [one for one in listening.runs() if one["state"]["type"] in busy], "the end of all runs")
    kill(listening.stack.worker)  # so that nobody else has the run
    writers = database_faults.idle_writers(listening.stack.postgres, 2)
    blocked = database_faults.blocked_app(listening.stack.postgres, 2, 2)
    try:
        time.sleep(3)  # the profile calls a wait of 2 s long
        before = len(listening.runs())
        listening.post()
        until(lambda: writers.alive() == 0, "the fixes, after which the run waits to prove them")
        listening.responder.send_signal(signal.SIGINT)  # what the unit and compose.yaml send
        assert listening.responder.wait(60) == 0
        (run,) = listening.runs()[before:]
        assert run["state"]["name"] == "Fixed", run["state"]
    finally:
        writers.close()
        blocked.close()
