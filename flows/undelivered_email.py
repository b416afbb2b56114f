"""Mail does not arrive: password resets, welcome mails, notifications.

Symptom: users wait for a reset mail; smtp_notification_failed, sendgrid_notification_failed or
    password_reset_email_failed in the app's log; bounces, blocks or suppressions grow.
Cause: a key that was revoked or may not send, a sender or domain that is no longer verified, an SMTP server that
    refuses the login or the sender, receivers that refuse the mail, addresses on a suppression list.
Fix: have an invalid domain checked again; take blocks off whose cause is gone (temporary and quiet since, or for
    missing authentication that is valid since), the oldest first, a few at a time; ask the app again for reset mails
    that failed within their hour, once each, after a first one was proven. With a person's approval: take one bounce or
    invalid address off, for a user who asked (address, mx_host), once in 30 days.
    Never done: spam reports, unsubscribes and groups are not shortened, no list is emptied, nobody is whitelisted, and
    nothing is done for an address that stands on one of these lists.
Verify: a send in sandbox mode and an SMTP dialogue up to the mail itself show that sending works; every fix is looked
    up at SendGrid or in the app's log; after hold_seconds all is read and judged again.
Undo: SendGrid cannot list an address again. runbook undo keeps a do-not-send row here: no runbook removes a row of that
    address or asks for a mail to it. A mail cannot be unsent.
By hand: curl -H "Authorization: Bearer $SENDGRID_API_KEY" https://api.sendgrid.com/v3/scopes proves the key. In the
    SendGrid dashboard: Settings, Sender Authentication; Suppressions, Blocks and Bounces, one address at a time;
    Dynamic Templates for a template that is refused. Never mail test@example.com: it bounces for real. The mail servers
    of a domain: dig +short MX domain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import now_ms
from runbook.memory import measure
from runbook.model import Finding, Frozen, Json, Judged, Mode, Report
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import addresses, domains, mail, mail_log, smtp, suppressions
from tasks import mail_stages as stages
from tasks.sendgrid_api import Lacks

NAME = "undelivered-email"
LOG_MS = 3_600_000

_removal = Hand(suppressions.remove_row, suppressions.look_up_row, addresses.hold_back)
_row = Hand(addresses.switch_row, addresses.look_up_row, addresses.let_go)
HANDS = {
    "revalidate_domain": Hand(domains.revalidate_domain, domains.look_up_domain),
    "remove_block": _removal,
    "remove_bounce": _removal,
    "resend_reset": Hand(mail_log.resend_reset, mail_log.look_up_reset),
    "hold_back": _row,
    "let_go": _row,
}

BadShare = Annotated[float, Field(ge=0.001, le=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Hours = Annotated[int, Field(ge=1, le=720)]
Address = Annotated[str, Field(pattern=r"^$|^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=254)]
Host = Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9.\-]*$", max_length=253)]
Hold = Annotated[int, Field(ge=0, le=60)]
Again = Callable[[], Awaitable[list[Finding]]]
"""A second look at what one stage found."""


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def undelivered_email(
    mode: Mode = Mode.auto,
    bad_share: BadShare = parameter(NAME, "bad_share", 0.05),
    failures_at: Count = parameter(NAME, "failures_at", 3),
    growth_rows: Count = parameter(NAME, "growth_rows", 25),
    cooled_hours: Hours = parameter(NAME, "cooled_hours", 24),
    address: Address = "",
    mx_host: Host = "",
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 2),
) -> Report:
    """See whether mail leaves and arrives, mend what may be mended, and ask again for the reset mails that failed.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        bad_share: The share of a day's mails from which on bounces or blocks count as sick, 0.001 to 1.
        failures_at: How many failed mails in the app's log within an hour count as sick.
        growth_rows: How many new rows of a suppression list in a day count as sick, if they are three times as usual.
        cooled_hours: How long a block's cause must have been gone before the block is taken off, in hours.
        address: A user's address to take off bounces and invalid addresses: the user asked, for transactional mail. It
            stays in Prefect's record of this run.
        mx_host: A mail server of that address's domain, as dig +short MX shows it; needed with address.
        hold_seconds: How long to wait before everything is read again to prove the fixes, in seconds.
    """
    async with Run(NAME, mode) as run:
        if not settings().smtp_host:
            settings().need("SENDGRID_API_KEY")
        await run.settle(HANDS)
        checks, channel, sends = await _sending(run, bad_share)
        if channel is not None:
            checks += await _suppressed(run, channel, growth_rows, cooled_hours)
            checks.append(await _asked(run, channel, address, mx_host))
        if settings().has_app_log:
            checks += [await _refusals(run, failures_at), await _resets(run, sends)]
        else:
            run.notice("not configured: APP_LOG, so failed mails and password resets were not looked at")
        if run.findings and run.mode is not Mode.observe:
            await asyncio.sleep(hold_seconds)
            for check in checks:
                run.remains(await check())
    return run.result()


Look = Callable[[], Awaitable[Frozen | None]]
"""One look at a side; None where there was nothing to judge."""


async def _stage(run: Run, name: str, look: Look, look_again: Look | None = None, **given: Json) -> Again:
    """Look, tell, ask, act; returns the second look. Where the app mails by SMTP, SendGrid wakes nobody."""

    async def judged(look: Look) -> tuple[Frozen | None, Judged]:
        seen, said = None, Judged([], [])
        try:
            seen = await look()
        except Lacks as no:  # one reading less; the others go on
            _tell(run, [str(no)])
        except (OutsideError, BadSetting) as error:
            said = Judged([mail.unreadable(error)], [])
        if seen is not None:
            said = stages.judged(name, seen, given)
        quiet = name == "sendgrid" and bool(settings().smtp_host)
        return seen, said._replace(findings=[_quiet(one) for one in said.findings] if quiet else said.findings)

    seen, said = await judged(look)
    run.found(said.findings)
    if seen is not None:
        run.saw(name, stages.concealed(seen), sick=bool(said.findings), **given)
    permit = await gate.ask(run, said.plan, share=said.share)
    await permit.apply(HANDS)

    async def again() -> list[Finding]:
        return list((await judged(look_again or look))[1].findings)

    return again


def _quiet(finding: Finding) -> Finding:
    return finding.model_copy(update={"page": False})


def replay(stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of one side of mail as it was seen then."""
    return stages.replayed(stage, seen, given)


