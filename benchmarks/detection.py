"""What watching a healthy system of 50,000 users costs its database: connections, scans and time, for every runbook.

``python -m benchmarks.detection`` starts a whole stack without Prefect, runs every runbook once in mode observe and
reads from PostgreSQL itself what that took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

import flows
from demo.prefect_server import BIN, ROOT
from demo.stack import Stack

BIG_ROWS = 10_000
MOST_MS, MOST_CONNECTIONS = 100, 2
RECONCILES = ("failed-payments", "sweep")
SCANS = """
SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables
 WHERE schemaname = 'public' AND n_live_tup > %s
"""
TIME = """
SELECT coalesce(sum(s.total_exec_time), 0)::float8, coalesce(sum(s.calls), 0)::int
  FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = 'runbook'
"""
OURS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'runbook'"


class Most:
    """The most connections of ours that were seen at once."""

    def __init__(self, url: str) -> None:
        self.seen, self._url, self._done = 0, url, threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look every few milliseconds until the block ends."""
        watcher = threading.Thread(target=self._watch)
        watcher.start()
        try:
            yield
        finally:
            self._done.set()
            watcher.join()

    def _watch(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._done.is_set():
                row = connection.execute(OURS).fetchone()
                self.seen = max(self.seen, row[0] if row else 0)
                time.sleep(0.005)


def scans(owner: psycopg.Connection) -> dict[str, int]:
    """Rows read by sequential scans so far, by table of more than ``BIG_ROWS`` rows."""
    owner.execute("SELECT pg_stat_force_next_flush()")
    return {name: read for name, _scans, read in owner.execute(SCANS, [BIG_ROWS]).fetchall()}


def observe(env: dict[str, str], *words: str) -> dict[str, Any]:
    """One ``runbook`` command in mode observe, and its document."""
    done = subprocess.run(
        [str(BIN / "runbook"), *words, "--mode", "observe", "--json"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def broken(name: str, ms: float, connections: int, scanned: Collection[str]) -> str:
    """Which promise one row of the table breaks; the list of subscriptions is compared whole, and only there."""
    allowed = {"Subscription"} if name in RECONCILES else set()
    said = [f"{ms:.0f} ms of database time, more than {MOST_MS}"] if ms > MOST_MS else []
    said += [f"{connections} connections, more than {MOST_CONNECTIONS}"] if connections > MOST_CONNECTIONS else []
    said += [f"reads all of {table}" for table in sorted({*scanned} - allowed)]
    return "; ".join(said)


def main() -> int:
    """Each runbook by itself, then the whole sweep, each the second time: the first one learns the log and the app.

    1 when a promise is broken: at most 2 connections, 100 ms of database time, no large table read from end to end.
    """
    failed = []
    table = Table(title="Watching a healthy system", title_justify="left")
    for column in (
        "runbook",
        "outcome",
        "database time",
        "statements",
        "connections at most",
        "rows scanned in big tables",
    ):
        table.add_column(column)
    with (
        Stack(lambda _text: None, prefect=False) as stack,
        psycopg.connect(stack.postgres.url(), autocommit=True) as owner,
    ):
        env = {**os.environ, **stack.env()}
        observe(env, "sweep")
        for words in [*(("run", name) for name in flows.names()), ("sweep",)]:
            before = scans(owner)
            owner.execute("SELECT pg_stat_statements_reset()")
            most = Most(stack.postgres.url())
            with most.watching():
                document = observe(env, *words)
            ms, calls = owner.execute(TIME).fetchone() or (0.0, 0)
            after = scans(owner)
            read = {name: after[name] - before.get(name, 0) for name in after if after[name] > before.get(name, 0)}
            outcome = document.get("outcome") or ", ".join(sorted({one["outcome"] for one in document["runs"]}))
            listed = ", ".join(f"{name} {count:,}" for name, count in read.items()) or "none"
            table.add_row(words[-1], outcome, f"{ms:.1f} ms", str(calls), str(most.seen), listed)
            if why := broken(words[-1], ms, most.seen, read):
                failed.append(f"{words[-1]}: {why}")
    console = Console(width=None if os.isatty(1) else 140)
    console.print(table)
    for line in failed:
        console.print(line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
