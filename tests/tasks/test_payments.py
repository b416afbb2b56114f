"""The rules over Stripe's side as tables: no network, no database."""

from __future__ import annotations

import json

import pytest
import requests
import stripe

from runbook.errors import BadSetting, OutsideError
from runbook.model import Fix, Risk
from runbook.settings import forget
from tasks import endpoints, events, payments, stripe_api, webhook_log
from tasks.endpoints import Endpoint
from tasks.payments import Invoice

NOW = 1_800_000_000
HOUR = 3600
URL = "https://app.example/api/subscription/webhook"
ALL = endpoints.CHANGING


def invoice(**fields: object) -> Invoice:
    usual: dict[str, object] = {
        "id": "in_1",
        "status": "open",
        "collection_method": "charge_automatically",
        "amount_remaining": 1200,
        "currency": "usd",
        "created": NOW - 9 * 86_400,
        "attempt_count": 4,
        "subscription_status": "past_due",
        "decline": ("insufficient_funds", "card_declined"),
    }
    return Invoice.model_validate(usual | fields)


HARD_WORDS = [*sorted(payments.HARD), "revocation_of_authorization", "revocation_of_all_authorizations"]
LOOK_ALIKES: list[tuple[dict[str, object], str]] = [
    ({"status": "paid"}, "paid"),
    ({"status": "void"}, "void"),
    ({"status": "uncollectible"}, "uncollectible"),
    ({"status": "draft"}, "draft"),
    ({"collection_method": "send_invoice"}, "send_invoice"),
    ({"amount_remaining": 0}, "nothing remains"),
    ({"amount_remaining": -5}, "nothing remains"),
    ({"attempt_count": 0}, "not tried it yet"),
    ({"next_payment_attempt": NOW + HOUR}, "by itself soon"),
    ({"next_payment_attempt": NOW - HOUR}, "by itself soon"),
    ({"subscription_status": "canceled"}, "canceled"),
    ({"subscription_status": "incomplete_expired"}, "incomplete_expired"),
    ({"payment_status": "processing"}, "processing"),
    ({"advice": "do_not_try_again"}, "hard decline"),
]


@pytest.mark.parametrize(("fields", "word"), LOOK_ALIKES)
def test_look_alikes_are_not_retried(fields: dict[str, object], word: str) -> None:
    assert word in payments.why_not(invoice(**fields), NOW, ())


@pytest.mark.parametrize("word", HARD_WORDS)
@pytest.mark.parametrize("place", [("{}",), ("card_declined", "{}"), ("{}", "card_declined")])
def test_hard_declines_are_not_retried_wherever_stripe_says_so(word: str, place: tuple[str, ...]) -> None:
    assert word in payments.why_not(invoice(decline=tuple(one.format(word) for one in place)), NOW, ())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decline": ()},
        {"subscription_status": None},
        {"next_payment_attempt": NOW + 25 * HOUR},
        {"advice": "try_again_later"},
        {"payment_status": "requires_payment_method"},
    ],
)
def test_a_soft_decline_may_be_retried(fields: dict[str, object]) -> None:
    assert payments.why_not(invoice(**fields), NOW, ()) == ""


def test_an_invoice_is_tried_once_a_day() -> None:
    assert "within a day" in payments.why_not(invoice(), NOW, {"Invoice/in_1"})


@pytest.mark.parametrize(
    ("cap", "amounts", "risks"),
    [
        (0, [100], "p"),
        (100, [100], "a"),
        (99, [100], "p"),
        (300, [100, 100, 100, 1], "aaap"),
        (150, [100, 100, 50], "apa"),
    ],
)
def test_money_moves_alone_only_under_the_cap_of_the_whole_run(cap: int, amounts: list[int], risks: str) -> None:
    due = [invoice(id=f"in_{place}", amount_remaining=amount) for place, amount in enumerate(amounts)]
    assert "".join(fix.risk.value[0] for fix in payments.plan_invoices(due, cap)) == risks


def test_a_cap_covers_one_currency_only() -> None:
    due = [invoice(id="in_1"), invoice(id="in_2", currency="jpy")]
    assert {fix.risk for fix in payments.plan_invoices(due, 1_000_000)} == {Risk.person}


