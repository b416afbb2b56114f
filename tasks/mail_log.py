"""What the app logged of mail that did not leave: refusals of mail servers, failed notifications, and password resets,
which are asked for again on the user's behalf."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runbook import memory
from runbook.errors import OutsideError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.memory import LogEvent
from runbook.model import Finding, Fix, FixState, Frozen, Proof, Risk
from runbook.permit import Permit
from runbook.settings import settings
from runbook.step import hand, reader
from tasks import addresses, mail_causes
from tasks.log_forms import SMTP
from tasks.logs import read_log
from tasks.sendgrid_api import ADDRESS
from tasks.web import call

RESET_FAILED, RESET_SENT = "password_reset_email_failed", "password_reset_email_sent"
NOTIFICATIONS = ("smtp_notification_failed", "sendgrid_notification_failed")
PLAIN = "error"
"""An error without a name of its own: one of mail where a server's reply is in its text."""

VALID_MS = 3_600_000
"""A reset's link is good for one hour."""

AT_ONCE = 4
"""Resets asked for again in one run: the app takes five a minute from one client, then blocks it for five."""

RESET_PREFIX = "password-reset:"
ARRIVES_WITHIN = (0.0, 0.1, 0.2, 0.4, 0.8, 1.5, 2.0)
"""Pauses in seconds between looks into the log for what the app says of a reset."""


class Refusals(Frozen):
    """What the log says of mail in general: how often by name, and how often by cause where a server named one."""

    names: Mapping[str, int]
    causes: Mapping[str, int]


class Failure(Frozen):
    """One user whose last reset mail failed and was not sent since; ``at_ms`` is when it last failed."""

    address: str
    mark: str
    at_ms: int
    times: int


class Resets(Frozen):
    """Failed resets still valid, the oldest first; how many name no address; how many ran out within a day."""

    failures: tuple[Failure, ...] = ()
    nameless: int = 0
    expired: int = 0


@reader("read what the app logged of mail")
async def read_refusals(since_ms: int) -> Refusals:
    """Failed notifications and servers' replies at or after ``since_ms``."""
    found = await _events({SMTP, *NOTIFICATIONS, RESET_FAILED, PLAIN}, since_ms)
    mails = [(one, why) for one in found if (why := _cause(one)) or one.name != PLAIN]
    names = Counter(SMTP if one.name == PLAIN else one.name for one, _ in mails if one.name != RESET_FAILED)
    return Refusals(names=dict(names), causes=dict(Counter(why for _, why in mails if why)))


async def _events(names: set[str], since_ms: int) -> list[LogEvent]:
    await read_log.fn()
    return memory.events(ledger(), names, since_ms)


def _cause(one: LogEvent) -> str:
    text = " ".join(str(one.fields.get(key, "")) for key in ("error", "message", "reason"))
    if one.name == SMTP:
        return mail_causes.cause(str(one.fields.get("status", "")), text)
    reply = mail_causes.REPLY.search(text)
    return mail_causes.cause(reply[2], text) if reply else ""


@reader("read the password resets that failed")
async def read_resets() -> Resets:
    """Who is still waiting for a reset mail, by what the app logged."""
    now = now_ms()
    found = await _events({RESET_FAILED, RESET_SENT}, now - addresses.DAY_MS)
    waiting = _waiting(found)
    failures = sorted((one for one in waiting if one.at_ms > now - VALID_MS), key=lambda one: (one.at_ms, one.mark))
    fresh = [one for one in found if one.name == RESET_FAILED and one.at_ms > now - VALID_MS]
    nameless = sum(not _address(one) for one in fresh)
    return Resets(failures=tuple(failures), nameless=nameless, expired=len(waiting) - len(failures))


def _address(one: LogEvent) -> str:
    named = (str(one.fields.get(key, "")) for key in ("email", "to", "identifier"))
    bare = (text.removeprefix(RESET_PREFIX).lower() for text in named)
    return next((text for text in bare if ADDRESS.fullmatch(text) and "*" not in text), "")


def _waiting(found: Iterable[LogEvent]) -> list[Failure]:
    failed: dict[str, list[int]] = {}
    for one in found:  # oldest first
        address = _address(one)
        if one.name == RESET_SENT:
            failed.pop(address, None)
        elif address:
            failed.setdefault(address, []).append(one.at_ms)
    return [
        Failure(address=address, mark=addresses.mark(address), at_ms=at[-1], times=len(at))
        for address, at in failed.items()
    ]


# -- detect and plan --------------------------------------------------------------------------------------------------


