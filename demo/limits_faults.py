"""One office and one phone company behind one address each, blocked; and those that only look like them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from demo.app import App
from demo.limits_app import CONTENT, Limiter, limiter
from demo.population import user_id
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack

RUNBOOK = "rate-limited-users"

# Global addresses that are nobody's: 192.88.99.0/24 was the anycast of 6to4 relays, given up in 2015.
OFFICE, HOUR_OFFICE, STUFFER, SCRAPER, TOR = (f"192.88.99.{i}" for i in (10, 11, 20, 21, 22))
HOMES = tuple(f"192.88.99.{i}" for i in range(100, 130))


def sign_in(app: App, ip: str, users: range, minutes_ago: float = 30) -> None:
    """These people signed in from there."""
    for i in users:
        app.log("info", "login_success", ip=ip, userId=user_id(i), time=ago(minutes_ago))


def fail(app: App, ip: str, accounts: range, minutes_ago: float = 30) -> None:
    """Somebody tried these accounts from there, one every two minutes."""
    for at, i in enumerate(accounts):
        said = {"ip": ip, "email": f"person{i}@example.com", "status": 401}
        app.log("warn", "login_failed", **said, time=ago(minutes_ago + 2 * at))


def ago(minutes: float) -> str:
    """The time of a line that was logged so long ago."""
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reach_limit(limits: Limiter, ip: str, users: range, path: str = "/api/content") -> None:
    """So many pages within a minute that the limit is reached; each line names who was signed in."""
    for i in range(CONTENT + max(10, 2 * len(users))):
        limits.allows(ip, path, user_id(users[i % len(users)]) if users else "anonymous")


def break_limits(stack: Stack) -> Scene:
    """Two offices blocked by mistake; three abusers blocked with good reason, one of them for an hour."""
    app, limits = stack.app, limiter(stack.app)
    limits.keeps_login_limits = True
    for i, home in enumerate(HOMES):
        sign_in(app, home, range(1_000 + i, 1_001 + i))
    sign_in(app, OFFICE, range(10, 18))
    reach_limit(limits, OFFICE, range(10, 18))
    sign_in(app, HOUR_OFFICE, range(30, 37))
    limits.block(HOUR_OFFICE, "too many requests")
    for _ in range(2):
        fail(app, STUFFER, range(200, 209))
    limits.block(STUFFER, "too many failures")
    for number in range(40):
        app.log("warn", "not_found", ip=SCRAPER, path=f"/api/users/{number}", status=404)
    reach_limit(limits, SCRAPER, range(0))
    reach_limit(limits, TOR, range(0), "/api/career")

    def alone(ip: str) -> bool:
        return ip not in limits.trusted and not limits.allows(ip, "/api/career" if ip == TOR else "/api/content")

    faults = [
        Fault("an office at its limit", RUNBOOK, ("trust_ip",), lambda: limits.allows(OFFICE, "/api/content")),
        Fault("an office blocked for an hour", RUNBOOK, ("unblock_ip",), lambda: HOUR_OFFICE not in limits.blocked),
    ]
    named = {"one address that tries many accounts": STUFFER, "a scraper": SCRAPER, "many nobody knows": TOR}
    lookalikes = [Lookalike(name, lambda ip=ip: alone(ip)) for name, ip in named.items()]  # type: ignore[misc]
    return Scene(faults, lookalikes)