def _tell(run: Run, texts: Iterable[str]) -> None:
    for text in texts:
        if text not in run.notices:
            run.notice(text)


async def _sending(run: Run, bad_share: float) -> tuple[list[Again], mail.Channel | None, bool]:
    """Both ways out; also SendGrid as it was first seen, and whether the way the app takes is open."""
    sender, by_smtp, seen = addresses.sender(), bool(settings().smtp_host), list[mail.Channel]()
    if not sender:
        run.notice("not configured: SENDGRID_SENDER_EMAIL, so no sender, domain or trial send was looked at")

    async def sendgrid() -> mail.Channel:
        channel = await mail.read_channel(sender)
        seen.append(channel)
        _tell(run, channel.lacks)
        return channel

    async def speak() -> None:
        await smtp.read_smtp(sender)

    checks = []
    if by_smtp:
        checks.append(await _stage(run, "smtp", speak))
    smtp_sends = by_smtp and not run.findings
    if settings().sendgrid_api_key:
        checks.append(await _stage(run, "sendgrid", sendgrid, bad_share=bad_share))
    channel = seen[0] if seen else None
    if channel is not None:
        measure(run.ledger, mail.readings(channel))
    return checks, channel, smtp_sends if by_smtp else channel is not None and channel.sends


async def _suppressed(run: Run, channel: mail.Channel, growth_rows: int, cooled_hours: int) -> list[Again]:
    usual = suppressions.usual(run.ledger)
    valid_since = domains.note_validity(channel.own_domains) if channel.domains is not None else None
    grown: dict[str, int] = {}
    known: set[str] = set()

    async def growth() -> stages.Growth:
        grown.update(await suppressions.read_growth())
        return stages.Growth(now=grown, usual=usual)

    async def blocks() -> stages.Blocks:
        rows = await suppressions.read_blocks()
        left = addresses.acted_on(run.ledger, ["remove_block"], suppressions.AGAIN_DAYS)
        seen = stages.Blocks(
            rows=tuple(rows),
            at=time.time(),
            valid_since=valid_since,
            left=frozenset(left | {row.mark for row in rows if addresses.is_held_back(row.mark)}),
            new=grown.get("blocks", 0),
            of=None if channel.stats is None else channel.stats.requests,
        )
        objecting = await suppressions.read_objecting(seen.due(cooled_hours))
        seen = seen.model_copy(update={"objecting": objecting})
        clear = seen.clear(cooled_hours)
        known.update(row.mark for row in clear)
        return seen.model_copy(update={"may_remove": _may_remove(run, channel, clear)})

    async def still_blocked() -> stages.Blocks | None:
        if not known:
            return None
        return stages.Blocks(rows=tuple(await suppressions.read_blocks()), known=frozenset(known))

    checks = [
        await _stage(run, "growth", growth, growth_rows=growth_rows),
        await _stage(run, "blocks", blocks, still_blocked, cooled_hours=cooled_hours),
    ]
    measure(run.ledger, {f"mail_{kind}_a_day": count for kind, count in grown.items()})
    return checks


