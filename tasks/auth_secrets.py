"""How each instance of the app is set up for NextAuth. A secret's value never leaves this file: only its mark does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from dotenv import dotenv_values

from runbook.mask import secret_mark
from runbook.model import Finding, Frozen
from runbook.settings import settings
from runbook.step import reader

SHORTEST = 32
SECRETS, URLS = ("NEXTAUTH_SECRET", "AUTH_SECRET"), ("NEXTAUTH_URL", "AUTH_URL")
PROC = Path("/proc")
RUNTIMES = frozenset({"node", "bun", "deno"})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - compared, not bound
PLACEHOLDER = re.compile(
    r"(?i)^((your|my|the|some|a)[-_ ]?)?(super[-_ ]?)?((next[-_]?)?auth[-_ ]?|jwt[-_ ]?|app[-_ ]?)?secret([-_ ]|$)"
    r"|change[-_ ]?(me|this|it)|^(replace|insert|enter|todo|test|dev(elopment)?|dummy|example|default)([-_ ]|$)"
    r"|placeholder|^<.*>$|^password"
)

ROTATION = (
    "make the new one: openssl rand -base64 32",
    "Auth.js v5 takes several, the first one seals: set secret to [old, new] on every instance, then to [new, old],"
    " and after session.maxAge to [new]; nobody is logged out",
    "NextAuth v4 takes one: every session ends at once, so change it on all instances together, at a quiet hour,"
    " and tell support first",
)


class Instance(Frozen):
    """One place the app's environment was read from: its URL, its secret's length and fingerprint (None where it has
    none), and what is weak about that secret. ``whole``: what is not in it, the app does not have."""

    name: str
    url: str | None
    mark: str | None
    weakness: str = ""
    whole: bool = False


class Instances(Frozen):
    """All that could be read, and a line for each place that could not."""

    seen: tuple[Instance, ...] = ()
    unread: tuple[str, ...] = ()


@reader("read how the instances are set up")
async def read_instances() -> Instances:
    """Our own environment, the files in ``RUNBOOK_APP_ENV``, and the app's processes here that we may look into."""
    return await asyncio.to_thread(_read)


def _read() -> Instances:
    seen, unread = [*_ours()], []
    for path in settings().runbook_app_env:
        try:
            with path.open(encoding="utf-8") as stream:
                seen.append(_instance(f"file {path}", dotenv_values(stream=stream, interpolate=False), whole=True))
        except (OSError, UnicodeDecodeError) as error:
            unread.append(f"RUNBOOK_APP_ENV: {path} cannot be read ({type(error).__name__})")
    return Instances(seen=(*seen, *_processes()), unread=tuple(unread))


def _ours() -> Iterator[Instance]:
    secret, url = settings().nextauth_secret, settings().nextauth_url
    if secret or url:
        values = {SECRETS[0]: secret.get_secret_value() if secret else None, URLS[0]: url}
        yield _instance("this environment", values)


def _processes() -> Iterator[Instance]:
    """Those of the app's own: a JavaScript runtime whose DATABASE_URL is ours.

    What the app reads from its own .env is not in there, so a process without a secret says nothing.
    """
    wanted = settings().database_url
    for folder in sorted(PROC.glob("[0-9]*")) if wanted else ():
        try:
            if (folder / "exe").readlink().name not in RUNTIMES:
                continue
            raw = (folder / "environ").read_bytes().decode("utf-8", "replace")
        except OSError:  # another user's, or gone
            continue
        values = dict(pair.partition("=")[::2] for pair in raw.split("\0") if "=" in pair)
        ours = _database(values.get("DATABASE_URL", "")) == _database(wanted.get_secret_value() if wanted else "")
        if ours and _first(values, SECRETS):
            yield _instance(f"process {folder.name}", values)


def _database(url: str) -> tuple[str, str]:
    return url.rpartition("@")[2].partition("?")[0].partition("/")[::2]


def _first(values: Mapping[str, str | None], names: Sequence[str]) -> str | None:
    return next((value for name in names if (value := values.get(name))), None)


