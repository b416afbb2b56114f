"""The app's limits as the real app has them: by address, in memory, with a list of the trusted. A restart forgets."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from demo.app import App

ADMIN_SECRET = "demo-admin-secret-0123456789"
SETTINGS: Mapping[str, str] = {
    "ADMIN_SECRET": ADMIN_SECRET,
    "RUNBOOK_TRUSTED_PROXIES": "10.20.0.0/16",
    "RUNBOOK_TRUST_KEEPS_LOGIN_LIMITS": "true",
}
MINUTE, PAUSE, HOUR = 60, 300, 3_600
LOGIN, CONTENT, OTHER = 5, 50, 30
DOOR = ("/api/auth/", "/api/register")


@dataclass
class Limiter:
    """One app's limits; ``limiter(app)`` is it. ``answers`` are bad answers still to be given, for tests."""

    app: App
    keeps_login_limits: bool = False
    trusted: set[str] = field(default_factory=set)
    paused: dict[tuple[str, str], float] = field(default_factory=dict)
    blocked: dict[str, float] = field(default_factory=dict)
    hits: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, str]] = field(default_factory=list)
    answers: list[Callable[[str], Response | None]] = field(default_factory=list)

    def restart(self) -> None:
        """All that is in memory is gone."""
        for kept in (self.trusted, self.paused, self.blocked, self.hits):
            kept.clear()

    def allows(self, ip: str, path: str, user: str = "anonymous") -> bool:
        """Count one request; past the limit it is logged in both forms and the address pauses for five minutes."""
        now, door = time.monotonic(), path.startswith(DOOR)
        if ip in self.trusted and not (door and self.keeps_login_limits):
            return True
        if self.blocked.get(ip, 0) > now:
            return False
        key = (ip, "door" if door else path)
        limit = LOGIN if door else CONTENT if path.startswith("/api/content") else OTHER
        self.hits[key] = [at for at in self.hits[key] if at > now - MINUTE] + [now]
        count = len(self.hits[key])
        if count <= limit and self.paused.get(key, 0) <= now:
            return True
        self.paused.setdefault(key, now + PAUSE)
        details = {"ip": ip, "endpoint": path, "count": count, "limit": limit}
        self.app.log("warn", "rate_limit_exceeded", userId=user, **details)
        self.app.audit("warning", "rate_limit_exceeded", **details)
        return False

    def block(self, ip: str, reason: str) -> None:
        """An hour's block."""
        self.blocked[ip] = time.monotonic() + HOUR
        self.app.audit("warning", "ip_blocked", ip=ip, reason=reason)


_limiters: WeakKeyDictionary[App, Limiter] = WeakKeyDictionary()


def limiter(app: App) -> Limiter:
    """The limits of one app."""
    return _limiters[app]


def limit_routes(app: App) -> list[Route]:
    """The admin endpoints, and the pages that are limited."""
    one = _limiters[app] = Limiter(app)

    async def page(request: Request) -> Response:
        ip = request.headers.get("x-forwarded-for", "").split(",")[0].strip()  # as the real one: anybody can write it
        allowed = one.allows(ip, request.url.path)
        return JSONResponse({"ok": allowed}, 200 if allowed else 429)

    async def trusted(request: Request) -> Response:
        return await _admin(one, request, lambda ip: _trust(one, request.method, ip))

    async def unblock(request: Request) -> Response:
        return await _admin(one, request, lambda ip: _unblock(one, ip))

    return [
        Route("/api/content", page, methods=["GET", "POST"]),
        Route("/api/auth/signin", page, methods=["POST"]),
        Route("/api/admin/trusted-ips", trusted, methods=["GET", "POST", "DELETE"]),
        Route("/api/admin/unblock", unblock, methods=["POST"]),
    ]


async def _admin(one: Limiter, request: Request, act: Callable[[str], Response]) -> Response:
    one.asked.append((request.method, request.url.path))
    for answer in list(one.answers):
        if (bad := answer(f"{request.method} {request.url.path}")) is not None:
            return bad
    if request.headers.get("x-admin-secret") != ADMIN_SECRET:
        return JSONResponse({"error": "unauthorized"}, 401)
    if request.method == "GET":
        return JSONResponse({"trustedIPs": sorted(one.trusted)})
    try:
        ip = str(json.loads(await request.body())["ip"])
    except (ValueError, KeyError, TypeError):
        return JSONResponse({"error": "ip required"}, 400)
    return act(ip)


def _trust(one: Limiter, method: str, ip: str) -> Response:
    if method == "POST":
        one.trusted.add(ip)
        one.app.audit("info", "trusted_ip_added", ip=ip)
        return JSONResponse({"success": True, "ip": ip})
    if ip not in one.trusted:
        return JSONResponse({"error": "not trusted"}, 404)
    one.trusted.discard(ip)
    one.app.audit("info", "trusted_ip_removed", ip=ip)
    return JSONResponse({"success": True})


def _unblock(one: Limiter, ip: str) -> Response:
    if one.blocked.pop(ip, None) is None:
        return JSONResponse({"error": "not blocked"}, 404)
    one.app.audit("info", "ip_unblocked", ip=ip)
    return JSONResponse({"success": True})
