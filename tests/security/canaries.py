"""A search for planted secrets in all that comes out of the product and all that it keeps.

``python -m tests.security.canaries`` does all of it and prints the result; the end-to-end test does most of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psycopg
from psycopg import sql

from demo.faults import Broken
from demo.prefect_api import Api
from demo.prefect_server import BIN, ROOT, wait_for
from demo.stack import Stack
from runbook.settings import Settings
from tests.security.planting import HOOK, SETTINGS, Canaries, Hostile, Planted, known, plant

MODES = ("observe", "auto", "approve")


def run(canaries: Canaries, env: Mapping[str, str], *words: str) -> str:
    """One ``runbook`` command to its end; all it says is searched."""
    done = subprocess.run(
        [str(BIN / "runbook"), *words],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **env},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    canaries.search(f"runbook {words[0]}", done.stdout + done.stderr)
    assert "No such command" not in done.stderr, done.stderr
    return done.stdout


def search_ledger(canaries: Canaries, folder: Path) -> None:
    """Every file of the ledger as it lies on the disk, and every row unpacked."""
    for path in sorted(folder.glob("*.db*")):
        canaries.search(f"file {path.name}", path.read_bytes())
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in file.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    canaries.search(f"ledger table {table}", unpacked(value))


def unpacked(value: object) -> bytes:
    if isinstance(value, bytes):
        with contextlib.suppress(zlib.error):
            return zlib.decompress(value)
        return value
    return str(value).encode()


@contextlib.contextmanager
def receiver(stack: Stack, env: Mapping[str, str]) -> Iterator[str]:
    """The receiver of webhooks as a process; what it says is in ``receiver.log``."""
    url = f"http://127.0.0.1:{env['INGRESS_PORT']}"
    with (stack.folder / "receiver.log").open("wb") as log:
        words = [sys.executable, "-m", "ingress"]
        own = {**os.environ, **env, "INGRESS_SENDGRID_PUBLIC_KEY": ""}  # a false one keeps it from starting
        process = subprocess.Popen(words, env=own, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"{url}/healthz", process, "the receiver did not start")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def send_hooks(canaries: Canaries, url: str, env: Mapping[str, str]) -> None:
    """Alerts, in their places canaries, taken, refused and to a wrong address; every answer is searched."""
    labels = {name: text.format(c=canaries.new(f"webhook {name}")) for name, text in HOOK.items()}
    alerts = [
        {"status": "firing", "startsAt": str(n), "labels": some, "annotations": {"summary": labels["summary"]}}
        for n, some in enumerate((labels, {"alertname": labels["alertname"]}))
    ]
    bearer = {"Authorization": f"Bearer {env['INGRESS_ALERTMANAGER_TOKEN']}"}
    text = json.dumps({"text": labels["summary"], "blocks": []})
    for path, headers, body in (
        ("alertmanager", bearer, json.dumps({"alerts": alerts})),
        ("alertmanager", {"Authorization": f"Bearer {canaries.new('forged bearer')}"}, "{}"),
        (f"app/{env['INGRESS_APP_TOKEN']}", {}, text),
        (f"app/{canaries.new('forged app token')}", {}, text),
        ("generic", {"X-Runbook-Signature": canaries.new("forged signature"), "X-Runbook-Timestamp": "1"}, "{}"),
    ):
        answer = httpx.post(f"{url}/hooks/{path}", content=body, headers=headers)
        canaries.search("receiver's answers", answer.content + str(answer.headers).encode())
    canaries.search("receiver's metrics", httpx.get(f"{url}/metrics").content)


def ask_everything(canaries: Canaries, env: Mapping[str, str]) -> None:
    """Every command that shows anything."""
    told = json.loads(run(canaries, env, "ledger", "--json"))["runs"]
    incidents = json.loads(run(canaries, env, "incident", "list", "--json"))["incidents"]
    assert incidents, "nothing was found, so nothing was searched"
    for words in (
        *(("show", str(one["id"])) for one in told[:3]),
        ("show", str(told[-1]["id"]), "--json"),
        ("doctor", "--json"),
        ("role",),
        ("status",),
        ("pages", "--json"),
        ("incident", "list", "--json"),
        *(("incident", "show", str(one["id"])) for one in incidents[:1]),
        ("report",),
        ("export",),
        ("audit", "--json"),
        ("backtest", "failed-payments"),
        ("stop", f"because password={canaries.new('reason')}"),
        ("start",),
    ):
        run(canaries, env, *words)


def hostile_vendors(canaries: Canaries, stack: Planted, env: Mapping[str, str], statuses: Sequence[int]) -> None:
    """Every runbook and the emergency while each vendor answers with all it was sent and secrets of its own."""
    hostile = Hostile(canaries)
    names = ("STRIPE_API_BASE", "SENDGRID_API_BASE", "OPENAI_BASE_URL", "SENTRY_API_BASE", "PAGERDUTY_API_BASE")
    sick = {**env, **dict.fromkeys((*names, "APP_URL", "NEXTAUTH_URL"), hostile.url), **stack.hostile(hostile.url)}
    try:
        for status in statuses:
            hostile.status = status
            run(canaries, sick, "sweep", "--mode", "auto")
            run(canaries, sick, "run", "site-down", "--mode", "auto", "--set", "window_seconds=0")
        run(canaries, sick, "watch")
        run(canaries, sick, "doctor")
    finally:
        hostile.stop()


def dead_ends(canaries: Canaries, env: Mapping[str, str], folder: Path) -> None:
    """First starts, and ledgers and databases that cannot be reached or cannot be named."""
    home = folder / "home"
    home.mkdir()
    (folder / "app.env").write_text("".join(f"{name.upper()}='{env[name.upper()]}'\n" for name in SETTINGS), "utf-8")
    clean = {name: value for name, value in env.items() if name.lower() not in Settings.model_fields}
    run(
        canaries,
        clean | {"RUNBOOK_HOME": str(home), "RUNBOOK_LEDGER_URL": f"sqlite:///{home}/ledger.db"},
        "init",
        "--env",
        str(folder / "app.env"),
    )
    canaries.search("runbook.toml of init", (home / "runbook.toml").read_bytes())
    search_ledger(canaries, home)
    secret = canaries.new("unusable URL")
    for url in (f"postgresql://u:{secret}@127.0.0.1:9/l", f"postgresql://u:{secret}@[/l", f"mysql://u:{secret}@h/l"):
        run(canaries, {**env, "RUNBOOK_DATABASE_URL": url}, "run", "pool-exhaustion")
        run(canaries, {**env, "RUNBOOK_LEDGER_URL": url, "RUNBOOK_DEBUG": "1"}, "status")


def through_prefect(canaries: Canaries, stack: Stack, modes: Sequence[str]) -> None:
    """Every runbook as a subflow on the worker, in these modes, and a run that crashes with a secret in its error."""
    api = Api(stack.prefect.url)
    for mode in modes:
        wanted, deadline = api.start("health-sweep", mode=mode), time.monotonic() + 300
        while api.call("GET", f"/flow_runs/{wanted}")["state"]["type"] not in {"COMPLETED", "FAILED", "CRASHED"}:
            if time.monotonic() > deadline:
                raise TimeoutError("the sweep does not end")
            time.sleep(0.5)
    words = [sys.executable, "-m", "tests.security.crashes", canaries.new("an error nobody expected")]
    done = subprocess.run(words, env=stack.prefect.env, cwd=ROOT, capture_output=True, timeout=120, check=False)
    canaries.search("a crashed run", done.stdout + done.stderr)


def search_prefect(canaries: Canaries, stack: Stack) -> None:
    """Every row of Prefect's database, with its runs, states, logs and artifacts, and what its parts said."""
    with psycopg.connect(stack.prefect_database_url) as prefect:
        tables = prefect.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            rows = sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table))
            for (row,) in prefect.execute(rows):
                canaries.search(f"Prefect's table {table}", row.encode())
    for name in ("server.log", "worker.log"):
        canaries.search(f"Prefect's {name}", (stack.folder / name).read_bytes())


