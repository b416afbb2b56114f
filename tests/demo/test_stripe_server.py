"""The Stripe stand-in, asked by the official SDK over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe

from demo import population, stripe_faults
from demo.stripe_server import Fault, StripeServer, parse_form

KEY = "sk_test_server0123456789"
LIVE = "sk_live_server0123456789"
SECRET = "whsec_server_0123456789"
SMALL = 1_000
LIST = ("GET", "/v1/subscriptions")
ROOT = Path(__file__).resolve().parents[2]
ERRORS = (stripe.InvalidRequestError, stripe.IdempotencyError, stripe.CardError)


def sdk(server: StripeServer | str, key: str = KEY, *, retries: int = 2, seconds: float = 10) -> stripe.StripeClient:
    """The official client, as the product makes it."""
    url = server if isinstance(server, str) else server.url
    http = stripe.RequestsClient(timeout=seconds)
    return stripe.StripeClient(key, base_addresses={"api": url}, max_network_retries=retries, http_client=http)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits hardly at all before it tries again."""
    monkeypatch.setattr(stripe.HTTPClient, "MAX_DELAY", 0.01)
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)


@pytest.fixture
def server() -> Iterator[StripeServer]:
    with StripeServer(SMALL, test_keys={KEY}, live_keys={LIVE}, webhook_secret=SECRET) as running:
        yield running


@pytest.fixture
def client(server: StripeServer) -> stripe.StripeClient:
    return sdk(server)


class Receiver:
    """An app's webhook endpoint that keeps what it is sent and answers ``status``."""

    def __init__(self) -> None:
        self.status, self.got = 200, list[tuple[bytes, str]]()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((body, self.headers["stripe-signature"]))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/hook"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.http.shutdown()
    made.http.server_close()


def resend(client: stripe.StripeClient, event: str, endpoint: str) -> Any:
    """What Stripe's own command line does."""
    return json.loads(client.raw_request("post", f"/v1/events/{event}/retry", webhook_endpoint=endpoint).body)


def raw(server: StripeServer, path: str, **params: str | int) -> Any:
    """One GET without the SDK, and its JSON."""
    return requests.get(server.url + path, params, headers={"authorization": f"Bearer {KEY}"}, timeout=10).json()


# -- the contract ---------------------------------------------------------------------------------------------------


def samples(server: StripeServer, client: stripe.StripeClient) -> Iterator[tuple[type[Any], Any]]:
    """One object of each type as it is served, with the class the SDK has for it."""
    store = server.store
    store.add_endpoint("http://127.0.0.1:9/hook")
    store.emit(20, "past_due")
    bill = stripe_faults.retryable_invoice(store)
    stripe_faults.hard_declined_invoice(store)
    subscription = raw(server, "/v1/subscriptions", limit=1)["data"][0]
    yield stripe.Subscription, subscription
    yield stripe.SubscriptionItem, subscription["items"]["data"][0]
    for kind, id_ in ((stripe.Invoice, bill), (stripe.Invoice, "in_lost_card")):
        served = raw(server, f"/v1/invoices/{id_}")
        yield kind, served
        yield stripe.InvoicePayment, served["payments"]["data"][0]
        yield stripe.PaymentIntent, raw(server, f"/v1/payment_intents/pi_{id_[3:]}")
    yield stripe.Event, raw(server, "/v1/events")["data"][0]
    yield stripe.Subscription, raw(server, "/v1/events")["data"][0]["data"]["object"]
    yield stripe.WebhookEndpoint, raw(server, "/v1/webhook_endpoints")["data"][0]
    yield stripe.Balance, raw(server, "/v1/balance")
    client.v1.invoices.pay(bill)
    client.v1.refunds.create({"payment_intent": "pi_retryable"})
    yield stripe.Invoice, raw(server, f"/v1/invoices/{bill}")
    yield stripe.Refund, raw(server, "/v1/refunds")["data"][0]


