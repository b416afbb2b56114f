"""The reading of a connection pool: who holds which slot, who waits for whom, and what follows from it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import floor
from typing import Literal, NamedTuple

from runbook.model import Fix, Frozen, Json

SMALL = 5
"""A bound of fewer connections than this is reached on any working day and says nothing."""

GONE = "cannot be undone: its transaction is rolled back, the app connects anew"
UNSENT = "cannot be undone: the app sees its query fail"

HIDDEN = "hidden from this role"
"""Why a session is spared of which we may not read what it does."""


class Bounds(NamedTuple):
    """From where on something is sick: a share of the pool, and seconds."""

    full_at: float
    idle_seconds: int
    active_seconds: int
    wait_seconds: int


class Limit(Frozen):
    """One bound on connections (``server``, one ``role`` or one ``database``) and how much of it is taken."""

    kind: Literal["server", "role", "database"]
    name: str
    used: int
    of: int

    @property
    def subject(self) -> str:
        """Its name in findings: ``pool server``, ``pool role app``."""
        return f"pool {self.kind} {self.name}".strip()

    @property
    def share(self) -> float:
        return self.used / self.of if self.of > 0 else 1.0

    def counts(self, session: Session) -> bool:
        """True when ``session`` takes one of these slots."""
        if not session.takes_slot:
            return False
        return self.kind == "server" or self.name == (session.role if self.kind == "role" else session.database)


class Session(Frozen):
    """One row of ``pg_stat_activity``.

    Times are text in UTC with microseconds, as PostgreSQL prints them, so that they compare exactly after a trip
    through JSON. ``spared`` is why this session must not be ended whatever it does; None where nothing speaks for it.
    """

    pid: int
    role: str
    database: str
    application: str
    state: str | None
    backend_start: str | None
    xact_start: str | None
    query_start: str | None
    state_seconds: float
    transaction_seconds: float
    query_seconds: float
    wait_seconds: float
    blocked_by: Sequence[int]
    query: str
    takes_slot: bool
    may_signal: bool
    spared: str | None

    @property
    def expect(self) -> dict[str, Json]:
        """What must still be so when it is ended."""
        return {
            "pid": self.pid,
            "backend_start": self.backend_start,
            "xact_start": self.xact_start,
            "query_start": self.query_start,
            "state": self.state,
        }

    @property
    def is_the_apps(self) -> bool:
        """True for an ordinary client, whose wait is somebody's request; upkeep waits patiently and on purpose."""
        return self.spared is None or self.spared == HIDDEN

    @property
    def idle_in_transaction(self) -> bool:
        """True also for a transaction that failed and was never rolled back."""
        return (self.state or "").startswith("idle in transaction")


class Prepared(Frozen):
    """A prepared transaction: it holds locks without a session, and only a person may decide its end."""

    gid: str
    owner: str
    seconds: float


class IdleTimeout(Frozen):
    """A role's ``idle_in_transaction_session_timeout``: as set for this very database, and whether any holds."""

    here: str | None
    holds: bool


class Waiting(Frozen):
    """One pool of PgBouncer with clients in its queue."""

    database: str
    user: str
    clients: int
    seconds: float


