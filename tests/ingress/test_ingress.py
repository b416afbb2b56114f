"""Every sender's webhook: taken once when it is really theirs, never otherwise, and told to Prefect in the end."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

import ingress.prefect_events
from runbook.schema import hook
from tests.ingress.parts import Events, Receiver, signed, until

BODIES: dict[str, Any] = {
    "stripe": {
        "id": "evt_1",
        "type": "invoice.payment_failed",
        "data": {"object": {"id": "in_1", "object": "invoice", "customer": "cus_1", "customer_email": "a@example.com"}},
    },
    "sentry": {
        "action": "created",
        "data": {
            "issue": {
                "id": "7",
                "title": "boom",
                "level": "error",
                "project": {"id": "1", "name": "Web", "slug": "web", "platform": "node"},
            }
        },
    },
    "sendgrid": [
        {"sg_event_id": "e1", "event": "bounce", "email": "a@example.com", "reason": "550 5.1.1 no such user"}
    ],
    "pagerduty": {
        "event": {"id": "E1", "event_type": "incident.triggered", "data": {"id": "P1", "status": "triggered"}}
    },
    "alertmanager": {
        "alerts": [
            {"status": "firing", "labels": {"alertname": "disk"}, "startsAt": "2026-01-01T00:00:00Z"},
            {
                "status": "firing",
                "labels": {"alertname": "pool", "runbook": "pool-exhaustion"},
                "startsAt": "2026-01-01T00:00:00Z",
            },
        ]
    },
    "vercel": [
        {"id": "1", "level": "error", "projectId": "prj", "message": "boom"},
        {"id": "2", "level": "info", "projectId": "prj", "message": "fine"},
    ],
    "app": {
        "text": "Security alert",
        "blocks": [{"type": "section", "fields": [{"type": "mrkdwn", "text": "*Action:*\nip_blocked"}]}],
    },
    "generic": {"id": "g1", "event": "deploy.failed", "resource": "web", "payload": {"n": 1}},
}
NAMES = {
    "stripe": [("stripe.invoice.payment_failed", "runbook.stripe.in_1")],
    "sentry": [("sentry.issue.created", "runbook.sentry.web")],
    "sendgrid": [("sendgrid.bounce", "runbook.sendgrid.mail")],
    "pagerduty": [("pagerduty.incident.triggered", "runbook.pagerduty.P1")],
    "alertmanager": [
        ("alertmanager.firing", "runbook.alertmanager.disk"),
        ("runbook.wanted", "runbook.pool-exhaustion"),
    ],
    "vercel": [("vercel.log.error", "runbook.vercel.prj")],
    "app": [("app.ip_blocked", "runbook.app.app")],
    "generic": [("generic.deploy.failed", "runbook.generic.web")],
}
EVERY = sorted(BODIES)


def stored(receiver: Receiver) -> list[Any]:
    with receiver.book.read() as connection:
        return list(connection.execute(select(hook).order_by(hook.c.seq)).mappings())


@pytest.mark.parametrize("provider", EVERY)
def test_a_webhook_is_stored_told_and_dropped_when_it_comes_again(
    receiver: Receiver, prefect_events: Events, provider: str
) -> None:
    assert receiver.send(provider, BODIES[provider]).status_code == 202
    until(lambda: len(prefect_events.taken) >= len(NAMES[provider]), "the events")
    assert [(one["event"], one["resource"]["prefect.resource.id"]) for one in prefect_events.taken] == NAMES[provider]
    assert receiver.send(provider, BODIES[provider]).status_code == 200
    assert len(stored(receiver)) == len(NAMES[provider])
    assert "a@example.com" not in json.dumps(prefect_events.taken)


@pytest.mark.parametrize("provider", EVERY)
def test_what_is_not_signed_by_the_sender_leaves_nothing_but_a_number(receiver: Receiver, provider: str) -> None:
    body = json.dumps(BODIES[provider]).encode()
    path, headers = signed(provider, body)
    forged = [
        (path, body + b" ", headers) if provider not in {"alertmanager", "app"} else (path + "x", body, {}),
        (path if provider != "app" else "app/nobody", body, {}),
    ]
    if provider != "sendgrid":
        forged.append((signed(provider, body, secret="another")[0], body, signed(provider, body, secret="another")[1]))
    for case in forged:
        assert receiver.post(*case).status_code in {401, 404}
    assert stored(receiver) == []


@pytest.mark.parametrize("provider", ["stripe", "sendgrid", "generic"])
@pytest.mark.parametrize("away", [-360, 360])
def test_a_signed_time_far_from_ours_is_stale(receiver: Receiver, provider: str, away: int) -> None:
    answer = receiver.send(provider, BODIES[provider], at=time.time() + away)
    assert (answer.status_code, answer.text) == (401, "stale\n")
    assert receiver.count("runbook_hook_refusals") == 1
    assert stored(receiver) == []


@pytest.mark.parametrize("provider", EVERY)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"7", b'{"a": 1}', b"\xff\xfe", b"[" * 50_000, b'[{"x":[]}]']
)
def test_a_signed_body_of_another_shape_is_malformed_or_empty(receiver: Receiver, provider: str, body: bytes) -> None:
    text_body = body.decode("utf-8", "ignore").encode() if provider == "stripe" else body
    assert receiver.send(provider, text_body).status_code in {400, 200, 401}
    assert stored(receiver) == []


def test_a_body_too_long_is_refused_also_when_its_length_is_not_told(receiver: Receiver) -> None:
    def endless() -> Any:
        for _ in range(64):
            yield b"x" * 65_536

    answer = httpx.post(f"{receiver.url}/hooks/generic", content=endless(), timeout=20)
    assert answer.status_code == 413
    assert stored(receiver) == []


def test_unknown_senders_and_those_without_a_secret_are_not_found(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert receiver.post("nobody", b"{}", {}).status_code == 404
    assert receiver.post("app", b"{}", {}).status_code == 404


def test_what_prefect_does_not_take_is_kept_and_told_later_in_order(receiver: Receiver, prefect_events: Events) -> None:
    prefect_events.status = 500
    for number in range(5):
        assert receiver.send("generic", BODIES["generic"] | {"id": f"g{number}"}).status_code == 202
    assert receiver.send("generic", BODIES["generic"] | {"id": "g0"}).status_code == 200
    assert prefect_events.taken == []
    assert "5 to tell" in httpx.get(f"{receiver.url}/healthz").text
    prefect_events.status = 204
    until(lambda: len(prefect_events.taken) == 5, "all events")
    assert len({one["id"] for one in prefect_events.taken}) == 5
    until(lambda: "0 to tell" in httpx.get(f"{receiver.url}/healthz").text, "an empty backlog")


def test_what_prefect_took_and_lost_is_told_again(
    receiver: Receiver, prefect_events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress.prefect_events, "SHOWN_MS", 200)
    prefect_events.loses = True
    receiver.send("generic", BODIES["generic"])
    until(lambda: len(prefect_events.taken) >= 2, "the event once more")
    prefect_events.loses = False
    until(lambda: "0 to tell" in httpx.get(f"{receiver.url}/healthz").text, "an empty backlog")
    assert len({one["id"] for one in prefect_events.taken}) == 1


def test_what_prefect_never_shows_is_given_up_and_kept(
    receiver: Receiver, prefect_events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress.prefect_events, "SHOWN_MS", 200)
    prefect_events.loses = True
    receiver.send("generic", BODIES["generic"])

    def given_up() -> bool:
        (row,) = stored(receiver)
        return bool(row["handled_at_ms"] == row["received_at_ms"])

    until(given_up, "the hook given up")
    assert len(prefect_events.taken) == 1 + ingress.prefect_events.TOLD_AGAIN


def test_one_event_prefect_will_never_take_holds_up_no_other(receiver: Receiver, prefect_events: Events) -> None:
    prefect_events.refuses = "poison"
    for number, name in enumerate(["a", "poison", "b"]):
        receiver.send("generic", {"id": f"g{number}", "event": name, "resource": "x"})
    until(lambda: len(prefect_events.taken) == 2, "the other two")
    assert sorted(one["event"] for one in prefect_events.taken) == ["generic.a", "generic.b"]
    until(lambda: "0 to tell" in httpx.get(f"{receiver.url}/healthz").text, "an empty backlog")


def test_a_storm_of_doubles_is_one_event(receiver: Receiver, prefect_events: Events) -> None:
    body = json.dumps(BODIES["stripe"]).encode()
    path, headers = signed("stripe", body)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _n: receiver.post(path, body, headers).status_code, range(300)))
    assert sorted(set(answers)) == [200, 202]
    assert answers.count(202) == 1
    until(lambda: prefect_events.taken, "the event")
    assert len(prefect_events.taken) == 1


def test_a_ledger_that_cannot_write_asks_the_sender_to_come_again(receiver: Receiver) -> None:
    with receiver.book.write() as connection:
        connection.execute(text("ALTER TABLE hook RENAME TO elsewhere"))
    answer = receiver.send("generic", BODIES["generic"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "elsewhere" not in answer.text
    with receiver.book.write() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO hook"))
    assert receiver.send("generic", BODIES["generic"]).status_code == 202


@pytest.mark.parametrize("odd", ["\\ud800", "\\u0000"])
def test_a_character_no_database_takes_is_no_end_of_the_receiver(receiver: Receiver, odd: str) -> None:
    body = json.dumps({"id": "?1", "event": "?", "resource": "?", "payload": {"?": "?"}}).replace("?", odd).encode()
    assert receiver.send("generic", body).status_code == 202
    assert receiver.send("generic", BODIES["generic"] | {"id": "g2"}).status_code == 202
    assert len(stored(receiver)) == 2
