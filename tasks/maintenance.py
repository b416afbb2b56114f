"""The app's two emergency switches, turned by configured commands: maintenance, and how many instances run."""

from __future__ import annotations

from sqlalchemy import select

from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Frozen, Proof, Risk
from runbook.permit import Permit
from runbook.schema import fix as fix_table
from runbook.settings import settings
from runbook.step import hand, reader
from tasks import commands
from tasks.site import probe_webhook

SECONDS = 60.0
ON, OFF, SCALE = "start_maintenance", "end_maintenance", "scale_app"
TARGETS = {"maintenance": "the app's maintenance switch", "scale": "the app's instances"}
SETTINGS = {
    "maintenance": ("RUNBOOK_MAINTENANCE_COMMAND", "RUNBOOK_MAINTENANCE_STATE_COMMAND"),
    "scale": ("RUNBOOK_SCALE_COMMAND", "RUNBOOK_SCALE_STATE_COMMAND"),
}
"""By switch: the command that turns it (``{state}`` is filled in), and the one whose last line says how it stands."""


class Switch(Frozen):
    """How one switch stands: ``on`` or ``off``, or a number of instances; ``ours``: a runbook has turned it last."""

    name: str
    state: str
    ours: bool = False


def missing(name: str) -> list[str]:
    """The settings that are empty and without which this switch cannot be turned."""
    return [setting for setting in SETTINGS[name] if not getattr(settings(), setting.lower())]


@reader("read the switch {name}")
async def read_switch(book: Ledger, name: str) -> Switch:
    """How it stands, and whether it stands so because of us. Raises ``OutsideError`` where it cannot be read."""
    state = await _state(name)
    done = [FixState.intended.value, FixState.applied.value, FixState.proven.value]
    rule = select(fix_table.c.want).where(fix_table.c.target == TARGETS[name], fix_table.c.state.in_(done))
    with book.read() as connection:
        last = connection.execute(rule.order_by(fix_table.c.seq.desc()).limit(1)).scalar_one_or_none()
    return Switch(name=name, state=state, ours=last is not None and last["state"] == state)


async def read_switches(book: Ledger) -> tuple[dict[str, Switch], list[str]]:
    """Every switch that can be turned, and in a line each why one cannot."""
    found, lines = {}, []
    for name in SETTINGS:
        try:
            settings().need(*SETTINGS[name])
            found[name] = await read_switch(book, name)
        except RunbookError as error:
            lines.append(f"{name} is not offered: {error}")
    return found, lines


async def is_on(book: Ledger) -> bool:
    """Whether the app is known to be in maintenance, so that its pages say nothing."""
    try:
        return not missing("maintenance") and (await read_switch(book, "maintenance")).state == "on"
    except RunbookError:
        return False


async def _state(name: str) -> str:
    setting = SETTINGS[name][1]
    ran = await commands.run(setting, seconds=SECONDS)
    said = ran.said.splitlines()[-1].strip() if ran.said else ""
    good = said in {"on", "off"} if name == "maintenance" else said.isdecimal()
    if ran.code or not good:
        wanted = "on or off" if name == "maintenance" else "a number"
        said = f"ended with {ran.code} and said {said[:100] or 'nothing'}"
        raise OutsideError(setting, said, f"run {setting} by hand: its last line must be {wanted}")
    return said


def start(why: str) -> Fix:
    """Show everybody the maintenance page. Customers see it, so a person decides."""
    return _turned(ON, "maintenance", "off", "on", Risk.person, why, "switch it off again")


def end(why: str, *, healthy: bool) -> Fix:
    """Let everybody in again. Where nobody can see whether the app behind it is healthy, a person decides."""
    risk = Risk.auto if healthy else Risk.person
    return _turned(OFF, "maintenance", "on", "off", risk, why, "switch it on again")


def scale(now: str, why: str) -> Fix:
    """One instance more. It costs money, so a person decides."""
    return _turned(SCALE, "scale", now, str(int(now) + 1), Risk.person, why, f"back to {now}")


def _turned(action: str, name: str, was: str, wanted: str, risk: Risk, why: str, undo: str) -> Fix:
    image = {"switch": name, "state": was}
    want = {"switch": name, "state": wanted}
    return Fix(action=action, target=TARGETS[name], risk=risk, why=why, undo=undo, expect=image, want=want)


def undo_turn(fix: Fix) -> Fix:
    """The same switch, turned back."""
    back = {ON: OFF, OFF: ON}.get(fix.action, fix.action)
    return fix.model_copy(update={"action": back, "expect": fix.want, "want": fix.expect, "why": f"undo of {fix.id}"})


@hand("turn {fix.target} to {fix.want[state]}")
async def turn_switch(fix: Fix, permit: Permit) -> None:
    """Run the command, if the switch still stands as the fix expects."""
    name, wanted = str(fix.want["switch"]), str(fix.want["state"])
    setting = SETTINGS[name][0]
    with permit.attempt(fix) as attempt:
        state = await _state(name)
        if state != fix.expect["state"]:
            attempt.moved_on(f"it says {state} by now")
            return
        try:
            ran = await commands.run(setting, seconds=SECONDS, state=wanted)
        except BadSetting as no:
            attempt.failed(str(no))
            return
        if ran.code:  # it may have done its work all the same: the switch is read again
            raise OutsideError(setting, f"ended with {ran.code}: {ran.said[-200:]}", f"run {setting} by hand")
        attempt.did(said=ran.said[-200:])


@reader("look up {fix.target}")
async def look_up_switch(fix: Fix) -> Proof:
    """Whether the switch stands as the fix wanted it."""
    state = await _state(str(fix.want["switch"]))
    return Proof(held=state == fix.want["state"], seen=f"it says {state}")


@reader("see whether Stripe gets through the maintenance page")
async def read_shut_out() -> str:
    """What keeps Stripe's webhook out while the app is in maintenance, or '' where nothing does.

    Stripe gives up on an event after three days, and switches an endpoint off that only ever fails.
    """
    if not (settings().app_url and settings().stripe_webhook_secret):
        return ""
    path = settings().runbook_webhook_path
    try:
        status = (await probe_webhook()).status
    except OutsideError as error:
        return f"{path}: {error.problem}"
    return f"{path} answers {status}" if status == 503 or 300 <= status < 400 else ""
