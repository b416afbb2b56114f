"""What counts as sick and what is planned, as tables over made-up readings; nothing is read and nothing is asked."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.model import Risk
from tasks import mail_causes
from tasks.domains import Domain, detect_domains, of_sender, plan_domains
from tasks.mail import Channel, Stats, detect_channel
from tasks.mail_log import Failure, Refusals, Resets, detect_refusals, detect_resets, notices_of
from tasks.suppressions import Row, detect_asked_for, detect_growth, outlived

HOUR = 3600
NOW = 1_000 * HOUR


# -- causes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "cause"),
    [
        ("4.0.0", "error dialing remote address: no route to host", "temporary"),
        ("4.7.0", "try again later", "temporary"),
        ("", "421 service not available", "temporary"),
        ("", "unable to get mx info: i/o timeout", "temporary"),
        ("", "connection timed out", "temporary"),
        ("4.7.28", "unusual rate of unsolicited mail", "reputation"),
        ("5.7.1", "blocked using zen.spamhaus.org", "reputation"),
        ("5.7.26", "This mail has been blocked because the sender is unauthenticated", "unauthenticated"),
        ("5.7.1", "rejected due to domain's DMARC policy", "unauthenticated"),
        ("5.7.1", "Message rejected as spam by content filtering", "content"),
        ("4.2.2", "the recipient is over quota", "mailbox full"),
        ("5.1.1", "no such user", "no such mailbox"),
        ("5.0.0", "transaction failed", "unclear"),
        ("", "", "unclear"),
    ],
)
def test_a_cause_is_read_off_the_words(status: str, reason: str, cause: str) -> None:
    assert mail_causes.cause(status, reason) == cause
    assert mail_causes.BY_HAND[cause]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("550 5.1.1 unknown", ("550", "5.1.1")),
        ("550-5.7.26 unauthenticated", ("550", "5.7.26")),
        ("said: 451 4.7.500 busy", ("451", "4.7.500")),
        ("took 512ms", None),
        ("10.550 5.1.1", None),
        ("1550 5.1.1", None),
        ("250 2.1.5 ok", None),
        ("550 55.1.1", None),
    ],
)
def test_a_reply_of_a_mail_server_is_no_other_number(line: str, reply: tuple[str, str] | None) -> None:
    found = mail_causes.REPLY.search(line)
    assert (found.groups() if found else None) == reply


# -- blocks -----------------------------------------------------------------------------------------------------------


def block(address: str, hours: float, cause: str = "temporary") -> Row:
    created = round(NOW - hours * HOUR)
    return Row(kind="blocks", address=address, mark=address, created=created, status="", cause=cause)


UNSIGNED = mail_causes.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("rows", "valid_hours", "gone"),
    [
        ([], None, ""),
        ([block("a@x.io", 25)], None, "a"),
        ([block("a@x.io", 24.1)], None, "a"),
        ([block("a@x.io", 23.9)], None, ""),
        ([block("a@x.io", 48), block("b@X.io", 1)], None, ""),
        ([block("a@x.io", 48), block("b@y.io", 1)], None, "a"),
        ([block("a@x.io", 48), block("b@x.io", 40)], None, "ab"),
        ([block("a@x.io", 48, "reputation"), block("b@x.io", 48, "unclear")], None, ""),
        ([block("a@x.io", 48, UNSIGNED)], None, ""),
        ([block("a@x.io", 48, UNSIGNED)], 1, ""),
        ([block("a@x.io", 48, UNSIGNED)], 25, "a"),
        ([block("a@x.io", 48, UNSIGNED)], 50, ""),
        ([block("a@x.io", 48, UNSIGNED), block("b@y.io", 2, UNSIGNED)], 25, ""),
    ],
)
def test_only_a_cause_seen_to_be_gone_is(rows: list[Row], valid_hours: float | None, gone: str) -> None:
    since = None if valid_hours is None else NOW - valid_hours * HOUR
    assert "".join(row.address[0] for row in outlived(rows, NOW, 24, since)) == gone


@pytest.mark.parametrize(
    ("now", "usual", "found"),
    [(30, 2, True), (24, 2, False), (30, 11, False), (33, 11, True), (30, None, False), (25, 0, True)],
)
def test_growth_is_against_what_is_usual(now: int, usual: float | None, found: bool) -> None:
    before = {} if usual is None else {"bounces": usual}
    assert bool(detect_growth({"bounces": now}, before, 25)) is found


def test_an_address_asked_for_says_why_it_stays() -> None:
    rows = [block("jane@x.io", 1, "unclear").model_copy(update={"kind": "bounces"})]
    assert detect_asked_for([], [], removed=False) == []
    assert "drops its mail" in detect_asked_for(rows, [], removed=False)[0].detail
    assert "on spam_reports too" in detect_asked_for(rows, ["spam_reports"], removed=False)[0].detail
    assert "within 30 days" in detect_asked_for(rows, [], removed=True)[0].detail
    assert detect_asked_for(rows, [], removed=False)[0].subject == "j***@x.io"


# -- SendGrid ---------------------------------------------------------------------------------------------------------


def domain(name: str, *, valid: bool = True, number: int = 1) -> Domain:
    return Domain(id=number, domain=name, valid=valid, records={"dkim1": {"host": f"s1.{name}", "valid": valid}})


def channel(**other: Any) -> Channel:
    fields: dict[str, Any] = {
        "sender": "no-reply@mail.x.io",
        "scopes": ("mail.send",),
        "verified": False,
        "domains": (domain("x.io"),),
        "stats": None,
        "refused": "",
    }
    return Channel(**fields | other)


def stats(**other: int) -> Stats:
    zero = dict.fromkeys(("delivered", "bounces", "blocks", "dropped", "spam_reports"), 0)
    return Stats(day="2026-01-02", requests=1000, **zero | other)


@pytest.mark.parametrize(
    ("of", "found"),
    [
        ({}, []),
        ({"scopes": ()}, [("SENDGRID_API_KEY", True)]),
        ({"refused": "no"}, [("sandbox send", True)]),
        ({"domains": (domain("x.io", valid=False),)}, [("domain x.io", False), ("no-reply@mail.x.io", True)]),
        ({"domains": (domain("x.io", valid=False),), "verified": True}, [("domain x.io", False)]),
        ({"domains": ()}, [("no-reply@mail.x.io", True)]),
        ({"domains": (), "verified": True}, []),
        ({"domains": None}, []),
        ({"verified": None, "domains": ()}, []),
        ({"stats": stats(bounces=49, blocks=49, spam_reports=2, dropped=199)}, []),
        ({"stats": stats(bounces=50)}, [("mail of 2026-01-02", False)]),
        ({"stats": stats(spam_reports=3)}, [("mail of 2026-01-02", False)]),
        ({"stats": stats(dropped=200)}, [("mail of 2026-01-02", False)]),
    ],
)
def test_what_keeps_the_app_from_sending(of: dict[str, Any], found: list[tuple[str, bool]]) -> None:
    assert [(one.subject, one.page) for one in detect_channel(channel(**of), 0.05)] == found


def test_only_the_senders_own_domains_are_validated_again() -> None:
    every = [domain(name, valid=False, number=i) for i, name in enumerate(("x.io", "ax.io", "mail.x.io", "y.io"))]
    ours = of_sender(every, "no-reply@Mail.X.io")
    assert [one.domain for one in ours] == ["x.io", "mail.x.io"]
    assert [(fix.target, fix.risk) for fix in plan_domains(ours)] == [("Domain/0", Risk.auto), ("Domain/2", Risk.auto)]
    assert "s1.x.io" in str(detect_domains(ours)[0].evidence)
    assert plan_domains([domain("x.io")]) == [] and detect_domains([domain("x.io")]) == []


# -- the log ----------------------------------------------------------------------------------------------------------


def test_failed_mails_count_from_a_number_on() -> None:
    assert detect_refusals(Refusals(names={"smtp_reply": 2}, causes={}), 3) == []
    (found,) = detect_refusals(Refusals(names={"smtp_reply": 3}, causes={"reputation": 3}), 3)
    assert "have it delisted (3)" in found.detail


def test_resets_are_told_without_an_address() -> None:
    waiting = Failure(address="jane@x.io", mark="1234", at_ms=1, times=1)
    assert detect_resets(Resets(), {}) == []
    (found,) = detect_resets(Resets(failures=(waiting,)), {"1234": ["bounces"]})
    assert "1 are suppressed" in found.detail and "jane" not in str(found)
    assert found.evidence["suppressed"] == ["j***@x.io: bounces"]
    assert notices_of(Resets()) == [] and len(notices_of(Resets(nameless=1, expired=2))) == 2
