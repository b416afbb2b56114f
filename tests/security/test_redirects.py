"""A vendor that sends us elsewhere: no key and no body goes along, by any of the clients that hold a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from demo.serving import Served
from runbook import settings
from runbook.errors import BadSetting, OutsideError
from tasks import generation, notify, sendgrid_api, stripe_api, web

KEY = "canary0123456789abcdef"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Elsewhere:
    """Two hosts: every answer of the first is a redirect, on itself and to the second, which counts who comes."""

    def __init__(self, status: int) -> None:
        self.status, self.came = status, list[str]()
        self.asked = 0
        self._second = Served(Starlette(routes=[Route("/{path:path}", self._count, methods=METHODS)]), 0)
        self._first = Served(Starlette(routes=[Route("/{path:path}", self._send_on, methods=METHODS)]), 0)
        self.url, self.away = self._first.url, self._second.url

    def __enter__(self) -> Elsewhere:
        self._second.start()
        self._first.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._first.stop()
        self._second.stop()

    async def _send_on(self, request: Request) -> Response:
        if request.url.path.startswith("/taken"):
            return await self._count(request)
        self.asked += 1
        to = self.away if self.asked % 2 else self.url
        return Response("{}", self.status, {"location": f"{to}/taken{request.url.path}"}, "application/json")

    async def _count(self, request: Request) -> Response:
        self.came.append(f"{request.method} {request.url} {dict(request.headers)}")
        return Response("{}", 200, media_type="application/json")


async def openai_(_url: str) -> None:
    model = generation.primary()
    assert model is not None
    probe = await generation.read_probe.fn(model, 2, 0, 5, every=True)
    assert not probe.well


async def stripe_reads(_url: str) -> None:
    with pytest.raises(BadSetting, match="STRIPE_API_BASE: answers with a redirect"):
        await stripe_api.ask("get", "/v1/events")


async def stripe_writes(_url: str) -> None:
    with pytest.raises(BadSetting, match="STRIPE_API_BASE: answers with a redirect"):
        await stripe_api.ask("post", "/v1/invoices/in_1/pay", {"off_session": True}, "key")


async def sendgrid(_url: str) -> None:
    with pytest.raises(BadSetting, match="SENDGRID_API_BASE: answers with a redirect"):
        await sendgrid_api.ask("get", "scopes")


async def apprise(url: str) -> None:
    with pytest.raises(OutsideError, match="did not take the message"):
        await notify.send(f"json://{url.removeprefix('http://')}/?+X-Key={KEY}", "title", "text", "trigger")


async def every_other(url: str) -> None:
    answer = await web.call("VERCEL_API_BASE", "GET", f"{url}/v9", headers={"Authorization": f"Bearer {KEY}"})
    assert 300 <= answer.status < 400


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    with Elsewhere(request.param) as running:
        for name in ("OPENAI_BASE_URL", "STRIPE_API_BASE", "SENDGRID_API_BASE"):
            monkeypatch.setenv(name, running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_MODEL", "a-model")
        monkeypatch.setenv("STRIPE_SECRET_KEY", f"sk_test_{KEY}")
        monkeypatch.setenv("SENDGRID_API_KEY", f"SG.{KEY}.{KEY}")
        settings.forget()
        yield running
    settings.forget()


@pytest.mark.parametrize("elsewhere", [301, 302, 303, 307, 308], indirect=True)
@pytest.mark.parametrize("ask", [openai_, stripe_reads, stripe_writes, sendgrid, apprise, every_other])
async def test_nobody_is_followed_elsewhere(elsewhere: Elsewhere, ask: Callable[[str], Awaitable[None]]) -> None:
    for _ in range(2):  # to another host, then on the same
        await ask(elsewhere.url)
    assert elsewhere.asked >= 2
    assert elsewhere.came == []
