"""Channels beyond PagerDuty and Slack: whatever Apprise knows (mail, Teams, Telegram, ntfy, …), one for each URL."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Mapping

from runbook.errors import BadSetting, OutsideError
from runbook.settings import settings

SETTING = "RUNBOOK_NOTIFY_URLS"
KINDS = {"trigger": "failure", "acknowledge": "info", "resolve": "success"}
"""Apprise's words for what a message is."""

# It writes parts of what it was given, and of what it is answered, to its logger.
logging.getLogger("apprise").setLevel(logging.CRITICAL)


def urls() -> Mapping[str, str]:
    """Each configured URL by a name that says its kind and gives nothing away; it stays when others come or go."""
    found = settings().notify_urls
    return {f"{_kind(one)}-{hashlib.sha256(one.encode()).hexdigest()[:6]}": one for one in found}


def _kind(url: str) -> str:
    """What stands before ``://``; what has none may be anything, a secret too."""
    kind, sep, _ = url.partition("://")
    return kind.lower() if sep and re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,15}", kind) else "url"


async def send(url: str, title: str, text: str, action: str) -> None:
    """One message; ``action`` is the outbox's word. Apprise bounds each of its calls to a few seconds.

    Raises ``BadSetting`` for what is no Apprise URL, ``OutsideError`` where its service did not take the message.
    """
    await asyncio.to_thread(_send, url, title, text, action)


def _send(url: str, title: str, text: str, action: str) -> None:
    import apprise  # half a second that no run should spend which tells nobody

    # Redirects are not followed: they would carry the token that some services take in a header.
    asset = apprise.AppriseAsset(app_id="runbook", app_desc="runbook", async_mode=False, http_redirects=False)
    to = apprise.Apprise(asset=asset)
    kind = _kind(url)
    if not to.add(url):
        raise BadSetting(SETTING, f"Apprise takes no such {kind} URL", "see the form for it at appriseit.com/services")
    what, form = apprise.NotifyType(KINDS[action]), apprise.NotifyFormat.TEXT
    if not to.notify(body=text, title=title, notify_type=what, body_format=form):
        step = f"see whether it is up, and whether its URL in {SETTING} is right; it is tried again"
        raise OutsideError(SETTING, f"{kind} did not take the message", step, transient=True)
