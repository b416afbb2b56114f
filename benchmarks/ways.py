"""From a signed webhook to an ended session and its proof: the warm responder beside a stock trigger and worker.

``python -m benchmarks.ways`` runs all on one stack, one after the other: the responder, a worker that asks for work
every second as the one of ``make up`` does, and one as Prefect ships it. Each try has a fault of its own: a session
that has forgotten its transaction and one that waits for it. Measured is from the moment the webhook is sent to the
moment the ledger holds the proof of the fix (the hold that follows is not waited for). Then: a warm run that finds
nothing to do, ``runbook run`` from cold, and ``runbook stop`` with Prefect and the app's database away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import select

from benchmarks.ingress import send
from demo import database_faults
from demo.prefect_api import Api
from demo.prefect_server import BIN, ROOT
from demo.stack import HOOKS_TOKEN, Stack
from runbook.ledger import Ledger
from runbook.schema import entry, fix

WAIT_SECONDS = 2
"""The demo's profile calls a wait of so long a fault."""


def post(stack: Stack) -> None:
    """One signed webhook that names the runbook."""
    labels = {"alertname": "slow", "runbook": "pool-exhaustion"}
    body = json.dumps({"alerts": [{"status": "firing", "labels": labels, "startsAt": str(uuid.uuid4())}]}).encode()
    headers = {"Authorization": f"Bearer {HOOKS_TOKEN}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{stack.hooks_url}/hooks/alertmanager", body, headers), timeout=30)


def proven_at_ms(book: Ledger, target: str) -> int | None:
    """When the fix of this session was proven."""
    rule = select(entry.c.at_ms).join(fix, fix.c.id == entry.c.fix_id)
    with book.read() as connection:
        return connection.execute(rule.where(fix.c.target == target, entry.c.kind == "proven")).scalar()


def wait(true: Callable[[], object], seconds: float = 120) -> None:
    """Return once ``true``."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("it did not happen in two minutes: see the logs")
        time.sleep(0.02)


def tries(stack: Stack, count: int, asks_every: float = 0) -> list[float]:
    """Seconds from webhook to proof, for each try, at any moment between two questions of a worker."""
    api, book, took = Api(stack.prefect.url), Ledger(stack.env()["RUNBOOK_LEDGER_URL"]), list[float]()

    def idle() -> bool:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "SCHEDULED"]}}}}
        return not api.call("POST", "/flow_runs/filter", wanted)

    for _ in range(count):
        writer = database_faults.idle_writers(stack.postgres, 1)
        blocked = database_faults.blocked_app(stack.postgres, 1, 1)
        time.sleep(WAIT_SECONDS + 0.3 + random.uniform(0, asks_every))
        target, began_ms = f"session {writer.known[0][0]}", time.time() * 1000
        post(stack)
        wait(lambda target=target: proven_at_ms(book, target))  # type: ignore[misc]
        took.append(((proven_at_ms(book, target) or 0) - began_ms) / 1000)
        wait(idle)
        writer.close()
        blocked.close()
    return took


def warm(stack: Stack, count: int) -> list[float]:
    """Seconds a run takes that finds nothing to do, in the responder, as Prefect measured it."""
    api = Api(stack.prefect.url)
    took = list[float]()
    for _ in range(count):
        before = len(api.call("POST", "/flow_runs/filter", {}))
        post(stack)

        def ended(before: int = before) -> list[dict[str, object]]:
            runs: list[dict[str, object]] = api.call("POST", "/flow_runs/filter", {"sort": "START_TIME_DESC"})
            return runs[:1] if len(runs) > before and runs[0]["end_time"] else []

        wait(ended)
        took.append(float(str(ended()[0]["total_run_time"])))
    return took


def cold(stack: Stack, count: int, *words: str, **env: str) -> list[float]:
    """Seconds ``runbook`` takes from the shell for these words."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        command = [str(BIN / "runbook"), *words, "--json"]
        subprocess.run(command, env=os.environ | stack.env() | env, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - began)
    return took


