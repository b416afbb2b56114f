"""Rates with their denominators: what was not tried is no success, and a touched look-alike is not averaged away."""

from __future__ import annotations

from typing import cast

from demo.faults import Broken
from demo.scene import Fault, Lookalike
from demo.score import Rate, score, total


class Made:
    """What ``score`` reads of a broken stack."""

    def __init__(self, faults: list[Fault], left_alone: dict[str, list[Lookalike]]) -> None:
        self.faults, self.left_alone = faults, left_alone


def fault(runbook: str, *, mended: bool) -> Fault:
    return Fault("a fault", runbook, (), lambda: mended)


def left(*untouched: bool) -> list[Lookalike]:
    return [Lookalike("it", lambda one=one: one) for one in untouched]  # type: ignore[misc]


def test_each_runbook_has_its_own_rates() -> None:
    faults = [fault("a", mended=True), fault("a", mended=False), fault("b", mended=True)]
    scored = score(cast("Broken", Made(faults, {"a": left(True), "c": left(True, False)})))
    assert not scored.good
    assert scored.rates() == {"a": Rate(1, 2, 0, 1), "b": Rate(1, 1), "c": Rate(0, 0, 1, 2)}
    assert scored.rates()["a"].cells == ("1 of 2 (50%)", "0 of 1 (0%)")
    assert scored.rates()["c"].cells == ("none tried", "1 of 2 (50%)")
    assert total(scored.rates()) == Rate(2, 3, 1, 3)


def test_all_mended_and_nothing_touched_is_good() -> None:
    assert score(cast("Broken", Made([fault("a", mended=True)], {"a": left(True)}))).good