def detect_refusals(seen: Refusals, failures_at: int) -> list[Finding]:
    """Failed notifications and refusals of mail servers, where there are ``failures_at`` of them at least."""
    count = sum(seen.names.values())
    if count < failures_at:
        return []
    does = "; ".join(f"{mail_causes.BY_HAND[why]} ({times})" for why, times in seen.causes.items())
    detail = f"{count} mails failed" + (f": {does}" if does else ": the log names no reason")
    evidence = {"names": dict(seen.names), "causes": dict(seen.causes)}
    return [Finding(subject="app log: mail", detail=detail, evidence=evidence)]


def detect_resets(seen: Resets, objections: Mapping[str, Sequence[str]]) -> list[Finding]:
    """One finding for all users who wait for a reset mail; who is on a suppression list waits for a person."""
    if not seen.failures:
        return []
    detail = f"{len(seen.failures)} users wait for a password reset that failed within the hour"
    shown = {one.mark: addresses.shown(one.address) for one in seen.failures[:10]}
    evidence = {"addresses": list(shown.values())}
    if objections:
        detail += f"; {len(objections)} are suppressed: for a bounce run it with mode approve, address and mx_host"
        evidence["suppressed"] = [f"{shown.get(mark, mark)}: {', '.join(on)}" for mark, on in objections.items()]
    return [Finding(subject="password resets", detail=detail, evidence=evidence)]


def notices_of(seen: Resets) -> list[str]:
    """What only the users can mend."""
    told = []
    if seen.nameless:
        told.append(f"{seen.nameless} failed password resets name no address in the log: the users must ask again")
    if seen.expired:
        told.append(f"{seen.expired} password resets of the last day were never sent and ran out: users must ask again")
    return told


def tried(book: Ledger) -> set[str]:
    """Marks asked for again within the hour, whatever came of it: a try that fails is a new failure in the log."""
    states = (*addresses.DONE, FixState.failed)
    return addresses.acted_on(book, ["resend_reset"], VALID_MS / addresses.DAY_MS, states)


def plan_resets(failures: Sequence[Failure], objections: Mapping[str, Sequence[str]]) -> list[Fix]:
    """Ask the app for each again, the oldest first, without those whose mail would not be sent anyway."""
    return [
        Fix(
            action="resend_reset",
            target=addresses.target("reset", one.address, one.mark),
            risk=Risk.guarded,
            why=f"failed {one.times} times, last at {time.strftime('%H:%M UTC', time.gmtime(one.at_ms / 1000))}",
            undo="a mail cannot be unsent; an unused link ends after an hour",
            expect={"failed_at_ms": one.at_ms},
            want={"sent": True},
        )
        for one in failures
        if one.mark not in objections
    ][:AT_ONCE]


# -- the hand ---------------------------------------------------------------------------------------------------------


@hand("ask again for {fix.target}")
async def resend_reset(fix: Fix, permit: Permit) -> None:
    """Ask the app for the reset mail once more, if by its log it is still the one that failed, and still valid."""
    with permit.attempt(fix) as attempt:
        waiting = (await read_resets.fn()).failures
        found = next((one for one in waiting if one.mark == addresses.mark_of(fix)), None)
        if found is None or found.at_ms != fix.expect["failed_at_ms"]:
            attempt.moved_on("it was sent, failed again or ran out meanwhile")
            return
        url = f"{settings().secret('APP_URL')}{settings().runbook_reset_path}"
        answer = await call("APP_URL", "POST", url, json={"email": found.address})
        if answer.status != 200:
            attempt.failed(f"the app answered {answer.status}" + (": too many at once" * (answer.status == 429)))


@reader("look up {fix.target}")
async def look_up_reset(fix: Fix) -> Proof:
    """What the app logged since: it answers 200 even when sending fails, so only its log tells."""
    failed_at = int(fix.expect["failed_at_ms"])
    for pause in ARRIVES_WITHIN:
        await asyncio.sleep(pause)
        found = await _events({RESET_FAILED, RESET_SENT}, failed_at + 1)
        said = [one for one in found if (named := _address(one)) and addresses.mark(named) == addresses.mark_of(fix)]
        if any(one.name == RESET_SENT for one in said):
            return Proof(held=True, seen=f"the app logged {RESET_SENT}")
        if said:
            return Proof(held=False, seen=f"the app logged {RESET_FAILED} again")
    if now_ms() > failed_at + VALID_MS:
        return Proof(held=False, seen=f"the app never logged {RESET_SENT}")
    raise OutsideError("APP_LOG", "the app logged nothing of it yet", "look again in a minute")
