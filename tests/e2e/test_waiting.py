"""An approval is good for what was shown: after a drift it is asked for anew, unanswered it is a refusal, and it does
not matter which worker was there when it was asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from demo.prefect_api import Api
from demo.stack import Stack
from runbook import outbox
from runbook.ledger import Ledger
from runbook.model import Fix
from runbook.questions import EXPIRED
from runbook.schema import entry, run
from tests.e2e.test_prefect import command, ended, resumed, suspended, until

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(lambda _text: None, tmp_path_factory.mktemp("approval"), users=2_000, subscriptions=1_000) as running:
        Api(running.prefect.url).pause_schedules()
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.prefect.url)


@pytest.fixture(scope="module")
def book(stack: Stack) -> Ledger:
    return Ledger(stack.env()["RUNBOOK_LEDGER_URL"])


def kill(process: subprocess.Popen[bytes]) -> None:
    """The worker and every run it has started, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def open_invoice(stack: Stack, name: str, number: int) -> str:
    return str(stack.stripe.store.add_invoice(name, number, "insufficient_funds")["id"])


def fixes(book: Ledger) -> list[Fix]:
    return book.fixes(runs(book)[-1]["id"])


def runs(book: Ledger) -> list[Any]:
    with book.read() as connection:
        rule = select(run.c.id, run.c.outcome, run.c.report).where(run.c.runbook == "failed-payments")
        return list(connection.execute(rule.order_by(run.c.started_at_ms)).mappings())


def test_after_a_drift_it_is_asked_anew_by_whichever_worker_is_there(stack: Stack, api: Api, book: Ledger) -> None:
    before = len(runs(book))  # the schedules may have begun one until they were paused
    first = open_invoice(stack, "first", 20)
    waiting = suspended(api, stack)
    shown = command(stack, "approve")[1]["waiting"][0]
    assert [row["outcome"] for row in runs(book)[before:]] == ["waiting"]
    kill(stack.worker)
    stack.worker = stack.prefect.start_worker("another")
    second = open_invoice(stack, "second", 21)
    assert command(stack, "approve", waiting["id"], "--reason", "go")[0] == 0

    def asked_anew() -> Any:
        found = command(stack, "approve")[1]["waiting"]
        return found and found[0]["plan"] != shown["plan"] and found[0]

    anew = until(asked_anew, "another question")
    assert (anew["id"], first in anew["question"], second in anew["question"]) == (waiting["id"], True, True)
    assert stack.stripe.store.pays == {}
    assert command(stack, "approve", waiting["id"])[0] == 0
    state = resumed(api, waiting["id"])
    assert state["name"] == "Fixed", state["message"]
    assert stack.stripe.store.pays == {first: 1, second: 1}
    (only,) = runs(book)[before:]
    assert only["outcome"] == "fixed"


def slot(api: Api, change: str) -> None:
    """Take (``increment``) or give back (``decrement``) the one slot of failed-payments, as a run of it does."""
    limit = api.call("GET", "/deployments/name/failed-payments/failed-payments")["global_concurrency_limit"]
    api.call("POST", f"/v2/concurrency_limits/{change}", {"names": [limit["name"]], "slots": 1})


def test_an_answer_survives_that_another_run_is_under_way(stack: Stack, api: Api, book: Ledger) -> None:
    bill = open_invoice(stack, "busy", 23)
    waiting = suspended(api, stack)
    slot(api, "increment")
    assert command(stack, "approve", waiting["id"])[0] == 0

    def state() -> str:
        return str(api.call("GET", f"/flow_runs/{waiting['id']}")["state"]["name"])

    until(lambda: state() == "Cancelled", "the answered run cancelled for want of a slot")
    slot(api, "decrement")
    other = ended(api, api.start("full-disk", mode="observe"))
    assert other["state"]["type"] == "COMPLETED"
    until(lambda: state() not in {"Cancelled", "Scheduled", "Late"}, "the answered run begun again")
    last = resumed(api, waiting["id"])
    assert last["name"] == "Fixed", last["message"]
    assert stack.stripe.store.pays[bill] == 1
    assert runs(book)[-1]["outcome"] == "fixed"


def wanted(api: Api) -> dict[str, Any]:
    """The run an event starts, once it has ended or waits."""
    deployment = api.call("GET", "/deployments/name/failed-payments/failed-payments")["id"]
    mine = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
    before = {one["id"] for one in api.call("POST", "/flow_runs/filter", mine)}
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "runbook.wanted",
        "resource": {"prefect.resource.id": "runbook.failed-payments"},
    }
    api.call("POST", "/events", [event])
    (run,) = until(lambda: [r for r in api.call("POST", "/flow_runs/filter", mine) if r["id"] not in before], "its run")
    return ended(api, run["id"])


def test_a_person_is_asked_once_and_told(stack: Stack, api: Api, book: Ledger) -> None:
    bill = open_invoice(stack, "once", 24)
    kill(stack.worker)
    stack.prefect.env["RUNBOOK_MODE"] = "approve"
    stack.worker = stack.prefect.start_worker("asking")
    first = wanted(api)
    assert first["state"]["name"] == "Suspended", first["state"]["message"]
    (page,) = [one for one in outbox.pages(book) if one.key == "failed-payments:approval" and one.state == "open"]
    assert "waits for a person's yes" in page.title
    again = wanted(api)
    assert (again["state"]["name"], "already waits" in fixes(book)[-1].why) == ("Refused", True)
    assert command(stack, "refuse", first["id"], "--reason", "she called")[0] == 0
    assert resumed(api, first["id"])["name"] == "Refused"
    after = wanted(api)
    assert (after["state"]["name"], "declined it" in fixes(book)[-1].why) == ("Refused", True)
    assert bill not in stack.stripe.store.tries
    assert not [one for one in outbox.pages(book) if one.key == "failed-payments:approval" and one.state == "open"]
    stack.stripe.store.invoices[bill]["status"] = "void"


def test_unanswered_it_is_a_refusal_that_the_next_run_writes(stack: Stack, api: Api, book: Ledger) -> None:
    bill = open_invoice(stack, "unanswered", 22)
    kill(stack.worker)
    stack.prefect.env["RUNBOOK_APPROVAL_SECONDS"] = "30"
    stack.worker = stack.prefect.start_worker("impatient")
    waiting = suspended(api, stack)
    assert resumed(api, waiting["id"])["name"] == "Failed"
    assert command(stack, "approve", waiting["id"])[0] == 2
    with book.write() as connection:  # two minutes later
        rule = select(entry).where(entry.c.kind == "asked").order_by(entry.c.seq.desc()).limit(1)
        asked = connection.execute(rule).mappings().one()
        aged = asked["body"] | {"expires_at_ms": asked["body"]["expires_at_ms"] - 120_000}
        connection.execute(update(entry).where(entry.c.seq == asked["seq"]).values(body=aged))
    notices = command(stack, "run", "pool-exhaustion", "--mode", "observe")[1]["notices"]
    assert any(EXPIRED in text and "failed-payments" in text for text in notices)
    last = runs(book)[-1]
    assert (last["outcome"], last["report"]["reason"]) == ("refused", EXPIRED)
    assert bill not in stack.stripe.store.tries
    assert "failed-payments" not in str(command(stack, "run", "pool-exhaustion", "--mode", "observe")[1]["notices"])
