"""What a cooldown lets through, as a table: the rule, the events that wait, when one was last told, what is done."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from runbook.cooldown import Decision, Rule, decide, rule_of

NOW = 1_000_000_000
WITHIN, AFTER = Rule(once_within=60), Rule(once_after=60)
SOME = Rule(threshold=3, within=60)
BOTH = Rule(threshold=3, within=60, once_within=600)


def ago(*seconds: float) -> list[int]:
    return [NOW - round(one * 1000) for one in seconds]


@pytest.mark.parametrize(
    ("rule", "waiting", "told", "said"),
    [
        (Rule(), ago(0), None, Decision(True, 0)),
        (Rule(), ago(3, 2, 1), 1, Decision(True, 2)),
        (WITHIN, ago(0), None, Decision(True, 0)),
        (WITHIN, ago(5, 4, 0), None, Decision(True, 2)),
        (WITHIN, ago(5, 0), 59, Decision(False, 2)),
        (WITHIN, ago(0), 60, Decision(True, 0)),
        (WITHIN, ago(0), -5, Decision(False, 1)),  # the clock was set back
        (AFTER, ago(0), None, Decision(False, 0, NOW + 60_000)),
        (AFTER, ago(59, 1), 1, Decision(False, 0, NOW + 1_000)),
        (AFTER, ago(60, 1), 1, Decision(True, 1)),
        (SOME, ago(2, 1), None, Decision(False, 0, NOW + 58_000)),
        (SOME, ago(2, 1, 0), None, Decision(True, 2)),
        (SOME, ago(61, 60, 1, 0), None, Decision(False, 2, NOW + 59_000)),
        (SOME, ago(61), None, Decision(False, 1)),
        (SOME, ago(61, 2, 1, 0), None, Decision(True, 3)),
        (BOTH, ago(2, 1, 0), 599, Decision(False, 3)),
        (BOTH, ago(2, 1, 0), 600, Decision(True, 2)),
    ],
)
def test_what_is_told(rule: Rule, waiting: list[int], told: float | None, said: Decision) -> None:
    told_at = None if told is None else ago(told)[0]
    assert decide(rule, waiting, told_at, NOW) == said


@pytest.mark.parametrize("wrong", [{"threshold": 3}, {"within": 3}, {"once_within": 0}, {"onec_after": 3}])
def test_a_rule_that_cannot_be_meant(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Rule(**wrong)


def test_the_target_goes_before_what_happened() -> None:
    rules = {"runbook.wanted": AFTER, "pool-exhaustion": WITHIN, "stripe.in_1": SOME}
    assert rule_of(rules, "runbook.wanted", "runbook.pool-exhaustion") is WITHIN
    assert rule_of(rules, "runbook.wanted", "runbook.failed-payments") is AFTER
    assert rule_of(rules, "stripe.invoice.paid", "runbook.stripe.in_1") is SOME
    assert rule_of(rules, "stripe.invoice.paid", "runbook.stripe.in_2") is None
