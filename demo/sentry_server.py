"""A stand-in for the part of Sentry's API that is read: error counts by minute, and issues; with faults as data."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.serving import Served

TOKEN = "sntrys_demo_0123456789abcdef"
ORG, PROJECT = "demo-org", "demo-app"


class Sentry:
    """``errors`` counts by minute (Unix time / 60); ``issues`` are served as they are put in.

    ``fault`` is a status to answer everything with, ``slow`` the seconds before any answer, ``body`` what stands in its
    place.
    """

    def __init__(self) -> None:
        self.errors: Counter[int] = Counter()
        self.issues: list[dict[str, Any]] = []
        self.fault, self.slow, self.body = 0, 0.0, ""
        routes = [
            Route("/api/0/organizations/{org}/events-stats/", self._stats),
            Route("/api/0/projects/{org}/{project}/issues/", self._issues),
        ]
        self._served = Served(Starlette(routes=routes))
        self.url = self._served.url

    def __enter__(self) -> Sentry:
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()

    def env(self) -> Mapping[str, str]:
        """The settings that ask here instead of sentry.io."""
        asked = {"SENTRY_AUTH_TOKEN": TOKEN, "SENTRY_ORG": ORG, "SENTRY_PROJECT": PROJECT}
        return asked | {"SENTRY_API_BASE": self.url}

    def add_issue(self, short_id: str, title: str, count: int) -> None:
        """One unresolved issue, as Sentry spells it: counts are text."""
        link = f"https://{ORG}.sentry.io/issues/{len(self.issues) + 1}/"
        self.issues.append(
            {
                "id": str(len(self.issues) + 1),
                "shortId": short_id,
                "title": title,
                "count": str(count),
                "permalink": link,
            }
            | {"level": "error", "status": "unresolved", "culprit": "api", "userCount": 1}
        )

    async def _refused(self, request: Request) -> Response | None:
        await asyncio.sleep(self.slow)
        if self.fault:
            return JSONResponse({"detail": "no"}, self.fault)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"detail": "Invalid token"}, 401)
        if request.path_params["org"] != ORG or request.path_params.get("project", PROJECT) != PROJECT:
            return JSONResponse({"detail": "The requested resource does not exist"}, 404)
        return Response(self.body, media_type="application/json") if self.body else None

    async def _stats(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        asked = request.query_params
        if asked.get("interval") != "1m" or asked.get("yAxis") != "count()":
            return JSONResponse({"detail": "Invalid query"}, 400)
        minutes, now = int(asked["statsPeriod"].removesuffix("m")), int(time.time()) // 60
        span = range(now - minutes + 1, now + 1)
        data = [[minute * 60, [{"count": self.errors[minute]}]] for minute in span]
        return JSONResponse({"data": data, "start": span[0] * 60, "end": (now + 1) * 60, "isMetricsData": False})

    async def _issues(self, request: Request) -> Response:
        refused = await self._refused(request)
        return refused or JSONResponse(self.issues[: int(request.query_params.get("limit", 100))])
