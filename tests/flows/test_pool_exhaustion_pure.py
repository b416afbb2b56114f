"""What counts as sick and what is planned, as tables over made-up pools; nothing is read and nothing is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flows.pool_exhaustion import detect, notices, plan, share
from runbook.model import Risk
from tasks.pool import Bounds, IdleTimeout, Limit, Pool, Prepared, Session, Waiting, insist, still

AT = Bounds(full_at=0.85, idle_seconds=300, active_seconds=300, wait_seconds=15)
IDLE = "idle in transaction"


def session(pid: int, state: str | None = "idle", age: float = 0, **other: Any) -> Session:
    """One session of the app, in ``state`` for ``age`` seconds."""
    fields: dict[str, Any] = {
        "pid": pid,
        "role": "app",
        "database": "shop",
        "application": "web",
        "state": state,
        "backend_start": f"start of {pid}",
        "xact_start": None if state == "idle" else f"transaction of {pid}",
        "query_start": f"query of {pid}",
        "state_seconds": age,
        "transaction_seconds": age,
        "query_seconds": age,
        "wait_seconds": 0,
        "blocked_by": (),
        "query": "select ?",
        "takes_slot": True,
        "may_signal": True,
        "spared": None,
    }
    return Session(**fields | other)


def waiter(pid: int, *behind: int, seconds: float = 60) -> Session:
    return session(pid, "active", seconds, blocked_by=behind, wait_seconds=seconds)


def pool(*sessions: Session, of: int = 100, used: int | None = None, more: Sequence[Limit] = (), **other: Any) -> Pool:
    """A server with ``of`` slots; ``used`` says it is fuller than the sessions listed."""
    taken = len(sessions) if used is None else used
    limits = [Limit(kind="server", name="", used=taken, of=of), *more]
    return Pool(database="shop", role="runbook", limits=limits, sessions=sessions, **other)


def planned(of: Pool) -> list[tuple[str, str]]:
    return [(fix.action, fix.target) for fix in plan(of, AT)]


def ends(*pids: int) -> list[tuple[str, str]]:
    return [("end_session", f"session {pid}") for pid in pids]


@pytest.mark.parametrize(
    ("used", "found"), [(0, []), (84, []), (85, ["pool server"]), (100, ["pool server"]), (103, ["pool server"])]
)
def test_the_pool_is_full_from_its_bound_on(used: int, found: list[str]) -> None:
    assert [one.subject for one in detect(pool(of=100, used=used), AT)] == found


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        (Limit(kind="role", name="app", used=9, of=10), ["pool role app"]),
        (Limit(kind="database", name="shop", used=10, of=10), ["pool database shop"]),
        (Limit(kind="role", name="app", used=8, of=10), []),
        (Limit(kind="role", name="migrator", used=1, of=1), []),
    ],
)
def test_bounds_of_a_role_and_of_a_database_count_too_but_tiny_ones_say_nothing(limit: Limit, found: list[str]) -> None:
    assert [one.subject for one in detect(pool(of=100, used=10, more=[limit]), AT)] == found


@pytest.mark.parametrize(
    ("what", "of"),
    [
        ("nobody is there", pool()),
        ("an old transaction, but room", pool(session(1, IDLE, 9_999))),
        ("a long report, but room", pool(session(1, "active", 9_999))),
        ("a short wait for a lock", pool(session(1, IDLE, 9), waiter(2, 1, seconds=14))),
        (
            "a migration that waits",
            pool(session(1, IDLE, 9_999), waiter(2, 1).model_copy(update={"spared": "a migration"})),
        ),
        ("a leader's advisory lock, held on purpose", pool(session(1, "idle", 9_999), waiter(2, 1, seconds=9_999))),
    ],
)
def test_healthy(what: str, of: Pool) -> None:
    assert detect(of, AT) == [], what
    assert plan(of, AT) == [], what


def test_an_old_transaction_nobody_waits_for_is_told_and_left() -> None:
    told = list(notices(pool(session(1, IDLE, 301), session(2, IDLE, 301, spared="a backup")), AT))
    assert told == ["1 sessions idle in transaction for over 300 s; nobody waits, so they are left"]


def test_a_full_pool_gets_its_oldest_forgotten_transactions_ended_and_no_more_than_it_needs() -> None:
    old = [session(pid, IDLE, 400 + pid) for pid in range(1, 8)]
    of = pool(*old, *[session(pid) for pid in range(8, 11)], of=10)
    # 10 of 10 are taken; well again at 80% of 85% = 6; so four must go.
    assert planned(of) == ends(7, 6, 5, 4)
    assert share(of, plan(of, AT)).value == 0.4


@pytest.mark.parametrize(("age", "count"), [(299, 0), (300, 1)])
def test_a_fresh_idle_transaction_is_nobodys_fault(age: float, count: int) -> None:
    assert len(plan(pool(session(1, IDLE, age), of=10, used=10), AT)) == count


def test_age_is_time_idle_not_time_in_transaction() -> None:
    busy = session(1, IDLE, 9_999, state_seconds=2)
    assert plan(pool(busy, of=10, used=10), AT) == []


@pytest.mark.parametrize("state", [IDLE, "idle in transaction (aborted)"])
def test_both_kinds_of_idle_in_transaction_are_ended(state: str) -> None:
    assert planned(pool(session(1, state, 400), of=10, used=10)) == ends(1)


def test_only_who_holds_a_slot_of_the_full_bound_is_ended() -> None:
    full = Limit(kind="role", name="app", used=10, of=10)
    other = session(1, IDLE, 900, role="jobs")
    assert planned(pool(other, session(2, IDLE, 400), of=100, more=[full])) == ends(2)


def test_the_root_of_a_lock_tree_is_ended_and_nobody_else_in_it() -> None:
    of = pool(session(1, IDLE, 20), waiter(2, 1, seconds=16), waiter(3, 2, seconds=15), waiter(4, 2, 3, seconds=1))
    assert planned(of) == ends(1)
    (finding,) = detect(of, AT)
    assert finding.subject == "session 1"
    assert "3 sessions wait for it, the longest for 16 s" in finding.detail


def test_victims_are_not_cancelled_however_long_they_run() -> None:
    of = pool(session(1, IDLE, 20), waiter(2, 1, seconds=9_999), of=10, used=10)
    assert planned(of) == ends(1)


def test_roots_come_before_the_oldest() -> None:
    old = [session(pid, IDLE, 1_000 - pid) for pid in range(3, 9)]
    of = pool(session(1, IDLE, 20), waiter(2, 1), *old, of=10, used=10)
    assert planned(of) == ends(1, 3, 4, 5)  # four must go, and the root is one of them


@pytest.mark.parametrize(
    ("age", "of", "used", "found"),
    [
        (400, 10, 10, [("cancel_query", "session 1")]),
        (299, 10, 10, []),
        (400, 10, 1, []),
    ],
)
def test_a_long_query_is_cancelled_only_when_the_pool_is_full(
    age: float, of: int, used: int, found: list[tuple[str, str]]
) -> None:
    assert planned(pool(session(1, "active", age), of=of, used=used)) == found


@pytest.mark.parametrize(("age", "count"), [(299, 0), (300, 1)])
def test_a_running_root_is_cancelled_once_it_runs_too_long(age: float, count: int) -> None:
    of = pool(session(1, "active", age), waiter(2, 1))
    assert planned(of) == [("cancel_query", "session 1")] * count
    assert [one.subject for one in detect(of, AT)] == ["session 1"]


def test_a_prepared_transaction_is_reported_and_never_touched() -> None:
    of = pool(waiter(2, 0), prepared=[Prepared(gid="payment-7", owner="app", seconds=900)])
    (finding,) = detect(of, AT)
    assert finding.subject == "prepared transaction"
    assert finding.evidence["prepared"][0]["gid"] == "payment-7"
    assert plan(of, AT) == []


@pytest.mark.parametrize("state", [IDLE, "active", None])
@pytest.mark.parametrize("why", ["a backup", "a migration", "a superuser", "hidden from this role"])
def test_who_is_spared_is_never_planned_not_even_as_a_root(state: str | None, why: str) -> None:
    of = pool(session(1, state, 9_999, spared=why), waiter(2, 1), of=10, used=10)
    assert plan(of, AT) == []
    tree = next(one for one in detect(of, AT) if one.subject == "session 1")
    assert f"left alone: it is {why}" in tree.detail


def test_who_may_not_be_signalled_is_not_planned_and_the_missing_right_is_named() -> None:
    of = pool(session(1, IDLE, 400, may_signal=False), of=10, used=10)
    assert plan(of, AT) == []
    assert "role runbook may not end sessions of app: GRANT pg_signal_backend TO runbook" in list(notices(of, AT))


def test_hidden_sessions_are_told() -> None:
    of = pool(session(1, None, spared="hidden from this role"))
    assert list(notices(of, AT)) == [
        "1 sessions are hidden from role runbook and never ended: GRANT pg_monitor TO runbook"
    ]


def test_a_full_pool_with_nothing_to_end_says_who_holds_it() -> None:
    held = [session(pid) for pid in range(9)]
    assert any("web holds 9 of 10" in text for text in notices(pool(*held, of=10), AT))


@pytest.mark.parametrize(
    ("signs", "subject"),
    [
        ({"refusals": {"p2024": 7}}, "app log"),
        ({"waiting": [Waiting(database="shop", user="app", clients=3, seconds=2)]}, "pgbouncer shop/app"),
    ],
)
def test_clients_turned_away_elsewhere_are_a_reason_too(signs: dict[str, Any], subject: str) -> None:
    of = pool(session(1, IDLE, 400), **signs)
    assert [one.subject for one in detect(of, AT)] == [subject, "session 1"]
    assert planned(of) == ends(1)


def test_a_refusal_the_app_logged_does_not_make_a_long_query_harmful() -> None:
    assert plan(pool(session(1, "active", 400), refusals={"p2024": 7}), AT) == []


def test_clients_waiting_in_pgbouncer_make_a_long_query_harmful() -> None:
    of = pool(session(1, "active", 400), waiting=[Waiting(database="shop", user="app", clients=3, seconds=2)])
    assert planned(of) == [("cancel_query", "session 1")]


@pytest.mark.parametrize(
    ("timeouts", "count"),
    [
        ({"app": IdleTimeout(here=None, holds=False)}, 1),
        ({"app": IdleTimeout(here="0", holds=False)}, 1),
        ({"app": IdleTimeout(here=None, holds=True)}, 0),
        ({}, 0),
    ],
)
def test_the_durable_cure_is_a_persons_and_only_where_nothing_holds(
    timeouts: dict[str, IdleTimeout], count: int
) -> None:
    cures = [fix for fix in plan(pool(session(1, IDLE, 400), of=10, used=10, timeouts=timeouts), AT) if fix.want]
    assert len(cures) == count
    for cure in cures:
        assert (cure.action, cure.risk) == ("set_idle_timeout", Risk.person)
        assert cure.expect == {"role": "app", "database": "shop", "value": timeouts["app"].here}
        assert cure.want == {"role": "app", "database": "shop", "value": "300s"}


@pytest.mark.parametrize("more", [(), (waiter(2, 1, seconds=7),), (waiter(2, 1, seconds=70),)])
def test_a_plan_is_the_same_plan_while_its_target_does_not_move(more: Sequence[Session]) -> None:
    first = plan(pool(session(1, IDLE, 400), of=10, used=10), AT)
    later = plan(pool(session(1, IDLE, 407), *more, of=10, used=10), AT)
    assert [fix.key for fix in first] == [fix.key for fix in later]


@pytest.mark.parametrize(("age", "must"), [(299, True), (300, False)])
def test_a_fresh_root_must_still_block_when_it_is_ended(age: float, must: bool) -> None:
    (fix,) = plan(pool(session(1, IDLE, age), waiter(2, 1)), AT)
    assert fix.expect["blocks"] is must


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({}, ["end_session"]),
        ({"query_start": "another query"}, ["cancel_query"]),
        ({"backend_start": "another session with its pid"}, ["cancel_query"]),
        ({"spared": "a migration"}, []),
        ({"may_signal": False}, []),
        ({"query_seconds": 1}, []),
    ],
)
def test_only_a_query_that_a_cancel_did_not_stop_is_ended(change: dict[str, Any], action: list[str]) -> None:
    tried = plan(pool(session(1, "active", 400), of=10, used=10), AT)
    now = pool(session(1, "active", 403, **({"query_seconds": 403} | change)), of=10, used=10)
    harder = insist(plan(now, AT), tried)
    assert [fix.action for fix in harder] == action
    assert insist(plan(now, AT), []) == plan(now, AT)


def test_it_is_still_the_same_query_when_the_pool_is_no_longer_full() -> None:
    of = pool(session(1, "active", 400), waiter(2, 1), of=10, used=10)
    later = of.model_copy(update={"limits": [Limit(kind="server", name="", used=2, of=10)]})
    assert [fix.action for fix in insist(plan(later, AT), plan(of, AT))] == ["end_session"]


@pytest.mark.parametrize(("age", "later", "goes_on"), [(1, 400, True), (1, 1, True), (400, 400, True), (400, 1, False)])
def test_a_root_that_turns_old_between_two_looks_is_still_the_one_that_was_granted(
    age: float, later: float, goes_on: bool
) -> None:
    def root(seconds: float) -> Pool:
        holder = session(1, "idle in transaction", seconds, backend_start="b", xact_start="x", query_start="q")
        return pool(holder, waiter(2, 1), waiter(3, 1))

    (granted,) = [fix for fix in plan(root(age), AT) if fix.action == "end_session"]
    assert (granted.key in {fix.key for fix in still(plan(root(later), AT))}) is goes_on
