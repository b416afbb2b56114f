"""Nothing of the corpus is ever touched: each look-alike is made for real, and the runbook runs in mode auto."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo import database_faults
from demo.database_faults import wait_until
from demo.postgres import Postgres
from demo.slow_faults import invalid_index
from tests.flows.conftest import lives
from tests.flows.slow_parts import acted, background, clean, run, watched

CORPUS = tomllib.loads((Path(__file__).parents[1] / "corpus" / "slow_queries.toml").read_text("utf-8"))["lookalike"]


@pytest.fixture
def shop(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    for bound in ("HOLD_SECONDS", "VAIN_SECONDS"):  # what is there at all is there for long
        monkeypatch.setattr(f"tasks.slowness.{bound}", 0.0)
    with clean(server):
        yield server


def catalogue(server: Postgres) -> list[tuple[Any, ...]]:
    """Every index with its validity, and when each table was last vacuumed by hand."""
    with psycopg.connect(server.url(), autocommit=True) as owner:
        return owner.execute(
            "SELECT c.relname, i.indisvalid, s.vacuum_count FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_stat_user_tables s ON s.relid = i.indrelid ORDER BY 1"
        ).fetchall()


def owned(server: Postgres, *statements: str) -> None:
    with psycopg.connect(server.url(user="app"), autocommit=True) as owner:
        for one in statements:
            owner.execute(one)


def asked(server: Postgres, question: str) -> bool:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        return owner.execute(question).fetchone() == (True,)


def dead_rows_counted(server: Postgres, table: str) -> bool:
    with psycopg.connect(server.url(), autocommit=True) as owner:
        rows = owner.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = %s", [table]).fetchall()
    return not rows or rows[0][0] > 0


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
async def test_a_look_alike_is_left_alone(shop: Postgres, case: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        pids = []
        if "make" in case:
            made = getattr(database_faults, case["make"])(shop)
            stack.callback(made.close)
            pids += [pid for pid, _ in made.known]
            wait_until(lambda: asked(shop, case["until"]), case["until"])
        owned(shop, *case.get("before", ()))
        if "invalid" in case:
            invalid_index(shop, *case["invalid"].values())
        if "hold" in case:
            holder = stack.enter_context(psycopg.connect(shop.url(user="app"), application_name="holder"))
            holder.execute(case["hold"])
            pids.append(holder.info.backend_pid)
        owned(shop, *case.get("after", ()))
        wait_until(lambda: dead_rows_counted(shop, "bloat"), "the dead rows to be counted")
        if "start" in case:
            started = background(shop, *case["start"], until=case["until"])
            stack.callback(started.close)
            pids.append(started.pid)
        await watched(shop, case.get("statement", "SELECT 1"), case.get("times", 6))
        before = catalogue(shop)
        report = await run()
        assert acted(report) == [], report
        assert catalogue(shop) == before
        assert all(lives(shop, pid) for pid in pids)
        told = [*report.notices, *(found.detail for found in report.findings)]
        assert any(case.get("says", "") in text for text in [*told, ""]), told


def test_the_corpus_is_a_corpus() -> None:
    assert len(CORPUS) >= 5
    assert all(case["because"] for case in CORPUS)
