"""Addresses, signs and cases as tables: no world, no clock."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_network
from typing import Any

import pytest

from flows.rate_limited_users import detect, plan, plan_kept, share
from runbook.errors import BadSetting
from runbook.memory import LogEvent
from runbook.model import Risk
from runbook.settings import forget, settings
from tasks.limit_cases import World
from tasks.limit_score import Account, Bounds, Evidence, Witness, judge
from tasks.limit_tally import Limits, weigh
from tasks.networks import group, hide, never, origin, read
from tasks.quotas import Trusted
from tasks.trusts import Trust

PROXIES = [ip_network("10.0.0.0/8"), ip_network("192.88.99.254/32")]
OFFICE = "192.88.99.10"
USERS = tuple(f"u{i}" for i in range(8))
HOUR = 3_600_000
NOW = 100 * HOUR

HONEST = Evidence(
    group=OFFICE,
    key=OFFICE,
    limited_at_ms=NOW,
    events=40,
    signed_in=39,
    users=USERS,
    established=8,
    successes=19,
    failures=1,
    denied=1,
)


@pytest.mark.parametrize(
    ("text", "client", "key", "forged"),
    [
        ("192.88.99.10", "192.88.99.10", "192.88.99.10", False),
        ("::ffff:192.88.99.10", "192.88.99.10", "::ffff:192.88.99.10", False),
        ("192.88.99.10:4711", "192.88.99.10", "192.88.99.10", False),
        ("[2620:4f:8000::1]:443", "2620:4f:8000::1", "2620:4f:8000::1", False),
        ("2620:4F:8000:0::1", "2620:4f:8000::1", "2620:4F:8000:0::1", False),
        ("192.88.99.10, 10.0.0.1", "192.88.99.10", "192.88.99.10", False),
        ("192.88.99.10,10.0.0.2, 192.88.99.254", "192.88.99.10", "192.88.99.10", False),
        ("192.88.99.10, 192.88.99.66, 10.0.0.1", "192.88.99.66", "192.88.99.10", True),
        ("unknown, 192.88.99.66, 10.0.0.1", "192.88.99.66", "unknown", True),
        ("10.0.0.1", None, "10.0.0.1", False),
        ("10.9.9.9, 10.0.0.1", None, "10.9.9.9", False),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_not_ours(
    text: str, client: str | None, key: str, forged: bool
) -> None:
    hop = origin(text, PROXIES)
    assert hop is not None
    assert (hop.client and str(hop.client), hop.key, hop.forged) == (client, key, forged)


@pytest.mark.parametrize(
    "text", ["", "unknown", "192.88.0.0/16", "localhost", "192.88.99", "1.2.3.4.5", "192.88.99.10, x"]
)
def test_what_is_no_address_has_no_client(text: str) -> None:
    assert origin(text, PROXIES) is None


NEVER = (
    "0.0.0.0 0.0.0.0/0 ::/0 127.0.0.1 ::1 10.1.2.3 172.16.0.1 192.168.0.1 169.254.169.254 fe80::1 100.64.0.1 fc00::1"
)
NEVER += " 224.0.0.1 ff02::1 240.0.0.1 255.255.255.255 203.0.113.7 198.51.100.7 192.0.2.7 2001:db8::1 198.18.0.1"
NEVER += " 64:ff9b::c058:630a 2002:c058:630a::1 2001::1 :: 192.88.99.254 192.88.0.0/16 office ::ffff:10.0.0.1"


@pytest.mark.parametrize("text", NEVER.split())
def test_never_trusted(text: str) -> None:
    assert never(text, PROXIES)


@pytest.mark.parametrize("text", [OFFICE, "::ffff:192.88.99.10", "2620:4f:8000::1", "8.8.8.8"])
def test_may_be_trusted(text: str) -> None:
    assert never(text, PROXIES) == ""


def test_one_party_is_an_ipv4_address_or_an_ipv6_64() -> None:
    one, other, elsewhere = (read(f"2620:4f:8000:{site}") for site in ("1::1", "1:ffff::9", "2::1"))
    assert one and other and elsewhere
    assert group(one) == group(other) == "2620:4f:8000:1::/64" != group(elsewhere)
    assert (hide(OFFICE), hide("2620:4f:8000:1::5"), hide("x")) == ("192.88.99.x", "2620:4f:8000::x", "(no address)")


# -- the signs -------------------------------------------------------------------------------------------------------

SEEN = Witness()
FOR = [
    ({}, 4),
    ({"known": True}, 5),
    ({"users": USERS[:5], "established": 5}, 4),
    ({"signed_in": 12}, 4),  # exactly 0.3
    ({"successes": 18, "failures": 2, "denied": 2}, 4),  # exactly 0.9
    ({"successes": 90, "failures": 7, "denied": 8}, 4),  # below one each, exactly 20%
]
AGAINST = [
    ({"users": USERS[:4], "established": 4}, "4 signed-in accounts", "short"),
    ({"established": 4}, "4 signed-in accounts", "short"),
    ({"signed_in": 11}, "28% of its lines", "short"),
    ({"successes": 17, "failures": 3}, "85% of 20 sign-ins", "short"),
    ({"successes": 40, "failures": 5}, "89% of 45 sign-ins", "harm"),
    ({"successes": 100, "failures": 8, "denied": 8}, "1.0 failed sign-ins", "harm"),
    ({"denied": 9}, "22% of its lines", "harm"),
    ({"tried": tuple("abcdefghij")}, "10 accounts were tried", "harm"),
    ({"numbered": 10}, "10 pages", "harm"),
    ({"forged": 1}, "X-Forwarded-For", "harm"),
    ({"forbidden": "it is private"}, "it is private", "short"),
]


@pytest.mark.parametrize(("change", "score"), FOR)
def test_all_that_is_well_is_shared(change: dict[str, object], score: int) -> None:
    said = judge(HONEST.model_copy(update=change), SEEN, Bounds())
    assert said.shared and said.score == score, said


@pytest.mark.parametrize(("change", "words", "kind"), AGAINST)
def test_one_sign_against_is_enough(change: dict[str, object], words: str, kind: str) -> None:
    said = judge(HONEST.model_copy(update=change), SEEN, Bounds())
    assert not said.shared and len(said.against) == 1 and words in said.against[0]
    assert bool(said.harm) == (kind == "harm")
    known = judge(HONEST.model_copy(update={**change, "known": True}), SEEN, Bounds())
    assert not known.shared and known.against == said.against  # whom a person knows may still be abused


UNKNOWN = [
    ({"established": None}, {}, "how old its accounts are"),
    ({}, {"proxies": False}, "RUNBOOK_TRUSTED_PROXIES"),
    ({}, {"statuses": False}, "a scraper behind it would not be seen"),
    ({"crowd": 0.51}, {}, "51% of all signed-in people"),
    ({"signed_in": 8}, {"limiter_names_users": False}, "20% of its lines"),
    ({"successes": 0, "failures": 0, "denied": 0}, {}, "of 0 sign-ins"),
    ({"users": (), "established": 0, "signed_in": 0, "failures": 0}, {"sign_ins": False}, "0 signed-in accounts"),
    ({"successes": 0, "failures": 4}, {"sign_ins": False}, "0% of 4 sign-ins"),
]


@pytest.mark.parametrize(("change", "blind", "words"), UNKNOWN)
def test_what_the_log_cannot_show_is_left_to_a_person(
    change: dict[str, object], blind: dict[str, bool], words: str
) -> None:
    said = judge(HONEST.model_copy(update=change), SEEN.model_copy(update=blind), Bounds())
    assert not said.shared and not said.against and words in " ".join(said.unknown)


def test_a_known_office_speaks_where_the_log_shows_no_status() -> None:
    office = HONEST.model_copy(update={"known": True, "crowd": 0.9})
    assert judge(office, SEEN.model_copy(update={"statuses": False}), Bounds()).shared


def test_one_account_under_two_names_is_one() -> None:
    accounts = {name: Account(id="u1", created_ms=5) for name in ("u1", "a@x.org")}
    accounts["u2"] = Account(id="u2", created_ms=50)
    seen = HONEST.model_copy(update={"users": ("u1", "a@x.org", "u2", "u3"), "tried": ("a@x.org", "b@x.org")})
    found = seen.resolved(accounts, 10)
    assert (set(found.users), found.established, found.strangers) == ({"u1", "u2", "u3"}, 1, 1)


def event(name: str, at_ms: int = NOW, **fields: object) -> LogEvent:
    return LogEvent(name=name, at_ms=at_ms, level="warning", fields=fields)


def test_a_tally_counts_each_line_once_and_by_the_real_client() -> None:
    log = [
        event("login_success", ip=OFFICE, userId="u1"),
        event("login_failed", ip=OFFICE, email="u1@x.org"),
        event("rate_limit_exceeded", ip=f"{OFFICE}, 10.0.0.1", endpoint="/api/career", userId="u1"),
        event("rate_limit_exceeded", ip="192.88.99.66", endpoint="/api/login", userId="anonymous"),
        event("ip_blocked", ip="10.0.0.1"),
        event("ip_blocked", ip="somebody"),
        event("ai_attempt_failed", provider="openai"),
    ]
    found = weigh(log, NOW, PROXIES, [ip_network(f"{OFFICE}/32")])
    office, other = found.parties
    assert (office.events, office.signed_in, office.successes, office.failures, office.denied) == (3, 2, 1, 1, 1)
    assert (office.limited_at_ms, office.signin_limited_at_ms, office.known, office.crowd) == (NOW, 0, True, 1.0)
    assert (other.limited_at_ms, other.signin_limited_at_ms, other.users) == (0, NOW, ())
    assert (found.own, found.nameless, found.populated) == (1, 1, 1)


# -- cases -----------------------------------------------------------------------------------------------------------

TRUST = Trust(fix_id="fix_1", ip=OFFICE, at_ms=NOW - HOUR, until_ms=NOW + HOUR)


def seen(*parties: Evidence, listed: Collection[str] = (), **more: Any) -> World:
    there = frozenset(listed)
    limits = Limits(parties=parties, populated=9)
    listing = Trusted(everywhere=there, somewhere=there)
    made = World(limits=limits, listed=listing, trusts=(), now_ms=NOW, keeps_login_limits=True)
    return made.model_copy(update=more)


def test_plan_unblocks_and_trusts_an_honest_office() -> None:
    world = seen(HONEST.model_copy(update={"blocked_at_ms": NOW}))
    fixes = plan(world, Bounds(), 72)
    assert [(fix.action, fix.target, fix.risk) for fix in fixes] == [
        ("unblock_ip", f"Block/{OFFICE}", Risk.auto),
        ("trust_ip", f"TrustedIp/{OFFICE}", Risk.auto),
    ]
    assert fixes[1].want == {"ip": OFFICE, "trusted": True, "hours": 72}
    assert share(world, fixes).value == 1 / 9


@pytest.mark.parametrize(
    ("change", "more", "actions"),
    [
        ({"failures": 30}, {}, []),
        ({}, {"listed": {OFFICE}}, []),
        ({}, {"trusts": [TRUST]}, []),
        ({"limited_at_ms": 0, "signin_limited_at_ms": NOW}, {}, []),
        ({"established": None}, {}, [("trust_ip", Risk.person)]),
        ({"established": None, "blocked_at_ms": NOW}, {}, [("unblock_ip", Risk.person), ("trust_ip", Risk.person)]),
        ({}, {"keeps_login_limits": False}, [("trust_ip", Risk.person)]),
        ({"limited_at_ms": 0, "blocked_at_ms": NOW}, {"keeps_login_limits": False}, [("unblock_ip", Risk.auto)]),
    ],
)
def test_plan(change: dict[str, object], more: dict[str, Any], actions: list[tuple[str, Risk]]) -> None:
    world = seen(HONEST.model_copy(update=change), **more)
    assert [(fix.action, fix.risk) for fix in plan(world, Bounds(), 72)] == actions


def test_nothing_is_planned_while_the_list_could_not_be_read() -> None:
    world = seen(HONEST).model_copy(update={"listed": None})
    assert plan(world, Bounds(), 72) == [] == plan_kept(world, Bounds()) and len(detect(world, Bounds())) == 1


ABUSED = HONEST.model_copy(update={"limited_at_ms": 0, "successes": 1, "failures": 30})
OVER = TRUST.model_copy(update={"until_ms": NOW})
OTHER = TRUST.model_copy(update={"ip": "192.88.99.11", "fix_id": "fix_2"})


@pytest.mark.parametrize(
    ("trusts", "listed", "parties", "actions"),
    [
        ([TRUST], {OFFICE}, [], []),
        ([TRUST], set(), [], ["trust_again"]),
        ([TRUST], {"192.88.99.77"}, [], ["trust_again"]),
        ([TRUST, OTHER], set(), [], ["trust_again", "trust_again"]),
        ([TRUST.model_copy(update={"acts": 2})], set(), [], ["trust_again"]),
        ([TRUST.model_copy(update={"acts": 3})], set(), [], []),
        ([OVER.model_copy(update={"acts": 3})], {OFFICE}, [], ["untrust_ip"]),
        ([TRUST, OTHER], {"192.88.99.11"}, [], []),
        ([OVER], {OFFICE}, [], ["untrust_ip"]),
        ([OVER], set(), [], []),
        ([TRUST], {OFFICE}, [ABUSED], ["untrust_ip"]),
        ([TRUST], set(), [ABUSED], []),
    ],
)
def test_what_becomes_of_our_trusts(
    trusts: list[Trust], listed: set[str], parties: list[Evidence], actions: list[str]
) -> None:
    world = seen(*parties, listed=listed, trusts=trusts)
    assert [fix.action for fix in plan_kept(world, Bounds())] == actions


def test_without_the_log_nothing_is_put_back() -> None:
    world = seen(trusts=[TRUST], limits=None)
    assert plan_kept(world, Bounds()) == [] and len(detect(world, Bounds())) == 1


@pytest.mark.parametrize("wide", ["192.88.0.0/16", "192.88.98.0/23", "2620:4f::/32", "0.0.0.0/0"])
def test_an_office_as_wide_as_a_16_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch, wide: str) -> None:
    monkeypatch.setenv("RUNBOOK_KNOWN_OFFICES", f"192.88.99.0/24,{wide}")
    forget()
    with pytest.raises(BadSetting, match=r"RUNBOOK_KNOWN_OFFICES.*wider than"):
        settings()
    forget()
