"""``make demo``, ``make up``, ``make down`` and ``make gameday``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.table import Table
from sqlalchemy import select

from demo import drill as drilling
from demo import gameday
from demo.faults import Broken
from demo.prefect_api import Api, console, say
from demo.prefect_server import ROOT
from demo.score import rates_table, score
from demo.signals import interrupt
from demo.stack import Stack
from runbook.ledger import Ledger, now_ms
from runbook.schema import entry, fix, run

STATE = ROOT / ".demo" / "up.json"


def times(ledger: Ledger, runbook: str, actions: tuple[str, ...], since_ms: int) -> tuple[str, str]:
    """How long after ``since_ms`` the runbook had decided what to do, and how long until its last proof."""
    with ledger.read() as connection:
        of = select(fix).where(fix.c.runbook == runbook, fix.c.action.in_(actions))
        rows = connection.execute(of).mappings().all()
        proofs = select(entry.c.at_ms).where(entry.c.kind == "proven", entry.c.fix_id.in_([row["id"] for row in rows]))
        proven = [row.at_ms for row in connection.execute(proofs)]
    found = min((row["decided_at_ms"] for row in rows), default=None)
    return (
        f"{(found - since_ms) / 1000:.1f} s" if found else "never",
        f"{(max(proven) - since_ms) / 1000:.1f} s" if proven else "never",
    )


def scorecard(stack: Stack, broken: Broken, began_ms: int) -> bool:
    """Print what was broken and what became of it; True when all is mended and every look-alike untouched."""
    ledger = Ledger(stack.env()["RUNBOOK_LEDGER_URL"])
    table = Table(title="Faults", title_justify="left")
    for column in ("fault", "found in", "fixed in", "proven", "fixes", "by"):
        table.add_column(column)
    scored = score(broken)
    for fault, mended in scored.faults:
        found, fixed = times(ledger, fault.runbook, fault.actions, began_ms) if fault.actions else ("-", "-")
        with ledger.read() as connection:
            rule = select(fix.c.id).where(fix.c.action.in_(fault.actions), fix.c.state == "proven")
            count = len(connection.execute(rule).all())
        table.add_row(fault.name, found, fixed, "yes" if mended else "NO", str(count), fault.runbook)
    console.print(table)
    left = Table(title="Look-alikes", title_justify="left")
    left.add_column("must not be touched")
    left.add_column("untouched")
    for _, one, untouched in scored.lookalikes:
        left.add_row(one.name, "yes" if untouched else "NO")
    console.print(left)
    console.print(rates_table(scored.rates()))
    return scored.good


def demo() -> int:
    """Start, break, sweep through Prefect, score, stop."""
    began = time.monotonic()
    say("Starting a stack of its own on free loopback ports")
    with Stack(say) as stack:
        api = Api(stack.prefect.url)
        api.pause_schedules()
        with stack.step("breaking things"):
            broken = Broken(stack)
        began_ms = now_ms()
        good = False
        try:
            say("Running the sweep through Prefect: deployment health-sweep, mode auto")
            state = api.watch(api.start("health-sweep", mode="auto"), stack.prefect.check)
            say(f"  ✓ sweep ended: {state}")
            say("The site is down: deployment site-down, mode auto")
            state = api.watch(api.start("site-down", mode="auto"), stack.prefect.check)
            say(f"  ✓ the emergency ended: {state}")
            say("Looking at the seven alerts: deployment alert-watch")
            state = api.watch(api.start("alert-watch"), stack.prefect.check)
            say(f"  ✓ the watch ended: {state}")
            _outcomes(stack)
            good = scorecard(stack, broken, began_ms)
        except RuntimeError as error:
            say(str(error))
        finally:
            broken.close()
        if not good:
            _explain(stack)
        say("Stopping everything")
    verdict = "All faults fixed, no look-alike touched" if good else "NOT all is well"
    say(f"{verdict} · {time.monotonic() - began:.0f} s in all")
    return 0 if good else 1


def _outcomes(stack: Stack) -> None:
    ledger = Ledger(stack.env()["RUNBOOK_LEDGER_URL"])
    with ledger.read() as connection:
        for row in connection.execute(select(run)).mappings():
            report = row["report"] or {}
            say(f"{row['runbook']}: {row['outcome']} (ledger {row['id']}) {report.get('reason', '')}")
            for found in report.get("findings", []):
                say(f"  found  {found['subject']}: {found['detail']}")
            for text in report.get("notices", []):
                say(f"  note   {text}")


def _explain(stack: Stack) -> None:
    for name in ("worker", "server"):
        say(f"--- the end of {name}.log")
        say((stack.folder / f"{name}.log").read_text(errors="replace")[-3000:])


def serve() -> int:
    """The stack of ``make up``, until a signal ends it."""
    with Stack(say, events=True) as stack:
        Api(stack.prefect.url).pause_schedules()
        with stack.step("breaking things"):
            broken = Broken(stack, with_payment=True)
        env = stack.env() | {"PREFECT_API_URL": f"{stack.prefect.url}/api"}
        lines = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in env.items())
        (ROOT / ".demo" / "env").write_text(lines)
        STATE.write_text(json.dumps({"pid": os.getpid(), "ui": stack.prefect.url, "hooks": stack.hooks_url}))
        try:
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
        finally:
            broken.close()
            STATE.unlink(missing_ok=True)
    return 0


def up() -> int:
    """Start ``serve`` in the background and say what to click."""
    if _running():
        say("It runs already. Next: make down")
        return 2
    STATE.parent.mkdir(exist_ok=True)
    log = STATE.with_name("up.log")
    with log.open("wb") as out:
        words = [sys.executable, "-m", "demo", "serve"]
        child = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    shown = 0
    while not STATE.exists():
        text = log.read_text(errors="replace")
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if child.poll() is not None:
            say(f"It did not start. Next: read {log.relative_to(ROOT)}")
            return 1
        time.sleep(0.3)
    state = json.loads(STATE.read_text())
    url, hooks = state["ui"], state["hooks"]
    say(f"""
