"""How much memory and time the payments runbook takes for a million subscriptions, and what it asks of Stripe.

``python -m benchmarks.reconcile`` starts PostgreSQL and the Stripe stand-in, each a process of its own, fills both,
lets some rows drift, and runs the whole runbook in a third process whose peak memory it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from demo.postgres import Postgres
from demo.seed import seed

KEY = "sk_test_benchmark0123456789"
MEGABYTE_KB = 1024


def child() -> None:
    """Run the runbook in this process and print what it cost as one line of JSON."""
    from flows.failed_payments import failed_payments
    from tasks import stripe_api

    calls = Counter[str]()
    text_and_data = stripe_api._text_and_data

    def counted(method: str, path: str, *rest: Any) -> Any:
        calls[path if path.count("/") == 2 else f"{path.rsplit('/', 1)[0]}/{{id}}"] += 1
        return text_and_data(method, path, *rest)

    stripe_api._text_and_data = counted  # type: ignore[assignment]  # counts what is asked, changes nothing
    idle_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    report = asyncio.run(failed_payments.fn(hold_seconds=0))
    said = {
        "outcome": report.outcome,
        "reason": report.reason,
        "findings": [found.detail for found in report.findings],
        "fixes": Counter(fix.state for fix in report.fixes),
        "seconds": round(time.monotonic() - began, 1),
        "idle_mb": round(idle_kb / MEGABYTE_KB),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE_KB),
        "calls": calls,
    }
    print(json.dumps(said))


@contextmanager
def stripe_of_its_own(subscriptions: int) -> Iterator[str]:
    """The stand-in in its own process; its URL."""
    command = [sys.executable, "-m", "demo.stripe_server", "--subscriptions", str(subscriptions), "--key", KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def main() -> None:
    """Build the world, run the child in it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--drifted", type=int, default=1_000)
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    if given.child:
        child()
        return
    with Postgres() as postgres, stripe_of_its_own(given.rows) as stripe, tempfile.TemporaryDirectory() as folder:
        print(f"seeding {given.rows} rows …", flush=True)
        seed(postgres.url(), users=1_000, subscriptions=given.rows)
        with psycopg.connect(postgres.url(), autocommit=True) as owner:
            drifted = (
                'UPDATE "Subscription" SET status = \'incomplete\' WHERE id IN (SELECT id FROM "Subscription" LIMIT %s)'
            )
            owner.execute(drifted, (given.drifted,))
        env = {
            "DATABASE_URL": postgres.url(user="runbook"),
            "STRIPE_SECRET_KEY": KEY,
            "STRIPE_API_BASE": stripe,
            "RUNBOOK_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
            "RUNBOOK_MODE": "auto",
        }
        command = [sys.executable, "-m", "benchmarks.reconcile", "--child"]
        said = json.loads(subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, check=True).stdout)
    listed = said["calls"]["/v1/subscriptions"]
    print(f"{given.rows} rows, {given.drifted} drifted: {said['outcome']} {said['reason']} {said['findings']}")
    print(f"fixes             {said['fixes']}")
    print(f"time              {said['seconds']} s")
    print(f"peak RSS          {said['peak_mb']} MB, of which {said['idle_mb']} MB before the run began")
    print(f"list calls        {listed} ({given.rows / listed:.1f} subscriptions each)")
    print(f"retrieves         {said['calls'].get('/v1/subscriptions/{id}', 0)}")


if __name__ == "__main__":
    main()