def test_every_object_has_the_keys_the_sdk_declares(server: StripeServer, client: stripe.StripeClient) -> None:
    seen = set()
    for kind, served in samples(server, client):
        declared = {name: str(about) for name, about in kind.__annotations__.items() if name != "OBJECT_NAME"}
        required = {name for name, about in declared.items() if "Optional" not in about}
        assert not set(served) - set(declared), f"{kind.__name__} has no such keys"
        assert not required - set(served), f"{kind.__name__} lacks keys"
        assert served["object"] == kind.OBJECT_NAME
        seen.add(kind.__name__)
    assert len(seen) == 9


def test_why_a_payment_failed_is_reached_as_this_api_version_does_it(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    stripe_faults.advised_invoice(server.store)
    bill = client.v1.invoices.retrieve("in_advice")
    assert bill.payments is not None and bill.parent is not None
    intent = client.v1.payment_intents.retrieve(str(bill.payments.data[0].payment.payment_intent))
    failure: Any = intent.last_payment_error
    assert (failure.decline_code, failure.advice_code) == ("generic_decline", "do_not_try_again")
    open_bills: Any = client.v1.invoices.retrieve("in_advice", {"expand": ["payments.data.payment.payment_intent"]})
    assert open_bills.payments.data[0].payment.payment_intent.last_payment_error.decline_code == "generic_decline"
    assert [one.id for one in client.v1.invoice_payments.list({"invoice": "in_advice"}).data] == ["inpay_advice"]
    assert client.v1.invoice_payments.list({"invoice": "in_other"}).data == []


# -- lists ----------------------------------------------------------------------------------------------------------


def test_all_4500_take_45_calls() -> None:
    with StripeServer(4_500, test_keys={KEY}) as server:
        began, ids = time.monotonic(), list[str]()
        every = sdk(server).v1.subscriptions.list({"status": "all", "limit": 100})
        ids.extend(one.id for one in every.auto_paging_iter())
        print(f"4,500 subscriptions by the SDK: {time.monotonic() - began:.1f} s, {server.requests[LIST]} calls")
        assert ids == [population.subscription_id(i) for i in reversed(range(4_500))]
        assert server.requests[LIST] == 45


def test_a_quarter_million_in_a_process_of_its_own_take_no_memory() -> None:
    command = [sys.executable, "-m", "demo.stripe_server", "--subscriptions", "250000", "--key", KEY]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        kilobytes, seen, after = list[int](), 0, dict[str, str]()
        began, more = time.monotonic(), True
        with requests.Session() as session:
            session.headers["authorization"] = f"Bearer {KEY}"
            while more:
                page = session.get(f"{url}/v1/subscriptions", params={"status": "all", "limit": "100", **after}).content
                # Parsing 250 MB of JSON would measure the test: the last id and has_more are enough.
                seen += page.count(b'"object":"subscription",')
                more = b'"has_more":true' in page[:100]
                after = {"starting_after": page[page.rindex(b'{"id":"sub_demo') :][7:23].decode()}
                if seen % 50_000 == 0:
                    kilobytes.append(resident(process.pid))
    finally:
        process.terminate()
        process.wait(10)
    taken = time.monotonic() - began
    print(f"250,000 in {taken:.1f} s, {taken / 2.5:.2f} ms a page; server's RSS {kilobytes[0]} → {kilobytes[-1]} kB")
    assert seen == 250_000
    assert kilobytes[-1] - kilobytes[0] < 10_000


def resident(pid: int) -> int:
    """The kilobytes a process holds."""
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_pages_go_both_ways_and_past_what_was_added(server: StripeServer, client: stripe.StripeClient) -> None:
    stripe_faults.young_subscription(server.store)
    down = [one.id for one in client.v1.subscriptions.list({"status": "all", "limit": 90}).auto_paging_iter()]
    assert down == ["sub_young"] + [population.subscription_id(i) for i in reversed(range(SMALL))]
    page = client.v1.subscriptions.list({"status": "all", "limit": 10, "ending_before": down[25]})
    assert [one.id for one in page.data] == down[15:25] and page.has_more
    page = client.v1.subscriptions.list({"status": "all", "limit": 10, "ending_before": down[5]})
    assert [one.id for one in page.data] == down[:5] and not page.has_more
    assert not client.v1.subscriptions.list({"status": "all", "starting_after": down[-1]}).data


def test_subscriptions_are_filtered(server: StripeServer, client: stripe.StripeClient) -> None:
    def listed(**more: Any) -> list[stripe.Subscription]:
        params: Any = {"limit": 100, **more}
        return list(client.v1.subscriptions.list(params).auto_paging_iter())

    assert {one.status for one in listed()} == {"active", "trialing", "past_due", "unpaid"}  # as Stripe: not canceled
    assert [one.id for one in listed(customer=population.customer_id(20))] == [population.subscription_id(20)]
    assert len(listed(status="unpaid")) == SMALL // 100
    assert {one.status for one in listed(status="ended")} == {"canceled"}
    server.store.set_status(20, "unpaid")
    assert population.subscription_id(20) in {one.id for one in listed(status="unpaid")}
    assert client.v1.subscriptions.retrieve(population.subscription_id(20)).status == "unpaid"


def test_events_are_filtered_and_paged(server: StripeServer, client: stripe.StripeClient, receiver: Receiver) -> None:
    server.store.add_endpoint(receiver.url)
    now = int(time.time())
    for i in range(25):
        server.store.emit(20 + i, "past_due", age=1_000 * (i + 1))
    done = server.store.emit(60, "canceled", age=10, deliver=True)
    newest_first = [one.id for one in client.v1.events.list({"limit": 10}).auto_paging_iter()]
    assert newest_first[0] == done["id"] and len(newest_first) == 26
    assert len(client.v1.events.list().data) == 10 and server.requests["GET", "/v1/events"] == 4
    missed = client.v1.events.list({"delivery_success": False, "limit": 100}).data
    assert [one.id for one in missed] == newest_first[1:] and all(one.pending_webhooks == 1 for one in missed)
    assert [one.id for one in client.v1.events.list({"delivery_success": True}).data] == [done["id"]]
    young = client.v1.events.list({"created": {"gte": now - 3_500}, "types": ["customer.subscription.updated"]}).data
    assert len(young) == 3
    deleted = client.v1.events.list({"types": ["customer.subscription.deleted", "charge.failed"], "limit": 1})
    assert [one.id for one in deleted.data] == [done["id"]] and not deleted.has_more
    assert len(client.v1.events.list({"type": "customer.subscription.deleted"}).data) == 1


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 101}, {"limit": "many"}, {"starting_after": "sub_nope"}, {"ending_before": "sub_demo5"}],
)
def test_bad_parameters_are_refused(client: stripe.StripeClient, params: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as no:
        client.v1.subscriptions.list(params)
    assert no.value.http_status == 400 and no.value.param in {*params, "starting_after"}


def test_forms_nest() -> None:
    assert parse_form("types[]=a&types[]=b&c[0]=x&c[1]=y") == {"types": ["a", "b"], "c": ["x", "y"]}
    assert parse_form("a[b][c]=1&a[d]=&e=f%5Bg%5D") == {"a": {"b": {"c": "1"}, "d": ""}, "e": "f[g]"}


# -- keys and errors ------------------------------------------------------------------------------------------------


def test_keys(server: StripeServer, client: stripe.StripeClient) -> None:
    assert client.v1.balance.retrieve().livemode is False
    live = sdk(server, LIVE)
    assert live.v1.balance.retrieve().livemode and live.v1.subscriptions.list({"limit": 1}).data[0].livemode
    with pytest.raises(stripe.AuthenticationError) as no:
        sdk(server, "sk_test_unknown0123456789").v1.balance.retrieve()
    assert no.value.http_status == 401 and no.value.request_id and no.value.code is None
    server.expired_keys.add(KEY)
    with pytest.raises(stripe.AuthenticationError) as no:
        client.v1.balance.retrieve()
    inner: Any = no.value.error
    assert no.value.code is None and inner.code == "api_key_expired"
    assert "server0123456789" not in str(no.value)


def test_a_restricted_key_may_do_what_its_scopes_say(server: StripeServer) -> None:
    server.keys.add("rk_test_server0123456789")
    server.scopes["rk_test_server0123456789"] = {"subscription_read", "webhook_write"}
    narrow = sdk(server, "rk_test_server0123456789")
    narrow.v1.subscriptions.list({"limit": 1})
    assert narrow.v1.webhook_endpoints.list().data == []
    with pytest.raises(stripe.PermissionError, match="rak_invoice_read"):
        narrow.v1.invoices.list()


def test_what_does_not_exist_is_404(server: StripeServer, client: stripe.StripeClient) -> None:
    asked: list[Callable[[], Any]] = [
        lambda: client.v1.subscriptions.retrieve("sub_nope"),
        lambda: client.v1.events.retrieve("evt_nope"),
        lambda: client.v1.invoices.pay("in_nope"),
        lambda: client.v1.webhook_endpoints.update("we_nope", {"disabled": True}),
        lambda: client.v1.refunds.create({"payment_intent": "pi_nope"}),
    ]
    for ask in asked:
        with pytest.raises(stripe.InvalidRequestError) as no:
            ask()
        assert (no.value.http_status, no.value.code) == (404, "resource_missing") and no.value.request_id


def test_calls_are_counted_by_template(server: StripeServer, client: stripe.StripeClient) -> None:
    for i in range(3):
        client.v1.subscriptions.retrieve(population.subscription_id(i))
    assert server.requests == {("GET", "/v1/subscriptions/{id}"): 3}


# -- idempotency ----------------------------------------------------------------------------------------------------


def test_one_key_charges_once(server: StripeServer, client: stripe.StripeClient) -> None:
    bill = stripe_faults.retryable_invoice(server.store)
    first = client.v1.invoices.pay(bill, options={"idempotency_key": "k1"})
    again = client.v1.invoices.pay(bill, options={"idempotency_key": "k1"})
    assert first.to_dict() == again.to_dict() and server.store.pays == {bill: 1}
    replayed: Any = again.last_response
    assert replayed.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.invoices.pay(bill, {"off_session": True}, {"idempotency_key": "k1"})
    with pytest.raises(stripe.InvalidRequestError) as no:
        client.v1.invoices.pay(bill, options={"idempotency_key": "k2"})
    assert no.value.code == "invoice_already_paid" and server.store.tries == {bill: 1}


def test_an_error_is_replayed_too(server: StripeServer, client: stripe.StripeClient) -> None:
    bill = stripe_faults.hard_declined_invoice(server.store)
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            client.v1.invoices.pay(bill.ids[0], options={"idempotency_key": "k1"})
    assert server.store.tries == {bill.ids[0]: 1} and not bill.untouched()


@pytest.mark.parametrize("keys", [["k1"] * 8, [f"k{n}" for n in range(8)]], ids=["one key", "eight keys"])
def test_eight_at_once_charge_once(server: StripeServer, keys: list[str]) -> None:
    bill = stripe_faults.retryable_invoice(server.store)
    client = sdk(server, retries=0)

    def pay(key: str) -> int | None:
        try:
            client.v1.invoices.pay(bill, options={"idempotency_key": key})
        except stripe.StripeError as no:
            return no.http_status
        return 200

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(pay, keys))
    assert server.store.pays == {bill: 1} and 200 in statuses and set(statuses) <= {200, 400, 409}


