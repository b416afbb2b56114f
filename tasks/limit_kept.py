"""The world of the limits as a reading of it is kept: judged as the real one is, and it names nobody.

Accounts get names that stand for them, and so do addresses, but for those that fixes and trusts name anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_network

from runbook import pseudonym
from runbook.ledger import Ledger
from tasks.limit_cases import World
from tasks.limit_score import Evidence
from tasks.networks import group, read
from tasks.quotas import Trusted

WHO = ("users", "tried")
"""Where a party names accounts."""


def concealed(world: World, book: Ledger, named: Collection[str]) -> World:
    """``world`` without its people; addresses of ``named`` and of our trusts stay, and all of their networks."""
    known = {group(found) for ip in (*named, *(one.ip for one in world.trusts)) if (found := read(ip)) is not None}

    def hidden(ip: str) -> str:
        found = read(ip)
        if found is None:
            return pseudonym.pseudonym(book, ip) if ip else ip
        if group(found) in known:
            return ip
        return str(ip_network(pseudonym.network(book, str(found))).network_address)

    def party(one: Evidence) -> Evidence:
        names = {field: tuple(pseudonym.pseudonym(book, name) for name in getattr(one, field)) for field in WHO}
        changed = names | ({} if one.group in known else {"group": pseudonym.network(book, one.group)})
        return one.model_copy(update=changed | {"key": hidden(one.key)})

    limits, listed = world.limits, world.listed
    if limits is not None:
        limits = limits.model_copy(update={"parties": tuple(map(party, limits.parties))})
    if listed is not None:
        every, some = (frozenset(map(hidden, ips)) for ips in (listed.everywhere, listed.somewhere))
        listed = Trusted(everywhere=every, somewhere=some)
    return world.model_copy(update={"limits": limits, "listed": listed})