def hunt(
    statuses: Sequence[int] = (400, 401, 403, 500, 200), modes: Sequence[str] = MODES, *, prefect: bool = False
) -> Canaries:
    """Plant, run everything, search everything."""
    canaries = Canaries()
    planted = Planted(canaries, prefect=prefect, users=10_000, subscriptions=5_000)
    with known(canaries), planted as stack:
        if prefect:
            Api(stack.prefect.url).pause_schedules()
        held = plant(stack, canaries)
        broken = Broken(stack)
        env = stack.env()
        try:
            with receiver(stack, env) as url:
                send_hooks(canaries, url, env)
            if prefect:
                through_prefect(canaries, stack, modes)
            else:
                for mode in modes:
                    run(canaries, env, "sweep", "--mode", mode)
            hostile_vendors(canaries, planted, env, statuses)
            ask_everything(canaries, env)
            dead_ends(canaries, env, stack.folder)
        finally:
            held.close()
            broken.close()
        search_ledger(canaries, stack.folder)
        canaries.search("receiver's log", (stack.folder / "receiver.log").read_bytes())
        if prefect:
            search_prefect(canaries, stack)
    return canaries


def report(canaries: Canaries) -> str:
    """What was planted, what was searched, and what was found."""
    lines = [f"{len(canaries.places)} canaries; {sum(canaries.searched.values()):,} bytes searched in:"]
    lines += [f"  {size:>12,}  {where}" for where, size in sorted(canaries.searched.items())]
    lines += [f"LEAK {where}: {text!r}" for where, texts in sorted(canaries.seen.items()) for text in sorted(texts)[:2]]
    return "\n".join([*lines, f"{len(canaries.seen)} leaks"])


if __name__ == "__main__":
    began = time.monotonic()
    found = hunt(prefect="--prefect" in sys.argv)
    sys.stdout.write(f"{report(found)}, {time.monotonic() - began:.0f} s\n")
    sys.exit(1 if found.seen else 0)