The Prefect UI:  {url}

Things are broken now: the app's connections are all taken, its webhook endpoint is off, 200 subscriptions have drifted.
  1. Deployments → health-sweep → Run → Quick run. Watch the run, then open its Artifacts.
  2. Deployments → failed-payments → Run → Custom run, mode approve. It suspends: Resume shows the plan and a form.
  3. In a terminal:  . .demo/env && .venv/bin/runbook ledger
  4. An alert that comes in starts its runbook at once:
     . .demo/env && curl {hooks}/hooks/alertmanager -H "Authorization: Bearer $INGRESS_ALERTMANAGER_TOKEN" \\
       -d '{{"alerts": [{{"status": "firing", "startsAt": "'$(date -u +%FT%TZ)'",
            "labels": {{"alertname": "slow", "runbook": "pool-exhaustion"}}}}]}}'
Schedules are paused here, so that nothing is mended before you look; switch them on in each deployment.
make down ends everything.""")
    return 0


def _running() -> int | None:
    try:
        pid = int(json.loads(STATE.read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    command = Path(f"/proc/{pid}/cmdline")
    return pid if not command.exists() or b"demo" in command.read_bytes() else None


def down() -> int:
    """End what ``up`` started and wait until it is gone."""
    pid = _running()
    if pid is None:
        say("Nothing runs.")
        return 0
    os.kill(pid, signal.SIGTERM)
    for _ in range(600):
        if _running() is None:
            say("Stopped.")
            return 0
        time.sleep(0.1)
    say(f"It does not stop. Next: kill -9 {pid}")
    return 1


def drill() -> int:
    """Drill the named runbook and print what came of it as one line of JSON."""
    figures = drilling.drill(sys.argv[2])
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["passed"] else 1


def night() -> int:
    """The game day of ``make gameday``."""
    return gameday.gameday(say, console.print)


def main() -> int:
    """The exit code of the named command."""
    commands = {"": demo, "demo": demo, "up": up, "down": down, "serve": serve, "drill": drill, "gameday": night}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        say(f"no such command: {name}. One of: demo, up, down")
        return 2
    if name == "serve":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    else:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, interrupt)
    try:
        return commands[name]()
    except RuntimeError as error:  # what did not start or end says so, and which log tells more
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Interrupted; everything it started is stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