def _may_remove(run: Run, channel: mail.Channel, rows: Iterable[suppressions.Row]) -> bool:
    missing = sorted({f"suppression.{row.kind}.delete" for row in rows if not channel.may_remove(row.kind)})
    if missing:
        _tell(run, [f"SENDGRID_API_KEY: the key lacks {', '.join(missing)}, so nothing is taken off; grant it"])
    return not missing


async def _asked(run: Run, channel: mail.Channel, address: str, mx_host: str) -> Again:
    known = list[str]()

    async def look() -> stages.Asked | None:
        rows = await suppressions.read_asked_for(address) if address else []
        known.extend(row.mark for row in rows)
        if not rows:
            if address and not known:
                _tell(run, [f"{addresses.shown(address)} is on neither bounces nor invalid addresses"])
            return None
        against = (await suppressions.read_objections([address], ["spam_reports"])).get(rows[0].mark, [])
        seen = stages.Asked(
            rows=tuple(rows),
            against=tuple(against),
            removed=rows[0].mark in addresses.acted_on(run.ledger, ["remove_bounce"], suppressions.AGAIN_DAYS),
            held_back=addresses.is_held_back(rows[0].mark),
        )
        if seen.against or seen.removed or seen.held_back:
            return seen
        if not mx_host or not await suppressions.read_mail_host(mx_host):
            _tell(run, [f"mx_host {mx_host or 'is empty'}: name a mail server of the domain: dig +short MX domain"])
            return seen
        return seen.model_copy(update={"takes_mail": True, "may_remove": _may_remove(run, channel, rows)})

    return await _stage(run, "asked", look, mx_host=mx_host)


async def _refusals(run: Run, failures_at: int) -> Again:
    began = now_ms()
    # Lines written before this run say nothing about what it mended.
    first, second = partial(mail_log.read_refusals, began - LOG_MS), partial(mail_log.read_refusals, began)
    return await _stage(run, "refusals", first, second, failures_at=failures_at)


async def _resets(run: Run, sends: bool) -> Again:
    async def look() -> stages.Due:
        seen = await mail_log.read_resets()
        _tell(run, mail_log.notices_of(seen))
        tried = mail_log.tried(run.ledger)
        due = [one for one in seen.failures if one.mark not in tried and not addresses.is_held_back(one.mark)]
        due = due[: 2 * mail_log.AT_ONCE]
        why = "" if sends else "sending does not work yet"
        why = why or ("" if settings().app_url else "APP_URL is not configured")
        against: dict[str, list[str]] = {}
        if due and not why and settings().sendgrid_api_key:
            try:
                against = await suppressions.read_objections([one.address for one in due], suppressions.OBJECTING)
            except (OutsideError, BadSetting) as error:
                why = f"who must not be mailed cannot be read ({error})"
        if due and why:
            _tell(run, [f"no reset mail is asked for again: {why}"])
        return stages.Due(resets=seen, due=tuple(due), against=against, why_not=why)

    return await _stage(run, "resets", look)
