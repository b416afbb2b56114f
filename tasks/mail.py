"""Whether SendGrid lets the app send: key, sender, domain authentication, a send in sandbox mode, figures."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from runbook.errors import BadSetting, OutsideError
from runbook.model import Finding, Frozen, Json
from runbook.step import reader
from tasks.domains import Domain, detect_domains, of_sender, read_domains
from tasks.sendgrid_api import Lacks, TurnedDown, ask

T = TypeVar("T")

MIN_REQUESTS = 50
"""Fewer mails than this say nothing about a share."""

SPAM_SHARE = 0.003
"""Share of spam reports from which on mailbox providers refuse a sender (Gmail and Yahoo name 0.3%)."""

REFUSED_SENDER = "SendGrid refuses mail from this sender"


class Stats(Frozen):
    """One day's figures, in mails."""

    day: str
    requests: int
    delivered: int
    bounces: int
    blocks: int
    dropped: int
    spam_reports: int


class Channel(Frozen):
    """SendGrid as one sender meets it; what the key may not read is None and named in ``lacks``.

    ``refused`` is why a send in sandbox mode was turned down, empty where it was taken.
    """

    sender: str
    scopes: tuple[str, ...]
    verified: bool | None
    domains: tuple[Domain, ...] | None
    stats: Stats | None
    refused: str
    lacks: tuple[str, ...] = ()

    @property
    def unverified(self) -> bool:
        """True when SendGrid knows neither the sender nor a domain of it; what could not be read is no proof."""
        known = self.verified is not None and self.domains is not None
        return known and not self.verified and not any(one.valid for one in self.own_domains)

    @property
    def sends(self) -> bool:
        """True when nothing seen keeps the app from sending by it."""
        return "mail.send" in self.scopes and not self.refused and not self.unverified

    def may_remove(self, kind: str) -> bool:
        """Whether the key may take rows off this list."""
        return bool({"suppression.delete", f"suppression.{kind}.delete"} & set(self.scopes))

    @property
    def own_domains(self) -> list[Domain]:
        """The domains that authenticate the sender."""
        return of_sender(self.domains or (), self.sender)


async def read_channel(sender: str) -> Channel:
    """All of it, with as much as the key may read. Raises ``BadSetting`` for the key itself, ``OutsideError``."""
    lacks: list[str] = []

    async def may(reading: Awaitable[T]) -> T | None:
        try:
            return await reading
        except Lacks as no:
            lacks.append(str(no))
            return None

    scopes = await read_scopes()
    verified, refused = await may(read_verified(sender)) if sender else None, await may(read_sandbox(sender))
    domains, stats = await may(read_domains()), await may(read_stats())
    return Channel(
        sender=sender,
        scopes=scopes,
        verified=verified,
        domains=domains,
        stats=stats,
        refused="the key may not send" if refused is None else refused,
        lacks=tuple(lacks),
    )


def _malformed(what: str) -> OutsideError:
    return OutsideError("SendGrid", f"{what} is malformed", "check SENDGRID_API_BASE", transient=True)


@reader("read what the SendGrid key may do")
async def read_scopes() -> tuple[str, ...]:
    """The scopes of the key; this is also what proves the key."""
    try:
        return tuple(map(str, (await ask("get", "scopes"))["scopes"]))
    except (TypeError, LookupError):
        raise _malformed("the list of scopes") from None


@reader("read the verified senders")
async def read_verified(sender: str) -> bool:
    """Whether this very sender is verified."""
    try:
        senders = (await ask("get", "verified_senders"))["results"]
        return any(one["from_email"].lower() == sender.lower() and one["verified"] for one in senders)
    except (TypeError, LookupError, AttributeError):
        raise _malformed("the list of senders") from None