def _instance(name: str, values: Mapping[str, str | None], *, whole: bool = False) -> Instance:
    secret = _first(values, SECRETS)
    return Instance(
        name=name,
        url=_first(values, URLS),
        mark=secret_mark(secret) if secret else None,
        weakness=weakness(secret) if secret else "",
        whole=whole,
    )


def weakness(secret: str) -> str:
    """Why a secret is none: a placeholder anybody may guess, or too short; nothing where it is good."""
    if PLACEHOLDER.search(secret) or len(set(secret)) < 8:
        return "is a placeholder: anybody can forge a session"
    return f"is shorter than {SHORTEST} characters" if len(secret) < SHORTEST else ""


# -- detect ---------------------------------------------------------------------------------------------------------


def detect_secrets(instances: Sequence[Instance]) -> list[Finding]:
    """A secret that is missing, weak, or not the same everywhere; changing it is a person's work, with the steps."""
    found = []
    marks = {one.name: one.mark for one in instances if one.mark}
    if len(set(marks.values())) > 1:
        detail = f"{len(set(marks.values()))} different ones on {len(marks)} instances: a session opened on one is"
        detail += " unreadable on another, so people are logged out at random; set the one that most have on all"
        found.append(Finding(subject="NEXTAUTH_SECRET", detail=detail, evidence={"marks": marks}, page=True))
    without = [one.name for one in instances if one.whole and one.mark is None]
    if without:
        detail = f"not set in {', '.join(without)}: NextAuth fails in production without one"
        found.append(Finding(subject="NEXTAUTH_SECRET", detail=detail, page=True))
    for why in sorted({one.weakness for one in instances if one.weakness}):
        where = [one.name for one in instances if one.weakness == why]
        evidence = {"instances": where, "steps": list(ROTATION)}
        forged = "placeholder" in why
        detail = f"{why} ({', '.join(where)}); a person changes it, by the steps in the evidence"
        found.append(Finding(subject="NEXTAUTH_SECRET", detail=detail, evidence=evidence, page=forged))
    return found


def detect_urls(instances: Sequence[Instance], app_url: str | None) -> list[Finding]:
    """A NEXTAUTH_URL whose scheme or host is not the one people use."""
    found = []
    for one in instances:
        if not one.url or not app_url:
            continue
        told, public = urlsplit(one.url), urlsplit(app_url)
        try:
            wrong = _wrong(told, public)
        except ValueError:
            wrong = "is no URL"
        if wrong:
            evidence = {"NEXTAUTH_URL": one.url, "APP_URL": app_url}
            detail = f"{wrong} ({one.name}): set NEXTAUTH_URL to APP_URL's scheme and host and restart the app"
            found.append(Finding(subject="NEXTAUTH_URL", detail=detail, evidence=evidence, page=True))
    return found


def _wrong(told: SplitResult, public: SplitResult) -> str:
    ours, theirs = _place(told), _place(public)
    if public.hostname in LOOPBACK and told.hostname not in LOOPBACK:
        # The runbooks reach the app from inside: APP_URL does not say what people use.
        return "is http: its cookies go over the wire in clear" if told.scheme == "http" else ""
    if ours[0] != theirs[0]:
        return f"is {told.scheme}, people come by {public.scheme}: the cookie has another name, nobody stays logged in"
    if ours[1:] != theirs[1:]:
        return f"names {told.netloc}, people use {public.netloc}: callbacks and cookies go to the wrong host"
    return ""


def _place(url: SplitResult) -> tuple[str, str, int]:
    return url.scheme, (url.hostname or "").lower(), url.port or {"https": 443}.get(url.scheme, 80)


def notices(seen: Instances, app_url: str | None) -> list[str]:
    """What could not be judged."""
    lines = list(seen.unread)
    if not seen.seen:
        lines.append("not configured: NEXTAUTH_SECRET or RUNBOOK_APP_ENV, so the app's secret and URL were not checked")
    elif app_url and not any(one.url for one in seen.seen):
        lines.append("NEXTAUTH_URL is set nowhere: right on Vercel and with Auth.js v5, wrong elsewhere")
    elif not any(one.mark for one in seen.seen):
        lines.append("no instance shows its NEXTAUTH_SECRET: set it, or RUNBOOK_APP_ENV, and it is checked")
    return lines
