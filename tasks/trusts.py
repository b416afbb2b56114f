"""Which addresses we had the app trust, and until when: read from the ledger's own fixes, which no restart loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import RowMapping, select

from runbook import memory
from runbook.ledger import Ledger
from runbook.model import FixState, Frozen
from runbook.schema import fix
from tasks.networks import read

TRUSTING = frozenset({"trust_ip", "trust_again"})
ACTIONS = TRUSTING | {"untrust_ip"}
CERTAIN = (FixState.applied.value, FixState.proven.value, FixState.undone.value)
ADDED, REMOVED = "trusted_ip_added", "trusted_ip_removed"
HOUR_MS = 3_600_000
NEAR_MS = 60_000
"""How long after our own act what the app logs of it may carry its time: the two clocks differ."""


class Trust(Frozen):
    """One address the app trusts because of us: ``fix_id`` did it at ``at_ms``, and it ends at ``until_ms``.

    ``acts`` is how often we touched its entry in the last 24 hours.
    """

    fix_id: str
    ip: str
    at_ms: int
    until_ms: int
    acts: int = 1


def target(ip: str) -> str:
    """The target every act on one entry of the app's list holds."""
    return f"TrustedIp/{read(ip) or ip}"


def standing(book: Ledger) -> list[Trust]:
    """The trusts that are ours and not taken back, whether their time is over or not."""
    latest: dict[str, Trust | None] = {}
    with book.read() as connection:
        acts = Counter(past.target for past in book.history(connection))
        rule = select(fix).where(fix.c.action.in_(ACTIONS), fix.c.state.in_(CERTAIN)).order_by(fix.c.seq)
        for row in connection.execute(rule).mappings():
            ours = row["action"] in TRUSTING and row["state"] != FixState.undone.value
            latest[row["target"]] = _trust(row, acts[row["target"]]) if ours else None
    return [one for one in latest.values() if one is not None]


def _trust(row: RowMapping, acts: int) -> Trust:
    at_ms, want = row["intended_at_ms"], row["want"]
    until = want.get("until_ms") or at_ms + int(want["hours"]) * HOUR_MS
    return Trust(fix_id=row["id"], ip=str(want["ip"]), at_ms=at_ms, until_ms=until, acts=acts)


def let_go(book: Ledger) -> Iterator[Trust]:
    """Give up what a person added anew or removed since, as the app logged it: from then on it is theirs."""
    trusts = standing(book)
    since = min((one.at_ms for one in trusts), default=0)
    changes = memory.events(book, {ADDED, REMOVED}, since) if trusts else []
    for one in trusts:
        acts = _acts(book, one.ip)
        theirs = [
            change
            for change in changes
            if read(str(change.fields.get("ip", ""))) == read(one.ip)
            and change.at_ms > one.at_ms
            and not any(abs(change.at_ms - at_ms) < NEAR_MS for name, at_ms in acts if name == change.name)
        ]
        body = {"why": f"{theirs[-1].name} was logged and was not ours"} if theirs else {}
        if theirs and book.move(one.fix_id, [FixState.applied, FixState.proven], FixState.undone, body):
            yield one


def _acts(book: Ledger, ip: str) -> list[tuple[str, int]]:
    """What we did to the entry: what the app logs of it, and when it was."""
    rule = select(fix).where(fix.c.target == target(ip), fix.c.intended_at_ms.is_not(None))
    with book.read() as connection:
        rows = connection.execute(rule).mappings().all()
    return [(ADDED if row["action"] in TRUSTING else REMOVED, row["intended_at_ms"]) for row in rows]
