"""The receiver under whatever comes in: never a crash, nothing kept that is not signed, and memory that is bounded."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from sqlalchemy import func, select

from ingress.app import BODY_BYTES, create
from ingress.providers import PROVIDERS
from runbook import settings
from runbook.ledger import Ledger, ledger
from runbook.schema import hook
from tests.ingress.parts import PUBLIC, SECRET, signed
from tests.ingress.test_ingress import BODIES as WHOLE

EVERY = sorted(PROVIDERS)
HEADERS = (
    "stripe-signature",
    "x-twilio-email-event-webhook-signature",
    "x-twilio-email-event-webhook-timestamp",
    "sentry-hook-signature",
    "x-pagerduty-signature",
    "x-vercel-signature",
    "authorization",
    "x-runbook-timestamp",
    "x-runbook-signature",
    "content-type",
    "content-encoding",
    "x-forwarded-for",
)
VALUES = st.sampled_from(
    (b"", b"t=1,v1=0", b"t=" + b"9" * 400, b"v1=" + b"0" * 64, b"Bearer ", b"Bearer \xff\xfe", b"=,=,=", b"\xff", b"-1")
) | st.binary(max_size=80).map(lambda raw: bytes(one for one in raw if one not in b"\r\n\0"))
NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
JSON = st.recursive(
    NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def keys(value: Any) -> Iterator[str]:
    """Every name anywhere in a body."""
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(inner)


WORDS = sorted(set(keys(list(WHOLE.values()))))
NEARLY = st.recursive(
    NUMBERS | st.text(max_size=12) | st.sampled_from(("firing", "error", "*Action:*\nx")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=8),
    max_leaves=30,
)
"""The very words of the senders, in the wrong places and of the wrong types."""

JUNK: st.SearchStrategy[Any] = st.sampled_from(
    (None, True, -1, 10**30, 1e308, "", "\0", "\ud800", "x" * 5_000, [], {}, [[]], {"a": None}, "\u202e")
)


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> bytes:
    """A sender's own body with some of its values replaced by what it never sends there."""
    body = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = body
        while isinstance(at, (dict, list)) and at:
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
                at[key] = json.loads(json.dumps(draw(JUNK)))
                break
            at = at[key]
    return json.dumps(body).encode()


BODIES = (
    st.binary(max_size=300)
    | JSON.map(lambda value: json.dumps(value).encode())
    | NEARLY.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 5_000, b'"' + b"\\" * 999, b"1e999", b"1" * 5_000, b'{"id":"\\ud800"}']
    )
)


class Client:
    """The real application, spoken to without a socket, with one loop for all examples."""

    def __init__(self, app: FastAPI) -> None:
        self._runner = asyncio.Runner()
        self._stack = ExitStack()
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hooks")
        self._life = app.router.lifespan_context(app)
        self._runner.run(self._life.__aenter__())

    def post(self, path: str, body: bytes | AsyncIterator[bytes], headers: list[tuple[bytes, bytes]]) -> httpx.Response:
        return self._runner.run(self._client.post(f"/hooks/{path}", content=body, headers=headers))

    def get(self, path: str) -> httpx.Response:
        return self._runner.run(self._client.get(path))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_HOME", str(folder))
        patch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{folder}/ledger.db")
        patch.delenv("PREFECT_API_URL", raising=False)
        for provider in PROVIDERS.values():
            patch.setenv(provider.setting, SECRET)
        patch.setenv("INGRESS_SENDGRID_PUBLIC_KEY", PUBLIC.decode())
        settings.forget()
        made = Client(create())
        yield made
        made.close()
    settings.forget()


def stored(book: Ledger) -> int:
    with book.read() as connection:
        return int(connection.execute(select(func.count()).select_from(hook)).scalar_one())


