"""Which model the app uses: a flag that a configured command sets and another reads back; turned for a time only."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import RowMapping, select

from runbook import memory
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Frozen, Proof, Risk
from runbook.permit import Permit
from runbook.schema import fix as fix_table
from runbook.settings import settings
from runbook.step import hand, reader
from tasks import commands
from tasks.generation import fallback, primary

TARGET = "the app's AI model"
NEEDED = ("RUNBOOK_AI_FALLBACK_MODEL", "RUNBOOK_AI_FALLBACK_COMMAND", "RUNBOOK_AI_STATE_COMMAND")
SECONDS = 20.0
FLIP, REVERT = "use_fallback_model", "use_primary_model"
MINUTE_MS = 60_000
LET_GO = "ai/let-go"
"""The id of our last flip that a person turned back."""

State = Literal["primary", "fallback", "other"]


class Switch(Frozen):
    """Where the flag stands and, where a runbook set the fallback, from when until when it is meant to (Unix ms).

    ``turned_ms``: when a runbook last turned it at all; what the log says of earlier is past.
    """

    state: State
    said: str
    since_ms: int | None = None
    until_ms: int | None = None
    turned_ms: int = 0

    @property
    def ours(self) -> bool:
        """A runbook set it, and nobody has turned it since."""
        return self.state == "fallback" and self.since_ms is not None


def missing() -> list[str]:
    """The settings that are empty and without which nothing can be switched."""
    return [name for name in NEEDED if not getattr(settings(), name.lower())]


@reader("read which model the app uses")
async def read_switch(book: Ledger) -> Switch:
    """Where the flag stands now, and what the ledger knows of it. Raises ``OutsideError`` where it cannot be read."""
    state, said = await _state()
    last = _last(book)
    seen = Switch(state=state, said=said, turned_ms=last["decided_at_ms"] if last else 0)
    if last is None or last["action"] != FLIP or memory.recall(book, LET_GO) == last["id"]:
        return seen
    if state == "fallback":
        until = last["want"].get("until_ms", last["decided_at_ms"])
        return seen.model_copy(update={"since_ms": last["decided_at_ms"], "until_ms": until})
    if last["state"] != FixState.intended:  # a person turned it back: what they set next is theirs
        memory.remember(book, LET_GO, last["id"])
    return seen


def _last(book: Ledger) -> RowMapping | None:
    done = [FixState.intended.value, FixState.applied.value, FixState.proven.value]
    rule = select(fix_table).where(fix_table.c.action.in_([FLIP, REVERT]), fix_table.c.state.in_(done))
    with book.read() as connection:
        return connection.execute(rule.order_by(fix_table.c.seq.desc()).limit(1)).mappings().first()


async def _state() -> tuple[State, str]:
    """The command prints ``primary`` or ``fallback``, or the name of the model in force, in its last line."""
    setting = "RUNBOOK_AI_STATE_COMMAND"
    main, other = primary(), fallback()
    ran = await commands.run(setting, seconds=SECONDS)
    if ran.code or not ran.said:
        said = f"ended with {ran.code} and said {ran.said[-200:] or 'nothing'}"
        raise OutsideError(setting, said, f"run {setting} by hand: it must print primary, fallback or the model's name")
    said = ran.said.splitlines()[-1].strip()[:100]
    names: dict[str, State] = {"primary": "primary", "fallback": "fallback"}
    if main is not None and other is not None and main.model != other.model:
        names |= {main.model: "primary", other.model: "fallback"}
    return names.get(said, "other"), said


def flip(why: str, now_ms: int, minutes: int) -> Fix:
    """Use the fallback model, for so many minutes at most."""
    return Fix(
        action=FLIP,
        target=TARGET,
        risk=Risk.guarded,
        why=why,
        undo="switch back to the app's own model",
        expect={"state": "primary"},
        want={"state": "fallback", "until_ms": now_ms + minutes * MINUTE_MS},
    )


def revert(why: str, until_ms: int | None) -> Fix:
    """Use the app's own model again."""
    return Fix(
        action=REVERT,
        target=TARGET,
        risk=Risk.guarded,
        why=why,
        undo="switch to the fallback model again",
        expect={"state": "fallback", "until_ms": until_ms},
        want={"state": "primary"},
    )


def undo_switch(fix: Fix) -> Fix:
    """The same switch, turned back."""
    back = FLIP if fix.action == REVERT else REVERT
    return fix.model_copy(update={"action": back, "expect": fix.want, "want": fix.expect, "why": f"undo of {fix.id}"})


@hand("switch {fix.target} to {fix.want[state]}")
async def switch_model(fix: Fix, permit: Permit) -> None:
    """Set the flag by the configured command, if it still stands as the fix expects and nobody turned it since."""
    setting = "RUNBOOK_AI_FALLBACK_COMMAND"
    access = fallback() if fix.want["state"] == "fallback" else primary()
    with permit.attempt(fix) as attempt:
        state, said = await _state()
        if state != fix.expect["state"]:
            attempt.moved_on(f"the flag says {said} by now")
            return
        if access is None:
            attempt.failed("OPENAI_MODEL or RUNBOOK_AI_FALLBACK_MODEL is no longer set")
            return
        try:
            ran = await commands.run(setting, seconds=SECONDS, model=access.model, state=fix.want["state"])
        except BadSetting as no:
            attempt.failed(str(no))
            return
        if ran.code:  # it may have done its work all the same: the flag is read again
            raise OutsideError(setting, f"ended with {ran.code}: {ran.said[-200:]}", f"run {setting} by hand")
        attempt.did(said=ran.said[-200:])


@reader("look up {fix.target}")
async def look_up_switch(fix: Fix) -> Proof:
    """Whether the flag stands as the fix wanted it."""
    state, said = await _state()
    return Proof(held=state == fix.want["state"], seen=f"the flag says {said}")