def test_a_key_whose_request_is_under_way_is_told_so(server: StripeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bill, go, pay = stripe_faults.retryable_invoice(server.store), threading.Event(), server.store.pay
    entered = threading.Event()

    def slow(one: Any) -> Any:
        entered.set()
        go.wait(10)
        return pay(one)

    monkeypatch.setattr(server.store, "pay", slow)
    client, options = sdk(server, retries=0), stripe.RequestOptions(idempotency_key="k1")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.v1.invoices.pay, bill, None, options)
        assert entered.wait(10)
        with pytest.raises(stripe.StripeError) as no:
            client.v1.invoices.pay(bill, None, options)
        go.set()
        assert first.result(10).status == "paid"
    assert no.value.http_status == 409 and server.store.pays == {bill: 1}


# -- money ----------------------------------------------------------------------------------------------------------


def test_a_paid_invoice_says_so_everywhere(server: StripeServer, client: stripe.StripeClient) -> None:
    bill = stripe_faults.retryable_invoice(server.store)
    before = client.v1.invoices.retrieve(bill)
    paid = client.v1.invoices.pay(bill)
    assert (paid.status, paid.amount_remaining, paid.attempt_count) == ("paid", 0, before.attempt_count + 1)
    assert paid.payments is not None and paid.payments.data[0].status == "paid"
    assert client.v1.payment_intents.retrieve("pi_retryable").status == "succeeded"
    assert client.v1.invoices.list({"status": "open"}).data == []


