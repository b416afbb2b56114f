"""What the app logged of logins that failed, and of sessions it could not read; and what of it is an attack."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal

from runbook import memory
from runbook.ledger import ledger, now_ms
from runbook.memory import KEEP_HOURS, LogEvent
from runbook.model import Frozen
from runbook.settings import settings
from tasks.logs import read_log

JWT_ERRORS = frozenset({"JWT_SESSION_ERROR", "JWTSessionError"})
FAILURES_PER_USER = 10
"""So many wrong passwords for one account within the window are no slip of its owner, who is locked out after five."""

PER_MINUTE = 10
MINUTE_MS = 60_000
NAMES = 1_000


class Failure(Frozen):
    """One refused login: the account it named and the network it came from, where the log says so."""

    at_ms: int
    said: str | None
    network: str | None

    @property
    def user(self) -> str | None:
        """The account in lower case: an attacker may write one address in many ways."""
        return self.said.lower() if self.said else None


class Logins(Frozen):
    """Refused logins of the last ``KEEP_HOURS``, oldest first, and errors of reading a session, by cause, since
    ``since_ms``."""

    since_ms: int
    failures: tuple[Failure, ...] = ()
    jwt_errors: Mapping[str, int] = {}

    @property
    def recent(self) -> tuple[Failure, ...]:
        """The failures since ``since_ms``."""
        return tuple(one for one in self.failures if one.at_ms >= self.since_ms)

    @property
    def names(self) -> set[str]:
        """Accounts the log names, as it writes them and in lower case, the latest ``NAMES``."""
        latest = dict.fromkeys(one.said for one in reversed(self.failures) if one.said)
        return {way for said in list(latest)[:NAMES] for way in (said, said.lower())}


class Attack(Frozen):
    """Logins tried by somebody who does not know the password.

    ``stuffing``: one network, many accounts. ``targeted``: one account, many networks or many tries.
    ``distributed``: many accounts from many networks within a minute.
    """

    kind: Literal["stuffing", "targeted", "distributed"]
    users: frozenset[str]
    network: str
    failures: int
    networks: int


async def read_logins(window_minutes: int) -> Logins:
    """Login failures of as far back as the log is remembered, and session errors of the window.

    Raises ``NotConfigured`` without a log, ``OutsideError`` where it cannot be read.
    """
    await read_log()
    now = now_ms()
    since = now - window_minutes * MINUTE_MS
    failed = memory.events(ledger(), settings().runbook_login_failed, now - KEEP_HOURS * 3_600_000)
    broken = memory.events(ledger(), JWT_ERRORS, since)
    causes = Counter(str(one.fields.get("error", "no cause given"))[:80] for one in broken)
    return Logins(since_ms=since, failures=tuple(map(_failure, failed)), jwt_errors=causes)


def _failure(event: LogEvent) -> Failure:
    said = (event.fields.get(key) for key in ("email", "identifier", "userId"))
    who = next((str(one) for one in said if one and one != "anonymous"), None)
    return Failure(at_ms=event.at_ms, said=who, network=network(str(event.fields.get("ip", ""))))


def network(ip: str) -> str | None:
    """Whom an address belongs to: itself for IPv4, its /64 for IPv6, None for what is no address."""
    try:
        address: IPv4Address | IPv6Address = ip_address(ip)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address) if address.version == 4 else str(ip_network((address, 64), strict=False))


def masked(found: str) -> str:
    """A network without what tells one machine from its neighbours."""
    return str(ip_network((found.partition("/")[0], 24 if "." in found else 48), strict=False)) if found else ""


def attacks(failures: Sequence[Failure], users_per_ip: int, ips_per_user: int) -> list[Attack]:
    """Every attack the failures show, the widest first.

    A failure that names no account counts as an account of its own: it may have been anybody's.
    """
    by_network, by_user = defaultdict[str, list[Failure]](list), defaultdict[str, list[Failure]](list)
    for one in failures:
        if one.network:
            by_network[one.network].append(one)
        if one.user:
            by_user[one.user].append(one)
    stuffing = [_attack("stuffing", of, name) for name, of in by_network.items() if _accounts(of) >= users_per_ip]
    targeted = [
        _attack("targeted", of)
        for of in by_user.values()
        if len({one.network for one in of if one.network}) >= ips_per_user or len(of) >= FAILURES_PER_USER
    ]
    known, wide = {one.network for one in stuffing}, {user for one in targeted for user in one.users}
    others = [one for one in failures if one.network not in known and one.user not in wide]
    return [*stuffing, *_distributed(others, users_per_ip), *targeted]


def _accounts(failures: Sequence[Failure]) -> int:
    return len({one.user for one in failures if one.user}) + sum(one.user is None for one in failures)


def _attack(kind: Literal["stuffing", "targeted", "distributed"], of: Sequence[Failure], name: str = "") -> Attack:
    return Attack(
        kind=kind,
        users=frozenset(one.user for one in of if one.user),
        network=name,
        failures=len(of),
        networks=len({one.network for one in of if one.network}),
    )


def _distributed(failures: Sequence[Failure], users: int) -> list[Attack]:
    ordered = sorted(failures, key=lambda one: one.at_ms)
    times = [one.at_ms for one in ordered]
    for at, moment in enumerate(times):
        minute = ordered[at : bisect_left(times, moment + MINUTE_MS)]
        if len(minute) > PER_MINUTE and _accounts(minute) >= users:
            return [_attack("distributed", ordered)]
    return []


def is_wide(found: Sequence[Attack], running: int, users_per_ip: int) -> bool:
    """Whether anybody's account may be under attack, so that no lock at all may be lifted.

    True for stuffing and distributed attacks, for as many single targets at once, and where as many accounts are
    ``running`` a lock right now: the database sees an attack the log does not show.
    """
    targets = {user for one in found for user in one.users if one.kind == "targeted"}
    many = len(targets) >= users_per_ip or running >= users_per_ip
    return many or any(one.kind != "targeted" for one in found)


def targets(found: Collection[Attack]) -> set[str]:
    """Every account an attack names."""
    return {user for one in found for user in one.users}
