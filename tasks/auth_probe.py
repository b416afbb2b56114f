"""NextAuth's own endpoints, asked as an anonymous visitor would; and the clock of whoever answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from runbook.errors import OutsideError
from runbook.model import Finding, Frozen, Json
from runbook.settings import settings
from runbook.step import reader
from tasks.web import Answer, call

BASE = "/api/auth"
SKEW_SECONDS = 60


class Probe(Frozen):
    """One endpoint: ``problem`` is empty where it answered as it should, ``limited`` where it refused to be asked.

    ``ahead_seconds`` is the answering clock against ours, None where it told no time.
    """

    path: str
    problem: str = ""
    limited: bool = False
    ahead_seconds: float | None = None


async def read_probes() -> tuple[Probe, ...]:
    """``session`` and ``csrf`` of the app at ``APP_URL``; one that gives no answer has that for its problem."""
    base = urlsplit(settings().nextauth_url or "").path or BASE
    probes = []
    for name in ("session", "csrf"):
        try:
            probes.append(await probe(f"{base}/{name}"))
        except OutsideError as error:
            probes.append(Probe(path=f"{base}/{name}", problem=error.problem))
    return tuple(probes)


@reader("probe {path}")
async def probe(path: str) -> Probe:
    """Ask one endpoint; raises ``OutsideError``, transient, where no whole answer came."""
    began = time.time()
    answer = await call("APP_URL", "GET", settings().secret("APP_URL") + path, headers={"accept": "application/json"})
    middle = (began + time.time()) / 2
    return Probe(
        path=path, problem=judge(path, answer), limited=answer.status == 429, ahead_seconds=_ahead(answer, middle)
    )


def _ahead(answer: Answer, middle: float) -> float | None:
    try:
        told = parsedate_to_datetime(answer.headers["date"]).timestamp()
        kept = float(answer.headers.get("age", "0"))  # a cache repeats the date of what it keeps
    except (KeyError, ValueError):
        return None
    return round(told + 0.5 + kept - middle, 1)


def judge(path: str, answer: Answer) -> str:
    """What is wrong with an answer, or nothing."""
    status = answer.status
    if status == 429:
        return ""
    if 300 <= status < 400:
        return f"redirects to {urlsplit(answer.headers.get('location', '')).netloc or 'another path'}"
    if status >= 500:
        broken = b"server configuration" in answer.body
        return f"fails ({status})" + (": NEXTAUTH_SECRET or NEXTAUTH_URL is missing in the app" if broken else "")
    if status != 200:
        return f"answers {status}"
    try:
        body = answer.parsed("APP_URL")
    except OutsideError:
        return "answers no JSON"
    return _shape(path.rpartition("/")[2], body)


def _shape(name: str, body: Json) -> str:
    if name == "csrf":
        token = body.get("csrfToken") if isinstance(body, dict) else None
        return "" if isinstance(token, str) and len(token) >= 32 else "gives no csrfToken"
    if body is None or isinstance(body, dict):
        return "gives an anonymous visitor somebody's session: a cache keeps it" if body and body.get("user") else ""
    return "answers something other than a session"


def ahead(probes: Sequence[Probe]) -> float | None:
    """The app's clock against ours, in seconds: the answer that differs least, for a slow one says little."""
    known = [one.ahead_seconds for one in probes if one.ahead_seconds is not None]
    return min(known, key=abs, default=None)


def detect_probes(probes: Sequence[Probe]) -> list[Finding]:
    """An endpoint that does not answer as it should keeps everybody out."""
    return [
        Finding(subject=one.path, detail=f"{one.problem}: nobody can rely on logging in", page=True)
        for one in probes
        if one.problem
    ]


def detect_skew(app: float | None, database: float | None) -> list[Finding]:
    """Clocks that differ by more than ``SKEW_SECONDS``, each against ours."""
    clocks = {"app": app, "database": database}
    return [
        Finding(
            subject=f"clock of the {name}",
            detail=f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's: tokens and locks"
            f" end at the wrong time; correct NTP on whichever is wrong (timedatectl, chronyc tracking)",
            evidence={f"{one} ahead, s": round(value, 1) for one, value in clocks.items() if value is not None},
        )
        for name, seconds in clocks.items()
        if seconds is not None and abs(seconds) > SKEW_SECONDS
    ]