@given(
    st.sampled_from([*EVERY, "app/x", "nobody", "%00", "app/%ff%fe", "../metrics", "é"]),
    st.lists(st.tuples(st.sampled_from(HEADERS).map(str.encode), VALUES), max_size=6),
    BODIES,
)
@example("stripe", [(b"stripe-signature", b"t=" + b"9" * 400 + b",v1=0")], b"")
@example("generic", [(b"x-runbook-timestamp", b"9" * 5_000), (b"x-runbook-signature", b"v1=0")], b"")
@bounds(max_examples=800, deadline=None)
def test_what_nobody_signed_is_refused_and_leaves_nothing(
    client: Client, path: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    before = stored(ledger())
    answer = client.post(path, body, headers)
    assert 400 <= answer.status_code < 500, answer
    assert stored(ledger()) == before


@given(st.sampled_from(EVERY), BODIES)
@bounds(max_examples=1_200, deadline=None)
def test_what_is_signed_is_taken_or_called_malformed(client: Client, provider: str, body: bytes) -> None:
    if provider == "stripe":  # its library signs text
        body = body.decode("utf-8", "ignore").encode()
    before = stored(ledger())
    path, headers = signed(provider, body)
    answer = client.post(path, body, [(key.encode(), value.encode()) for key, value in headers.items()])
    assert answer.status_code in {200, 202, 400}, (answer, body)
    assert answer.status_code == 202 or stored(ledger()) == before


@given(st.sampled_from(EVERY), st.data())
@bounds(max_examples=1_200, deadline=None)
def test_a_senders_body_with_a_wrong_value_is_taken_or_called_malformed(
    client: Client, provider: str, data: st.DataObject
) -> None:
    body = data.draw(damaged(WHOLE[provider]))
    path, headers = signed(provider, body)
    answer = client.post(path, body, [(key.encode(), value.encode()) for key, value in headers.items()])
    assert answer.status_code in {200, 202, 400}, (answer, body)


def parts_of(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return list(headers.items())


@given(st.sampled_from([one for one in EVERY if one != "app"]), st.data())
@bounds(max_examples=400, deadline=None)
def test_a_signature_with_one_sign_changed_is_none(client: Client, provider: str, data: st.DataObject) -> None:
    body = json.dumps({"id": "x", "event": "a.b", "resource": "r"}).encode()
    path, headers = signed(provider, body)
    name, value = data.draw(st.sampled_from(parts_of(headers)))
    at, other = data.draw(st.integers(0, len(value) - 1)), data.draw(st.sampled_from("0a=,A "))
    forged = value[:at] + other + value[at + 1 :]
    before = stored(ledger())
    if _means_the_same(provider, value, forged):
        return
    sent = [(key.encode(), (forged if key == name else text).encode()) for key, text in headers.items()]
    assert client.post(path, body, sent).status_code in {400, 401}
    assert stored(ledger()) == before


def _means_the_same(provider: str, value: str, forged: str) -> bool:
    """A sign that no signature is made of: the word Bearer in another case, a base64 that reads the same."""
    if provider == "sendgrid":
        try:
            return base64.b64decode(value) == base64.b64decode(forged)
        except ValueError:
            return False
    if provider == "pagerduty":
        return forged.split(",")[-1].strip().removeprefix("v1=") == value.split(",")[-1].removeprefix("v1=")
    return (value.lower()[:7] == forged.lower()[:7] == "bearer " and value[7:] == forged[7:]) or value == forged


def test_a_body_without_an_end_takes_no_memory(client: Client) -> None:
    """A thousand times what is allowed, in pieces: it is refused as soon as it is too long."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(16_384):
            sent += 65_536
            yield b"x" * 65_536

    tracemalloc.start()
    answer = client.post("generic", endless(), [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"peak {peak / 1e6:.1f} MB of {16_384 * 65_536 / 1e6:.0f} MB, {sent / 1e6:.1f} MB taken")
    assert answer.status_code == 413
    assert sent <= 4 * BODY_BYTES and peak < 16 * BODY_BYTES


def test_ten_thousand_senders_make_no_series_of_their_own(client: Client) -> None:
    before = len(client.get("/metrics").text.splitlines())
    for n in range(300):
        client.post(f"nobody{n}", b"", [])
        client.post(f"app/nobody{n}", b"", [(b"authorization", b"Bearer x")])
    assert len(client.get("/metrics").text.splitlines()) <= before + 2 * len(EVERY)


def test_the_doors_answer_nothing_else(client: Client) -> None:
    for path in ("/", "/docs", "/openapi.json", "/redoc", "/hooks", "/hooks/"):
        assert client.get(path).status_code in {404, 405}, path


def test_an_answer_never_says_what_was_sent(client: Client) -> None:
    secret = "canary-in-a-webhook"
    for provider in EVERY:
        path = f"app/{secret}" if provider == "app" else provider
        answer: Any = client.post(path, secret.encode(), [(b"authorization", f"Bearer {secret}".encode())])
        assert secret not in answer.text + str(answer.headers)
