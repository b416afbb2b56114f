"""Kills receiver, responder and Prefect server with kill -9 while webhooks come in, and counts what became of them.

``python -m benchmarks.kill_9`` writes its log to docs/kill-9.md. A sender does what real ones do: it sends a webhook
again until it is answered with 2xx. Some webhooks tell of a real fault, a session that blocks others: each must be
ended, and by one fix.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from demo import database_faults
from demo.__main__ import Api
from demo.stack import HOOKS_TOKEN, Stack
from ingress.prefect_events import event_id
from ingress.providers import PROVIDERS, hooks
from runbook.ledger import Ledger
from runbook.schema import fix, hook

DOCS = Path(__file__).resolve().parent.parent / "docs"
VICTIMS = ("receiver", "responder", "server")
Say = Callable[[str], None]


class Counted(NamedTuple):
    """What became of the webhooks and of the faults they told of."""

    accepted: int
    stored: int
    told: int
    shown: int
    faults: int
    mended: int
    doubles: int

    @property
    def well(self) -> bool:
        """None lost, every fault mended, none of them twice."""
        return (
            self.accepted == self.stored == self.told == self.shown and self.faults == self.mended and not self.doubles
        )


class Storm:
    """A stack under a stream of webhooks, and whoever kills parts of it."""

    def __init__(self, stack: Stack, seed: int, say: Say) -> None:
        self.stack, self.say, self.chance = stack, say, random.Random(seed)
        self.api, self.began = Api(stack.prefect.url), time.monotonic()
        self.accepted: dict[str, str] = {}
        self.tries = 0
        self.faults: list[database_faults.Sessions] = []
        self.alive: dict[str, subprocess.Popen[bytes]] = {
            "receiver": stack.ingress,
            "responder": stack.responder,
            "server": stack.server,
        }

    def tell(self, what: str) -> None:
        """One line of the log."""
        self.say(f"{time.monotonic() - self.began:6.1f} s  {what}")

    def post(self) -> None:
        """One webhook, sent again until it is answered."""
        labels = {"alertname": "slow", "runbook": "pool-exhaustion"}
        body = json.dumps({"alerts": [{"status": "firing", "labels": labels, "startsAt": str(uuid.uuid4())}]}).encode()
        headers = {"Authorization": f"Bearer {HOOKS_TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.stack.hooks_url}/hooks/alertmanager", body, headers)
        while True:
            self.tries += 1
            try:
                with urllib.request.urlopen(request, timeout=5):
                    break
            except (OSError, http.client.HTTPException):
                self.revive("receiver")
        (one,) = hooks(PROVIDERS["alertmanager"], body)
        self.accepted[one.id] = event_id(one)

    def kill(self, name: str) -> None:
        """kill -9, without a word before."""
        process = self.alive[name]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        self.tell(f"kill -9 {name} (pid {process.pid}), {len(self.accepted)} webhooks accepted so far")

    def revive(self, name: str) -> None:
        """Start it again when it is dead, as systemd would."""
        if self.alive[name].poll() is None:
            return
        start = {
            "receiver": self.stack.start_ingress,
            "responder": self.stack.start_responder,
            "server": self.stack.prefect.start_server,
        }
        self.alive[name] = start[name]()
        self.tell(f"{name} is back")

    def fault(self) -> None:
        """A session that forgot its transaction, and one that waits for it."""
        self.faults.append(database_faults.idle_writers(self.stack.postgres, 1))
        self.faults.append(database_faults.blocked_app(self.stack.postgres, 1, 1))

    def mended(self) -> int:
        """How many of the forgotten transactions are gone."""
        return sum(one.alive() == 0 for one in self.faults[::2])


def run(stack: Stack, kills: int, seed: int, say: Say) -> Counted:
    """Kill ``kills`` times at random moments, each part at least once, and count when all is quiet again."""
    storm = Storm(stack, seed, say)
    storm.api.pause_schedules()
    victims = [*VICTIMS, *(storm.chance.choice(VICTIMS) for _ in range(kills - len(VICTIMS)))][:kills]
    for victim in victims:
        storm.fault()
        time.sleep(2.5)  # from then on the profile calls its wait long
        for _ in range(storm.chance.randint(3, 8)):
            storm.post()
            time.sleep(storm.chance.random() / 4)
        time.sleep(storm.chance.random())
        storm.kill(victim)
        for _ in range(storm.chance.randint(1, 4)):
            storm.post()
        for name in VICTIMS:
            storm.revive(name)
        storm.post()
        _until(lambda: storm.mended() == len(storm.faults) // 2)
        storm.tell(f"faults mended: {storm.mended()} of {len(storm.faults) // 2}")
        for one in storm.faults[-2:]:
            one.close()
    counted = count(storm)
    storm.tell(f"{storm.tries} deliveries, {counted}")
    return counted


def _until(true: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.5)


def count(storm: Storm) -> Counted:
    """Read what the ledger, Prefect and the database say, once nothing moves any more."""
    book, wanted = Ledger(storm.stack.env()["RUNBOOK_LEDGER_URL"]), storm.accepted

    def rows() -> list[Any]:
        with book.read() as connection:
            return [row for row in connection.execute(select(hook)).mappings() if row["id"] in wanted]

    def shown() -> int:
        ids, seen = list(wanted.values()), set[str]()
        for at in range(0, len(ids), 50):
            asked = {"filter": {"id": {"id": ids[at : at + 50]}}, "limit": 50}
            seen |= {one["id"] for one in storm.api.call("POST", "/events/filter", asked)["events"]}
        return len(seen)

    with contextlib.suppress(urllib.error.URLError):
        _until(lambda: shown() == len(wanted) and all(row["handled_at_ms"] for row in rows()))
    known = {f"session {pid}" for one in storm.faults[::2] for pid, _ in one.known}
    with book.read() as connection:
        acted = select(fix.c.target).where(fix.c.intended_at_ms.is_not(None), fix.c.action == "end_session")
        acts = Counter(row.target for row in connection.execute(acted))
    return Counted(
        accepted=len(wanted),
        stored=len(rows()),
        told=sum(row["handled_at_ms"] is not None for row in rows()),
        shown=shown(),
        faults=len(storm.faults) // 2,
        mended=storm.mended(),
        doubles=sum(count > 1 for target, count in acts.items() if target in known),
    )


def main() -> None:
    """Run it and write the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    given = parser.parse_args()
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    with Stack(lambda _text: None, events=True) as stack:
        counted = run(stack, given.kills, given.seed, say)
    verdict = "None lost, every fault mended, none fixed twice." if counted.well else "NOT all is well."
    rows = "".join(f"| {name} | {value} |\n" for name, value in counted._asdict().items())
    (DOCS / "kill-9.md").write_text(
        f"# kill -9\n\nWritten by `python -m benchmarks.kill_9 --kills {given.kills} --seed {given.seed}`: receiver, "
        f"responder and Prefect\nserver are killed at random moments under a stream of signed webhooks. {verdict}\n\n"
        f"| what | count |\n|---|---|\n{rows}\n`told` is what the ledger says Prefect took, `shown` what Prefect shows "
        "as an event of its own, each once;\n`doubles` are sessions more than one fix was begun for.\n\n"
        f"```\n{chr(10).join(lines)}\n```\n",
        "utf-8",
    )
    raise SystemExit(0 if counted.well else 1)


if __name__ == "__main__":
    main()
