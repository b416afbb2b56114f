"""All that is wrong in the demo, and all that only looks so: each knows by itself whether it is mended."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psycopg

from demo import database_faults as database
from demo import population, stripe_faults
from demo.alert_faults import break_alerts, break_disk
from demo.database_faults import Sessions
from demo.generation_faults import break_generation
from demo.limits_faults import break_limits
from demo.mail_faults import break_mail
from demo.memory_faults import break_memory
from demo.postgres import Postgres
from demo.scene import Fault, Lookalike, Scene
from demo.session_faults import break_sessions
from demo.site_faults import break_site
from demo.slow_faults import break_slow
from demo.stack import Stack

WRITERS = 14
RIPE_SECONDS = 5.5
"""A little more than ``idle_seconds`` in demo/runbook.toml."""


SCENES: Mapping[str, Callable[[Stack], Scene]] = {
    "alert-watch": break_alerts,
    "failed-generations": break_generation,
    "undelivered-email": break_mail,
    "memory-pressure": break_memory,
    "broken-sessions": break_sessions,
    "site-down": break_site,
    "rate-limited-users": break_limits,
    "slow-queries": break_slow,
    "full-disk": break_disk,  # last, when the others have written what they need
}
"""What goes wrong for each runbook, and what only looks so; the first two runbooks' scenes are below."""


class Broken:
    """All faults and look-alikes of one stack, or those of one runbook (``only``), injected on construction."""

    def __init__(
        self,
        stack: Stack,
        *,
        only: str = "",
        with_payment: bool = False,
        drifted: int = 200,
        undelivered: int = 20,
    ) -> None:
        self.postgres, self.store = stack.postgres, stack.stripe.store
        self._sessions: list[Sessions] = []
        self.faults: list[Fault] = []
        self.left_alone: dict[str, list[Lookalike]] = {}  # by runbook
        # The scenes first: once the pool is full, nobody gets a connection any more, the scenes neither.
        self._scenes: list[Scene] = []
        for name, break_it in SCENES.items():
            if only in {"", name}:
                self._scenes.append(scene := break_it(stack))
                self.faults += scene.faults
                self.left_alone[name] = [*scene.lookalikes]
        if only in {"", "failed-payments"}:
            self.left_alone["failed-payments"] = self._quiet_money()
            self.faults += self._money(drifted, undelivered)
        if only in {"", "pool-exhaustion"}:
            self.left_alone["pool-exhaustion"] = self._quiet_sessions()
            self.faults += self._pool()
        if with_payment:
            stripe_faults.retryable_invoice(self.store)

    @property
    def lookalikes(self) -> list[Lookalike]:
        """All that must be left alone."""
        return [one for these in self.left_alone.values() for one in these]

    def ripen(self) -> None:
        """Return when the forgotten transactions are as old as the demo's profile calls too old."""
        if any(one.name == "idle-in-transaction writers" for one in self._sessions):
            database.wait_until(lambda: database.youngest_idle(self.postgres) > RIPE_SECONDS, "the writers to be old")

    def close(self) -> None:
        """Give every connection back."""
        for scene in self._scenes:
            scene.close()
        for sessions in self._sessions:
            sessions.close()

    def _untouched(self, sessions: Sessions) -> Lookalike:
        return Lookalike(sessions.name, lambda: sessions.untouched)

    def _uncharged(self, bill: str) -> Lookalike:
        return Lookalike(f"invoice {bill[3:].replace('_', ' ')}", lambda: bill not in self.store.tries)

    def _keep(self, sessions: Sessions) -> Sessions:
        self._sessions.append(sessions)
        return sessions

    def _quiet_sessions(self) -> list[Lookalike]:
        makers = (
            database.autovacuum,
            database.backup,
            database.migration,
            database.superuser,
            database.replication,
            database.create_index,
        )
        kept = [self._keep(make(self.postgres)) for make in makers]
        return [self._untouched(one) for one in kept]

    def _quiet_money(self) -> list[Lookalike]:
        _insert_odd_rows(self.postgres)
        named = [self._uncharged(bill) for bill in stripe_faults.lookalike_invoices(self.store)]
        return [*named, Lookalike("rows with no Stripe object", lambda: _odd_rows(self.postgres) == ODD)]

    def _money(self, rows: int, events: int) -> list[Fault]:
        stripe_faults.disable_endpoints(self.store)
        missed = stripe_faults.undelivered_events(self.store, events)
        drifted = stripe_faults.drift(self.store, rows)
        store, postgres = self.store, self.postgres

        def enabled() -> bool:
            return all(one["status"] == "enabled" for one in store.endpoints.values())

        def delivered() -> bool:
            return not any(one["pending_webhooks"] for one in store.events.values())

        return [
            Fault("a disabled webhook endpoint", "failed-payments", ("enable_endpoint",), enabled),
            Fault(f"{len(missed.expected)} undelivered events", "failed-payments", ("resend_event",), delivered),
            Fault(
                f"{len(drifted.expected)} drifted subscriptions of {store.count:,}",
                "failed-payments",
                ("copy_status",),
                lambda: statuses(postgres, drifted.expected | missed.expected) == drifted.expected | missed.expected,
            ),
        ]

    def _pool(self) -> list[Fault]:
        writers = self._keep(database.idle_writers(self.postgres, WRITERS))
        passing = [one for one in self._sessions if one.name in {"a backup", "a migration"}]
        self._keep(database.let_pass(passing, writers))
        self._keep(database.blocked_app(self.postgres, WRITERS, WRITERS))
        self._keep(database.fill_slots(self.postgres))
        quiet = 2  # the second migration and the index build wait on purpose, and go on waiting
        return [
            Fault(
                f"{WRITERS} idle-in-transaction writers block the app",
                "pool-exhaustion",
                ("end_session",),
                lambda: writers.alive() == 0 and database.waiting(self.postgres) <= quiet,
            ),
            Fault(
                "every ordinary connection slot taken",
                "pool-exhaustion",
                ("end_session",),
                lambda: _connects(self.postgres),
            ),
        ]


ODD = [("odd_dev", "dev_cus_1", None, "pending"), ("odd_gone", "cus_gone", "sub_gone", "active")]


def _insert_odd_rows(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url(user="app"), autocommit=True) as connection:
        for row in ODD:
            connection.execute(
                'INSERT INTO "Subscription" ("id", "stripeCustomerId", "stripeSubscriptionId", "status", "createdAt") '
                "VALUES (%s, %s, %s, %s, '2025-01-01')",
                row,
            )


def _odd_rows(postgres: Postgres) -> list[tuple[str, str, str | None, str]]:
    with psycopg.connect(postgres.url()) as connection:
        return connection.execute(
            'SELECT "id", "stripeCustomerId", "stripeSubscriptionId", "status" FROM "Subscription" '
            "WHERE \"id\" LIKE 'odd%' ORDER BY 1"
        ).fetchall()


def statuses(postgres: Postgres, of: dict[int, str]) -> dict[int, str]:
    """What the app's table says of these subscriptions."""
    with psycopg.connect(postgres.url()) as connection:
        rows = connection.execute(
            'SELECT "id", "status" FROM "Subscription" WHERE "id" = ANY(%s)', [[population.row_id(i) for i in of]]
        ).fetchall()
    return {int(row_id.removeprefix("row_")): status for row_id, status in rows}


def _connects(postgres: Postgres) -> bool:
    try:
        psycopg.connect(postgres.url(user="app"), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
