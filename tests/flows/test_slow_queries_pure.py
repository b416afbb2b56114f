"""What counts as slow, what is advised and planned, as tables over made-up readings; nothing is read or asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.slow_queries import detect, plan
from runbook.errors import BadSetting
from runbook.model import Fix, Risk
from tasks import advice, indexes, migrations
from tasks.catalog import Bare, Catalog, Index, Table, Transaction
from tasks.plans import Column, Plan, Scan, equal_columns, scans_of
from tasks.pool import Limit, Pool, Session
from tasks.slowness import Bounds, Latency, Trial, index_name
from tasks.statements import HIDDEN, Snapshot, Statement, Window, difference, sampled

AT = Bounds(
    slow_ms=500,
    min_calls=5,
    busy_share=0.2,
    active_seconds=60,
    runaway_seconds=3600,
    wait_seconds=15,
    dead_share=0.4,
    max_table_mb=4096,
)
BIG = 1_000_000


def statement(id_: str = "1", calls: float = 10, mean: float = 600, **other: Any) -> Statement:
    fields = {"text": f"SELECT {id_}", "role": "app", "rows": calls}
    return Statement(id=id_, calls=calls, ms=calls * mean, **fields | other)


def table(oid: int = 1, name: str = "Event", **other: Any) -> Table:
    fields: dict[str, Any] = {
        "db_schema": "public",
        "owner": "app",
        "owned": True,
        "maintained": False,
        "rows": BIG,
        "bytes": 10**8,
        "default_space": True,
        "live": BIG,
        "dead": 0,
        "last_vacuum": None,
        "vacuuming": False,
        "autovacuum_off": False,
    }
    return Table(oid=oid, name=name, **fields | other)


def index(oid: int, name: str, columns: list[str], **other: Any) -> Index:
    fields: dict[str, Any] = {
        "table_oid": 1,
        "db_schema": "public",
        "valid": True,
        "is_unique": False,
        "needed": False,
        "plain": True,
        "kinds": ["text"] * len(columns),
        "includes": False,
        "scans": 5,
        "bytes": 10**8,
        "in_progress": False,
    }
    return Index(oid=oid, name=name, columns=columns, **fields | other)


def transaction(**other: Any) -> Transaction:
    fields: dict[str, Any] = {"pid": 7, "name": "session 7", "seconds": 60.0, "xids": 0, "has_snapshot": False}
    return Transaction(**fields | {"touched": (), "written": ()} | other)


def reads(*equals: tuple[str, float], rows: float = BIG) -> Plan:
    """A plan that reads the whole table for these columns, each with its selectivity."""
    columns = [Column(name=name, selectivity=share, width=8) for name, share in equals]
    return Plan(scans=[Scan(db_schema="public", table="Event", rows=rows, equals=columns)])


def latency(*statements: Statement, how: Plan | None = None, sessions: Any = (), **catalog: Any) -> Latency:
    """A database with one large table, whose statements are all planned the same way."""
    fields: dict[str, Any] = {
        "database": "shop",
        "role": "runbook",
        "version": 180_000,
        "xid_age": 1000,
        "multixact_age": 0,
        "hypopg": False,
        "migrating": False,
        "counted_days": 30.0,
        "free_bytes": 10**12,
        "tables": [table()],
        "indexes": [],
        "bare": [],
        "transactions": [],
    }
    window = Window(source="pg_stat_statements", seconds=10, statements=statements, calls=1, ms=1)
    pool = Pool(
        database="shop", role="runbook", limits=[Limit(kind="server", name="", used=1, of=50)], sessions=sessions
    )
    plans = {one.id: how or Plan() for one in statements}
    return Latency(window=window, pool=pool, plans=plans, catalog=Catalog(**fields | catalog))


def session(pid: int, seconds: float, **other: Any) -> Session:
    fields: dict[str, Any] = {
        "role": "app",
        "database": "shop",
        "application": "web",
        "state": "active",
        "backend_start": "b",
        "xact_start": "x",
        "query_start": "q",
        "state_seconds": seconds,
        "transaction_seconds": seconds,
        "query_seconds": seconds,
        "wait_seconds": 0,
        "blocked_by": (),
        "query": "select ?",
        "takes_slot": True,
        "may_signal": True,
        "spared": None,
    }
    return Session(pid=pid, **fields | other)


def planned(seen: Latency, **other: Any) -> list[tuple[str, str, Risk]]:
    return [(fix.action, fix.target, fix.risk) for fix in plan(seen, AT, **other)]


SELECTIVE = reads(("userId", 0.0001))
BUILD = [("create_index", "index runbook_Event_userId", Risk.guarded)]


@pytest.mark.parametrize(
    ("one", "how", "slow"),
    [
        (statement(mean=500), None, True),
        (statement(mean=499), None, False),
        (statement(calls=4, mean=9000), None, False),  # somebody's report
        (statement(calls=1000, mean=2), SELECTIVE, True),  # a fifth of a processor for want of an index
        (statement(calls=999, mean=2), SELECTIVE, False),
        (statement(calls=1000, mean=2), None, False),  # busy, and nothing to be done about it
        (statement(text="SELECT pg_sleep($1)"), None, False),
        (statement(text="SELECT pg_advisory_lock($1)"), None, False),
        (statement(text="COPY x FROM STDIN"), None, False),
        (statement(text="VACUUM x"), None, False),
        (statement(text="CREATE INDEX x"), None, False),
        (statement(text="SELECT * FROM pg_stat_activity"), None, False),
        (statement(text=HIDDEN), None, False),
        (statement(text="/* prisma */ SELECT 1"), None, True),
        (statement(text="with x as (select 1) select * from x"), None, True),
        (statement(text="UPDATE x SET a = $1"), None, True),
    ],
)
def test_which_statements_are_slow(one: Statement, how: Plan | None, slow: bool) -> None:
    assert bool(detect(latency(one, how=how), AT)) is slow


@pytest.mark.parametrize(
    ("how", "columns"),
    [
        (SELECTIVE, ["userId"]),
        (reads(("userId", 0.0001), ("kind", 0.5)), ["userId"]),  # 100 rows: one column is enough
        (reads(("day", 0.01), ("kind", 0.1)), ["day", "kind"]),  # 10,000 rows: a second is worth it
        (reads(("kind", 0.5)), None),
        (reads(("kind", 0.05)), None),
        (reads(("userId", 0.0001), rows=9_999), None),
        (reads(), None),
        (Plan(problem="its text is not whole"), None),
    ],
)
def test_what_index_is_advised(how: Plan, columns: list[str] | None) -> None:
    assert [one.columns for one in latency(statement(), how=how).advice()] == ([columns] if columns else [])


@pytest.mark.parametrize(
    "there",
    [
        index(5, "Event_userId_idx", ["userId"]),
        index(5, "Event_userId_day_idx", ["userId", "day"]),
        index(5, "other", ["userId"], valid=False, in_progress=True),
    ],
)
def test_no_index_is_advised_that_is_there_or_on_the_way(there: Index) -> None:
    assert latency(statement(), how=SELECTIVE, indexes=[there]).advice() == []


@pytest.mark.parametrize(
    "there",
    [
        index(5, "partial", ["userId"], plain=False),
        index(5, "other way round", ["day", "userId"]),
        index(5, "dead", ["userId"], valid=False),
    ],
)
def test_an_index_that_does_not_answer_is_none(there: Index) -> None:
    assert latency(statement(), how=SELECTIVE, indexes=[there]).advice() != []


def test_a_slow_delete_is_helped_by_an_index_on_what_refers_to_it() -> None:
    key = Bare(name="fk", table_oid=1, refers_to=2, columns=["userId"])
    seen = latency(statement(), how=Plan(deletes_from="User"), tables=[table(), table(2, "User")], bare=[key])
    assert planned(seen) == BUILD
    assert any("foreign key fk has no index" in text for text in advice.notices(seen, AT))


@pytest.mark.parametrize(
    ("catalog", "why"),
    [
        ({"migrating": True}, "a migration"),
        ({"tables": [table(vacuuming=True)]}, "VACUUM is at work"),
        ({"tables": [table(owned=False)]}, 'GRANT "app" TO "runbook" WITH INHERIT FALSE, SET TRUE'),
        ({"tables": [table(owned=False)], "version": 150_000}, 'GRANT "app" TO "runbook"'),
        ({"transactions": [transaction(has_snapshot=True)]}, "wait for session 7"),
        ({"transactions": [transaction(written=[1])]}, "wait for session 7"),
        ({"free_bytes": 10**8}, "it needs about 94 MB of disk and 100 MB are free"),
    ],
)
def test_what_speaks_against_building_now(catalog: dict[str, Any], why: str) -> None:
    seen = latency(statement(), how=SELECTIVE, **catalog)
    assert planned(seen) == []
    (said,) = [text for text in advice.blocked(seen, AT) if "not built" in text]
    assert why in said


@pytest.mark.parametrize(
    "harmless",
    [
        transaction(has_snapshot=True, seconds=4.9),
        transaction(touched=[1]),  # a reader in READ COMMITTED
        transaction(written=[2]),
        transaction(name="replication slot x", seconds=None, xids=10),
    ],
)
def test_what_does_not(harmless: Transaction) -> None:
    assert planned(latency(statement(), how=SELECTIVE, transactions=[harmless])) == BUILD


@pytest.mark.parametrize(
    ("catalog", "back", "risk"),
    [
        ({}, set(), Risk.guarded),
        ({"tables": [table(bytes=5 * 10**9)]}, set(), Risk.person),
        ({"free_bytes": None}, set(), Risk.guarded),
        ({"free_bytes": None, "tables": [table(rows=2e7)]}, set(), Risk.person),
        ({}, {"index runbook_Event_userId"}, Risk.person),
    ],
)
def test_who_decides_on_an_index(catalog: dict[str, Any], back: set[str], risk: Risk) -> None:
    seen = latency(statement(), how=SELECTIVE, **catalog)
    assert planned(seen, taken_back=back) == [("create_index", "index runbook_Event_userId", risk)]


@pytest.mark.parametrize(("after", "used", "builds"), [(10, True, True), (60, True, False), (10, False, False)])
def test_an_index_that_hypopg_sees_no_gain_in_is_not_built(after: float, used: bool, builds: bool) -> None:
    trial = {"runbook_Event_userId": Trial(before=100, after=after, used=used)}
    seen = latency(statement(), how=SELECTIVE).model_copy(update={"trials": trial})
    assert planned(seen) == (BUILD if builds else [])


@pytest.mark.parametrize(
    ("one", "dropped"),
    [
        (index(5, "runbook_Event_day", ["day"], valid=False), True),
        (index(5, "runbook_Event_day", ["day"], valid=False, in_progress=True), False),
        (index(5, "runbook_Event_day", ["day"], valid=False, is_unique=True), False),
        (index(5, "runbook_Event_day_ccnew", ["day"], valid=False), False),
        (index(5, "Event_day_idx", ["day"], valid=False), False),
        (index(5, "runbook_Event_day", ["day"], scans=0), False),
    ],
)
def test_which_index_is_dropped(one: Index, dropped: bool) -> None:
    drop = [("drop_invalid_index", "index runbook_Event_day", Risk.auto)]
    assert planned(latency(indexes=[one])) == (drop if dropped else [])


def test_a_name_that_a_failed_build_holds_is_freed_before_it_is_built_again() -> None:
    left = index(5, "runbook_Event_userId", ["userId"], valid=False)
    assert [action for action, _, _ in planned(latency(statement(), how=SELECTIVE, indexes=[left]))] == [
        "drop_invalid_index"
    ]


@pytest.mark.parametrize(
    ("dead", "other", "acts"),
    [
        ({"dead": 700_000}, {}, [("vacuum_table", "table Event", Risk.auto)]),
        ({"dead": 600_000}, {}, []),
        ({"dead": 700_000, "vacuuming": True}, {}, []),
        ({"dead": 9_000, "live": 0}, {}, []),
        ({"dead": 700_000, "owned": False}, {}, []),
        ({"dead": 700_000, "owned": False, "maintained": True}, {}, [("vacuum_table", "table Event", Risk.auto)]),
        ({"dead": 700_000, "bytes": 5 * 10**9}, {}, [("vacuum_table", "table Event", Risk.person)]),
        ({"dead": 700_000}, {"transactions": [transaction(xids=5, seconds=601.0)]}, []),
        ({"dead": 700_000}, {"transactions": [transaction(xids=5, seconds=None)]}, []),
        ({"dead": 700_000}, {"transactions": [transaction(xids=5)]}, [("vacuum_table", "table Event", Risk.auto)]),
    ],
)
def test_which_table_is_vacuumed(dead: dict[str, Any], other: dict[str, Any], acts: list[Any]) -> None:
    assert planned(latency(tables=[table(**dead)], **other)) == acts


WAITER = session(2, 30, blocked_by=[1], wait_seconds=30)


@pytest.mark.parametrize(
    ("sessions", "acts"),
    [
        ([session(1, 60), WAITER], [("cancel_query", "session 1", Risk.guarded)]),
        ([session(1, 59), WAITER], []),
        ([session(1, 60), session(2, 30, blocked_by=[1], wait_seconds=14)], []),
        ([session(1, 3599)], []),  # a report
        ([session(1, 3600)], [("cancel_query", "session 1", Risk.person)]),
        ([session(1, 3600), WAITER], [("cancel_query", "session 1", Risk.guarded)]),
        ([session(1, 3600, spared="a backup")], []),
        ([session(1, 3600, may_signal=False)], []),
        ([session(1, 60, state="idle in transaction"), WAITER], []),  # pool-exhaustion's
    ],
)
def test_which_query_is_cancelled(sessions: list[Session], acts: list[Any]) -> None:
    assert planned(latency(sessions=sessions)) == acts


@pytest.mark.parametrize(("age", "pages"), [(10**9, False), (1_700_000_000, True)])
def test_running_out_of_transactions_wakes_somebody(age: int, pages: bool) -> None:
    assert [one.page for one in detect(latency(xid_age=age), AT)] == ([True] if pages else [])


@pytest.mark.parametrize(
    ("condition", "columns"),
    [
        ('(x."userId" = $1)', ["userId"]),
        ("((x.kind)::text = $1)", ["kind"]),
        ("((x.kind)::text = ($1)::text)", ["kind"]),
        ("(x.id = 42)", ["id"]),
        ("(x.kind = 'a''b'::text)", ["kind"]),
        ("(x.id = ANY ($1))", ["id"]),
        ("(x.kind = ANY ('{a,b}'::text[]))", ["kind"]),
        ('((x.a = $1) AND (x.b > $2) AND ("Tab le"."c""d" = $3))', ["a", 'c"d']),
        ("((x.a = $1) OR (x.b = $2))", []),
        ("(lower(x.email) = $1)", []),
        ("(lower((x.email)::text) = $1)", []),
        ("((x.a + x.b) = $1)", []),
        ("(x.a = y.a)", []),
        ("(x.a <> $1)", []),
        ("((x.n)::numeric = $1)", []),
        ("", []),
    ],
)
def test_the_columns_an_ordinary_index_would_answer(condition: str, columns: list[str]) -> None:
    assert equal_columns(condition) == columns


def test_every_scan_of_a_plan_is_found() -> None:
    leaf = {"Node Type": "Seq Scan", "Schema": "s", "Relation Name": "Event", "Filter": "(e.a = $1)"}
    tree = {"Node Type": "Limit", "Plans": [{"Node Type": "Gather", "Plans": [leaf, {"Node Type": "Index Scan"}]}]}
    (scan,) = scans_of(tree)
    assert (scan.db_schema, scan.table, [one.name for one in scan.equals]) == ("s", "Event", ["a"])


def snapshot(**numbers: tuple[float, float, float]) -> Snapshot:
    return Snapshot(at_ms=0, epoch="e", numbers=numbers)


def test_the_difference_of_two_readings() -> None:
    before = snapshot(a=(10, 100, 5), b=(10, 100, 5), c=(10, 100, 5))
    after = snapshot(a=(12, 140, 7), b=(10, 100, 5), c=(1, 3, 1), d=(2, 4, 2))
    assert difference(before, after) == {"a": (2, 40, 2), "c": (1, 3, 1), "d": (2, 4, 2)}


def test_samples_of_one_statement_are_one_statement_without_its_values() -> None:
    rows = [{"text": f"SELECT * FROM x WHERE a = '{i}'", "role": "app", "ms": 100.0} for i in range(3)]
    window = sampled(rows, 5, "no extension")
    (one,) = window.statements
    assert (one.calls, one.mean_ms, one.id) == (3, 100.0, "SELECT * FROM x WHERE a = ?")
    assert window.notices == ["no extension"]


def test_a_long_name_stays_within_what_postgresql_keeps() -> None:
    name = index_name("T" * 40, ["a" * 30, "b"])
    assert name.startswith("runbook_TTT")
    assert len(name.encode()) <= 63
    assert name != index_name("T" * 40, ["a" * 30, "c"])


@pytest.mark.parametrize(
    ("catalog", "said"),
    [
        ({"indexes": [index(5, "x", ["a"], valid=False)]}, "index x is INVALID and not a runbook's"),
        ({"indexes": [index(5, "x", ["a"], scans=0)]}, "index x is unused here"),
        ({"indexes": [index(5, "x", ["a"]), index(6, "y", ["a", "b"])]}, "x repeats the front of y"),
        ({"indexes": [index(5, "y", ["a"]), index(6, "x", ["a"])]}, "x repeats the front of y"),
        ({"xid_age": 600_000_000}, "600,000,000 transactions old"),
        ({"transactions": [transaction(xids=9, seconds=7200.0)]}, "session 7 keeps dead rows for 2.0 h"),
        ({"transactions": [transaction(name="replication slot x", xids=9, seconds=None)]}, "replication slot x keeps"),
    ],
)
def test_what_a_person_is_told(catalog: dict[str, Any], said: str) -> None:
    assert any(said in text for text in advice.notices(latency(**catalog), AT))
    assert plan(latency(**catalog), AT) == []


@pytest.mark.parametrize(
    "catalog",
    [
        {"indexes": [index(5, "x", ["a"], scans=0, needed=True)]},
        {"indexes": [index(5, "x", ["a"], scans=0)], "counted_days": 13.0},
        {"indexes": [index(5, "x", ["a"], is_unique=True), index(6, "y", ["a", "b"])]},
        {"indexes": [index(5, "x", ["a"]), index(6, "y", ["b", "a"])]},
        {"indexes": [index(5, "x", ["a"], kinds=["varchar_pattern"]), index(6, "y", ["a", "b"])]},
    ],
)
def test_what_nobody_needs_to_hear(catalog: dict[str, Any]) -> None:
    assert list(advice.notices(latency(**catalog), AT)) == []


def test_many_calls_for_a_row_each_look_like_n_plus_one() -> None:
    seen = latency(statement(calls=1000, mean=2.5))
    assert any("looks like N+1 (100 calls a second" in text for text in advice.notices(seen, AT))


def built() -> Fix:
    (fix,) = plan(latency(statement(), how=SELECTIVE), AT)
    return fix


def test_the_inverse_of_the_inverse_is_the_build() -> None:
    back = indexes.undo_create(built())
    assert (back.action, back.expect["valid"], back.target) == ("drop_index", True, built().target)
    assert indexes.undo_drop(back).key == built().key
    assert (
        indexes.in_words(built()) == 'CREATE INDEX CONCURRENTLY "runbook_Event_userId" ON "public"."Event" ("userId")'
    )
    assert indexes.in_trial(built()) == 'CREATE INDEX ON "public"."Event" ("userId")'


def test_a_migration_is_written_once(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    path = migrations.write(built(), tmp_path, at)
    assert path == tmp_path / "20260102030405_runbook_Event_userId" / "migration.sql"
    assert 'CREATE INDEX IF NOT EXISTS "runbook_Event_userId" ON "public"."Event" ("userId");' in path.read_text()
    assert migrations.write(built(), tmp_path, datetime.now(UTC)) is None
    with pytest.raises(BadSetting, match="RUNBOOK_MIGRATIONS_DIR"):
        migrations.write(built(), tmp_path / "nowhere", at)
