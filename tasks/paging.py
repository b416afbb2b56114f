"""Tells people: the pages in the ledger's outbox to every channel there is, at least once each, as often as it takes.

One deliverer for one channel at a time, whoever calls: a channel is held for ``HOLD_MS`` in the ledger's memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from runbook import memory, outbox
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.model import Frozen, Json
from runbook.outbox import Page, Severity
from runbook.process import is_dead, this_process
from runbook.settings import settings
from tasks import notify
from tasks.web import Answer, call

SECONDS = 20.0
CALL_SECONDS = 8.0
HOLD_MS = 30_000
AT_ONCE = 20
"""Messages one pass sends to one channel: PagerDuty takes 120 a minute for one key."""

LOST_MS = 7 * 86_400_000
"""How long after its end a page is still told: a channel may have been away for days."""

ESCALATIONS = 3
BACK_OFF_MS = 5_000
LONGEST_MS = 5 * 60_000
REFUSED_MS = 15 * 60_000
SLACK_WAIT = 1.0
"""Slack takes about one message a second."""


class Message(NamedTuple):
    """What one channel is to be told of one page now; ``level`` counts from 1, more is an escalation."""

    page: Page
    action: str
    level: int

    @property
    def progress(self) -> dict[str, Json]:
        """What the outbox notes once it is told."""
        done = {"trigger": "level", "acknowledge": "acked", "resolve": "resolved"}[self.action]
        first = {"told_ms": now_ms()} if (self.action, self.level) == ("trigger", 1) else {}
        return {done: self.level if done == "level" else True, "at_ms": now_ms(), "error": "", **first}

    @property
    def plain(self) -> str:
        """The message as a mail or a chat shows it."""
        match self.action:
            case "acknowledge":
                return f"{self.page.title}: acknowledged by {self.page.acked_by or 'somebody'}"
            case "resolve":
                return f"{self.page.title}: over"
        loud = f"nobody has answered ({self.level - 1}): " if self.level > 1 else ""
        return f"{loud}{self.page.title}\n{self.page.text}\nrunbook ack {self.page.key}"


class Delivered(Frozen):
    """What one pass did: messages taken by each channel, and in one line each what failed."""

    sent: Mapping[str, int] = {}
    failed: Sequence[str] = ()


class _Refused(OutsideError):
    """The channel will not have this very message."""


def due(page: Page, channel: str, now: int, escalate_ms: int, group: Sequence[Page] = ()) -> Message | None:
    """The next message for one channel, in order: raised, escalated while nobody answers, acknowledged, resolved.

    Of the pages of one ``group``, the oldest first, each is raised, and all of them are escalated, acknowledged and
    resolved by one of them: by the first that is open, and at last by the first.
    """
    group = group or [page]
    so_far, told = page.sent.get(channel, {}), [one.sent.get(channel, {}) for one in group]
    level = so_far.get("level", 0)
    if told[0].get("resolved") or now < so_far.get("due_ms", 0):
        return None
    if level == 0:
        return Message(page, "trigger", 1)
    if all(one.resolved_at_ms for one in group):
        tried = all(one.get("level") or one.get("error") for one in told)
        return Message(page, "resolve", level) if tried and page.seq == group[0].seq else None
    if page.seq != next(one.seq for one in group if not one.resolved_at_ms):
        return None
    if page.acked_at_ms:
        return None if any(one.get("acked") for one in told) else Message(page, "acknowledge", level)
    level, at_ms = max(one.get("level", 0) for one in told), max(one.get("at_ms", 0) for one in told)
    if now - at_ms >= escalate_ms and level <= ESCALATIONS and page.severity is not Severity.warning:
        return Message(page, "trigger", level + 1)
    return None


async def deliver(seconds: float = SECONDS) -> Delivered:
    """Tell every configured channel what is due, in at most ``seconds``; what is left goes with the next call.

    Never raises for a channel that is sick: it is named in ``failed``, and left alone for a while.
    """
    book = ledger()
    outbox.hear(book)
    found = await asyncio.gather(*(_channel(book, name, send, seconds) for name, send in channels().items()))
    sent = {name: count for name, (count, _) in zip(channels(), found, strict=True)}
    return Delivered(sent=sent, failed=[said for _, said in found if said])


Send = Callable[[Sequence[Message]], Awaitable[None]]


def channels() -> dict[str, Send]:
    """The configured channels, and how each is told."""
    known = {
        "pagerduty": (settings().pagerduty_routing_key, _pagerduty),
        "slack": (settings().slack_webhook_url, _slack),
    }
    set_up: dict[str, Send] = {name: send for name, (secret, send) in known.items() if secret}
    return set_up | {name: partial(_apprise, url) for name, url in notify.urls().items()}


async def _channel(book: Ledger, name: str, send: Send, seconds: float) -> tuple[int, str]:
    held = _take(book, name)
    if held is None:
        return 0, ""
    count, said = 0, ""
    try:
        async with asyncio.timeout(seconds):
            while batch := _batch(book, name):
                try:
                    await send(batch)
                except _Refused as no:
                    said = str(no)
                    outbox.mark(book, _seqs(batch), name, {"error": said, "due_ms": now_ms() + REFUSED_MS})
                    continue
                for one in batch:
                    outbox.mark(book, [one.page.seq], name, one.progress)
                count += len(batch)
                if count >= AT_ONCE:
                    break
    except TimeoutError:
        said = said or f"{name}: not all told in {seconds:g} s; the rest goes with the next watch"
    except OutsideError as error:
        said = str(error)
        tries = held.get("tries", 0) + 1
        wait = min(BACK_OFF_MS * 2 ** min(tries, 10), LONGEST_MS)
        memory.remember(book, _key(name), {"tries": tries, "error": said, "free_ms": now_ms() + wait})
        return count, said
    memory.remember(book, _key(name), {"tries": 0, "error": said, "free_ms": 0})
    return count, said


def _take(book: Ledger, name: str) -> dict[str, Json] | None:
    """Hold the channel, or None while somebody else does or it shall be left alone."""
    was = memory.recall(book, _key(name))
    if was is not None and was["free_ms"] > now_ms() and not is_dead(was.get("owner") or this_process()):
        return None
    held = {"tries": (was or {}).get("tries", 0), "error": "", "free_ms": now_ms() + HOLD_MS, "owner": this_process()}
    with book.write() as connection:
        return held if memory.swap(connection, _key(name), was, held) else None


def _key(name: str) -> str:
    return f"paging/{name}"


def _batch(book: Ledger, name: str) -> list[Message]:
    escalate = settings().runbook_escalate_seconds * 1000
    groups: dict[int, list[Page]] = {}
    for page in outbox.pages(book, now_ms() - LOST_MS):
        groups.setdefault(page.group, []).append(page)
    every = [(page, group) for group in groups.values() for page in group]
    every.sort(key=lambda each: each[0].seq)
    found = [message for page, group in every if (message := due(page, name, now_ms(), escalate, group))]
    return found[: 1 if name == "pagerduty" else AT_ONCE]


def _seqs(batch: Sequence[Message]) -> list[int]:
    return [one.page.seq for one in batch]


# -- the channels ---------------------------------------------------------------------------------------------------


async def _pagerduty(batch: Sequence[Message]) -> None:
    (message,) = batch
    url = f"{settings().pagerduty_api_base}/v2/enqueue"
    answer = await call("PAGERDUTY_API_BASE", "POST", url, json=as_event(message), seconds=CALL_SECONDS)
    _judge("PAGERDUTY_ROUTING_KEY", answer, 202)


def as_event(message: Message) -> dict[str, Json]:
    """An event of PagerDuty's Events API v2; its group's key is its ``dedup_key``, so that twice is once."""
    page = message.page
    event: dict[str, Json] = {
        "routing_key": settings().secret("PAGERDUTY_ROUTING_KEY"),
        "event_action": message.action,
        "dedup_key": page.lead or page.key,
    }
    if message.action == "trigger":
        event["client"] = "runbook"
        event["payload"] = {
            "summary": page.title[:1024],
            "source": socket.gethostname(),
            "severity": Severity.critical.value if message.level > 1 else page.severity.value,
            "component": page.source,
            "timestamp": datetime.fromtimestamp(page.opened_at_ms / 1000, UTC).isoformat(),
            "custom_details": {"text": page.text, "raised": page.times, "acknowledge": f"runbook ack {page.key}"}
            | ({"incident": f"runbook incident show {page.incident}"} if page.incident else {}),
        }
    return event


async def _slack(batch: Sequence[Message]) -> None:
    text = "\n".join(as_line(one) for one in batch)
    url = settings().secret("SLACK_WEBHOOK_URL")
    answer = await call("SLACK_WEBHOOK_URL", "POST", url, json={"text": text}, seconds=CALL_SECONDS)
    _judge("SLACK_WEBHOOK_URL", answer, 200)
    await asyncio.sleep(SLACK_WAIT)


def as_line(message: Message) -> str:
    """One page in a Slack message; only our own markup is markup."""
    page = message.page
    title, key = escaped(page.title), escaped(page.key)
    match message.action:
        case "acknowledge":
            return f":eyes: {title}: acknowledged by {escaped(page.acked_by or 'somebody')}"
        case "resolve":
            return f":white_check_mark: {title}: over"
    loud = f"<!channel> nobody has answered ({message.level - 1}): " if message.level > 1 else ""
    return f":rotating_light: {loud}*{title}*\n{escaped(page.text)[:1500]}\n`runbook ack {key}`"


async def _apprise(url: str, batch: Sequence[Message]) -> None:
    loudest = min((one.action for one in batch), key=["trigger", "acknowledge", "resolve"].index)
    said = [one.plain for one in batch]
    more = f" (and {len(batch) - 1} more)" if len(batch) > 1 else ""
    try:
        await notify.send(url, said[0].partition("\n")[0] + more, "\n\n".join(said), loudest)
    except BadSetting as error:
        raise _Refused(error.subject, error.problem, error.next_step) from None


def escaped(text: str) -> str:
    """``text`` as Slack shows it literally."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _judge(setting: str, answer: Answer, good: int) -> None:
    if answer.status == good:
        return
    said = answer.said()
    if answer.status == 429 or answer.status >= 500:
        raise OutsideError(setting, f"answered {answer.status}", "it is tried again", transient=True)
    raise _Refused(setting, f"refused the message ({answer.status} {said})", f"correct {setting}; it is tried again")
