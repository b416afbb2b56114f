"""The app as its users meet it: its key pages, and the database behind it, through the app and directly."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time

from runbook.errors import OutsideError, RunbookError
from runbook.model import Frozen
from runbook.settings import settings
from runbook.step import reader
from tasks.sessions import read_pool
from tasks.web import Answer, call
from tasks.webhook_log import PROBE_CUSTOMER

PAGE_SECONDS = 8.0
PAUSE_SECONDS = 1.0
FULL_AT = 0.95
"""Share of the database's connections from which on nobody else gets one for long."""

GATEWAY = frozenset({502, 503, 504})
"""What a proxy says in the place of an app that does not answer."""


class Page(Frozen):
    """One page as an anonymous visitor meets it; ``problem`` is empty where it was served."""

    path: str
    status: int | None = None
    seconds: float = 0.0
    problem: str = ""

    @property
    def no_app(self) -> bool:
        """Nobody answers, or only the proxy before the app does."""
        return bool(self.problem) and (self.status is None or self.status in GATEWAY)


class Check(Frozen):
    """Whether something works: True, False, or None where nobody could see it; ``said`` is why, ``unset`` a setting."""

    ok: bool | None
    said: str
    unset: bool = False


class Site(Frozen):
    """The site's pages and the database behind it, by the two ways to it. ``used`` is the share of connections taken.

    ``waiting`` counts the sessions of the app that wait for another's lock.
    """

    pages: tuple[Page, ...]
    through_app: Check
    directly: Check
    used: float | None = None
    waiting: int = 0

    @property
    def broken(self) -> tuple[Page, ...]:
        return tuple(page for page in self.pages if page.problem)

    @property
    def full(self) -> bool:
        return self.used is not None and self.used >= FULL_AT

    @property
    def down(self) -> bool:
        """Something a user would notice now."""
        return bool(self.broken) or self.through_app.ok is False or self.directly.ok is False

    @property
    def seen(self) -> bool:
        """Anything at all could be seen of it."""
        return bool(self.pages) or self.through_app.ok is not None or self.directly.ok is not None


async def read_site() -> Site:
    """All of it at once; what cannot be seen is None and says why, nothing is raised."""
    paths = settings().runbook_key_pages if settings().app_url else ()
    pages, through_app, pool = await asyncio.gather(
        asyncio.gather(*(read_page(path) for path in paths)), read_through_app(), read_directly()
    )
    directly, used, waiting = pool
    return Site(pages=tuple(pages), through_app=through_app, directly=directly, used=used, waiting=waiting)


@reader("probe {path}")
async def read_page(path: str) -> Page:
    """One page; one that fails is asked once more, since one lost answer is no outage."""
    found = await _page(path)
    if found.problem:
        await asyncio.sleep(PAUSE_SECONDS)
        found = await _page(path)
    return found


async def _page(path: str) -> Page:
    url = f"{settings().secret('APP_URL')}/{path.lstrip('/')}"
    try:
        answer = await call("APP_URL", "GET", url, seconds=PAGE_SECONDS)
    except OutsideError as error:
        return Page(path=path, problem=error.problem)
    problem = f"answers {answer.status}" if answer.status >= 500 or answer.status == 404 else ""
    return Page(path=path, status=answer.status, seconds=round(answer.seconds, 3), problem=problem)


@reader("ask the app for its database")
async def read_through_app() -> Check:
    """Whether the app reaches its database: it has to look up a customer, or a user, whom nobody knows.

    A signed Stripe event where the signing secret is configured, else a password reset; neither has any effect.
    """
    if not settings().app_url:
        return Check(ok=None, said="not configured: APP_URL", unset=True)
    way = probe_webhook if settings().stripe_webhook_secret else _reset
    try:
        answer = await way()
    except OutsideError as error:
        return Check(ok=None, said=str(error))
    path = settings().runbook_webhook_path if way is probe_webhook else settings().runbook_reset_path
    return judge_probe(path, answer.status)


def judge_probe(path: str, status: int) -> Check:
    """What the app's answer to a probe says of its database."""
    if status < 300:
        return Check(ok=True, said=f"{path} looked into the database ({status})")
    if status in GATEWAY:
        return Check(ok=None, said=f"{path}: only the proxy answers ({status})")
    if status >= 500:
        return Check(ok=False, said=f"{path} fails ({status}): the app does not reach its database")
    said = {400: "STRIPE_WEBHOOK_SECRET is not the app's", 404: "no such path in the app", 429: "limits our rate"}
    return Check(ok=None, said=f"{path}: {said.get(status, 'does not let a probe in')} ({status})")


async def probe_webhook() -> Answer:
    """The app's answer to a signed event for a customer nobody has; raises ``OutsideError`` without an answer."""
    body = json.dumps(
        {
            "id": f"evt_runbook_probe_{secrets.token_hex(6)}",
            "object": "event",
            "type": "customer.subscription.updated",
            "created": int(time.time()),
            "livemode": False,
            "data": {
                "object": {
                    "id": "sub_runbook_probe",
                    "object": "subscription",
                    "customer": PROBE_CUSTOMER,
                    "status": "canceled",
                    "items": {"object": "list", "data": []},
                    "metadata": {},
                }
            },
        }
    ).encode()
    moment = int(time.time())
    secret = settings().secret("STRIPE_WEBHOOK_SECRET").encode()
    mark = hmac.new(secret, str(moment).encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {"stripe-signature": f"t={moment},v1={mark}", "content-type": "application/json"}
    url = f"{settings().secret('APP_URL')}{settings().runbook_webhook_path}"
    return await call("APP_URL", "POST", url, headers=headers, content=body, seconds=PAGE_SECONDS)


async def _reset() -> Answer:
    url = f"{settings().secret('APP_URL')}{settings().runbook_reset_path}"
    return await call("APP_URL", "POST", url, json={"email": "nobody@runbook.invalid"}, seconds=PAGE_SECONDS)


async def read_directly() -> tuple[Check, float | None, int]:
    """Whether the database takes our own connection, the share of its connections in use, and who waits for a lock."""
    setting = settings().monitor_setting()
    if not getattr(settings(), setting.lower()):
        return Check(ok=None, said=f"not configured: {setting}", unset=True), None, 0
    try:
        pool = await read_pool()
    except OutsideError as error:
        return Check(ok=False, said=str(error)), None, 0
    except RunbookError as error:
        return Check(ok=None, said=str(error)), None, 0
    waiting = sum(bool(one.blocked_by) and one.is_the_apps for one in pool.sessions)
    said = f"{pool.server.used} of {pool.server.of} connections in use"
    return Check(ok=True, said=said), pool.server.share, waiting
