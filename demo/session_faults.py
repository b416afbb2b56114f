"""Accounts a passed lock still holds and sessions long expired; beside an attack that goes on, and what looks alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from demo.app import App
from demo.population import user_id
from demo.postgres import Postgres
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack

FORGETFUL = range(1_000, 1_006)
ATTACKED = 2_000
ADDRESSES = 12
EXPIRED = 1_200
BY_HAND = "2099-01-01"

Row = tuple[int, str | None]
"""An account's failed logins, and until when it is locked."""


def at(**ago: float) -> str:
    """So long ago, in UTC as Prisma writes it; negative is still to come."""
    moment = datetime.now(UTC) - timedelta(**ago)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")


def set_accounts(postgres: Postgres, rows: Mapping[int, Row]) -> None:
    """Give these accounts so many failed logins and such a lock."""
    with psycopg.connect(postgres.url(), autocommit=True) as owner:
        for i, (failed, locked) in rows.items():
            owner.execute(
                'UPDATE "User" SET "failedLoginAttempts" = %s, "lockedUntil" = %s WHERE id = %s',
                [failed, locked, user_id(i)],
            )


def account(postgres: Postgres, i: int) -> tuple[int, str | None]:
    """An account's failed logins and its lock, as they are."""
    with psycopg.connect(postgres.url()) as owner:
        row = owner.execute(
            'SELECT "failedLoginAttempts", "lockedUntil"::text FROM "User" WHERE id = %s', [user_id(i)]
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def add_sessions(postgres: Postgres, name: str, rows: int, **ago: float) -> None:
    """``rows`` sessions that expired so long ago, each a second before the other."""
    with psycopg.connect(postgres.url(), autocommit=True) as owner:
        owner.execute(
            'INSERT INTO "Session" ("id", "sessionToken", "userId", "expires") '
            "SELECT %(name)s || i, %(name)s || '-token-' || i, %(user)s, %(at)s::timestamp - make_interval(secs => i) "
            "FROM generate_series(1, %(rows)s) i",
            {"name": name, "rows": rows, "user": user_id(1), "at": at(**ago)},
        )


def sessions(postgres: Postgres, name: str) -> int:
    """How many sessions of that name there are."""
    with psycopg.connect(postgres.url()) as owner:
        row = owner.execute('SELECT count(*) FROM "Session" WHERE id LIKE %s', [f"{name}%"]).fetchone()
    return int(row[0]) if row else 0


def fail_login(app: App, i: int, ip: str, minutes_ago: float = 0, **more: Any) -> None:
    """One wrong password, logged as the app does: in both forms where it happens now."""
    said = {"email": f"person{i}@example.com", "ip": ip, **more}
    app.log("warn", "login_failed", **said, time=at(minutes=minutes_ago) + "Z")
    if not minutes_ago:
        app.audit("warning", "login_failed", **said)


def slips(app: App, i: int, minutes_ago: float, times: int = 5) -> None:
    """Somebody at home who does not remember the password."""
    for slip in range(times):
        fail_login(app, i, f"198.51.100.{i % 250}", minutes_ago - slip / 10)


def attack(app: App, i: int, addresses: int = ADDRESSES, times: int = 3) -> None:
    """Many addresses try one account, right now."""
    for _ in range(times):
        for address in range(addresses):
            fail_login(app, i, f"203.0.113.{address + 1}")


LOOKALIKES: Mapping[str, tuple[int, float]] = {
    "a lock that still runs": (6, -10),
    "a lock an hour ahead, by a clock that is wrong": (5, -60),
    "a wrong password without a lock": (3, 0),
}
"""Failed logins, and how many minutes ago the lock ended; 0 is no lock."""


def break_sessions(stack: Stack) -> Scene:
    """Six people locked out for longer than they should be, one account under attack, 1,200 dead sessions."""
    postgres, app = stack.postgres, stack.app
    for i in FORGETFUL:
        slips(app, i, minutes_ago=40 + i % 7)
    quiet: dict[str, tuple[int, Row]] = {
        "an account under attack right now, its lock just passed": (ATTACKED, (8, at(minutes=3))),
        "an account a person locked until 2099": (ATTACKED + 1, (0, BY_HAND)),
        **{
            name: (ATTACKED + 2 + n, (failed, at(minutes=ago) if ago else None))
            for n, (name, (failed, ago)) in enumerate(LOOKALIKES.items())
        },
    }
    set_accounts(postgres, {i: (5, at(minutes=20)) for i in FORGETFUL} | dict(quiet.values()))
    before = {i: account(postgres, i) for i, _row in quiet.values()}
    attack(app, ATTACKED)
    add_sessions(postgres, "dead", EXPIRED, days=30)
    add_sessions(postgres, "yesterday", 20, days=1)
    add_sessions(postgres, "fresh", 20, days=-1)

    def untouched(i: int) -> Lookalike:
        (name,) = (name for name, (number, _row) in quiet.items() if number == i)
        return Lookalike(name, lambda: account(postgres, i) == before[i])

    return Scene(
        faults=[
            Fault(
                f"{len(FORGETFUL)} people locked out though their lock has passed",
                "broken-sessions",
                ("reset_lockout",),
                lambda: all(account(postgres, i) == (0, None) for i in FORGETFUL),
            ),
            Fault(
                f"{EXPIRED:,} sessions that expired long ago",
                "broken-sessions",
                ("purge_sessions",),
                lambda: sessions(postgres, "dead") == 0,
            ),
        ],
        lookalikes=[
            *(untouched(i) for i in before),
            Lookalike(
                "sessions that run, or expired yesterday",
                lambda: sessions(postgres, "fresh") + sessions(postgres, "yesterday") == 40,
            ),
        ],
    )
