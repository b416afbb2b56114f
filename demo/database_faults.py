"""Real faults and real look-alikes on a real PostgreSQL: each opens backends of its own and knows whether they live."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import psycopg

from demo.postgres import Postgres

PRISMA_LOCK = 72707369
FULL = ("remaining connection slots are reserved", "too many clients", "too many connections")


def is_full(error: psycopg.OperationalError) -> bool:
    """Whether the server refused because its slots are taken."""
    return any(text in str(error) for text in FULL)


@dataclass
class Sessions:
    """Backends somebody opened: ``alive`` says which of them are still there, by pid and start."""

    name: str
    postgres: Postgres
    connections: list[psycopg.Connection] = field(default_factory=list)
    known: list[tuple[int, str]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def remember(self, *pids: int) -> None:
        """Note the backends that are this fault's."""
        wanted = list(pids) or [connection.info.backend_pid for connection in self.connections]
        with psycopg.connect(self.postgres.url(), autocommit=True) as watcher:
            rows = watcher.execute(
                "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = ANY(%s)", [wanted]
            ).fetchall()
        self.known = [(pid, start) for pid, start in rows]

    def alive(self) -> int:
        """How many of the remembered backends are still the same."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as watcher:
            rows = watcher.execute("SELECT pid, backend_start::text FROM pg_stat_activity").fetchall()
        return len(set(self.known) & {(pid, start) for pid, start in rows})

    @property
    def untouched(self) -> bool:
        """All of them are still there."""
        return bool(self.known) and self.alive() == len(self.known)

    def close(self) -> None:
        """Give every connection back."""
        for connection in self.connections:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=1)
            with contextlib.suppress(psycopg.Error):
                connection.close()
        for thread in self.threads:
            thread.join(5)


def _connect(postgres: Postgres, name: str, user: str = "app", *, autocommit: bool = False) -> psycopg.Connection:
    return psycopg.connect(postgres.url(user=user), application_name=name, autocommit=autocommit)


def idle_writers(postgres: Postgres, n: int) -> Sessions:
    """``n`` sessions that changed a row each and forgot to commit: idle in transaction, holding their locks."""
    made = Sessions("idle-in-transaction writers", postgres)
    for i in range(n):
        connection = _connect(postgres, "app-worker")
        connection.execute('UPDATE "Class" SET "color" = %s WHERE "id" = %s', ("red", f"class_{i:08d}"))
        made.connections.append(connection)
    made.remember()
    return made


def blocked_app(postgres: Postgres, n: int, writers: int) -> Sessions:
    """``n`` requests of the app that wait for the rows ``idle_writers`` hold; they go on once those are gone."""
    made = Sessions("requests that wait for a lock", postgres)

    def work(connection: psycopg.Connection, row: int) -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute('UPDATE "Class" SET "color" = %s WHERE "id" = %s', ("blue", f"class_{row:08d}"))

    for i in range(n):
        connection = _connect(postgres, "app-request", autocommit=True)
        made.connections.append(connection)
        thread = threading.Thread(target=work, args=(connection, i % writers), daemon=True)
        thread.start()
        made.threads.append(thread)
    made.remember()
    wait_until(lambda: waiting(postgres) >= n, "the app to block")
    return made


def waiting(postgres: Postgres) -> int:
    """How many backends wait for a lock."""
    with psycopg.connect(postgres.url(), autocommit=True) as watcher:
        row = watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0")
        return int((row.fetchone() or (0,))[0])


def waited(postgres: Postgres) -> float:
    """How many seconds the longest wait for a lock has lasted."""
    with psycopg.connect(postgres.url(), autocommit=True) as watcher:
        row = watcher.execute(
            "SELECT coalesce(max(extract(epoch FROM now() - query_start)), 0) FROM pg_stat_activity "
            "WHERE cardinality(pg_blocking_pids(pid)) > 0"
        ).fetchone()
    return float((row or (0,))[0])


def youngest_idle(postgres: Postgres) -> float:
    """For how many seconds the last to come has been idle in a transaction, as the app."""
    with psycopg.connect(postgres.url(), autocommit=True) as watcher:
        row = watcher.execute(
            "SELECT coalesce(min(extract(epoch FROM now() - state_change)), 0) FROM pg_stat_activity "
            "WHERE state LIKE 'idle in transaction%' AND usename = 'app'"
        ).fetchone()
    return float((row or (0,))[0])


def fill_slots(postgres: Postgres) -> Sessions:
    """Every ordinary slot that is left, held by plain idle sessions of the app."""
    made = Sessions("plain idle sessions", postgres)
    while True:
        try:
            made.connections.append(_connect(postgres, "app", autocommit=True))
        except psycopg.OperationalError as error:
            if not is_full(error):
                raise
            break
    made.remember()
    return made


def backup(postgres: Postgres) -> Sessions:
    """What pg_dump looks like between two tables: an old idle snapshot with a lock on what it dumps."""
    connection = _connect(postgres, "pg_dump")
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    connection.execute('LOCK TABLE "User" IN ACCESS SHARE MODE')
    return _single("a backup", postgres, connection)


def migration(postgres: Postgres) -> Sessions:
    """Two ``prisma migrate``: one holds the advisory lock idle in transaction, the other waits for it."""
    holder = _connect(postgres, "prisma")
    holder.execute("SELECT pg_advisory_lock(%s)", [PRISMA_LOCK])
    waiter = _connect(postgres, "prisma", autocommit=True)
    made = Sessions("a migration", postgres, [holder, waiter])

    def wait() -> None:
        with contextlib.suppress(psycopg.Error):
            waiter.execute("SELECT pg_advisory_lock(%s)", [PRISMA_LOCK])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    made.threads.append(thread)
    made.remember()
    wait_until(lambda: waiting(postgres) >= 1, "the migration to wait")
    return made


def let_pass(made: Sequence[Sessions], after: Sessions) -> Sessions:
    """End the transactions and locks of ``made`` in the background once ``after`` are gone; their sessions stay.

    A backup and a migration end some day, and until then no index can be built beside them. Watches by a connection of
    its own: one that came anew each time would now and then take the slot that is kept for a runbook.
    """
    watcher = _connect(after.postgres, "demo", user="postgres", autocommit=True)
    query = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY(%s))"
    pids = [pid for pid, _ in after.known]

    def wait() -> None:
        with contextlib.suppress(psycopg.Error):
            wait_until(lambda: watcher.execute(query, [pids]).fetchone() == (True,), "", math.inf)
            for connection in [connection for one in made for connection in one.connections]:
                connection.execute("SELECT pg_advisory_unlock_all()")
                connection.commit()

    threading.Thread(target=wait, daemon=True).start()
    return Sessions("the end of the night", after.postgres, [watcher])


def superuser(postgres: Postgres) -> Sessions:
    """A person with psql and all rights, thinking in the middle of a transaction."""
    connection = _connect(postgres, "psql", user="postgres")
    connection.execute('UPDATE "School" SET "name" = "name"')
    return _single("a superuser's session", postgres, connection)


def replication(postgres: Postgres) -> Sessions:
    """A replication client between two commands."""
    url = urlsplit(postgres.url(user="replicator"))
    target = urlunsplit(url._replace(query="replication=database"))
    return _single("a replication session", postgres, psycopg.connect(target, autocommit=True))


def create_index(postgres: Postgres) -> Sessions:
    """CREATE INDEX CONCURRENTLY, waiting for an older transaction of a superuser to end."""
    old = _connect(postgres, "psql", user="postgres")
    old.execute('UPDATE "BetaTester" SET "status" = "status"')
    builder = _connect(postgres, "app-deploy", autocommit=True)
    made = Sessions("an index being built", postgres, [old, builder])

    def build() -> None:
        with contextlib.suppress(psycopg.Error):
            builder.execute('CREATE INDEX CONCURRENTLY IF NOT EXISTS demo_idx ON "BetaTester" ("status")')

    thread = threading.Thread(target=build, daemon=True)
    thread.start()
    made.threads.append(thread)
    made.remember()
    wait_until(lambda: waiting(postgres) >= 1, "the index build to wait")
    return made


def long_report(postgres: Postgres, seconds: int = 600) -> Sessions:
    """One active statement that runs on and on and blocks nobody."""
    connection = _connect(postgres, "app-report", autocommit=True)
    made = Sessions("a long report", postgres, [connection])

    def run() -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute("SELECT pg_sleep(%s)", [seconds])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    made.threads.append(thread)
    made.remember()
    return made


def autovacuum(postgres: Postgres) -> Sessions:
    """A real autovacuum worker, slowed down so that it is still at work when the runbook looks."""
    made = Sessions("an autovacuum", postgres)
    with psycopg.connect(postgres.url(), autocommit=True) as owner:
        owner.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        owner.execute("SELECT pg_reload_conf()")
        owner.execute(
            "CREATE TABLE demo_churn WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1) "
            "AS SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 40000) i"
        )
        owner.execute("UPDATE demo_churn SET i = i + 1")

    def workers() -> list[int]:
        with psycopg.connect(postgres.url(), autocommit=True) as watcher:
            rows = watcher.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' "
                "AND query LIKE '%demo_churn%'"
            ).fetchall()
        return [pid for (pid,) in rows]

    wait_until(lambda: bool(workers()), "an autovacuum worker")
    made.remember(*workers())
    return made


def _single(name: str, postgres: Postgres, connection: psycopg.Connection) -> Sessions:
    made = Sessions(name, postgres, [connection])
    made.remember()
    return made


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Return once ``true()`` is; raise naming ``what`` when it does not become so."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
