"""The few calls of Prefect's API that the demo makes, and how it says what goes on."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from rich.console import Console
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)


def _busy(error: BaseException) -> bool:
    """Prefect answers 503 while its database does not."""
    return isinstance(error, urllib.error.HTTPError) and error.code == 503


def say(text: str) -> None:
    """One line of progress, at once."""
    console.print(text, markup=False)


class Api:
    """The few calls of Prefect's API that the demo makes."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call and its JSON answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api{path}", data, headers, method=method)
        for attempt in Retrying(
            retry=retry_if_exception(_busy), stop=stop_after_attempt(15), wait=wait_fixed(1), reraise=True
        ):
            with attempt, urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        raise AssertionError("tenacity always returns or raises")

    def pause_schedules(self, *but: str) -> None:
        """Nothing ``but`` these starts by itself from now on, and what their schedules had begun has ended.

        Such a run would mend what is broken for another to mend, or hold the slot that one wants.
        """
        paused = [one["id"] for one in self.call("POST", "/deployments/filter", {}) if one["name"] not in but]
        for deployment_id in paused:
            self.call("POST", f"/deployments/{deployment_id}/pause_deployment", {})
        under_way = {
            "deployments": {"id": {"any_": paused}},
            "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}},
        }
        deadline = time.monotonic() + 120
        while self.call("POST", "/flow_runs/filter", under_way):
            if time.monotonic() > deadline:
                raise RuntimeError("a run the schedules began did not end in two minutes")
            time.sleep(0.5)

    def start(self, name: str, **parameters: Any) -> str:
        """Start a deployment's run and return its id."""
        deployment = self.call("GET", f"/deployments/name/{name}/{name}")
        path = f"/deployments/{deployment['id']}/create_flow_run"
        return str(self.call("POST", path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"])

    def watch(self, run_id: str, check: Callable[[], None], seconds: float = 300) -> str:
        """Show a run's progress until it ends and return its last state; ``check`` raises when nothing can end it."""
        began, shown = time.monotonic(), ""
        with console.status("the sweep waits for the worker") as status:
            while time.monotonic() - began < seconds:
                check()
                state = self.call("GET", f"/flow_runs/{run_id}")["state"]
                if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
                    return str(state["name"])
                tasks = self.call("POST", "/task_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
                text = f"sweep {state['name'].lower()}: {tasks[0]['name'] if tasks else '…'}"
                if text != shown:
                    status.update(text)
                    if not console.is_terminal:
                        say(f"  … {time.monotonic() - began:3.0f} s  {text}")
                    shown = text
                time.sleep(0.5)
        return f"not done in {seconds:.0f} s"