@reader("read SendGrid's figures")
async def read_stats() -> Stats | None:
    """The newest of the last three days that has enough mails to say something; None where none has."""
    today = datetime.now(UTC).date()
    span = {"start_date": str(today - timedelta(days=2)), "end_date": str(today), "aggregated_by": "day"}
    try:
        days = [_stats(day) for day in await ask("get", "stats", query=span)]
    except (TypeError, LookupError, ValueError):
        raise _malformed("the list of figures") from None
    enough = [day for day in days if day.requests >= MIN_REQUESTS]
    return max(enough, key=lambda day: day.day, default=None)


def _stats(day: Json) -> Stats:
    n = day["stats"][0]["metrics"]
    drops = ("bounce_drops", "spam_report_drops", "unsubscribe_drops", "invalid_emails")
    plain = {name: n[name] for name in ("requests", "delivered", "bounces", "blocks", "spam_reports")}
    return Stats(day=day["date"], dropped=sum(n[name] for name in drops), **plain)


@reader("try a send in sandbox mode")
async def read_sandbox(sender: str) -> str:
    """Why SendGrid would refuse a mail from ``sender``; empty where it would take it, or where there is no sender.

    Nothing is ever sent by this: the mode only has key and mail looked at.
    """
    if not sender:
        return ""
    mail = {
        "personalizations": [{"to": [{"email": sender}]}],
        "from": {"email": sender},
        "subject": "sandbox",
        "content": [{"type": "text/plain", "value": "sandbox"}],
        "mail_settings": {"sandbox_mode": {"enable": True}},
    }
    try:
        await ask("post", "mail", "send", body=mail)
    except TurnedDown as no:
        return str(no)
    return ""


# -- detect and plan --------------------------------------------------------------------------------------------------


def unreadable(error: OutsideError | BadSetting) -> Finding:
    """What could not be seen is not well; a setting that is wrong stops all mail, and only a person can correct it."""
    return Finding(subject=error.subject, detail=str(error), page=isinstance(error, BadSetting))


def detect_channel(channel: Channel, bad_share: float) -> list[Finding]:
    """What keeps the app from sending, or its mail from arriving."""
    return [*_key(channel), *_sender(channel), *_figures(channel.stats, bad_share)]


def _key(channel: Channel) -> list[Finding]:
    if "mail.send" not in channel.scopes:
        detail = "the key may not send: grant it mail.send in the SendGrid dashboard under Settings, API Keys"
        return [Finding(subject="SENDGRID_API_KEY", detail=detail, page=True)]
    if channel.refused:
        return [Finding(subject="sandbox send", detail=channel.refused, page=True)]
    return []


def _sender(channel: Channel) -> list[Finding]:
    found = detect_domains(channel.own_domains)
    if channel.unverified:
        detail = f"{REFUSED_SENDER}: neither it nor its domain is verified (Settings, Sender Authentication)"
        found.append(Finding(subject=channel.sender, detail=detail, page=True))
    return found


def _figures(stats: Stats | None, bad_share: float) -> list[Finding]:
    if stats is None:
        return []
    of, bounds = stats.requests, {"bounced": bad_share, "blocked": bad_share, "reported as spam": SPAM_SHARE}
    shares = {
        "bounced": stats.bounces / of,
        "blocked": stats.blocks / of,
        "reported as spam": stats.spam_reports / of,
    }
    bad = [f"{shares[name]:.1%} {name}" for name, bound in bounds.items() if shares[name] >= bound]
    if stats.dropped / of >= 4 * bad_share:
        bad.append(f"{stats.dropped / of:.1%} not sent because the address is suppressed")
    detail = f"of {of} mails {', '.join(bad)}: read the reasons in the SendGrid dashboard under Suppressions"
    return [Finding(subject=f"mail of {stats.day}", detail=detail, evidence=stats.model_dump())] if bad else []


def readings(channel: Channel) -> dict[str, float]:
    """The key readings, for the plots."""
    if channel.stats is None:
        return {}
    of = channel.stats.requests
    shares = {"mail_delivered_share": channel.stats.delivered, "mail_bounced_share": channel.stats.bounces}
    return {name: count / of for name, count in (shares | {"mail_blocked_share": channel.stats.blocks}).items()}
