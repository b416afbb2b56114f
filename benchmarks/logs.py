"""What reading a gigabyte of the app's log costs beside ``grep -c`` on the same file, warm for both.

``python -m benchmarks.logs`` writes the file (both forms mixed, with few and with many warnings), reads it in a process
of its own whose memory it prints, and once more after 1,000 new lines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

INFO = '{{"level":"info","time":"{at}","msg":"request","route":"/api/classes/{n}","status":200,"ms":{n},"pid":71}}\n'
WARNING = (
    '{{"level":"warn","time":"{at}","msg":"sendgrid_notification_failed","to":"user{n}@example.com","code":{n}}}\n'
)
AUDIT = (
    "[AUDIT-WARNING] rate_limit_exceeded {{\n  timestamp: '{at}',\n  action: 'rate_limit_exceeded',\n"
    "  userId: 'anonymous',\n  details: {{ ip: '203.0.113.{n}', endpoint: '/api/career', count: 31, limit: 30 }},\n"
    "  severity: 'warning'\n}}\n"
)
QUIET_AUDIT = (
    "[AUDIT] class_created {{\n  timestamp: '{at}',\n  action: 'class_created',\n  userId: 'user_{n}',\n"
    "  details: {{ classId: 'class_{n}', name: 'Biology' }},\n  severity: 'info'\n}}\n"
)
ROUNDS = 3
GREP = r'"level":"(warn|error)"|^\[AUDIT-'
"""What a person would count in it: warnings and worse, in both forms."""


def chunk(quiet: int) -> bytes:
    """A piece of log as the app writes it: a warning in each form to ``quiet`` records that nobody counts."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    forms = [*([INFO] * 4 + [QUIET_AUDIT]) * (quiet // 5), WARNING, AUDIT]
    return "".join(form.format(at=at, n=number % 250) for number, form in enumerate(forms)).encode()


def child() -> None:
    """Read the log in this process and print what it cost as one line of JSON."""
    from tasks.logs import read_log

    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    read = asyncio.run(read_log.fn(first_bytes=1 << 40))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = {"seconds": time.monotonic() - began, "idle_mb": round(idle / 1024), "more_mb": round((peak - idle) / 1024)}
    print(json.dumps(read.model_dump() | cost))


def read_once(folder: Path) -> dict[str, float]:
    """One reading by a process that has nothing else to do."""
    env = {
        **os.environ,
        "APP_LOG": str(folder / "app.log"),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
        "RUNBOOK_HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.logs", "--child"], env=env, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


class Cost(NamedTuple):
    """Medians in seconds of ``grep -c`` and of the first reading; what a process has before it, and the most on top."""

    grep: float
    read: float
    idle_mb: int
    more_mb: int
    events: int
    new_bytes: int
    new_read: int
    new_seconds: float


def measure(megabytes: int, quiet: int) -> Cost:
    """Write the file, then count and read it in turn."""
    with tempfile.TemporaryDirectory(prefix="runbook-bench-") as made:
        folder, piece = Path(made), chunk(quiet)
        with (folder / "app.log").open("wb") as log:
            while log.tell() < megabytes << 20:
                log.write(piece)
        greps, reads = [], []
        for _ in range(ROUNDS):
            began = time.monotonic()
            # Into a pipe: with /dev/null as its output grep ends at the first match.
            subprocess.run(["grep", "-cE", GREP, folder / "app.log"], stdout=subprocess.PIPE, check=True)
            greps.append(time.monotonic() - began)
            for old in folder.glob("ledger.db*"):
                old.unlink()
            reads.append(read_once(folder))
        with (folder / "app.log").open("ab") as log:
            log.write(piece * 10)
        again = read_once(folder)
    return Cost(
        grep=statistics.median(greps),
        read=statistics.median(one["seconds"] for one in reads),
        idle_mb=int(reads[0]["idle_mb"]),
        more_mb=int(max(one["more_mb"] for one in reads)),
        events=int(reads[0]["events"]),
        new_bytes=len(piece) * 10,
        new_read=int(again["bytes"]),
        new_seconds=again["seconds"],
    )


def main() -> int:
    """Print the table; exit 1 where a bound is broken."""
    options = argparse.ArgumentParser()
    options.add_argument("--child", action="store_true")
    options.add_argument("--megabytes", type=int, default=1024)
    given = options.parse_args()
    if given.child:
        child()
        return 0
    good = True
    head = f"{'grep -cE':>10} {'read_log':>10} {'ratio':>6} {'events':>9} {'memory':>11}   again, what is new"
    print(f"{f'app log, {given.megabytes} MB, both forms':30}{head}")
    for name, quiet, most in (("a warning to 1,000 records", 2000, 3.0), ("a storm: one to 100", 200, 10.0)):
        cost = measure(given.megabytes, quiet)
        ratio = cost.read / cost.grep
        times = f"{cost.grep:8.2f} s {cost.read:8.2f} s {ratio:6.1f} {cost.events:9,}"
        again = f"{cost.new_read:,} bytes in {cost.new_seconds:.2f} s"
        print(f"{name:30}{times} {cost.idle_mb:4} + {cost.more_mb} MB   {again}")
        good &= ratio <= most and cost.more_mb < 100 and cost.new_read == cost.new_bytes
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
