"""What is an attack, a weak secret, a wrong URL or a bad answer, and who may be let out, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from flows.broken_sessions import detect, notices, plan, share
from runbook.model import Risk
from tasks.auth_probe import Probe, ahead, detect_skew, judge
from tasks.auth_secrets import Instance, Instances, detect_secrets, detect_urls, weakness
from tasks.expired_sessions import Batch, Expired
from tasks.login_log import Failure, Logins, attacks, is_wide, masked, network
from tasks.logins import Account, Accounts
from tasks.sign_in import Bounds, Seen
from tasks.web import Answer

AT = Bounds(users_per_ip=10, ips_per_user=5, jwt_errors=20)
MINUTE = 60_000
STRONG = "q7Vb2kXw9ZtR4mN8cLf3HsYpD6gJ1aEu"


def tries(users: int, networks: int, times: int = 1, every_ms: int = MINUTE, named: bool = True) -> list[Failure]:
    """``times`` failures for each of ``users``, one every ``every_ms``, going round ``networks`` addresses."""
    return [
        Failure(at_ms=n * every_ms, said=f"u{n % users}@x.y" if named else None, network=f"192.0.2.{n % networks}")
        for n in range(users * times)
    ]


ATTACKS = [
    ("nobody", [], []),
    ("one slip", tries(1, 1), []),
    ("an owner who is locked out", tries(1, 1, 5), []),
    ("an owner at home and under way", tries(1, 2, 8), []),
    ("nine of one office", tries(9, 1), []),
    ("many owners, each at home", tries(60, 60), []),
    ("one address, ten accounts", tries(10, 1), ["stuffing"]),
    ("one address, ten accounts, three times each", tries(10, 1, 3), ["stuffing"]),
    ("one address that names nobody", tries(10, 1, named=False), ["stuffing"]),
    ("five addresses, one account", tries(1, 5, 5), ["targeted"]),
    ("one address, one account, ten times", tries(1, 1, 10), ["targeted"]),
    ("eleven accounts and addresses in a minute", tries(11, 11, every_ms=1000), ["distributed"]),
    ("ten in a minute", tries(10, 10, every_ms=1000), []),
    ("eleven, the last a minute after the first", tries(11, 11, every_ms=6000), []),
    ("a burst of few accounts", tries(5, 60, 4, every_ms=100), []),
]


@pytest.mark.parametrize(("what", "failures", "kinds"), ATTACKS, ids=lambda one: one if isinstance(one, str) else "")
def test_attacks(what: str, failures: list[Failure], kinds: list[str]) -> None:
    assert [one.kind for one in attacks(failures, 10, 5)] == kinds, what


def test_one_account_written_in_many_ways_is_one() -> None:
    ways = ("a@x.y", "A@x.y", "a@X.Y", "A@X.y", "a@x.Y")
    failures = [Failure(at_ms=n, said=said, network=f"192.0.2.{n}") for n, said in enumerate(ways)]
    (found,) = attacks(failures, 10, 5)
    assert found.kind == "targeted" and found.users == {"a@x.y"} and found.networks == 5


@pytest.mark.parametrize(
    ("failures", "running", "wide"),
    [
        ([], 0, False),
        ([], 9, False),
        ([], 10, True),
        (tries(1, 5, 5), 1, False),
        (tries(9, 200, 10), 0, False),
        (tries(10, 200, 10), 0, True),
        (tries(10, 1), 0, True),
        (tries(11, 11, every_ms=1000), 0, True),
    ],
)
def test_when_an_attack_may_mean_anybody(failures: list[Failure], running: int, wide: bool) -> None:
    assert is_wide(attacks(failures, 10, 5), running, 10) is wide


@pytest.mark.parametrize(
    ("ip", "owner", "shown"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("unknown", None, ""),
        ("203.0.113.7, 10.0.0.1", None, ""),
        ("", None, ""),
    ],
)
def test_whom_an_address_belongs_to(ip: str, owner: str | None, shown: str) -> None:
    assert network(ip) == owner
    assert masked(owner or "") == shown


# -- who may be let out -----------------------------------------------------------------------------------------------


def account(name: str, failed: int = 5, lock: str = "passed") -> Account:
    until = None if lock == "none" else f"2026-01-01 00:00:00 {lock}"
    return Account(
        id=name, email=f"{name}@x.y", failed=failed, locked_until=until, running=lock == "runs", passed=lock == "passed"
    )


def seen(*accounts: Account, failures: list[Failure] | None = None, **other: Any) -> Seen:
    """A reading in which nothing else is wrong."""
    fields: dict[str, Any] = {
        "app_url": "https://app.example",
        "has_log": True,
        "instances": Instances(seen=(Instance(name="here", url="https://app.example", mark="m"),)),
        "probes": (Probe(path="/api/auth/session", ahead_seconds=0.2),),
        "logins": Logins(since_ms=0, failures=tuple(failures or ())),
        "accounts": Accounts(accounts=accounts, of=1_000),
        "sessions": Expired(),
    }
    return Seen(**fields | other)


SHUT = account("u0")
LET_OUT = [
    ("a passed lock", seen(SHUT), ["u0"]),
    ("a lock that runs", seen(account("u0", lock="runs")), []),
    ("no failures left", seen(account("u0", failed=0)), []),
    ("failures without a lock", seen(account("u0", lock="none")), []),
    ("its owner's own slips", seen(SHUT, failures=tries(1, 1, 5)), ["u0"]),
    ("it is attacked", seen(SHUT, account("v"), failures=tries(1, 5, 5)), ["v"]),
    ("others are stuffed", seen(SHUT, account("v"), failures=tries(10, 1)), []),
    ("no log", seen(SHUT, logins=None), []),
    ("no right to change it", seen(accounts=Accounts(accounts=(SHUT,), of=9, grant="GRANT UPDATE")), []),
    ("the database's clock is ahead", seen(accounts=Accounts(accounts=(SHUT,), of=9, ahead_seconds=61)), []),
    ("the app's clock is behind", seen(SHUT, probes=(Probe(path="/", ahead_seconds=-61),)), []),
    ("the app tells no time", seen(SHUT, probes=(Probe(path="/"),)), ["u0"]),
    (
        "both clocks are off by the same",
        seen(probes=(Probe(path="/", ahead_seconds=90),), accounts=Accounts(accounts=(SHUT,), of=9, ahead_seconds=80)),
        ["u0"],
    ),
]


@pytest.mark.parametrize(("what", "of", "ids"), LET_OUT, ids=lambda one: one if isinstance(one, str) else "")
def test_who_is_let_out(what: str, of: Seen, ids: list[str]) -> None:
    assert [fix.target for fix in plan(of, AT)] == [f"User/{name}" for name in ids], what
    left = [text for text in notices(of, AT) if "keep a lock that has passed" in text]
    assert len(left) == (len(of.shut) > len(ids))


def test_the_share_is_of_all_accounts_and_nothing_where_nobody_is_let_out() -> None:
    assert share(seen(account("v", lock="none")), AT) is None
    found = share(seen(SHUT), AT)
    assert found is not None and found.value == 0.001


BATCH = Batch(first_at="1", first_id="a", last_at="2", last_id="b", rows=7)


@pytest.mark.parametrize(
    ("what", "of", "purged"),
    [
        ("old ones", seen(sessions=Expired(batches=(BATCH,))), 1),
        ("no right to delete", seen(sessions=Expired(batches=(BATCH,), grant="GRANT DELETE")), 0),
        ("a clock that is wrong", seen(sessions=Expired(batches=(BATCH,)), accounts=Accounts(ahead_seconds=-99)), 0),
    ],
)
def test_what_is_purged(what: str, of: Seen, purged: int) -> None:
    assert [fix.action for fix in plan(of, AT)] == ["purge_sessions"] * purged, what


@pytest.mark.parametrize(
    ("one", "failures", "said"),
    [
        (account("u0", lock="runs"), [], "no attack on it"),
        (account("u0", lock="by hand"), [], "no attack on it"),
        (account("u0", lock="runs"), tries(1, 5, 25), "UNDER ATTACK: 25 failed logins"),
        (SHUT, tries(1, 5, 5), "UNDER ATTACK"),
    ],
)
def test_an_early_unlock_is_a_persons_and_says_what_speaks_against_it(
    one: Account, failures: list[Failure], said: str
) -> None:
    at = Bounds(10, 5, 20, unlock_email="U0@x.y")
    (fix,) = plan(seen(one, account("other", lock="runs"), failures=failures), at)
    assert (fix.action, fix.target, fix.risk) == ("unlock_account", "User/u0", Risk.person)
    assert said in fix.why


# -- settings and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["secret", "changeme", "your-secret-key-here-0123456789abcdef", "a" * 44])
@pytest.mark.parametrize("case", [str, str.upper])
def test_placeholders(secret: str, case: Any) -> None:
    assert "placeholder" in weakness(case(secret))


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (STRONG, ""),
        ("c2VjcmV0IG9mIDMyIGJ5dGVzIGluIGJhc2U2NCEhISE=", ""),
        ("0123456789abcdef0123456789abcdef", ""),
        (STRONG[:31], "is shorter than 32 characters"),
    ],
)
def test_secrets(secret: str, why: str) -> None:
    assert weakness(secret) == why


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ([("a", "m"), ("b", "m")], []),
        ([("a", "m"), ("b", "n")], ["2 different ones on 2 instances"]),
        ([("a", "m"), ("b", None)], ["not set in b"]),
    ],
)
def test_secrets_of_all_instances(instances: list[tuple[str, str | None]], said: list[str]) -> None:
    found = detect_secrets([Instance(name=name, url=None, mark=mark, whole=True) for name, mark in instances])
    assert [one.detail.startswith(text) and one.page for one, text in zip(found, said, strict=True)] == [True] * len(
        said
    )


def test_a_process_that_shows_no_secret_says_nothing() -> None:
    assert detect_secrets([Instance(name="process 1", url=None, mark=None)]) == []


def test_a_weak_secret_comes_with_the_steps_of_its_change_and_no_fix() -> None:
    weak = Instances(seen=(Instance(name="here", url=None, mark="m", weakness=weakness("changeme")),))
    (found,) = detect(seen(instances=weak), AT)
    assert found.page and any("[new, old]" in step for step in found.evidence["steps"])
    assert plan(seen(instances=weak), AT) == []


@pytest.mark.parametrize(
    ("told", "public", "wrong"),
    [
        ("https://app.example", "https://app.example", ""),
        ("https://APP.example:443/api/auth", "https://app.example", ""),
        ("http://app.example", "https://app.example", "is http"),
        ("https://www.app.example", "https://app.example", "names www.app.example"),
        ("http://localhost:3000", "https://app.example", "is http"),
        ("https://localhost", "https://app.example", "names localhost"),
        ("https://app.example:8443", "https://app.example", "names app.example:8443"),
        ("https://app.example", "http://127.0.0.1:3000", ""),
        ("http://app.example", "http://127.0.0.1:3000", "is http: its cookies"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000", ""),
        ("https://app.example:port", "https://app.example", "is no URL"),
    ],
)
def test_urls(told: str, public: str, wrong: str) -> None:
    found = detect_urls([Instance(name="here", url=told, mark=None)], public)
    assert [one.detail.startswith(wrong) for one in found] == ([True] if wrong else [])


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body=body, seconds=0.1)


@pytest.mark.parametrize(
    ("name", "of", "problem"),
    [
        ("session", answer(), ""),
        ("session", answer(body=b"null"), ""),
        ("session", answer(body=b'{"user": {"name": "A"}}'), "gives an anonymous visitor somebody's session"),
        ("session", answer(body=b"[]"), "answers something other"),
        ("session", answer(body=b"<html>"), "answers no JSON"),
        ("session", answer(429), ""),
        (
            "session",
            answer(500, b'{"message": "There is a problem with the server configuration."}'),
            "fails (500): NEXT",
        ),
        ("session", answer(503), "fails (503)"),
        ("session", answer(404), "answers 404"),
        ("session", answer(307, location="https://www.app.example/api/auth/session"), "redirects to www.app.example"),
        ("csrf", answer(body=b'{"csrfToken": "' + b"a" * 64 + b'"}'), ""),
        ("csrf", answer(), "gives no csrfToken"),
        ("csrf", answer(body=b'{"csrfToken": null}'), "gives no csrfToken"),
    ],
)
def test_answers(name: str, of: Answer, problem: str) -> None:
    found = judge(f"/api/auth/{name}", of)
    assert found.startswith(problem) and bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("app", "database", "subjects"),
    [
        (None, None, []),
        (60.0, -60.0, []),
        (61.0, 0.0, ["clock of the app"]),
        (-3600.0, 61.0, ["clock of the app", "clock of the database"]),
    ],
)
def test_clocks(app: float | None, database: float | None, subjects: list[str]) -> None:
    assert [one.subject for one in detect_skew(app, database)] == subjects


def test_the_answer_that_differs_least_tells_the_clock() -> None:
    probes = [Probe(path=str(seconds), ahead_seconds=seconds) for seconds in (None, 9.0, -1.5, 4.0)]
    assert ahead(probes) == -1.5
    assert ahead([]) is None


@pytest.mark.parametrize(("errors", "found"), [(19, 0), (20, 1)])
def test_sessions_the_app_could_not_read(errors: int, found: int) -> None:
    causes = {"decryption operation failed": errors - 1, "exp": 1}
    assert len(detect(seen(logins=Logins(since_ms=0, jwt_errors=causes)), AT)) == found
