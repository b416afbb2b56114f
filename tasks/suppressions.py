"""SendGrid's suppression lists: how fast they grow, which rows have outlived their cause, and the hand that takes one
row off.

Spam reports, unsubscribes and groups are read, so that nothing is done for whoever is on them; they are never
shortened. SendGrid goes on mailing blocked addresses: taking a block off mends its list, not the sending.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from runbook import memory
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger, now_ms
from runbook.model import Finding, Fix, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.step import hand, reader
from tasks import addresses, mail_causes
from tasks.sendgrid_api import ADDRESS, TurnedDown, ask, delete_one, listed

DAY = 86_400
BLOCK_DAYS = 30
AT_ONCE = 5
"""Blocks removed in one run at most."""

LOOKED_AT = 20

AGAIN_DAYS = 30
"""How long an address is left alone after a row of it was removed: if it is back, its cause was not gone."""

LISTS = ("blocks", "bounces", "invalid_emails", "spam_reports", "unsubscribes")
OBJECTING = ("bounces", "invalid_emails", "spam_reports")
"""Whoever is on one of these is not mailed; unsubscribes and groups are looked at always."""

SAMPLES = 3
"""Fewer earlier counts are nothing to compare with."""

NO_UNDO = "SendGrid cannot list it again; runbook undo holds the address back here, by a do-not-send row"


class Row(Frozen):
    """One row of a list; ``created`` in Unix seconds."""

    kind: str
    address: str
    mark: str
    created: int
    status: str
    cause: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2].lower()

    @property
    def shown(self) -> str:
        return addresses.shown(self.address)


def _row(kind: str, row: Mapping[str, Json]) -> Row:
    address, status, reason = str(row["email"]), str(row.get("status") or ""), str(row.get("reason") or "")
    why = mail_causes.cause(status, reason)
    return Row(
        kind=kind,
        address=address,
        mark=addresses.mark(address),
        created=int(row["created"]),
        status=status,
        cause=why,
    )


@reader("read the blocks")
async def read_blocks() -> list[Row]:
    """The blocks of the last ``BLOCK_DAYS``, the oldest first; without what is no address."""
    now = int(time.time())
    rows = [_row("blocks", row) for row in await listed("blocks", now - BLOCK_DAYS * DAY, now)]
    return sorted((row for row in rows if ADDRESS.fullmatch(row.address)), key=lambda row: (row.created, row.mark))


@reader("count what was suppressed in a day")
async def read_growth() -> dict[str, int]:
    """How many rows of each list are younger than a day."""
    now = int(time.time())
    return {kind: len(await listed(kind, now - DAY, now)) for kind in LISTS}


@reader("read the rows of one address")
async def read_asked_for(address: str) -> list[Row]:
    """The rows of this address among the bounces and the invalid addresses."""
    return [row for kind in ("bounces", "invalid_emails") for row in await _of(kind, address)]


async def _of(kind: str, address: str) -> list[Row]:
    try:
        found = await ask("get", "suppression", kind, address)
        rows = [_row(kind, row) for row in found or ()]
    except TurnedDown as no:
        if no.status == 404:
            return []
        raise
    except (TypeError, LookupError, ValueError, AttributeError):
        raise OutsideError("SendGrid", f"a row of {kind} is malformed", "run it again; nothing was changed") from None
    return [row for row in rows if row.address.lower() == address.lower()]


@reader("read who must not be mailed")
async def read_objections(wanted: Collection[str], lists: Collection[str]) -> dict[str, list[str]]:
    """By mark, the lists on which an address of ``wanted`` stands: of ``lists``, the unsubscribes and every group."""
    found: dict[str, list[str]] = {}
    for address in wanted:
        on = [kind for kind in lists if await _of(kind, address)]
        if await _global(address):
            on.append("unsubscribes")
        on += [f"group {name}" for name in await _groups(address)]
        if on:
            found[addresses.mark(address)] = on
    return found


async def _global(address: str) -> bool:
    said = await ask("get", "asm", "suppressions", "global", address)
    if not isinstance(said, dict):
        raise OutsideError("SendGrid", "an unsubscribe is malformed", "run it again; nothing was changed")
    return bool(said)


async def _groups(address: str) -> list[str]:
    try:
        groups = (await ask("get", "asm", "suppressions", address))["suppressions"]
        return [str(one["name"]) for one in groups if one["suppressed"]]
    except (TypeError, LookupError):
        raise OutsideError("SendGrid", "a list of groups is malformed", "run it again; nothing was changed") from None


async def read_objecting(rows: Sequence[Row]) -> frozenset[str]:
    """Marks of those whose owners stand on another list, until ``AT_ONCE`` do not: each costs five questions."""
    objecting, clear = set[str](), 0
    for row in rows:
        if await read_objections([row.address], OBJECTING):
            objecting.add(row.mark)
        else:
            clear += 1
        if clear == AT_ONCE:
            break
    return frozenset(objecting)


@reader("look up the mail server {host}")
async def read_mail_host(host: str) -> bool:
    """Whether the mail server a person named has an address; no library here reads MX records."""
    try:
        async with asyncio.timeout(5):
            return bool(await asyncio.get_running_loop().getaddrinfo(host, 25))
    except (OSError, UnicodeError):
        return False


# -- detect and plan --------------------------------------------------------------------------------------------------


def usual(book: Ledger) -> dict[str, float]:
    """The median of each list's remembered counts, where there are enough of them to compare with."""
    since = now_ms() - memory.KEEP_READING_DAYS * DAY * 1000
    counts = {kind: [count for _, count in memory.series(book, f"mail_{kind}_a_day", since)] for kind in LISTS}
    return {kind: statistics.median(seen) for kind, seen in counts.items() if len(seen) >= SAMPLES}


