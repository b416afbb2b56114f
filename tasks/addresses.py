"""Mail addresses without the addresses: how one is shown, known again, and kept from being mailed.

Where an act needs the address itself it is read again where it already is, at SendGrid or in the log's events.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parseaddr

from sqlalchemy import select

from runbook import memory
from runbook.ledger import Ledger, ledger, now_ms
from runbook.model import Fix, FixState, Proof
from runbook.permit import Permit
from runbook.pseudonym import pseudonym
from runbook.schema import fix as fix_table
from runbook.settings import settings
from runbook.step import hand, reader
from tasks.sendgrid_api import ADDRESS

DAY_MS = 86_400_000
DONE = (FixState.intended, FixState.applied, FixState.proven, FixState.undone)
"""What may have had an effect; a fix that was turned down or came too late had none."""


def shown(address: str) -> str:
    """The first letter and the domain."""
    name, _, domain = address.rpartition("@")
    return f"{name[:1]}***@{domain}"


def mark(address: str) -> str:
    """Ten hex digits that stand for this address in this ledger, salted: nobody can guess an address and check it."""
    return pseudonym(ledger(), address.lower())


def target(kind: str, address: str, marked: str) -> str:
    """What a fix is about: its list, the address as it is shown, and its mark."""
    return f"{kind}/{shown(address)} #{marked}"


def mark_of(fix: Fix) -> str:
    """The mark in a fix's target."""
    return fix.target.rpartition("#")[2]


def sender() -> str:
    """The address the app sends from, without a display name; empty where none is set."""
    for named in (settings().smtp_from, settings().sendgrid_sender_email):
        address = parseaddr(named or "")[1]
        if ADDRESS.fullmatch(address):
            return address
    return ""


def acted_on(book: Ledger, actions: Iterable[str], days: float, states: Iterable[FixState] = DONE) -> set[str]:
    """Marks of the addresses on which one of these actions was begun within so many days and came to one of these."""
    rule = select(fix_table.c.target).where(
        fix_table.c.action.in_(list(actions)),
        fix_table.c.intended_at_ms > now_ms() - round(days * DAY_MS),
        fix_table.c.state.in_([state.value for state in states]),
    )
    with book.read() as connection:
        return {row.target.rpartition("#")[2] for row in connection.execute(rule)}


# -- the local do-not-send rows: what is left of an undo where the vendor offers none ---------------------------------


def _key(marked: str) -> str:
    return f"mail/do-not-send/{marked}"


def is_held_back(marked: str) -> bool:
    """True while a person's undo holds this address back: no runbook removes a row of it or mails it."""
    return bool((memory.recall(ledger(), _key(marked)) or {}).get("on"))


def hold_back(fix: Fix) -> Fix:
    """The inverse of a removal: SendGrid cannot list an address again, so it is held back here."""
    return fix.model_copy(
        update={
            "action": "hold_back",
            "target": f"do-not-send/{fix.target.partition('/')[2]}",
            "why": f"undo of {fix.id}",
            "undo": "the do-not-send row is switched off again",
            "expect": {"held_back": False},
            "want": {"held_back": True},
        }
    )


def let_go(fix: Fix) -> Fix:
    """The inverse of ``hold_back``, and of itself."""
    back = "let_go" if fix.action == "hold_back" else "hold_back"
    return fix.model_copy(update={"action": back, "expect": fix.want, "want": fix.expect, "why": f"undo of {fix.id}"})


@hand("hold back or let go {fix.target}")
async def switch_row(fix: Fix, permit: Permit) -> None:
    """Switch one do-not-send row, if it still stands as the fix expects."""
    key = _key(mark_of(fix))
    with permit.attempt(fix) as attempt:
        was = memory.recall(ledger(), key)
        if bool((was or {}).get("on")) != fix.expect["held_back"]:
            attempt.moved_on("somebody switched it meanwhile")
            return
        with ledger().write() as connection:
            moved = memory.swap(connection, key, was, {"on": fix.want["held_back"], "at_ms": now_ms()})
        if not moved:
            attempt.moved_on("somebody switched it meanwhile")


@reader("look up {fix.target}")
async def look_up_row(fix: Fix) -> Proof:
    """Whether the do-not-send row stands as the fix wanted it."""
    now = is_held_back(mark_of(fix))
    return Proof(held=now == fix.want["held_back"], seen="held back" if now else "not held back")
