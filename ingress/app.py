"""The receiver: checks a webhook's signature over the raw body, stores it, answers, and only then tells Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from ingress.prefect_events import Teller
from ingress.providers import PROVIDERS, Malformed, hooks
from ingress.signatures import Refused
from ingress.store import Store
from runbook.errors import LedgerError, RunbookError
from runbook.ledger import ledger
from runbook.settings import settings

BODY_BYTES = 1024 * 1024
STATUS = {"unsigned": 401, "forged": 401, "stale": 401, "malformed": 400, "oversized": 413, "not configured": 404}


class Metrics:
    """What a monitor may count; refused webhooks leave nothing but a number here."""

    def __init__(self) -> None:
        at = self.registry = CollectorRegistry()
        self.received = Counter("runbook_hooks", "Hooks stored, by sender.", ["provider"], registry=at)
        self.doubles = Counter("runbook_hook_doubles", "Hooks dropped: seen before.", ["provider"], registry=at)
        self.refused = Counter("runbook_hook_refusals", "Webhooks refused.", ["provider", "reason"], registry=at)
        self.dropped = Gauge("runbook_hooks_cooled", "Hooks a cooldown dropped since the start.", registry=at)
        self.held = Gauge("runbook_hooks_held", "Hooks a cooldown holds until their time.", registry=at)
        self.backlog = Gauge("runbook_hook_backlog", "Hooks due that Prefect does not have yet.", registry=at)


def create() -> FastAPI:
    """The application; its settings and its ledger are read when it starts."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.store = Store(ledger())
        app.state.store.start()
        app.state.teller = Teller(app.state.store)
        telling = asyncio.create_task(app.state.teller.run())
        yield
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        await asyncio.to_thread(app.state.store.stop)

    app = FastAPI(title="runbook ingress", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    async def app_hook(request: Request) -> Response:
        return await take(request, "app", {"authorization": f"Bearer {request.path_params['token']}"})

    async def hook(request: Request) -> Response:
        provider = request.path_params["provider"]
        if provider not in PROVIDERS or provider == "app":
            return Response(status_code=404)
        return await take(request, provider, {})

    async def take(request: Request, provider: str, more: dict[str, str]) -> Response:
        try:
            kept, doubles = await _keep(request, provider, more)
        except _No as no:
            metrics.refused.labels(provider, str(no)).inc()
            return Response(f"{no}\n", STATUS[str(no)])
        except LedgerError:
            metrics.refused.labels(provider, "not stored").inc()
            return Response("not stored: send it again\n", 503, {"Retry-After": "30"})
        metrics.received.labels(provider).inc(kept)
        metrics.doubles.labels(provider).inc(doubles)
        if kept:
            app.state.teller.wake.set()
        return Response(status_code=202 if kept else 200)

    # As plain routes: working out what a handler depends on costs as much as checking a signature.
    app.add_route("/hooks/app/{token}", app_hook, methods=["POST"])
    app.add_route("/hooks/{provider}", hook, methods=["POST"])

    @app.get("/healthz")
    async def health() -> Response:
        try:
            backlog = await asyncio.to_thread(app.state.store.backlog)
        except RunbookError as error:
            return Response(f"{error}\n", 503)
        return Response(f"ok, {backlog} to tell\n")

    @app.get("/metrics")
    async def measured() -> Response:
        with contextlib.suppress(RunbookError):
            metrics.dropped.set(app.state.store.dropped)
            metrics.held.set(app.state.store.held)
            metrics.backlog.set(await asyncio.to_thread(app.state.store.backlog))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


class _No(Exception):
    """A webhook that is not taken; the text is a key of ``STATUS``."""


async def _keep(request: Request, name: str, more: dict[str, str]) -> tuple[int, int]:
    provider = PROVIDERS[name]
    if not getattr(settings(), provider.setting.lower()):
        raise _No("not configured")
    body = await _body(request)
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in request.headers.raw} | more
    try:
        provider.check(settings().secret(provider.setting), headers, body, time.time())
        found = hooks(provider, body)
    except Refused as refused:
        raise _No(str(refused)) from None
    except Malformed:
        raise _No("malformed") from None
    kept = await request.app.state.store.keep(found) if found else 0
    return kept, len(found) - kept


async def _body(request: Request) -> bytes:
    """The raw body, refused as soon as it is too long; a length that is only promised is not believed."""
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > BODY_BYTES:
            raise _No("oversized")
    return bytes(read)