def detect_growth(now: Mapping[str, int], before: Mapping[str, float], growth_rows: int) -> list[Finding]:
    """Lists that grew by at least ``growth_rows`` in a day, and by three times what is usual."""
    return [
        Finding(
            subject=f"suppressions: {kind}",
            detail=f"{now[kind]} new in a day, usually {before[kind]:g}: read the reasons in the SendGrid dashboard",
            evidence={"new": now[kind], "usual": before[kind]},
        )
        for kind in now
        if kind in before and now[kind] >= max(growth_rows, 3 * before[kind])
    ]


def outlived(rows: Sequence[Row], now: float, cooled_hours: int, valid_since: float | None) -> list[Row]:
    """The blocks whose cause is gone, the oldest first.

    A temporary one, once it is ``cooled_hours`` old and its receiver has blocked nobody since; one for missing
    authentication, once the domain has been valid for as long and nobody was blocked for that since. No other cause can
    be seen to be gone.
    """
    quiet = now - cooled_hours * 3600
    busy = {row.domain for row in rows if row.created >= quiet}
    well = valid_since is not None and valid_since <= quiet
    well = well and not any(row.cause == mail_causes.UNAUTHENTICATED and row.created >= quiet for row in rows)
    return [
        row
        for row in rows
        if row.created < quiet
        and (
            (row.cause == mail_causes.TEMPORARY and row.domain not in busy)
            or (row.cause == mail_causes.UNAUTHENTICATED and well and row.created < (valid_since or 0))
        )
    ]


def detect_blocks(rows: Sequence[Row]) -> list[Finding]:
    """One finding for all blocks that have outlived their cause and may be removed."""
    if not rows:
        return []
    detail = f"{len(rows)} blocks have outlived their cause"
    evidence = {"causes": dict(Counter(row.cause for row in rows)), "addresses": [row.shown for row in rows[:10]]}
    return [Finding(subject="suppressions: blocks", detail=detail, evidence=evidence)]


def plan_blocks(rows: Sequence[Row]) -> list[Fix]:
    """Take each off the list of blocks."""
    return [_removal("remove_block", Risk.auto, row) for row in rows]


def detect_asked_for(rows: Sequence[Row], objections: Sequence[str], removed: bool) -> list[Finding]:
    """What stands in the way of mailing one address, and what forbids a removal."""
    if not rows:
        return []
    lists = " and ".join(f"{row.kind} ({row.cause})" for row in rows)
    detail = f"is on {lists}, so SendGrid drops its mail"
    if objections:
        detail += f"; left there: its owner is on {', '.join(objections)} too"
    elif removed:
        detail += f"; left there: a row of it was removed within {AGAIN_DAYS} days, so its cause is not gone"
    return [Finding(subject=rows[0].shown, detail=detail, evidence={"status": [row.status for row in rows]})]


def plan_asked_for(rows: Sequence[Row], mx_host: str) -> list[Fix]:
    """Take the rows of one address off, for a person who says that its owner asked and that its domain takes mail."""
    why = f"a person says that the user asked for transactional mail and that {mx_host} takes mail for the domain"
    return [_removal("remove_bounce", Risk.person, row, why) for row in rows]


def _removal(action: str, risk: Risk, row: Row, said: str = "") -> Fix:
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(row.created))
    return Fix(
        action=action,
        target=addresses.target(row.kind, row.address, row.mark),
        risk=risk,
        why=f"listed {at} as {row.cause}" + (f"; {said}" if said else ""),
        undo=NO_UNDO,
        expect={"kind": row.kind, "created": row.created, "status": row.status},
        want={"listed": False},
    )


# -- the hand ---------------------------------------------------------------------------------------------------------


async def _again(fix: Fix) -> Row | None:
    """The row a fix is about: its list is read for that one second, and its mark is looked for."""
    kind, second = str(fix.expect["kind"]), int(fix.expect["created"])
    rows = [_row(kind, row) for row in await listed(kind, second, second)]
    return next((row for row in rows if row.mark == addresses.mark_of(fix) and row.created == second), None)


@hand("take {fix.target} off")
async def remove_row(fix: Fix, permit: Permit) -> None:
    """Take one address off one list, if its row is the one that was read and nobody objects meanwhile.

    SendGrid has no conditional delete: the row is read right before it, and that moment stays open.
    """
    with permit.attempt(fix) as attempt:
        try:
            row = await _again(fix)
            if row is None or row.status != fix.expect["status"]:
                attempt.moved_on("the row is gone or another one by now")
                return
            if addresses.is_held_back(row.mark) or await read_objections.fn([row.address], ["spam_reports"]):
                attempt.moved_on("the address must not be mailed")
                return
            await delete_one(row.kind, row.address)
        except (TurnedDown, BadSetting) as no:
            attempt.failed(str(no))


@reader("look up {fix.target}")
async def look_up_row(fix: Fix) -> Proof:
    """Whether that row is gone; a newer one of the same address is another row."""
    try:
        row = await _again(fix)
    except BadSetting as no:
        return Proof(held=None, seen=str(no))
    return Proof(held=row is None, seen="gone" if row is None else "still listed")
