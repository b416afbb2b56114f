"""A reading as it is kept is judged as the one it was, and names nobody but whom a fix names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import broken_sessions, rate_limited_users
from runbook import settings
from runbook.ledger import Ledger, ledger
from runbook.model import Frozen, Json
from runbook.pseudonym import network, pseudonym
from tasks import limit_kept, sign_in_kept
from tasks.limit_cases import World
from tasks.limit_score import Bounds as LimitBounds
from tasks.limit_score import Evidence
from tasks.limit_tally import Limits
from tasks.login_log import Failure, Logins
from tasks.logins import Account, Accounts
from tasks.quotas import Trusted
from tasks.sign_in import Bounds, Seen
from tasks.trusts import Trust

AT = Bounds(users_per_ip=10, ips_per_user=5, jwt_errors=20, unlock_email="Mia@Example.com")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    settings.forget()
    yield ledger()
    settings.forget()


def kept(seen: Frozen) -> Json:
    """As it comes out of the ledger."""
    return json.loads(json.dumps(seen.model_dump(mode="json")))


def test_a_stand_in_is_the_same_each_time_and_another_in_another_ledger(book: Ledger, tmp_path: Path) -> None:
    other = Ledger(f"sqlite:///{tmp_path}/other.db")
    assert pseudonym(book, "a") == pseudonym(book, "a") != pseudonym(book, "b")
    assert pseudonym(book, "a") != pseudonym(other, "a")
    assert network(book, "203.0.113.7").startswith("fd") and network(book, "203.0.113.7").endswith("::/64")
    other.engine.dispose()


def account(name: str, *, passed: bool = False) -> Account:
    locked = "2025-01-01 00:00:00"
    return Account(
        id=f"id-{name}", email=f"{name}@Example.com", failed=5, locked_until=locked, running=not passed, passed=passed
    )


@pytest.mark.parametrize("networks", [1, 5, 12])
def test_logging_in_is_judged_alike(book: Ledger, networks: int) -> None:
    said = ("mia@example.com", "ID-lea", "bob@example.com", "stranger@example.com")
    tries = [
        Failure(at_ms=n, said=said[n % len(said)], network=f"203.0.113.{n % networks}") for n in range(12 * networks)
    ]
    people = (account("mia"), account("lea", passed=True), account("bob", passed=True), account("zoe"))
    seen = Seen(
        has_log=True, logins=Logins(since_ms=0, failures=tuple(tries)), accounts=Accounts(accounts=people, of=9)
    )
    concealed, at = sign_in_kept.concealed(seen, AT, book)
    judged = broken_sessions.replay("sign-in", kept(concealed), {**vars(at)})
    assert [fix.key for fix in judged.plan] == [fix.key for fix in broken_sessions.plan(seen, AT)]
    assert len(judged.findings) == len(broken_sessions.detect(seen, AT))
    assert judged.share == broken_sessions.share(seen, AT)
    text = json.dumps([kept(concealed), vars(at)]).lower()
    assert "203.0.113" not in text and "@example.com" not in text and "id-zoe" not in text


def party(ip: str, **more: object) -> Evidence:
    base = {"group": ip, "key": ip, "blocked_at_ms": 5, "events": 40, "signed_in": 39, "successes": 19}
    users = tuple(f"user {n}" for n in range(8))
    return Evidence.model_validate(base | {"users": users, "established": 8, "tried": ("user 1", "x")} | more)


def test_limits_are_judged_alike(book: Ledger) -> None:
    parties = (
        party("192.88.99.10"),
        party("192.88.99.20", failures=90, successes=1),
        party("192.88.99.30"),
        party("192.88.99.40", failures=90, successes=1),
    )
    listed = frozenset({"192.88.99.30", "192.88.99.40", "192.88.99.77"})
    trust = Trust(fix_id="fix_1", ip="192.88.99.40", at_ms=1, until_ms=10**12)
    seen = World(
        limits=Limits(parties=parties, populated=9),
        listed=Trusted(everywhere=listed, somewhere=listed),
        trusts=(trust,),
        now_ms=10,
        keeps_login_limits=True,
    )
    at, hours = LimitBounds(), 24
    fixes = rate_limited_users.plan(seen, at, hours)
    assert [fix.action for fix in fixes] == ["unblock_ip"]
    concealed = limit_kept.concealed(seen, book, {str(fix.want["ip"]) for fix in fixes})
    given = at.model_dump() | {"trust_hours": hours}
    limits, trusts = (rate_limited_users.replay(stage, kept(concealed), given) for stage in ("limits", "trusts"))
    assert [fix.key for fix in limits.plan] == [fix.key for fix in fixes]
    assert [fix.key for fix in trusts.plan] == [fix.key for fix in rate_limited_users.plan_kept(seen, at)]
    assert [fix.action for fix in trusts.plan] == ["untrust_ip"]
    assert len(limits.findings) == len(rate_limited_users.detect(seen, at))
    text = json.dumps(kept(concealed))
    assert all(ip not in text for ip in ("192.88.99.20", "192.88.99.30", "192.88.99.77", "user 1"))