def test_a_refund_gives_back_no_more_than_was_paid(server: StripeServer, client: stripe.StripeClient) -> None:
    client.v1.invoices.pay(stripe_faults.retryable_invoice(server.store))
    assert client.v1.refunds.create({"payment_intent": "pi_retryable", "amount": 400}).amount == 400
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": "pi_retryable", "amount": 501})
    assert client.v1.refunds.create({"payment_intent": "pi_retryable"}).amount == 500
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": "pi_retryable"})


@pytest.mark.parametrize(
    ("make", "code", "decline"),
    [
        (stripe_faults.hard_declined_invoice, "card_declined", "lost_card"),
        (stripe_faults.advised_invoice, "card_declined", "generic_decline"),
        (stripe_faults.authentication_required_invoice, "authentication_required", "authentication_required"),
        (stripe_faults.already_paid_invoice, "invoice_already_paid", None),
    ],
)
def test_what_may_not_be_paid_is_refused(
    server: StripeServer,
    client: stripe.StripeClient,
    make: Callable[[Any], stripe_faults.Lookalike],
    code: str,
    decline: str | None,
) -> None:
    bill = make(server.store)
    with pytest.raises(ERRORS) as no:
        client.v1.invoices.pay(bill.ids[0])
    assert no.value.code == code and getattr(no.value.error, "decline_code", None) == decline
    assert server.store.pays == {}


