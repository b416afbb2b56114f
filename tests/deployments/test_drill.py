"""A drill breaks a real stack: who mends it and touches nothing else may act alone."""

from __future__ import annotations

import pytest

from deployments import drilling
from runbook import licence, settings
from runbook.ledger import Ledger


@pytest.fixture
def book(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "30")
    settings.forget()
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_a_passed_drill_is_a_licence(book: Ledger) -> None:
    figures = drilling.drill(book, "failed-payments")
    assert figures["passed"], figures
    assert figures["faults_mended"] == "3 of 3"
    found = licence.standing(book, "failed-payments")
    assert found.valid and found.figures["lookalikes_touched"].startswith("0 of ")
    assert not licence.standing(book, "pool-exhaustion").valid
    settings.forget()
