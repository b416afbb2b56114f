"""Whether SendGrid lets the app send: key, sender, domain authentication, figures; and the hand that has a domain
checked again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from runbook import memory
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import ledger
from runbook.model import Finding, Fix, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks.sendgrid_api import Lacks, TurnedDown, ask

T = TypeVar("T")

MIN_REQUESTS = 50
"""Fewer mails than this say nothing about a share."""

SPAM_SHARE = 0.003
"""Share of spam reports from which on mailbox providers refuse a sender (Gmail and Yahoo name 0.3%)."""

VALID_SINCE = "mail/valid-since"
REFUSED_SENDER = "SendGrid refuses mail from this sender"


class Domain(Frozen):
    """One authenticated domain; ``records`` are the DNS records it needs, by name: type, host, data, valid."""

    id: int
    domain: str
    valid: bool
    records: Mapping[str, Mapping[str, Json]]


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

    @property
    def own_domains(self) -> list[Domain]:
        """The domains that authenticate the sender."""
        host = self.sender.rpartition("@")[2].lower()
        return [one for one in self.domains or () if f".{host}".endswith(f".{one.domain.lower()}")]


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


@reader("read the authenticated domains")
async def read_domains() -> tuple[Domain, ...]:
    """Every authenticated domain of the account, with the DNS records each needs."""
    try:
        return tuple(_domain(row) for row in await ask("get", "whitelabel", "domains", query={"limit": 50}))
    except (TypeError, LookupError, ValueError, AttributeError):
        raise _malformed("the list of domains") from None


def _domain(row: Json) -> Domain:
    keep = ("type", "host", "data", "valid")
    records = {name: {key: one.get(key) for key in keep} for name, one in row["dns"].items()}
    return Domain(id=row["id"], domain=row["domain"], valid=row["valid"] is True, records=records)


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
    ours = channel.own_domains
    found = [
        Finding(
            subject=f"domain {one.domain}",
            detail="its authentication is not valid: publish the DNS records that are not, at the domain's DNS host",
            evidence={"records": {name: dict(record) for name, record in one.records.items()}},
        )
        for one in ours
        if not one.valid
    ]
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


def plan_domains(channel: Channel) -> list[Fix]:
    """Have SendGrid look at the DNS of the sender's domains again: whoever published the records may not have asked."""
    return [
        Fix(
            action="revalidate_domain",
            target=f"Domain/{one.id}",
            risk=Risk.auto,
            why=f"SendGrid says that the authentication of {one.domain} is not valid",
            undo="nothing to take back: SendGrid reads the DNS again",
            expect={"domain": one.domain, "valid": False},
            want={"valid": True},
        )
        for one in channel.own_domains
        if not one.valid
    ]


def note_validity(channel: Channel) -> float | None:
    """Since when (Unix seconds) the sender's domain is known to be valid without a break; None while it is not."""
    book = ledger()
    if channel.domains is None:
        return None
    well = any(one.valid for one in channel.own_domains)
    since: float | None = memory.recall(book, VALID_SINCE)
    if well != (since is not None):
        since = round(time.time()) if well else None
        memory.remember(book, VALID_SINCE, since)
    return since


def readings(channel: Channel) -> dict[str, float]:
    """The key readings, for the plots."""
    if channel.stats is None:
        return {}
    of = channel.stats.requests
    shares = {"mail_delivered_share": channel.stats.delivered, "mail_bounced_share": channel.stats.bounces}
    return {name: count / of for name, count in (shares | {"mail_blocked_share": channel.stats.blocks}).items()}


# -- the hand ---------------------------------------------------------------------------------------------------------


async def _now(fix: Fix) -> Domain:
    try:
        return _domain(await ask("get", "whitelabel", "domains", fix.target.partition("/")[2]))
    except (TypeError, LookupError, ValueError, AttributeError):
        raise _malformed(fix.target) from None


@hand("have {fix.target} validated again")
async def revalidate_domain(fix: Fix, permit: Permit) -> None:
    """Ask SendGrid to read the domain's DNS again, if the domain is still the one that was read, and not valid."""
    with permit.attempt(fix) as attempt:
        try:
            now = await _now(fix)
            if now.domain != fix.expect["domain"] or now.valid:
                attempt.moved_on(f"domain {now.domain} is {'valid' if now.valid else 'another one'} by now")
                return
            said = await ask("post", "whitelabel", "domains", str(now.id), "validate")
            attempt.did(reasons=_reasons(said))
        except (TurnedDown, BadSetting) as no:
            attempt.failed(str(no))


def _reasons(said: Json) -> dict[str, Json]:
    try:
        return {name: one["reason"] for name, one in said["validation_results"].items() if not one["valid"]}
    except (TypeError, LookupError, AttributeError):
        return {}  # evidence only: whether it is valid is looked up


@reader("look up {fix.target}")
async def look_up_domain(fix: Fix) -> Proof:
    """Whether SendGrid now says that the domain is valid."""
    try:
        now = await _now(fix)
    except TurnedDown as gone:
        return Proof(held=False, seen=str(gone))
    except BadSetting as no:
        return Proof(held=None, seen=str(no))
    return Proof(held=now.valid, seen="valid" if now.valid else "not valid; see its DNS records")
