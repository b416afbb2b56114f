"""The rules, as tables: pure, so these run in a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.model import Fix, FixState, Mode, Risk, Share
from runbook.policy import DEFAULT_CAPS, HOURS_24, MINUTES_15, Attempt, Cap, Facts, decide
from tests.runbook.parts import a_fix

NOW = 1_700_000_000_000


def facts(**given_: Any) -> Facts:
    base: dict[str, Any] = {"runbook": "a-runbook", "run_id": "run_1", "mode": Mode.auto, "now_ms": NOW}
    return Facts(**base | {"stopped": None, "history": (), "open_targets": ()} | given_)


def past(n: int = 1, *, age: int = 1000, state: FixState = FixState.proven, **given_: Any) -> list[Attempt]:
    base = {"runbook": "a-runbook", "action": "set", "run_id": "run_0"}
    return [Attempt(**base | {"target": f"other {i}"} | given_, at_ms=NOW - age, state=state) for i in range(n)]


def granted(fixes: Sequence[Fix], known: Facts) -> list[bool]:
    return [verdict.granted for verdict in decide(fixes, known)]


def why(one: Fix, known: Facts) -> str:
    return decide([one], known)[0].why


def test_nothing_planned_is_nothing_granted() -> None:
    assert decide([], facts()) == []


def test_a_plain_fix_is_granted() -> None:
    assert granted([a_fix()], facts()) == [True]


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (facts(stopped="fire"), "red button is pressed: fire"),
        (facts(stopped=""), "red button"),
        (facts(mode=Mode.observe), "observe changes nothing"),
        (facts(mode=Mode.approve), "no person approved it"),
        (facts(mode=Mode.approve, refusal="refused by mia"), "refused by mia"),
        (facts(open_targets={"row 1"}), "another fix holds this target"),
        (facts(share=Share(sick=6, of=10)), "mass failure: 6 of 10"),
        (facts(share=Share(sick=0, of=0)), "mass failure"),
        (facts(history=past(3, state=FixState.failed)), "3 attempts of this runbook failed"),
        (facts(history=past(3, state=FixState.intended)), "3 attempts of this runbook failed"),
        (facts(history=past(2, target="row 1")), "cap of row 1: 2 of 2 attempts used in 15 minutes"),
        (facts(history=past(4, target="row 1", age=HOURS_24 - 1)), "cap of row 1: 4 of 4 attempts used in 24 hours"),
        (facts(history=past(20, run_id="run_1")), "cap of a-runbook: 20 of 20 attempts used in this run"),
        (facts(history=past(40)), "cap of a-runbook: 40 of 40"),
        (facts(history=past(2000, runbook="b", action="b")), "cap of global"),
        (facts(history=past(3), caps={**DEFAULT_CAPS, "set": Cap(per_15min=3)}), "cap of set: 3 of 3"),
    ],
)
def test_what_refuses(known: Facts, reason: str) -> None:
    assert granted([a_fix()], known) == [False]
    assert reason in why(a_fix(), known)


@pytest.mark.parametrize(
    "known",
    [
        facts(share=Share(sick=5, of=10)),
        facts(history=past(2, state=FixState.failed)),
        facts(history=past(3, state=FixState.failed, age=MINUTES_15)),
        facts(history=past(3, state=FixState.failed, runbook="b")),
        facts(history=past(1, target="row 1")),
        facts(history=past(3, target="row 1", age=HOURS_24)),
        facts(history=past(19, run_id="run_1")),
        facts(open_targets={"row 2"}),
    ],
)
def test_what_does_not_refuse(known: Facts) -> None:
    assert granted([a_fix()], known) == [True]


def test_a_persons_risk_needs_a_person_even_in_auto() -> None:
    one = a_fix(risk=Risk.person)
    assert "needs a person" in why(one, facts())
    assert granted([one], facts(approved={one.key})) == [True]


def test_an_approval_is_good_for_the_state_it_was_given_for() -> None:
    one, drifted = a_fix(was="old"), a_fix(was="newer")
    known = facts(mode=Mode.approve, approved={one.key})
    assert granted([one], known) == [True]
    assert granted([drifted], known) == [False]


def test_attempts_in_the_future_count_because_clocks_are_set_back() -> None:
    assert granted([a_fix()], facts(history=past(2, target="row 1", age=-MINUTES_15))) == [False]


def test_every_grant_counts_against_those_after_it() -> None:
    fixes = [a_fix(f"row {i}") for i in range(30)]
    assert granted(fixes, facts()) == [True] * 20 + [False] * 10


def test_one_target_is_granted_once_in_one_plan() -> None:
    assert granted([a_fix(), a_fix(action="other")], facts()) == [True, False]


attempts = st.lists(
    st.builds(
        Attempt,
        runbook=st.sampled_from(["a-runbook", "b"]),
        action=st.sampled_from(["set", "other"]),
        target=st.sampled_from([f"row {i}" for i in range(6)]),
        at_ms=st.integers(NOW - 2 * HOURS_24, NOW + MINUTES_15),
        state=st.sampled_from([FixState.proven, FixState.applied, FixState.granted, FixState.failed]),
        run_id=st.sampled_from(["run_0", "run_1"]),
    ),
    max_size=30,
)
plans = st.lists(
    st.builds(
        a_fix,
        st.sampled_from([f"row {i}" for i in range(8)]),
        action=st.sampled_from(["set", "other"]),
        risk=st.sampled_from(Risk),
    ),
    max_size=20,
)
caps = st.builds(Cap, per_run=st.integers(0, 5), per_15min=st.integers(0, 8), per_24h=st.integers(0, 12))


@given(
    history=attempts,
    plan=plans,
    mode=st.sampled_from(Mode),
    cap=caps,
    scope=st.sampled_from(["global", "a-runbook", "set"]),
)
def test_no_history_and_no_plan_break_a_cap(
    history: list[Attempt], plan: list[Fix], mode: Mode, cap: Cap, scope: str
) -> None:
    known = facts(history=history, mode=mode, caps={**DEFAULT_CAPS, scope: cap})
    given_out = [verdict.fix for verdict in decide(plan, known) if verdict.granted]
    concerned = [one for one in given_out if scope != "set" or one.action == "set"]
    before = [one for one in history if scope == "global" or scope in {one.runbook, one.action}]
    in_15 = [one for one in before if NOW - one.at_ms < MINUTES_15]
    assert cap.per_15min is not None and cap.per_run is not None
    assert len(concerned) <= max(0, cap.per_15min - len(in_15))
    assert len(concerned) <= max(0, cap.per_run - sum(one.run_id == "run_1" for one in before))
    assert len({one.target for one in given_out}) == len(given_out)
    assert mode is Mode.auto or not given_out
    assert all(one.risk is not Risk.person for one in given_out)
