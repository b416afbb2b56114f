"""The weekly report by mail, through SendGrid: once a week to each who wants it."""

from __future__ import annotations

import base64

from runbook import memory
from runbook.errors import BadSetting
from runbook.ledger import Ledger, now_ms
from runbook.settings import settings
from tasks.sendgrid_api import ADDRESS, ask

SENT = "report/sent"


async def send(book: Ledger, week: str, subject: str, text: str, drawing: str) -> str:
    """What became of the mail of this ``week`` (``2026-W48``), in one line; it is marked as sent once it is taken.

    ``drawing`` is an SVG that goes with it, where there is one. Raises ``BadSetting`` and ``OutsideError``; an answer
    that was lost may make it two mails when it is run again.
    """
    to = settings().runbook_report_to
    if not to:
        return "no mail: RUNBOOK_REPORT_TO is empty"
    settings().need("SENDGRID_API_KEY", "SENDGRID_SENDER_EMAIL")
    if not all(map(ADDRESS.fullmatch, to)):
        raise BadSetting("RUNBOOK_REPORT_TO", "holds what is no mail address", "write a@app.example,b@app.example")
    if (memory.recall(book, SENT) or {}).get("week") == week:
        return f"no mail: the one of {week} was sent"
    mail = {
        "personalizations": [{"to": [{"email": one}]} for one in to],
        "from": {"email": settings().sendgrid_sender_email},
        "subject": subject,
        "content": [{"type": "text/plain", "value": text}],
    }
    if drawing:
        content = base64.b64encode(drawing.encode()).decode()
        mail["attachments"] = [{"content": content, "type": "image/svg+xml", "filename": "trends.svg"}]
    await ask("post", "mail", "send", body=mail)
    memory.remember(book, SENT, {"week": week, "at_ms": now_ms()})
    return f"mailed to {len(to)}"