def test_the_customer_who_must_act_is_told_where() -> None:
    told = payments.notices_of(
        [invoice(decline=("authentication_required",), hosted_invoice_url="https://pay.example/1")]
    )
    assert told == ["in_1: the customer must confirm the payment at https://pay.example/1"]


# -- endpoints ------------------------------------------------------------------------------------------------------


def endpoint(**fields: object) -> Endpoint:
    usual: dict[str, object] = {"id": "we_1", "url": URL, "status": "enabled", "enabled_events": ALL}
    return Endpoint.model_validate(usual | fields)


@pytest.mark.parametrize("url", [URL, URL + "/", URL.replace("app.example", "APP.example")])
def test_a_disabled_endpoint_of_ours_is_enabled(url: str) -> None:
    seen = [endpoint(url=url, status="disabled")]
    assert [fix.action for fix in endpoints.plan_endpoints(seen, URL)] == ["enable_endpoint"]


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/api/subscription/webhook",
        "https://app.example/api/subscription/webhook2",
        "https://app.example/",
        "http://app.example/api/subscription/webhook",
        "https://app.example.evil/api/subscription/webhook",
    ],
)
def test_somebody_elses_disabled_endpoint_is_left_alone(url: str) -> None:
    seen = [endpoint(url=url, status="disabled")]
    assert endpoints.plan_endpoints(seen, URL) == []
    assert "no webhook endpoint" in endpoints.detect_endpoints(seen, URL)[0].detail


@pytest.mark.parametrize(
    ("enabled", "missing"),
    [(("*",), []), (ALL, []), (ALL[1:], [ALL[0]]), (("invoice.paid",), list(ALL))],
)
def test_missing_events_are_found_and_left_to_a_person(enabled: tuple[str, ...], missing: list[str]) -> None:
    seen = [endpoint(enabled_events=enabled)]
    assert endpoints.plan_endpoints(seen, URL) == []
    assert [found.evidence["missing"] for found in endpoints.detect_endpoints(seen, URL)] == (
        [missing] if missing else []
    )


def test_enabling_is_undone_by_disabling_and_back() -> None:
    fix = endpoints.plan_endpoints([endpoint(status="disabled")], URL)[0]
    back = endpoints.undo_switch(fix)
    assert (back.action, back.expect, back.want) == ("disable_endpoint", fix.want, fix.expect)
    assert endpoints.undo_switch(back).action == "enable_endpoint"


# -- events ---------------------------------------------------------------------------------------------------------


def test_events_are_planned_as_they_are_given_and_bounded() -> None:
    missed = [events.Undelivered(id=f"evt_{i}", type=ALL[2], created=i, pending=1) for i in range(300)]
    plan = events.plan_resend(missed, [endpoint()])
    assert [fix.target for fix in plan] == [f"Event/evt_{i}" for i in range(events.EVENTS_AT_MOST)]
    assert events.plan_resend(missed, []) == []
    assert len(events.TYPES) <= 20


# -- errors ---------------------------------------------------------------------------------------------------------


def vendor(
    kind: type[stripe.StripeError], status: int | None, body: dict[str, object] | None = None
) -> stripe.StripeError:
    inner = {"error": body or {"message": "sk_test_secret1234 said no"}}
    arguments = {"http_status": status, "json_body": inner, "http_body": json.dumps(inner)}
    if issubclass(kind, (stripe.CardError, stripe.InvalidRequestError)):
        return kind("said no", None, None, **arguments)
    return kind("said no", **arguments)  # type: ignore[arg-type]


def test_a_refused_key_names_its_setting() -> None:
    ours = stripe_api._ours(vendor(stripe.AuthenticationError, 401))
    assert isinstance(ours, BadSetting) and ours.subject == "STRIPE_SECRET_KEY"


def test_a_missing_permission_is_named() -> None:
    error = stripe.PermissionError("Having the 'rak_webhook_write' permission would allow this", http_status=403)
    assert "rak_webhook_write" in str(stripe_api._ours(error))


