"""What the alerts must see and what only looks like it: errors that last, one bad minute, and a disk short of room."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from demo.paging_servers import PagerDuty, Slack
from demo.population import USERS
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack
from runbook.ledger import Ledger
from runbook.schema import page

ERRORS = 8
MIB = 1024 * 1024
KEY = "alert:error-rate"
LOGS = 24
DISK = 320 * MIB
SHORT = 2
"""So many logs more than is free must be free; the rest of their room is for what others write there meanwhile."""


def at(minute: int, second: float = 0.0) -> str:
    """A moment of a minute (Unix time / 60) as the app writes it."""
    moment = datetime.fromtimestamp(minute * 60 + second, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log_lines(log: Path, minutes: range, each: int, name: str, level: str = "error") -> None:
    """``each`` events of one name in every minute, by which only the alerts are concerned."""
    with log.open("a", encoding="utf-8") as out:
        for minute in minutes:
            for one in range(each):
                line = {"level": level, "time": at(minute, one * 50 / each), "msg": name, "attempt": one}
                out.write(json.dumps(line) + "\n")


def access_lines(log: Path, minute: int, each: int, seconds: float, path: str = "/api/classes") -> None:
    """``each`` requests within one minute, as a reverse proxy writes them."""
    with log.open("a", encoding="utf-8") as out:
        for one in range(each):
            when = datetime.fromtimestamp(minute * 60 + one * 50 / each, UTC).strftime("%d/%b/%Y:%H:%M:%S %z")
            out.write(f'10.0.0.1 - - [{when}] "GET {path}?id={one} HTTP/1.1" 200 512 "-" "-" rt={seconds:.3f}\n')


def rotated(folder: Path, count: int, size: int, age_seconds: int = 86_400) -> list[Path]:
    """Logs as logrotate leaves them: numbered, old, and easy to pack; and the live one beside them."""
    folder.mkdir(exist_ok=True)
    words = random.Random(7)
    made = []
    for number in range(1, count + 1):
        path = folder / f"web.log.{number}"
        line = "".join(f'{{"level":"info","n":{words.randrange(10**6)}}}\n' for _ in range(2_000))
        path.write_text(line * (size // len(line) + 1))
        when = time.time() - age_seconds * number
        os.utime(path, (when, when))
        made.append(path)
    (folder / "web.log").write_text("live\n")
    return made


def break_alerts(stack: Stack) -> Scene:
    """Errors for four minutes, and one slow minute."""
    now = int(time.time()) // 60
    log_lines(stack.app.log_path, range(now - 4, now), ERRORS, "report_export_failed")
    for minute in range(now - 5, now):
        access_lines(stack.access_log, minute, 20, 3.5 if minute == now - 2 else 0.1)
    pagerduty, slack = stack.standin(PagerDuty), stack.standin(Slack)
    paged = Fault(
        "errors for four minutes in the app's log: one page",
        "alert-watch",
        (),
        lambda: pagerduty.triggers(KEY) == 1 and slack.text.count(f"runbook ack {KEY}") == 1,
    )
    blip = Lookalike("one slow minute of the API", lambda: not _paged(stack, "alert:api-p95"))
    return Scene([paged], [blip])


def break_disk(stack: Stack) -> Scene:
    """Rotated logs on a disk short of room: one of its own where the demo may mount one, else the one it is on."""
    own = _mounted(stack.logs)
    return Scene([_fill_disk(stack)], _logs_to_leave(stack), close=lambda: _unmount(stack.logs) if own else None)


def _mounted(folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def _fill_disk(stack: Stack) -> Fault:
    size = max(2, 8 * stack.users // USERS) * MIB
    logs = rotated(stack.logs, max(4, LOGS * stack.users // USERS), size)
    # No demo fills a stranger's disk: it calls that much free too little which is free now, and a little more.
    room = shutil.disk_usage(stack.logs)
    free_at = min(1.0, max(0.01, (room.free + SHORT * size) / (room.used + room.free)))
    with (stack.folder / "runbook.toml").open("a") as profile:
        profile.write(f"\n[parameters.full-disk]\nfree_at = {free_at:.6f}\n")

    def mended() -> bool:
        now = shutil.disk_usage(stack.logs)
        packed = [one for one in logs if not one.exists() and one.with_name(f"{one.name}.gz").exists()]
        return bool(packed) and (now.free / (now.used + now.free) >= free_at or len(packed) == len(logs))

    return Fault(f"{len(logs)} rotated logs on a disk short of room", "full-disk", ("archive_log",), mended)


def _logs_to_leave(stack: Stack) -> list[Lookalike]:
    live, fresh = stack.logs / "web.log", stack.logs / f"web.log.{LOGS + 1}"
    fresh.write_text("rotated a moment ago\n")
    return [_unchanged("the live log", live), _unchanged("a log rotated a moment ago", fresh)]


def _unchanged(name: str, path: Path) -> Lookalike:
    before = path.read_bytes()
    untouched: Callable[[], bool] = lambda: path.exists() and path.read_bytes() == before  # noqa: E731
    return Lookalike(name, untouched)


def _paged(stack: Stack, key: str) -> bool:
    with Ledger(stack.env()["RUNBOOK_LEDGER_URL"]).read() as connection:
        return connection.execute(select(page.c.seq).where(page.c.key == key)).first() is not None