class Pool(Frozen):
    """A snapshot of one PostgreSQL server as seen from one database."""

    database: str
    role: str
    limits: Sequence[Limit]
    sessions: Sequence[Session]
    prepared: Sequence[Prepared] = ()
    timeouts: Mapping[str, IdleTimeout] = {}
    waiting: Sequence[Waiting] = ()
    refusals: Mapping[str, int] = {}

    @property
    def server(self) -> Limit:
        return next(limit for limit in self.limits if limit.kind == "server")

    def session(self, pid: int) -> Session | None:
        """The session with this pid, if it is there."""
        return next((session for session in self.sessions if session.pid == pid), None)

    def full(self, at: Bounds) -> list[Limit]:
        """The bounds on connections that are reached."""
        return [limit for limit in self.limits if limit.of >= SMALL and limit.share >= at.full_at]

    def forgotten(self, at: Bounds) -> list[Session]:
        """Sessions idle in a transaction for too long, the oldest transaction first."""
        old = (one for one in self.sessions if one.idle_in_transaction and one.state_seconds >= at.idle_seconds)
        return sorted(old, key=lambda one: -one.transaction_seconds)

    def endless(self, at: Bounds) -> list[Session]:
        """Queries that run for too long and wait for nobody, the oldest first."""
        long = (one for one in self.sessions if one.state == "active" and one.query_seconds >= at.active_seconds)
        return sorted((one for one in long if not one.blocked_by), key=lambda one: -one.query_seconds)

    def stuck(self, at: Bounds) -> dict[int, list[Session]]:
        """Lock trees in which the app has waited too long; a root that idles holds an advisory lock on purpose."""
        late = {
            pid: behind
            for pid, behind in self.trees().items()
            if any(one.is_the_apps and one.wait_seconds >= at.wait_seconds for one in behind)
        }
        return {
            pid: behind for pid, behind in late.items() if (one := self.session(pid)) is None or one.state != "idle"
        }

    def by_application(self, limit: Limit) -> dict[str, int]:
        """How many of a limit's slots each application holds, most first; a nameless one goes by its role."""
        held = Counter(one.application or f"role {one.role}" for one in self.sessions if limit.counts(one))
        return dict(held.most_common())

    def trees(self) -> dict[int, list[Session]]:
        """Lock trees: each root's pid (0 = a prepared transaction) and everybody who waits for it, directly or not."""
        waiters: dict[int, list[Session]] = {}
        for session in self.sessions:
            for pid in set(session.blocked_by):
                waiters.setdefault(pid, []).append(session)
        waits = {session.pid for session in self.sessions if session.blocked_by}
        return {pid: _all_behind(pid, waiters) for pid in sorted(waiters) if pid not in waits}


class Room:
    """How many connections each bound needs back until no more than ``share`` of it is taken."""

    def __init__(self, limits: Sequence[Limit], share: float) -> None:
        self.need = [(limit, limit.used - floor(share * limit.of)) for limit in limits]

    def take(self, one: Session) -> bool:
        """Count ``one`` as given back; False when no bound it belongs to needs it any more."""
        needed = any(need > 0 and limit.counts(one) for limit, need in self.need)
        if needed:
            self.need = [(limit, need - limit.counts(one)) for limit, need in self.need]
        return needed


def longest(waiting: Sequence[Session]) -> float:
    """How long the first of them has waited for its lock, in seconds."""
    return max((one.wait_seconds for one in waiting), default=0.0)


def _all_behind(root: int, waiters: Mapping[int, Sequence[Session]]) -> list[Session]:
    found: dict[int, Session] = {}
    ahead = [root]
    while ahead:
        for session in waiters.get(ahead.pop(), ()):
            if session.pid not in found:
                found[session.pid] = session
                ahead.append(session.pid)
    return list(found.values())


def insist(planned: Sequence[Fix], tried: Sequence[Fix]) -> list[Fix]:
    """The plan with an end in place of each cancel that was tried on this very query and seen not to stop it."""
    vain = [_query(fix) for fix in tried]
    harder = {"action": "end_session", "undo": GONE}
    return [
        fix.model_copy(update=harder | {"why": f"{fix.why}; a cancel did not stop it"})
        if fix.action == "cancel_query" and _query(fix) in vain
        else fix
        for fix in planned
    ]


def still(planned: Sequence[Fix]) -> list[Fix]:
    """The plan, and each act that needs no waiting sessions any more also as it was planned while it needed them.

    Who was sick because others wait, and has turned old meanwhile, is ended under the stricter condition of the two.
    """
    strict = [
        fix.model_copy(update={"expect": {**fix.expect, "blocks": True}}) for fix in planned if fix.expect.get("pid")
    ]
    return [*planned, *strict]


def _query(fix: Fix) -> dict[str, Json]:
    return {name: value for name, value in fix.expect.items() if name != "blocks"}
