"""Whether a blocked address is many honest people behind one door, or one abuser. Pure: evidence in, judgement out.

Five signs speak for it: enough signed-in people, their share of what was logged, sign-ins that succeed, few failures
for each person, an office a person vouched for. Any sign against it decides; what the log cannot show is left to a
person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from runbook.model import Frozen, Json

FEW = 5
"""So many failed sign-ins are anybody's typing; more of them are a sign of harm."""

CROWD = 0.5
"""Behind more than this share of all signed-in people stands the app's own proxy, not an office."""


class Bounds(Frozen):
    """Where each sign begins to count."""

    least_users: int = 5
    least_auth_share: float = 0.3
    least_success: float = 0.9
    most_failures_per_user: float = 1.0
    most_denied_share: float = 0.2
    most_strangers: int = 10


class Account(Frozen):
    """One account of the app and when it was made, in Unix ms."""

    id: str
    created_ms: int


class Evidence(Frozen):
    """What the log says of one party (an IPv4 address or an IPv6 /64) within the window.

    ``key`` is the address the app blocked last. Times are Unix ms, 0 where it did not happen: ``limited`` by a limit
    on content, ``signin_limited`` by one on sign-in, registration or reset, ``blocked`` for an hour. ``users`` are the
    accounts that were signed in, ``established`` how many of them are older than a day (None: could not be read),
    ``tried`` the accounts whose sign-in failed or whose password was asked for. ``numbered`` are pages of one kind
    asked for by number, ``denied`` lines of a failed sign-in, 401 or 404, ``forged`` lines whose client wrote the
    address.
    """

    group: str
    key: str
    limited_at_ms: int = 0
    signin_limited_at_ms: int = 0
    blocked_at_ms: int = 0
    last_ms: int = 0
    events: int = 0
    signed_in: int = 0
    users: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    established: int | None = None
    successes: int = 0
    failures: int = 0
    numbered: int = 0
    denied: int = 0
    forged: int = 0
    forbidden: str = ""
    known: bool = False
    crowd: float = 0.0

    @property
    def stopped_at_ms(self) -> int:
        """When it was limited or blocked last; 0 where it is not now."""
        return max(self.limited_at_ms, self.signin_limited_at_ms, self.blocked_at_ms)

    @property
    def attempts(self) -> int:
        """Sign-ins whose outcome was logged."""
        return self.successes + self.failures

    @property
    def success(self) -> float:
        """The share of them that succeeded; 0 where there were none."""
        return self.successes / self.attempts if self.attempts else 0.0

    @property
    def strangers(self) -> int:
        """Accounts tried or asked for here that never signed in here."""
        return len(set(self.tried) - set(self.users))

    def resolved(self, accounts: Mapping[str, Account], established_before_ms: int) -> Evidence:
        """The same with every name an account has put down to its one id, and the old ones among them counted."""
        users = {accounts[name].id if name in accounts else name for name in self.users}
        tried = {accounts[name].id if name in accounts else name for name in self.tried}
        old = {one.id for one in accounts.values() if one.created_ms < established_before_ms}
        return self.model_copy(update={"users": tuple(users), "tried": tuple(tried), "established": len(users & old)})

    def shown(self) -> dict[str, Json]:
        """The figures without a person or an address in them."""
        hidden = {"group", "key", "users", "tried", "forbidden", "known"}
        counted = {"users": len(self.users), "strangers": self.strangers, "known office": self.known}
        return {**self.model_dump(exclude=hidden), **counted}


class Witness(Frozen):
    """What the log as a whole can show: without it a missing sign means nothing."""

    sign_ins: bool = True
    limiter_names_users: bool = True
    statuses: bool = True
    proxies: bool = True