@pytest.mark.parametrize(
    ("kind", "status", "transient"),
    [
        (stripe.RateLimitError, 429, True),
        (stripe.APIError, 500, True),
        (stripe.APIError, 503, True),
        (stripe.APIError, 200, True),
        (stripe.APIError, 418, False),
    ],
)
def test_what_may_pass_by_itself_is_transient(kind: type[stripe.StripeError], status: int, transient: bool) -> None:
    ours = stripe_api._ours(vendor(kind, status))
    assert type(ours) is OutsideError and ours.transient is transient


def test_a_silent_stripe_is_not_asked_for_another_half_minute() -> None:
    error = stripe.APIConnectionError("silence")  # type: ignore[no-untyped-call]
    error.__cause__ = requests.exceptions.ReadTimeout()
    ours = stripe_api._ours(error)
    assert isinstance(ours, OutsideError) and not ours.transient and "ReadTimeout" in str(ours)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"code": "card_declined", "decline_code": "insufficient_funds"}, "insufficient_funds"),
        ({"code": "expired_card"}, "expired_card"),
        ({}, ""),
    ],
)
def test_a_decline_is_a_certain_no_with_its_code(body: dict[str, object], word: str) -> None:
    ours = stripe_api._ours(vendor(stripe.CardError, 402, body))
    assert isinstance(ours, stripe_api.TurnedDown) and ours.code == word


def test_an_error_says_nothing_of_what_stripe_sent() -> None:
    error = stripe.APIError("Invalid response body from API: b'customer mail'", http_status=200)
    assert "mail" not in str(stripe_api._ours(error))


@pytest.mark.parametrize("key", ["", "pk_test_abcdef", "sk_prod_abc", "whsec_abc", "sk_test_abc def", " sk_test_abc"])
def test_what_is_no_secret_key_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", key)
    forget()
    with pytest.raises(Exception, match="STRIPE_SECRET_KEY"):
        stripe_api.key_is_live()


@pytest.mark.parametrize(
    ("key", "live"), [("sk_test_a1", False), ("sk_live_a1", True), ("rk_test_a1", False), ("rk_live_a1", True)]
)
def test_the_prefix_says_the_mode(key: str, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", key)
    forget()
    assert stripe_api.key_is_live() is live


# -- pages ----------------------------------------------------------------------------------------------------------


def page(rows: object, more: object = False) -> dict[str, object]:
    return {"object": "list", "data": rows, "has_more": more}


ROW = {"id": "sub_1", "livemode": False}
FULL = [{"id": f"sub_{i}", "livemode": False} for i in range(stripe_api.PAGE)]


@pytest.mark.parametrize(
    "body",
    [None, [], {}, page(None), page([{}]), page([ROW], None), page(["sub_1"]), {"data": [ROW], "has_more": False}],
)
def test_a_malformed_page_is_refused(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_a1")
    forget()
    with pytest.raises(OutsideError, match="malformed"):
        stripe_api._checked("/v1/x", body)


def test_a_page_is_full_or_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_a1")
    forget()
    assert stripe_api._checked("/v1/x", page(FULL, True)) == (FULL, True)
    assert stripe_api._checked("/v1/x", page(FULL[:50])) == (FULL[:50], False)
    assert stripe_api._checked("/v1/x", page([])) == ([], False)
    with pytest.raises(OutsideError, match="partial"):
        stripe_api._checked("/v1/x", page(FULL[:50], True))
    with pytest.raises(BadSetting, match="live mode"):
        stripe_api._checked("/v1/x", page([*FULL[:3], {"id": "sub_x", "livemode": True}]))


# -- the app's log --------------------------------------------------------------------------------------------------


def test_every_logged_error_tells_a_person_what_to_do() -> None:
    found = webhook_log.detect_webhook_errors(dict.fromkeys(webhook_log.BY_HAND, 1))
    assert len(found) == len(webhook_log.BY_HAND) and all(one.detail for one in found)


def test_a_fix_names_its_target_by_kind() -> None:
    fix = Fix(action="resend_event", target="Event/evt_1", risk=Risk.auto, why="", undo="")
    assert events._id(fix) == "evt_1"
