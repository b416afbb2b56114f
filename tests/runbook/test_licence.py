"""Acting alone is earned by a drill of this very code, and lost by age, by change and by a fix that was not proven."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from runbook import licence, settings
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState, Mode, Outcome, Risk
from runbook.process import this_process
from runbook.run import Run
from runbook.schema import entry, fix
from runbook.schema import run as run_table
from tests.runbook.parts import RUNBOOK, a_fix, grant

FIGURES = {"faults": "2 of 2", "look-alikes": "6 of 6"}


@pytest.fixture
def asked(in_force: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger of a process that asks for licences, as the default is."""
    monkeypatch.delenv("RUNBOOK_LICENCE_DAYS")
    settings.forget()
    yield in_force


def end(book: Ledger, target: str, *states: FixState, risk: Risk = Risk.auto) -> None:
    one = grant(book, a_fix(target, risk=risk))
    at = FixState.granted
    for state in states:
        book.move(one.id, [at], state, {})
        at = state


async def test_without_a_drill_auto_is_lowered_to_approve(asked: Ledger) -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        assert run.mode is Mode.approve
    assert "never drilled here. Next: runbook drill" in " ".join(run.notices)
    licence.issue(asked, RUNBOOK, FIGURES)
    async with Run(RUNBOOK, Mode.auto) as run:
        assert run.mode is Mode.auto
    assert run.result().outcome is Outcome.healthy
    async with Run("another", Mode.auto) as run:
        assert run.mode is Mode.approve


async def test_a_licence_never_raises_the_mode(asked: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    async with Run(RUNBOOK, Mode.observe) as run:
        assert run.mode is Mode.observe
    monkeypatch.setenv("RUNBOOK_MODE", "approve")
    settings.forget()
    async with Run(RUNBOOK, Mode.auto) as run:
        assert run.mode is Mode.approve


def test_it_shows_what_it_rests_on(asked: Ledger) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    found = licence.standing(asked, RUNBOOK)
    assert found.valid and found.figures == FIGURES
    assert found.until_ms is not None and found.until_ms > now_ms() + 29 * licence.DAY_MS


def test_a_failed_drill_takes_it_away_and_a_passed_one_gives_it_back(asked: Ledger) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    licence.revoke(asked, RUNBOOK, "the drill failed: 1 of 2 faults mended")
    assert "1 of 2" in licence.standing(asked, RUNBOOK).why
    licence.issue(asked, RUNBOOK, FIGURES)
    assert licence.standing(asked, RUNBOOK).valid


def test_it_ends_with_its_days(asked: Ledger) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    with asked.write() as connection:
        connection.execute(update(entry).values(at_ms=now_ms() - 31 * licence.DAY_MS))
    assert "more than 30 days" in licence.standing(asked, RUNBOOK).why


def test_it_is_for_this_code_only(asked: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    own = ("runbook/policy.py", "tasks/hand.py", "flows/a_runbook.py", "flows/__init__.py", "flows/health_sweep.py")
    for name in (*own, "flows/other.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("one = 1\n")
    monkeypatch.setattr(licence, "ROOT", tree)

    def version() -> str:
        licence.code_version.cache_clear()
        return licence.code_version(RUNBOOK)

    before = version()
    licence.issue(asked, RUNBOOK, FIGURES)
    (tree / "flows/other.py").write_text("one = 2\n")
    assert version() == before
    assert licence.standing(asked, RUNBOOK).valid
    for name in own:
        (tree / name).write_text("one = 2\n")
        assert version() != before, name
        assert "code has changed" in licence.standing(asked, RUNBOOK).why
        (tree / name).write_text("one = 1\n")
    monkeypatch.setattr(licence, "dependencies", lambda: ["prefect==0"])
    assert version() != before
    licence.code_version.cache_clear()


def test_what_it_stands_on_is_counted_in() -> None:
    named = {one.partition("==")[0] for one in licence.dependencies()}
    assert {"python", "prefect", "psycopg-binary", "sqlalchemy", "stripe", "httpcore"} <= named
    assert "pytest" not in named and "ruff" not in named, "what only develops it decides nothing"


def test_a_failed_proof_takes_it_away(asked: Ledger) -> None:
    end(asked, "row 0", FixState.intended, FixState.applied, FixState.failed)
    licence.issue(asked, RUNBOOK, FIGURES)
    with asked.write() as connection:
        connection.execute(update(fix).values(decided_at_ms=now_ms() - 1_000))
    assert licence.standing(asked, RUNBOOK).valid, "what failed before the drill is judged by the drill"
    end(asked, "row 2", FixState.intended, FixState.applied, FixState.failed)
    assert "done and not proven" in licence.standing(asked, RUNBOOK).why


def test_what_was_turned_down_takes_it_away_unless_a_person_decided_on_it(asked: Ledger) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    end(asked, "row 1", FixState.intended, FixState.failed, risk=Risk.person)
    assert licence.standing(asked, RUNBOOK).valid
    end(asked, "row 2", FixState.intended, FixState.failed, risk=Risk.guarded)
    assert "was turned down since" in licence.standing(asked, RUNBOOK).why


async def test_a_crash_takes_it_away_and_a_stop_by_a_person_does_not(asked: Ledger) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    for crash in (KeyboardInterrupt, asyncio.CancelledError):
        with pytest.raises(crash):
            async with Run(RUNBOOK, Mode.auto):
                raise crash
    assert licence.standing(asked, RUNBOOK).valid
    with pytest.raises(ZeroDivisionError):
        async with Run(RUNBOOK, Mode.auto) as run:
            raise ZeroDivisionError
    assert licence.standing(asked, RUNBOOK).why == f"{run.id} crashed since its last drill (ZeroDivisionError)"
    licence.issue(asked, RUNBOOK, FIGURES)
    assert licence.standing(asked, RUNBOOK).valid


def test_a_run_whose_process_is_gone_takes_it_away_at_once(asked: Ledger) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    lost = asked.open_run(RUNBOOK, "auto")
    assert licence.standing(asked, RUNBOOK).valid, "it may still be running"
    host, pid, _ = this_process().rsplit(":", 2)
    with asked.write() as connection:
        connection.execute(update(run_table).where(run_table.c.id == lost).values(owner=f"{host}:{pid}:1"))
    assert licence.standing(asked, RUNBOOK).why == f"{lost} crashed since its last drill (its process is gone)"


@pytest.mark.parametrize("left", [FixState.intended, FixState.applied])
def test_an_act_that_is_left_unseen_takes_it_away_until_it_is_seen(asked: Ledger, left: FixState) -> None:
    licence.issue(asked, RUNBOOK, FIGURES)
    one = grant(asked, a_fix("row 1"))
    asked.move(one.id, [FixState.granted], FixState.intended, {})
    asked.move(one.id, [FixState.intended], left, {})
    assert licence.standing(asked, RUNBOOK).valid, "its run is not over"
    with asked.read() as connection:
        run_id = connection.execute(select(fix.c.run_id).where(fix.c.id == one.id)).scalar_one()
    asked.close_run(run_id, "waiting", {})
    assert licence.standing(asked, RUNBOOK).valid, "a person is being asked"
    asked.close_run(run_id, "unsolved", {})
    assert licence.standing(asked, RUNBOOK).why == f"{one.id} was begun and not seen to hold since its last drill"
    asked.move(one.id, [left], FixState.proven, {})
    assert licence.standing(asked, RUNBOOK).valid
