"""The audit on real parts: an app that serves a page with assets, and a PostgreSQL with statistics of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.app import App
from demo.app_assets import Assets
from demo.postgres import Postgres
from demo.prefect_server import BIN
from demo.seed import seed
from flows.performance_audit import audit, performance_audit
from runbook.model import Outcome
from runbook.settings import Settings, forget
from tasks.audit import Bounds, Item, State
from tasks.audit_database import Database, Statement, judge_caching, judge_sessions, judge_slow
from tests.flows.generation_parts import clean_environment

NAMES = [
    "database query caching",
    "session store",
    "CDN for static assets",
    "compression",
    "optimised images",
    "lazy loading",
    "CPU profile",
    "slow queries in pg_stat_statements",
    "Sentry performance monitoring",
]
PASS, FAIL, AWAY, UNSEEN = State.passed, State.failed, State.not_applying, State.unseen


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        seed(running.url(), users=300, subscriptions=10)
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with App("postgresql://nobody@127.0.0.1:9/none", "whsec_no", log_path=tmp_path_factory.mktemp("a") / "log") as app:
        yield app


@pytest.fixture
def app(running: App, server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in env(running, server, tmp_path).items():
        monkeypatch.setenv(name, value)
    running.assets = Assets()
    forget()
    yield running
    forget()


def env(app: App, server: Postgres, folder: Path) -> dict[str, str]:
    return {
        "RUNBOOK_HOME": str(folder),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
        "DATABASE_URL": server.url(user="runbook") + "?connection_limit=5",
        "APP_URL": app.url,
    }


async def states(**bounds: Any) -> dict[str, State]:
    _report, items = await audit(Bounds(**bounds))
    return {one.name: one.state for one in items}


async def test_all_nine_items_are_answered_in_order_and_only_failures_are_findings(app: App) -> None:
    report, items = await audit(Bounds())
    assert [one.name for one in items] == NAMES
    found = {one.name: one for one in items}
    assert {name for name in NAMES if found[name].state is PASS} >= {*NAMES[2:6], NAMES[7], NAMES[8]}, items
    assert found["session store"].state is AWAY and "JWT" in found["session store"].seen
    assert found["CPU profile"].state is UNSEEN and "--cpu-prof" in found["CPU profile"].next_step
    assert [one.subject for one in report.findings] == [one.name for one in items if one.state is FAIL]
    assert report.fixes == []
    assert (await performance_audit.fn()).runbook == "performance-audit"


@pytest.mark.parametrize(
    ("changed", "item", "state"),
    [
        ({"compress": False}, "compression", FAIL),
        ({"cache_control": "no-store"}, "CDN for static assets", FAIL),
        ({"cache_control": "public, max-age=60"}, "CDN for static assets", FAIL),
        ({"cdn": {}}, "CDN for static assets", FAIL),
        ({"cdn": {"age": "12"}}, "CDN for static assets", PASS),
        ({"script_kilobytes": 900}, "lazy loading", FAIL),
        ({"images": '<img src="/images/big.png" width="9" height="9">'}, "optimised images", FAIL),
        ({"images": '<img src="/_next/image?url=x">'}, "optimised images", FAIL),
        ({"images": '<img src="data:image/png;base64,AA">'}, "optimised images", AWAY),
        ({"images": ""}, "optimised images", AWAY),
        ({"head": ""}, "Sentry performance monitoring", FAIL),
        ({"head": "", "code": '"@sentry/nextjs";init({tracesSampleRate:0.2})'}, "Sentry performance monitoring", PASS),
        ({"head": "", "code": '"@sentry/nextjs";init({tracesSampleRate:0})'}, "Sentry performance monitoring", FAIL),
    ],
)
async def test_each_fault_of_the_page_is_seen_by_its_item(
    app: App, changed: dict[str, Any], item: str, state: State
) -> None:
    for name, value in changed.items():
        setattr(app.assets, name, value)
    assert (await states())[item] is state


async def test_sessions_kept_as_rows_are_seen(app: App, server: Postgres) -> None:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute(
            "INSERT INTO \"Session\" SELECT 's' || n, 't' || n, u.id, now() + interval '1 day' "
            'FROM generate_series(1, 3) n, (SELECT id FROM "User" LIMIT 1) u'
        )
        try:
            assert (await states())["session store"] is FAIL
        finally:
            owner.execute('DELETE FROM "Session"')


async def test_a_slow_statement_is_seen_without_its_literals(app: App, server: Postgres) -> None:
    with psycopg.connect(server.url(user="app"), autocommit=True) as client:
        for _ in range(20):
            client.execute("SELECT count(*) FROM generate_series(1, 20000) WHERE 'secret-word' <> 'x'")
    _report, items = await audit(Bounds(slow_ms=0.5))
    slow = next(one for one in items if one.name == NAMES[7])
    assert slow.state is FAIL and "generate_series" in slow.seen and "secret-word" not in slow.seen


async def test_what_is_away_hides_nothing_else(app: App, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", "http://127.0.0.1:9")
    forget()
    found = await states()
    assert {found[name] for name in (*NAMES[2:6], NAMES[8])} == {UNSEEN} and found[NAMES[7]] is PASS
    monkeypatch.setenv("APP_URL", app.url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://runbook:hush@127.0.0.1:9/app")
    forget()
    found = await states()
    assert {found[name] for name in (*NAMES[:2], NAMES[7])} == {UNSEEN} and found["compression"] is PASS
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("APP_URL", "")
    forget()
    report, items = await audit(Bounds())
    assert items == [] and report.not_configured and report.outcome is Outcome.refused


async def test_a_role_without_rights_is_told_what_it_lacks(
    app: App, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS poor")
        owner.execute("CREATE ROLE poor LOGIN")
    monkeypatch.setenv("DATABASE_URL", server.url(user="poor"))
    forget()
    _report, items = await audit(Bounds())
    found = {one.name: one for one in items}
    assert found[NAMES[7]].next_step == "GRANT pg_monitor TO poor"
    assert found["session store"].state is UNSEEN and "poor" in found["session store"].seen


def test_the_command_prints_every_item(app: App, server: Postgres, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "runbook"), "audit", "--json"],
        env=clean_environment() | env(app, server, tmp_path) | {"PREFECT_HOME": str(tmp_path / "prefect")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    document = json.loads(done.stdout)
    assert [one["name"] for one in document["items"]] == NAMES, done.stderr
    failed = [one for one in document["items"] if one["state"] == "fail"]
    assert done.returncode == (3 if failed else 0) and len(document["findings"]) == len(failed)


# -- pure -------------------------------------------------------------------------------------------------------------


def statistics(hit: int = 99_500, read: int = 500, **more: Any) -> Database:
    return Database(**({"hit": hit, "read": read, "role": "r", "all_stats": True, "statements": ()} | more))


def one(mean_ms: float, calls: int, shape: str = "SELECT ?", seconds: float = 100) -> Statement:
    return Statement(shape=shape, calls=calls, mean_ms=mean_ms, total_ms=mean_ms * calls, seconds=seconds)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (statistics(), PASS),
        (statistics(90_000, 10_000), FAIL),
        (statistics(90, 10), UNSEEN),  # a server just started
        (statistics(statements=None), UNSEEN),
        (statistics(statements=(one(0.1, 5_000),)), FAIL),
        (statistics(statements=(one(0.1, 500),)), PASS),
        (statistics(statements=(one(50, 5_000),)), PASS),  # hot, but not cheap
        (statistics(statements=(one(0.1, 5_000, "UPDATE x"),)), PASS),
    ],
)
def test_pure_caching(seen: Database, state: State) -> None:
    assert judge_caching(seen, Bounds()).state is state


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (statistics(statements=(one(900, 30),)), FAIL),
        (statistics(statements=(one(900, 2),)), PASS),  # a report somebody ran twice
        (statistics(statements=(one(5, 9_000),)), PASS),
        (statistics(statements=None), UNSEEN),
        (statistics(all_stats=False), UNSEEN),
    ],
)
def test_pure_slow(seen: Database, state: State) -> None:
    assert judge_slow(seen, Bounds()).state is state


def test_pure_sessions() -> None:
    assert [judge_sessions(rows).state for rows in (None, 0, 5)] == [AWAY, AWAY, FAIL]


def test_pure_an_item_says_what_to_do_when_it_fails() -> None:
    failing: list[Item] = [judge_caching(statistics(90_000, 10_000), Bounds()), judge_sessions(5)]
    assert all(item.next_step for item in failing)
