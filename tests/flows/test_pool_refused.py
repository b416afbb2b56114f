"""A database that cannot be had, or not with these rights: the runbook says so in one line and touches nobody."""

from __future__ import annotations

import pytest

from demo import database_faults as faults
from demo.postgres import Postgres
from runbook import settings
from runbook.model import Mode, Outcome
from tests.flows.conftest import Keep, run


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://runbook_scram:wrong-password@127.0.0.1:{port}/app",
            "refuses the password of role runbook_scram",
        ),
        ("postgresql://runbook:secret-word@127.0.0.1:1/app", "127.0.0.1:1 cannot be reached"),
        ("postgresql://runbook:secret-word@127.0.0.1:{port}/nowhere", "has no database nowhere"),
        ("postgresql://nobody_here:secret-word@127.0.0.1:{port}/app", "role nobody_here may not log in"),
        ("mysql://runbook:secret-word@127.0.0.1:{port}/app", "is not a PostgreSQL URL"),
    ],
)
async def test_a_database_that_cannot_be_had_is_one_line_without_the_password(
    server: Postgres, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url.format(port=server.port))
    settings.forget()
    report = await run()
    assert (report.outcome, report.exit_code) == (Outcome.refused, 2)
    assert report.reason.startswith("DATABASE_URL: ")
    assert said in report.reason
    assert "\n" not in report.reason
    assert "wrong-password" not in report.reason
    assert "secret-word" not in report.reason


async def test_no_slot_for_our_own_role_names_the_way_out(
    server: Postgres, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(faults.fill_slots(server))
    monkeypatch.setenv("DATABASE_URL", server.url(user="app"))
    settings.forget()
    report = await run()
    assert "DATABASE_URL: every connection slot that role app may use" in report.reason
    assert "RUNBOOK_DATABASE_URL" in report.reason
    monkeypatch.setenv("RUNBOOK_DATABASE_URL", server.url(user="runbook"))
    settings.forget()
    assert (await run(Mode.observe)).outcome is Outcome.observed


@pytest.mark.parametrize(("role", "missing"), [("watcher", "GRANT pg_signal_backend"), ("blind", "GRANT pg_monitor")])
async def test_a_role_without_a_right_it_needs_says_so_and_touches_nobody(
    server: Postgres, keep: Keep, monkeypatch: pytest.MonkeyPatch, role: str, missing: str
) -> None:
    writers = keep(faults.idle_writers(server, 2))
    keep(faults.fill_slots(server))
    monkeypatch.setenv("DATABASE_URL", server.url(user=role))
    settings.forget()
    report = await run()
    assert report.outcome is Outcome.refused
    assert any(missing in notice for notice in report.notices), report.notices
    assert writers.untouched
    assert list(report.fixes) == []
