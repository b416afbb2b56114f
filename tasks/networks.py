"""Internet addresses as an app's log has them: who really came, whom the app counted, who is never trusted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SITE = 64
"""IPv6 gives every household and every office at least this prefix: one machine has all addresses in it."""

# Global by the registry, but what stands in them is another address, or a translator that many share.
TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16"))


class Hop(NamedTuple):
    """One request's origin: the ``client``, the ``key`` the app limits by, and whether the client made that key up.

    ``client`` is None where every hop is one of our own proxies.
    """

    client: Address | None
    key: str
    forged: bool


def read(text: str) -> Address | None:
    """The address a word names, ``::ffff:a.b.c.d`` as IPv4, brackets, port and zone dropped; None where it is none."""
    word = text.strip().partition("%")[0]
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        found = ip_address(word)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def origin(text: str, proxies: Sequence[Network]) -> Hop | None:
    """Who is behind a logged address or X-Forwarded-For chain; None where that cannot be said.

    Every proxy appends who spoke to it, so only the right end is true: the client is the rightmost hop that is not one
    of our ``proxies``. The app limits by the leftmost, which anybody can write.
    """
    hops = [read(word) for word in text.split(",")]
    while hops and hops[-1] is not None and within(hops[-1], proxies):
        hops.pop()
    first = text.split(",")[0].strip()
    if not hops:
        return Hop(None, first, forged=False)
    client = hops[-1]
    if client is None:
        return None
    # Written as the app keeps it, ``::ffff:`` included: it compares texts.
    key = first if "]" not in first and "%" not in first and first.count(":") != 1 else str(hops[0])
    return Hop(client, key, forged=hops[0] != client)


def within(address: Address, networks: Sequence[Network]) -> bool:
    """True when one of the networks holds the address."""
    return any(address in one for one in networks)


def group(address: Address) -> str:
    """What one party has: an IPv4 address, or the whole /64 of an IPv6 address."""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, SITE), strict=False))


def never(text: str, proxies: Sequence[Network]) -> str:
    """Why this may not be trusted whatever speaks for it; empty where nothing forbids it."""
    found = read(text)
    if found is None:
        return "it is not one address"
    if within(found, proxies):
        return "it is one of your own proxies: trusting it trusts everybody"
    if not found.is_global or found.is_multicast or found.is_reserved or within(found, TRANSLATED):
        return "it is private, reserved or shared by a carrier, so no client on the internet has it for its own"
    return ""


def hide(text: str) -> str:
    """An address without its last part: enough to know the network, not the person."""
    found = read(text.partition("/")[0])
    if isinstance(found, IPv4Address):
        return f"{str(found).rpartition('.')[0]}.x"
    return f"{IPv6Network((found, 48), strict=False).network_address}x" if found else "(no address)"
