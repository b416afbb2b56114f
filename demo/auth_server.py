"""The app's NextAuth endpoints, as an anonymous visitor meets them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from demo.app import App

PRIVATE = {"cache-control": "private, no-cache, no-store"}


def auth_routes(_app: App) -> list[Route]:
    """``session`` (nobody is signed in) and ``csrf``."""

    async def session(_request: Request) -> Response:
        return JSONResponse({}, headers=PRIVATE)

    async def csrf(_request: Request) -> Response:
        return JSONResponse({"csrfToken": secrets.token_hex(32)}, headers=PRIVATE)

    return [Route("/api/auth/session", session), Route("/api/auth/csrf", csrf)]