def test_a_soft_decline_with_the_advice_not_to_try_again_stays_declined(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    server.store.add_invoice("advised", 20, "insufficient_funds", "do_not_try_again")
    with pytest.raises(stripe.CardError) as no:
        client.v1.invoices.pay("in_advised")
    inner: Any = no.value.error
    assert inner.advice_code == "do_not_try_again" and server.store.pays == {}


# -- webhooks -------------------------------------------------------------------------------------------------------


def test_a_delivered_event_is_whole_and_its_signature_holds(server: StripeServer, receiver: Receiver) -> None:
    server.store.add_endpoint(receiver.url)
    made = server.store.emit(20, "past_due", deliver=True)
    (body, signature), *others = receiver.got
    event: Any = stripe.Webhook.construct_event(body, signature, SECRET)
    assert others == [] and (event.id, event.object, event.livemode) == (made["id"], "event", False)
    assert event.data.object.id == population.subscription_id(20) and event.data.object.status == "past_due"
    assert event.data.previous_attributes.to_dict() == {"status": "active"}
    assert event.api_version == stripe.api_version and made["pending_webhooks"] == 0
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, signature, "whsec_of_somebody_else")


def test_an_event_the_app_refused_is_sent_again(
    server: StripeServer, client: stripe.StripeClient, receiver: Receiver
) -> None:
    endpoint = server.store.add_endpoint(receiver.url)["id"]
    receiver.status = 500
    made = server.store.emit(20, "past_due", deliver=True)["id"]
    assert client.v1.events.retrieve(made).pending_webhooks == 1
    assert resend(client, made, endpoint)["pending_webhooks"] == 1
    receiver.status = 200
    assert resend(client, made, endpoint)["pending_webhooks"] == 0
    assert client.v1.events.retrieve(made).pending_webhooks == 0
    assert server.store.deliveries == [(made, 500), (made, 500), (made, 200)]


