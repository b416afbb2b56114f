"""How many signed webhooks a second the receiver takes with its ledger on disk, and what 10,000 doubles cost.

``python -m benchmarks.ingress`` starts the receiver as a process of its own, with no Prefect to tell: what is measured
is what a sender waits for, the check of its signature and the write to the disk. The senders are a third process.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from demo.prefect_server import free_port, wait_for
from runbook.ledger import Ledger
from runbook.schema import hook

SECRET = "a-benchmark-0123456789"
CONNECTIONS = 32
ROUNDS = 3


def request(port: int, number: int) -> bytes:
    """One signed webhook, ready to be sent; the same number is the same event."""
    payload = {"plan": "pro", "note": "x" * 200}
    body = json.dumps({"id": f"g{number}", "event": "deploy.failed", "resource": "web", "payload": payload}).encode()
    stamp = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, "sha256").hexdigest()
    head = (
        f"POST /hooks/generic HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"X-Runbook-Timestamp: {stamp}\r\nX-Runbook-Signature: v1={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send(port: int, requests: list[bytes]) -> tuple[dict[str, int], list[float]]:
    """Send all of them over connections that are kept open; how often each status came, and how long each took."""
    left, statuses, took = list(reversed(requests)), dict[str, int](), list[float]()

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left:
            began = time.perf_counter()
            writer.write(left.pop())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            took.append(time.perf_counter() - began)
            status = head[9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return statuses, took


def storm(port: int, first: int, count: int, doubles: bool) -> None:
    """The senders' process: prints what it saw as one line of JSON."""
    requests = [request(port, first if doubles else first + n) for n in range(count)]
    began = time.perf_counter()
    statuses, took = asyncio.run(send(port, requests))
    seconds = time.perf_counter() - began
    cuts = statistics.quantiles(took, n=100)
    said = {"statuses": statuses, "seconds": seconds, "p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}
    print(json.dumps(said))


def sent(port: int, first: int, count: int, *, doubles: bool = False) -> dict[str, float]:
    """What the senders saw."""
    words = [sys.executable, "-m", "benchmarks.ingress", "--send", str(port), str(first), str(count), str(int(doubles))]
    said: dict[str, float] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return said


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used: unlike a rate it does not depend on what else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start the receiver, send, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--send", nargs=4, type=int, metavar=("PORT", "FIRST", "COUNT", "DOUBLES"))
    given = parser.parse_args()
    if given.send:
        port, first, count, doubles = given.send
        storm(port, first, count, bool(doubles))
        return
    with tempfile.TemporaryDirectory() as folder:
        port, ledger_url = free_port(), f"sqlite:///{folder}/ledger.db"
        env = {"INGRESS_GENERIC_SECRET": SECRET, "INGRESS_PORT": str(port), "RUNBOOK_LEDGER_URL": ledger_url}
        env |= {"RUNBOOK_HOME": folder, "PREFECT_HOME": folder, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "ingress"], env=os.environ | env, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz", process, "the receiver did not start")
            rates, began = list[float](), cpu_seconds(process.pid)
            for turn in range(ROUNDS):
                said = sent(port, (turn + 1) * 1_000_000, given.count)
                rates.append(given.count / said["seconds"])
                print(f"{given.count} signed webhooks, all new: {rates[-1]:6.0f}/s, {_line(said)}", flush=True)
            said = sent(port, 0, given.count, doubles=True)
            print(f"{given.count} doubles of one event:     {given.count / said['seconds']:6.0f}/s, {_line(said)}")
            with Ledger(ledger_url).read() as connection:
                stored = connection.execute(select(func.count()).select_from(hook)).scalar_one()
            wanted = ROUNDS * given.count + 1
            print(f"stored: {stored} of {wanted} ({'none lost, none twice' if stored == wanted else 'WRONG'})")
            each_ms = (cpu_seconds(process.pid) - began) * 1000 / (ROUNDS + 1) / given.count
            print(f"the receiver's own CPU time: {each_ms:.2f} ms a webhook, its store and its threads included")
            print(f"accepted, median of {ROUNDS}: {statistics.median(rates):.0f}/s (goal 1000/s)")
        finally:
            process.terminate()
            process.wait(20)


def _line(said: dict[str, float]) -> str:
    return f"p50 {said['p50_ms']:.1f} ms, p99 {said['p99_ms']:.1f} ms, answers {said['statuses']}"


if __name__ == "__main__":
    main()