def storm(stack: Stack, count: int) -> None:
    """So many doubles of one webhook that tells of a real fault: how often it was fixed."""
    writer = database_faults.idle_writers(stack.postgres, 1)
    blocked = database_faults.blocked_app(stack.postgres, 1, 1)
    time.sleep(WAIT_SECONDS + 0.3)
    target, book = f"session {writer.known[0][0]}", Ledger(stack.env()["RUNBOOK_LEDGER_URL"])
    labels = {"alertname": "slow", "runbook": "pool-exhaustion"}
    body = json.dumps({"alerts": [{"status": "firing", "labels": labels, "startsAt": "the storm"}]}).encode()
    head = (
        f"POST /hooks/alertmanager HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {HOOKS_TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = len(Api(stack.prefect.url).call("POST", "/flow_runs/filter", {}))
    statuses, _ = asyncio.run(send(stack.hooks_port, [head.encode() + body] * count))
    wait(lambda: proven_at_ms(book, target))
    runs = len(Api(stack.prefect.url).call("POST", "/flow_runs/filter", {})) - before
    with book.read() as connection:
        fixes = len(connection.execute(select(fix.c.id).where(fix.c.target == target)).all())
    print(f"{count} doubles of one webhook: answers {statuses}, {runs} run, {fixes} fix", flush=True)
    writer.close()
    blocked.close()


def line(name: str, took: Sequence[float], goal: str = "") -> None:
    """Median, 99th percentile and maximum of one way."""
    p99 = statistics.quantiles(took, n=100, method="inclusive")[98]
    print(
        f"{name:<46} p50 {statistics.median(took):6.2f} s  p99 {p99:6.2f} s  max {max(took):6.2f} s  "
        f"n={len(took)}  {goal}",
        flush=True,
    )


def prepare(stack: Stack) -> None:
    """So many fixes in so short a time are more than the caps allow; and no session turns old while it is read."""
    profile = stack.folder / "runbook.toml"
    caps = "\n[caps.pool-exhaustion]\nper_15min = 1000\nper_24h = 1000\n"
    profile.write_text(profile.read_text("utf-8").replace("idle_seconds = 5\n", "idle_seconds = 300\n") + caps, "utf-8")
    stack.responder.terminate()
    stack.responder.wait(30)
    stack.responder = stack.start_responder()


def restart_stock_worker(stack: Stack) -> None:
    """A worker with none of our settings: Prefect's own asks for work every ten seconds."""
    stack.worker.terminate()
    stack.worker.wait(30)
    del stack.prefect.env["PREFECT_WORKER_QUERY_SECONDS"]
    stack.worker = stack.prefect.start_worker()
    time.sleep(10)  # its first question, and what it begins with, are no part of a try


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=30)
    count = parser.parse_args().tries
    with tempfile.TemporaryDirectory() as folder, Stack(print, Path(folder), events=True) as stack:
        Api(stack.prefect.url).pause_schedules()
        prepare(stack)
        fast = tries(stack, count)
        line("webhook to proof, responder", fast, "(goal p50 0.5, p99 1.5)")
        storm(stack, 10_000)
        line("a run with nothing to do, responder", warm(stack, count), "(goal 0.15)")
        stack.responder.terminate()
        stack.responder.wait(30)
        hasty = tries(stack, count, asks_every=1)
        line("webhook to proof, worker that asks every second", hasty)
        restart_stock_worker(stack)
        stock = tries(stack, count, asks_every=10)
        line("webhook to proof, stock trigger and worker", stock)
        line("runbook run, cold", cold(stack, count, "run", "pool-exhaustion"), "(goal 3)")
        away = {"RUNBOOK_DATABASE_URL": "postgresql://r@127.0.0.1:9/app", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
        line("runbook stop, cold, all else away", cold(stack, count, "stop", **away))
        times, beside = (statistics.median(way) / statistics.median(fast) for way in (stock, hasty))
        print(f"the responder is {times:.1f} times as fast as the stock way (goal 10), {beside:.1f} times as the hasty")


if __name__ == "__main__":
    main()
