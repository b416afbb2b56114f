"""Reminds people of postmortems that nobody has completed: once a day, from the day after, by all but the pager.

A postmortem is complete once ``runbook incident close ID --postmortem WHERE`` says where it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from runbook import incidents, memory
from runbook.burst import Incident
from runbook.errors import OutsideError, RunbookError
from runbook.ledger import Ledger, now_ms
from runbook.settings import settings
from tasks import notify
from tasks.paging import escaped
from tasks.web import call

DAY_MS = 86_400_000
BACK_MS = 30 * DAY_MS
CALL_SECONDS = 8.0


async def remind(book: Ledger) -> Sequence[str]:
    """The ids people were reminded of now; one that no channel took is tried again with the next call."""
    told = []
    for one in due(book):
        if await _tell(text_of(one)):
            memory.remember(book, _key(one), {"at_ms": now_ms()})
            told.append(one.id)
    return told


def due(book: Ledger) -> Sequence[Incident]:
    """Incidents over for a day, of the last month, whose postmortem nobody has completed nor was told of today."""
    now = now_ms()
    found = [one for one in incidents.every(book, now - BACK_MS) if one.closed_at_ms and not one.postmortem]
    late = [one for one in found if now - (one.closed_at_ms or now) >= DAY_MS]
    return [one for one in late if now - (memory.recall(book, _key(one)) or {"at_ms": 0})["at_ms"] >= DAY_MS]


def _key(one: Incident) -> str:
    return f"postmortem/{one.id}"


def text_of(one: Incident) -> str:
    """What people are told."""
    return (
        f"Nobody has completed the postmortem of {one.title}\n"
        f"runbook incident show {one.id}, then runbook incident close {one.id} --postmortem WHERE"
    )


async def _tell(text: str) -> bool:
    taken = False
    if settings().slack_webhook_url:
        try:
            url = settings().secret("SLACK_WEBHOOK_URL")
            body = {"text": escaped(text)}
            answer = await call("SLACK_WEBHOOK_URL", "POST", url, json=body, seconds=CALL_SECONDS)
            taken = answer.status == 200
        except OutsideError:
            pass
    for url in notify.urls().values():
        try:
            await notify.send(url, text.partition("\n")[0], text, "acknowledge")
            taken = True
        except RunbookError:
            continue
    return taken