class Judgement(Frozen):
    """``harm``: signs of abuse. ``short``: honest signs that are missing. ``unknown``: what the log cannot show."""

    score: int
    harm: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def against(self) -> tuple[str, ...]:
        """All that speaks against it: one of them is enough to leave it blocked."""
        return (*self.harm, *self.short)

    @property
    def shared(self) -> bool:
        """True where everything was seen and all of it speaks for many honest people."""
        return not self.against and not self.unknown


class Sign(NamedTuple):
    """One sign: whether it is well, what is said where it is not, whether the log shows it, whether ill means harm."""

    well: bool
    ill: str
    visible: bool = True
    harm: bool = False


def judge(seen: Evidence, log: Witness, at: Bounds) -> Judgement:
    """One party by its signs: each of the five that holds is a point, each sign of harm takes one."""
    speaking, warning = list(_for(seen, log, at)), list(_against(seen, at))
    ill = [sign for sign in (*speaking, *warning) if sign.visible and not sign.well]
    harm = tuple(sign.ill for sign in ill if sign.harm)
    hidden = tuple(f"the log cannot show otherwise than {sign.ill}" for sign in speaking if not sign.visible)
    points = sum(sign.well and sign.visible for sign in speaking) + seen.known
    return Judgement(
        score=points - len(harm),
        harm=harm,
        short=tuple(sign.ill for sign in ill if not sign.harm),
        unknown=(*hidden, *_unseen(seen, log, at)),
    )


def _for(seen: Evidence, log: Witness, at: Bounds) -> Iterator[Sign]:
    people = len(seen.users) if seen.established is None else seen.established
    share = seen.signed_in / seen.events if seen.events else 0.0
    each = seen.failures / max(len(seen.users), 1)
    enough, tried, typing = people >= at.least_users, seen.attempts > 0, seen.failures < FEW
    yield Sign(
        enough, f"{people} signed-in accounts older than a day, fewer than {at.least_users}", enough or log.sign_ins
    )
    lines = share >= at.least_auth_share
    said = f"{share:.0%} of its lines are of signed-in people, less than {at.least_auth_share:.0%}"
    yield Sign(lines, said, lines or (log.sign_ins and log.limiter_names_users))
    said = f"{seen.success:.0%} of {seen.attempts} sign-ins succeed, less than {at.least_success:.0%}"
    yield Sign(seen.success >= at.least_success, said, tried and log.sign_ins, harm=not typing)
    said = f"{each:.1f} failed sign-ins for each person, not below {at.most_failures_per_user:g}"
    yield Sign(each < at.most_failures_per_user, said, tried, harm=not typing)


def _against(seen: Evidence, at: Bounds) -> Iterator[Sign]:
    denied = seen.denied / seen.events if seen.events else 0.0
    said = f"{denied:.0%} of its lines are a failed sign-in, 401 or 404, more than {at.most_denied_share:.0%}"
    yield Sign(denied <= at.most_denied_share, said, harm=seen.denied >= FEW)
    said = f"{seen.strangers} accounts were tried or asked for that never signed in here: enumeration"
    yield Sign(seen.strangers < at.most_strangers, said, harm=True)
    said = f"{seen.numbered} pages were asked for by number: enumeration"
    yield Sign(seen.numbered < at.most_strangers, said, harm=True)
    yield Sign(not seen.forged, f"{seen.forged} lines carry an X-Forwarded-For the client wrote itself", harm=True)
    yield Sign(not seen.forbidden, seen.forbidden)


def _unseen(seen: Evidence, log: Witness, at: Bounds) -> Iterator[str]:
    if seen.established is None and len(seen.users) >= at.least_users:
        yield "how old its accounts are could not be read"
    if not log.proxies:
        yield "RUNBOOK_TRUSTED_PROXIES is not set, so a client may have written this address itself"
    if not log.statuses and not seen.known:
        yield "the log has no line with a 401 or 404, so a scraper behind it would not be seen"
    if seen.crowd > CROWD and not seen.known:
        yield f"{seen.crowd:.0%} of all signed-in people come from it, so it may be your own proxy"