def test_a_disabled_endpoint_is_sent_nothing_until_it_is_enabled(
    server: StripeServer, client: stripe.StripeClient, receiver: Receiver
) -> None:
    endpoint = server.store.add_endpoint(receiver.url)["id"]
    stripe_faults.disable_endpoints(server.store)
    made = server.store.emit(20, "past_due", deliver=True)["id"]
    assert resend(client, made, endpoint)["pending_webhooks"] == 1 and receiver.got == []
    assert client.v1.webhook_endpoints.update(endpoint, {"disabled": False}).status == "enabled"
    assert resend(client, made, endpoint)["pending_webhooks"] == 0 and len(receiver.got) == 1
    assert client.v1.webhook_endpoints.update(endpoint, {"disabled": True}).status == "disabled"
    assert [one.status for one in client.v1.webhook_endpoints.list().data] == ["disabled"]


def test_each_endpoint_owes_its_own_answer(
    server: StripeServer, client: stripe.StripeClient, receiver: Receiver
) -> None:
    ours = server.store.add_endpoint(receiver.url)["id"]
    dead = server.store.add_endpoint("http://127.0.0.1:9/hook")["id"]
    server.store.add_endpoint("http://127.0.0.1:9/other")["enabled_events"] = ["charge.failed"]
    made = server.store.emit(20, "past_due")["id"]
    assert client.v1.events.retrieve(made).pending_webhooks == 2
    assert resend(client, made, ours)["pending_webhooks"] == 1
    assert resend(client, made, dead)["pending_webhooks"] == 1
    assert server.store.deliveries == [(made, 200), (made, 0)]


def test_retry_can_be_unknown(server: StripeServer, client: stripe.StripeClient, receiver: Receiver) -> None:
    endpoint = server.store.add_endpoint(receiver.url)["id"]
    made = server.store.emit(20, "past_due")["id"]
    server.store.retry_known = False
    with pytest.raises(stripe.InvalidRequestError) as no:
        resend(client, made, endpoint)
    assert no.value.http_status == 404 and receiver.got == []


# -- faults ---------------------------------------------------------------------------------------------------------


def page_of(client: stripe.StripeClient) -> stripe.ListObject[stripe.Subscription]:
    return client.v1.subscriptions.list({"status": "all", "limit": 100})


@pytest.mark.parametrize("should_retry", [True, False, None])
def test_a_rate_limit_is_tried_again_only_when_stripe_says_so(server: StripeServer, should_retry: bool | None) -> None:
    server.faults.append(Fault("GET /v1/subscriptions$", "429", should_retry=should_retry))
    if should_retry:
        assert len(page_of(sdk(server)).data) == 100 and server.requests[LIST] == 2
        return
    with pytest.raises(stripe.RateLimitError) as no:
        page_of(sdk(server))
    inner: Any = no.value.error
    assert no.value.code is None and inner.code == "rate_limit" and server.requests[LIST] == 1


@pytest.mark.parametrize(("kind", "error"), [("500", stripe.APIError), ("401", stripe.AuthenticationError)])
def test_statuses(server: StripeServer, kind: str, error: type[stripe.StripeError]) -> None:
    server.faults.append(Fault("GET /v1/subscriptions$", kind, times=3, skip=1))
    assert len(page_of(sdk(server)).data) == 100
    with pytest.raises(error):
        page_of(sdk(server))
    assert server.requests[LIST] == (4 if kind == "500" else 2)


@pytest.mark.parametrize("kind", ["drop", "killed", "slow"])
def test_an_answer_that_does_not_come_is_asked_for_again(server: StripeServer, kind: str) -> None:
    server.faults.append(Fault("GET /v1/subscriptions$", kind, seconds=0.6))
    assert len(page_of(sdk(server, seconds=0.3)).data) == 100 and server.requests[LIST] == 2


