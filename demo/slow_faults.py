"""A database made slow for real: a large table without the index its busiest statement needs, and its look-alikes."""

from __future__ import annotations

import contextlib
import threading
import time
from statistics import median

import psycopg

from demo.population import USERS
from demo.postgres import Postgres
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack

TRIES = 40
"""Login attempts of each user."""
TABLE = "LoginAttempt"
STATEMENT = 'SELECT "id", "ok" FROM "LoginAttempt" WHERE "userId" = %s ORDER BY "id" DESC LIMIT 5'
REPORT = 'SELECT "ok", count(*), max("createdAt") FROM "LoginAttempt" GROUP BY "ok"'


def user(call: int, users: int = USERS) -> str:
    """Whom the client asks for in its ``call``-th statement."""
    return f"user_{call * 7919 % users:08d}"


class Client:
    """The app, running one statement over and over with another user each time."""

    def __init__(
        self, postgres: Postgres, statement: str = STATEMENT, *, pause: float = 0.05, now_and_then: str = ""
    ) -> None:
        self.statement, self.pause, self.now_and_then = statement, pause, now_and_then
        self.took_ms: list[float] = []
        self._app = psycopg.connect(postgres.url(user="app"), autocommit=True, application_name="web")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(psycopg.OperationalError), self._app:  # the server may go first
            while not self._over.wait(self.pause):
                began = time.monotonic()
                self._app.execute(self.statement, [user(len(self.took_ms))])
                self.took_ms.append((time.monotonic() - began) * 1000)
                if self.now_and_then and len(self.took_ms) % 20 == 0:
                    self._app.execute(self.now_and_then)

    def latest_ms(self) -> float:
        """The median of its last five statements."""
        return median(self.took_ms[-5:]) if self.took_ms else 0.0

    def close(self) -> None:
        """Stop and give the connection back."""
        self._over.set()
        self._thread.join(10)


def large_table(postgres: Postgres, rows: int = TRIES * USERS) -> None:
    """The app's table of login attempts, forty to a user, made by the server itself in seconds."""
    with psycopg.connect(postgres.url(), autocommit=True) as owner:
        owner.execute("SET ROLE app")
        owner.execute(
            'CREATE TABLE "LoginAttempt" ("id" BIGINT NOT NULL, "userId" TEXT NOT NULL, "ok" BOOLEAN NOT NULL, '
            '"createdAt" TIMESTAMP(3) NOT NULL)'
        )
        owner.execute(
            """INSERT INTO "LoginAttempt" SELECT i, 'user_' || lpad((i::bigint * 7919 %% 50000)::text, 8, '0'),
               i %% 10 > 0, timestamp '2025-01-01' + i * interval '1 second' FROM generate_series(1, %s) i""",
            [rows],
        )
    # Else autovacuum would be at it when the runbook comes. In a session of its own: one's inserts are counted at the
    # latest when it ends, and those that are counted after a VACUUM call for the next.
    with psycopg.connect(postgres.url(user="app"), autocommit=True) as owner:
        owner.execute('VACUUM (ANALYZE) "LoginAttempt"')


def invalid_index(postgres: Postgres, name: str, table: str, column: str) -> None:
    """What a CREATE INDEX CONCURRENTLY leaves that gave up: here waiting for a writer that does not end."""
    with psycopg.connect(postgres.url()) as writer, psycopg.connect(postgres.url(), autocommit=True) as owner:
        writer.execute(f'LOCK TABLE "{table}" IN ROW EXCLUSIVE MODE')
        owner.execute("SET ROLE app")
        owner.execute("SET lock_timeout = '50ms'")
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            owner.execute(f'CREATE INDEX CONCURRENTLY "{name}" ON "{table}" ("{column}")')
    assert index(postgres, name) is False, f"{name} should be there and invalid"


def index(postgres: Postgres, name: str) -> bool | None:
    """Whether the index is valid; None where there is none."""
    with psycopg.connect(postgres.url(), autocommit=True) as watcher:
        row = watcher.execute(
            "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s", [name]
        ).fetchone()
    return None if row is None else bool(row[0])


def indexes(postgres: Postgres, table: str) -> set[str]:
    """The names of a table's indexes."""
    with psycopg.connect(postgres.url(), autocommit=True) as watcher:
        rows = watcher.execute("SELECT indexname FROM pg_indexes WHERE tablename = %s", [table]).fetchall()
    return {name for (name,) in rows}


def break_slow(stack: Stack) -> Scene:
    """A statement that reads all rows for forty of them, what a failed build of a runbook left, and their doubles."""
    postgres, made = stack.postgres, f"runbook_{TABLE}_userId"
    ours, theirs = "runbook_SchoolCode_schoolId", "SchoolCode_code_idx"
    rows = TRIES * stack.users
    postgres.lend_owner()  # the only scene that needs it: every other drill is done without
    large_table(postgres, rows)
    invalid_index(postgres, ours, "SchoolCode", "schoolId")
    invalid_index(postgres, theirs, "SchoolCode", "code")
    client = Client(postgres, now_and_then=REPORT)
    return Scene(
        faults=[
            Fault(
                f"a statement that reads {rows:,} rows for {TRIES}",
                "slow-queries",
                ("create_index",),
                lambda: index(postgres, made) is True and client.latest_ms() < 20,
            ),
            Fault(
                "an INVALID index a failed build left",
                "slow-queries",
                ("drop_invalid_index",),
                lambda: index(postgres, ours) is None,
            ),
        ],
        lookalikes=[
            Lookalike("somebody else's INVALID index", lambda: index(postgres, theirs) is False),
            Lookalike("a slow report, now and then", lambda: indexes(postgres, TABLE) <= {made}),
        ],
        close=client.close,
    )
