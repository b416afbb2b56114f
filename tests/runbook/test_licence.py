"""Acting alone is earned by a drill of this very code, and lost by age, by change and by a fix that was not proven."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from runbook import licence, settings
from runbook.ledger import Ledger, now_ms
from runbook.model import FixState, Mode, Outcome
from runbook.run import Run
from runbook.schema import entry, fix
from tests.runbook.parts import RUNBOOK, a_fix, grant

FIGURES = {"faults": "2 of 2", "look-alikes": "6 of 6"}


@pytest.fixture
def asked(in_force: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger of a process that asks for licences, as the default is."""
    monkeypatch.delenv("RUNBOOK_LICENCE_DAYS")
    settings.forget()
    yield in_force


def end(book: Ledger, target: str, *states: FixState, action: str = "set") -> None:
    one = grant(book, a_fix(target, action=action))
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
    for name in ("runbook/policy.py", "tasks/hand.py", "flows/a_runbook.py", "flows/other.py"):
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
    for name in ("runbook/policy.py", "tasks/hand.py", "flows/a_runbook.py"):
        (tree / name).write_text("one = 2\n")
        assert version() != before, name
        assert "code has changed" in licence.standing(asked, RUNBOOK).why
        (tree / name).write_text("one = 1\n")
    licence.code_version.cache_clear()


def test_a_failed_proof_takes_it_away(asked: Ledger) -> None:
    end(asked, "row 0", FixState.intended, FixState.applied, FixState.failed)
    licence.issue(asked, RUNBOOK, FIGURES)
    with asked.write() as connection:
        connection.execute(update(fix).values(decided_at_ms=now_ms() - 1_000))
    assert licence.standing(asked, RUNBOOK).valid, "what failed before the drill is judged by the drill"
    end(asked, "row 1", FixState.intended, FixState.failed)
    assert licence.standing(asked, RUNBOOK).valid, "turned down: nothing was done, so nothing was left unproven"
    end(asked, "row 2", FixState.intended, FixState.applied, FixState.failed)
    assert "done and not proven" in licence.standing(asked, RUNBOOK).why
