"""The domains SendGrid authenticates the app's mail with, and the hand that has one checked again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from runbook import memory
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import ledger
from runbook.model import Finding, Fix, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks.sendgrid_api import TurnedDown, ask

VALID_SINCE = "mail/valid-since"


class Domain(Frozen):
    """One authenticated domain; ``records`` are the DNS records it needs, by name: type, host, data, valid."""

    id: int
    domain: str
    valid: bool
    records: Mapping[str, Mapping[str, Json]]


@reader("read the authenticated domains")
async def read_domains() -> tuple[Domain, ...]:
    """Every authenticated domain of the account, with the DNS records each needs."""
    found = await ask("get", "whitelabel", "domains", query={"limit": 50})
    if not isinstance(found, list):
        raise _malformed("the list of domains")
    return tuple(map(_domain, found))


def _domain(row: Json) -> Domain:
    keep = ("type", "host", "data", "valid")
    try:
        records = {name: {key: one.get(key) for key in keep} for name, one in row["dns"].items()}
        return Domain(id=row["id"], domain=row["domain"], valid=row["valid"] is True, records=records)
    except (TypeError, LookupError, ValueError, AttributeError):
        raise _malformed("a domain") from None


def _malformed(what: str) -> OutsideError:
    return OutsideError("SendGrid", f"{what} is malformed", "check SENDGRID_API_BASE", transient=True)


def of_sender(domains: Sequence[Domain], sender: str) -> list[Domain]:
    """The domains that authenticate a sender: its own, or the one above it."""
    host = sender.rpartition("@")[2].lower()
    return [one for one in domains if f".{host}".endswith(f".{one.domain.lower()}")]


def detect_domains(ours: Sequence[Domain]) -> list[Finding]:
    """The sender's domains that are not valid, with the records to publish."""
    return [
        Finding(
            subject=f"domain {one.domain}",
            detail="its authentication is not valid: publish the DNS records that are not, at the domain's DNS host",
            evidence={"records": {name: dict(record) for name, record in one.records.items()}},
        )
        for one in ours
        if not one.valid
    ]


def plan_domains(ours: Sequence[Domain]) -> list[Fix]:
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
        for one in ours
        if not one.valid
    ]


def note_validity(ours: Sequence[Domain]) -> float | None:
    """Since when (Unix seconds) a domain of the sender is known to be valid without a break; None while none is."""
    book, well = ledger(), any(one.valid for one in ours)
    since: float | None = memory.recall(book, VALID_SINCE)
    if well != (since is not None):
        since = round(time.time()) if well else None
        memory.remember(book, VALID_SINCE, since)
    return since


# -- the hand ---------------------------------------------------------------------------------------------------------


async def _now(fix: Fix) -> Domain:
    return _domain(await ask("get", "whitelabel", "domains", fix.target.partition("/")[2]))


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
