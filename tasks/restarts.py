"""One instance of the app started again by the configured command, and the proof that a healthy one took its place."""

from __future__ import annotations

import asyncio
import time

from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger, now_ms
from runbook.model import Fix, FixState, Proof
from runbook.permit import Permit
from runbook.settings import settings
from runbook.step import hand, reader
from tasks import commands, processes
from tasks.pressure import MB, Process, Restart
from tasks.web import call

COMMAND = "RUNBOOK_RESTART_COMMAND"
ACTION = "restart_instance"
PROVE_SECONDS = 90.0
STEP_SECONDS = 0.2
HEALTH_SECONDS = 5.0


def deploying() -> str:
    """Why a deployment is thought to be under way, or ''."""
    lock = settings().runbook_deploy_lock
    return f"{lock} (RUNBOOK_DEPLOY_LOCK) is there: a deployment is under way" if lock and lock.exists() else ""


def unable() -> str:
    """Which setting is missing without which nothing may be restarted, or ''."""
    if not settings().runbook_restart_command:
        return f"{COMMAND} is not configured, so nothing is restarted"
    if not _address()[1]:
        return "neither RUNBOOK_HEALTH_URL nor APP_URL is configured, so nothing is restarted: no proof could be had"
    return ""


def past_restarts(ledger: Ledger, but_run: str) -> list[Restart]:
    """Every restart of the last 24 hours on this ledger, but for those of one run; the newest first."""
    with ledger.read() as connection:
        history = ledger.history(connection)
    found = [
        Restart(minutes_ago=(now_ms() - one.at_ms) / 60_000, proven=one.state is FixState.proven)
        for one in history
        if one.action == ACTION and one.run_id != but_run
    ]
    return sorted(found, key=lambda one: one.minutes_ago)


def _address() -> tuple[str, str]:
    if settings().runbook_health_url:
        return "RUNBOOK_HEALTH_URL", str(settings().runbook_health_url)
    return "APP_URL", settings().app_url or ""


@reader("ask whether the app is healthy")
async def read_health() -> bool | None:
    """Whether ``RUNBOOK_HEALTH_URL`` (else ``APP_URL``) answers below 400; None where neither is configured."""
    return await _healthy()


async def _healthy() -> bool | None:
    setting, url = _address()
    if not url:
        return None
    try:
        return (await call(setting, "GET", url, seconds=HEALTH_SECONDS)).status < 400
    except OutsideError:
        return False


@hand("restart {fix.target}")
async def restart_instance(fix: Fix, permit: Permit) -> None:
    """Run the restart command for one instance, if its process is still the very one that was read."""
    with permit.attempt(fix) as attempt:
        if await asyncio.to_thread(processes.same, str(fix.expect["id"])) is None:
            attempt.moved_on(f"pid {fix.expect['pid']} is another process by now, or gone")
            return
        if why := deploying():
            attempt.moved_on(why)
            return
        try:
            ran = await commands.run(COMMAND, pid=str(fix.expect["pid"]), instance=str(fix.expect["instance"]))
        except BadSetting as error:
            attempt.failed(str(error))
            return
        if ran.code and await asyncio.to_thread(processes.same, str(fix.expect["id"])) is not None:
            attempt.failed(f"{COMMAND} ended with {ran.code} and the process is still there: {ran.said[-200:]}")
            return
        attempt.did(code=ran.code, said=ran.said)


@reader("look for what took the place of {fix.target}")
async def look_up_restart(fix: Fix) -> Proof:
    """Whether the old process is gone, a younger one below the mark is there, and the app answers."""
    deadline = time.monotonic() + PROVE_SECONDS
    while True:
        proof = await _look(fix)
        if proof.held or time.monotonic() > deadline:
            return proof
        await asyncio.sleep(STEP_SECONDS)


async def _look(fix: Fix) -> Proof:
    old, below = str(fix.expect["id"]), int(fix.want["below_mb"])
    there = await asyncio.to_thread(processes.find)
    if any(one.id == old for one in there):
        return Proof(held=False, seen=f"pid {fix.expect['pid']} is still there")
    young = [one for one in there if _younger(one, fix)]
    if not young:
        return Proof(held=False, seen=f"pid {fix.expect['pid']} is gone and nothing took its place")
    one = min(young, key=lambda each: each.rss)
    seen = {"pid": one.pid, "rss_mb": one.rss // MB}
    if one.rss >= below * MB:
        return Proof(held=False, seen=f"pid {one.pid} has {one.rss // MB} MB, not below {below} MB", evidence=seen)
    if not await _healthy():
        return Proof(held=False, seen=f"pid {one.pid} is there, but {_address()[0]} does not answer", evidence=seen)
    return Proof(
        held=True,
        seen=f"pid {fix.expect['pid']} is gone, pid {one.pid} answers with {one.rss // MB} MB",
        evidence=seen,
    )


def _younger(one: Process, fix: Fix) -> bool:
    """Whether it started after everything that was there when the restart was planned; all did, after a reboot."""
    boot = str(fix.expect["id"]).partition(":")[0]
    return one.id.partition(":")[0] != boot or one.started > int(fix.expect["newest"])