@pytest.mark.parametrize("kind", ["half", "lost"])
def test_an_answer_cut_in_the_middle_is_a_connection_error(server: StripeServer, kind: str) -> None:
    server.faults.append(Fault("GET /v1/subscriptions$", kind))
    with pytest.raises(stripe.APIConnectionError) as no:
        page_of(sdk(server))
    assert isinstance(no.value.__cause__, requests.exceptions.ChunkedEncodingError)
    assert len(page_of(sdk(server)).data) == 100


def test_pages_that_lie(server: StripeServer) -> None:
    def spoiled(kind: str) -> stripe.ListObject[stripe.Subscription]:
        server.faults.append(Fault("GET /v1/subscriptions$", kind))
        return page_of(sdk(server))

    with pytest.raises(stripe.APIError):
        spoiled("garbage")
    assert (spoiled("empty").data, spoiled("empty").has_more) == ([], False)
    assert (spoiled("endless").data, spoiled("endless").has_more) == ([], True)
    assert (len(spoiled("partial").data), spoiled("partial").has_more) == (50, True)
    assert all(one.livemode for one in spoiled("livemode").data)
    assert not any(one.livemode for one in page_of(sdk(server)).data)


@pytest.mark.parametrize(("kind", "calls", "tries"), [("killed", 2, 1), ("drop", 2, 1), ("slow", 2, 1)])
def test_a_charge_whose_answer_was_lost_is_not_made_twice(
    server: StripeServer, kind: str, calls: int, tries: int
) -> None:
    bill = stripe_faults.retryable_invoice(server.store)
    server.faults.append(Fault("/pay$", kind, seconds=0.6))
    assert sdk(server, seconds=0.3).v1.invoices.pay(bill).status == "paid"  # the SDK makes the key, and tries again
    time.sleep(0.6 if kind == "slow" else 0)
    assert server.requests["POST", "/v1/invoices/{id}/pay"] == calls and server.store.tries == {bill: tries}


def test_killed_acts_and_drop_does_not(server: StripeServer) -> None:
    for kind, paid in (("drop", False), ("killed", True)):
        server.faults.append(Fault("/pay$", kind))
        bill = stripe_faults.retryable_invoice(server.store)
        with pytest.raises(stripe.APIConnectionError):
            sdk(server, retries=0).v1.invoices.pay(bill)
        assert (bill in server.store.pays) is paid


# -- the demo's faults and look-alikes ------------------------------------------------------------------------------


def test_drift_and_missed_events_lie_apart_and_make_sense(server: StripeServer) -> None:
    for count in (population.SUBSCRIPTIONS, 5_000):
        with StripeServer(count, test_keys={KEY}) as big:
            drifted = stripe_faults.drift(big.store).expected
            store_after_drift = len(big.store.events)
            missed = stripe_faults.undelivered_events(big.store).expected
            every = sdk(big)
            assert len(drifted) == 200 and store_after_drift == 0
            assert len(missed) == 20 and len(every.v1.events.list({"delivery_success": False, "limit": 100}).data) == 20
            for i, word in (drifted | missed).items():
                assert population.status(i) not in {word, "canceled"} and big.store.status(i) == word
        if count == population.SUBSCRIPTIONS:
            assert not set(drifted) & set(missed) and max(drifted) - min(drifted) > 40_000
            assert not {4, 7, 104, 204, 304, 404, 504, 604} & set(drifted | missed)
    with pytest.raises(ValueError, match="ask for fewer"):
        stripe_faults.drift(server.store, SMALL + 1)


def test_lookalikes_notice_a_touch(server: StripeServer, client: stripe.StripeClient) -> None:
    every = [*stripe_faults.invoice_lookalikes(server.store), stripe_faults.young_subscription(server.store)]
    assert all(one.untouched() for one in every) and len({one.ids for one in every}) == 8
    for one in every[:-1]:
        with (
            pytest.raises(ERRORS)
            if one.name.split()[1] in {"already", "lost", "advice", "authenticate"}
            else nullcontext()
        ):
            client.v1.invoices.pay(one.ids[0])
    server.store.more["sub_young"]["status"] = "canceled"
    assert [one.name for one in every if one.untouched()] == ["invoice already paid"]  # a refused call changed nothing
