"""The rules, as tables: pure, so these run in a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook import policy
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


RESTED = {**DEFAULT_CAPS, "target": Cap(rest_seconds=60)}


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
        (facts(taken_back={"row 1"}), "a person undid an act on it within 24 hours"),
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
        (facts(history=past(3), caps={**DEFAULT_CAPS, "set": Cap(per_24h=3)}), "3 of 3 attempts used in 24 hours"),
        (facts(caps={**DEFAULT_CAPS, "set": Cap(per_run=0)}), "cap of set: 0 of 0 attempts used in this run"),
        (facts(history=past(1), caps={**DEFAULT_CAPS, "a-runbook": Cap(per_24h=1)}), "cap of a-runbook: 1 of 1"),
        (facts(history=past(6000, runbook="b", action="b", age=MINUTES_15)), "cap of global: 6000 of 6000"),
        (
            facts(history=past(target="row 1", age=59_000), caps=RESTED),
            "cooldown: another run tried this target 59 s ago",
        ),
        (
            facts(runbook="failed-payments", share=Share(sick=6, of=100)),
            "6 of 100 are sick, more than 5%",
        ),
    ],
)
def test_what_refuses(known: Facts, reason: str) -> None:
    assert granted([a_fix()], known) == [False]
    assert reason in why(a_fix(), known)


@pytest.mark.parametrize(
    ("known", "may"),
    [
        (facts(history=past(target="row 1", age=60_000), caps=RESTED), True),
        (facts(history=past(target="row 2"), caps=RESTED), True),
        (facts(history=past(target="row 1", run_id="run_1"), caps=RESTED), True),  # this run's own harder fix
        (facts(history=past(target="row 1", action="b"), caps={**DEFAULT_CAPS, "set": Cap(rest_seconds=60)}), True),
        (facts(history=past(target="row 1"), caps={**DEFAULT_CAPS, "set": Cap(rest_seconds=60)}), False),
    ],
)
def test_a_target_rests_between_runs(known: Facts, may: bool) -> None:
    assert granted([a_fix()], known) == [may]


def test_what_is_used_of_the_caps_is_said_for_the_runbook_and_each_action() -> None:
    caps = {**DEFAULT_CAPS, "set": Cap(per_15min=3)}
    known = facts(history=[*past(2), *past(1, age=MINUTES_15), *past(1, runbook="b", action="b")], caps=caps)
    assert policy.used([a_fix(), a_fix("row 2")], known) == [
        "a-runbook 0 of 20 in this run, 2 of 40 in 15 minutes, 3 of 200 in 24 hours",
        "set 2 of 3 in 15 minutes",
    ]


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
        facts(taken_back={"row 2"}),
        facts(taken_back={"row 1"}, approved={a_fix().key}),
        facts(share=None),
        facts(history=past(40, age=MINUTES_15)),
        facts(history=past(200, age=HOURS_24)),
        facts(history=past(50, runbook="b", action="b")),
        facts(history=past(9, state=FixState.failed), caps={**DEFAULT_CAPS, "a-runbook": Cap()}),
    ],
)
def test_what_does_not_refuse(known: Facts) -> None:
    assert granted([a_fix()], known) == [True]


def test_a_persons_risk_needs_a_person_even_in_auto() -> None:
    one = a_fix(risk=Risk.person)
    assert "needs a person" in why(one, facts())
    assert granted([one], facts(approved={one.key})) == [True]


@pytest.mark.parametrize("mode", [Mode.approve, Mode.auto])
def test_after_failures_a_person_may_go_on_and_nobody_else(mode: Mode) -> None:
    one, other = a_fix("row 1"), a_fix("row 2")
    known = facts(mode=mode, approved={one.key}, history=past(3, state=FixState.failed))
    assert granted([one, other], known) == [True, False]
    assert "a person must look" in why(other, known)
    capped = facts(mode=mode, approved={one.key}, history=past(3, state=FixState.failed, target="row 1"))
    assert "cap of row 1" in why(one, capped)


def charge(target: str, amount: int) -> Fix:
    return a_fix(target).model_copy(update={"expect": {"amount": amount}})


PURSE = {**DEFAULT_CAPS, "set": Cap(cents_24h=1_000)}


@pytest.mark.parametrize(
    ("moved", "age", "amount", "may"),
    [
        (0, 0, 1_000, True),
        (0, 0, 1_001, False),
        (400, 1_000, 600, True),
        (400, 1_000, 601, False),
        (400, HOURS_24 - 1, 601, False),
        (400, HOURS_24, 1_000, True),
        (400, -MINUTES_15, 601, False),
        (5_000, 1_000, 0, True),
    ],
)
def test_money_has_a_ceiling_over_a_day_that_a_person_may_pass(moved: int, age: int, amount: int, may: bool) -> None:
    one = charge("row 1", amount)
    known = facts(history=past(1, cents=moved, age=age), caps=PURSE)
    assert granted([one], known) == [may]
    assert may or "1000 cents in 24 hours" in why(one, known)
    assert granted([one], replace(known, approved={one.key})) == [True]


def test_the_charges_of_one_plan_count_against_each_other() -> None:
    assert granted([charge("a", 600), charge("b", 600), charge("c", 400)], facts(caps=PURSE)) == [True, False, True]


def test_an_approval_is_good_for_the_state_it_was_given_for() -> None:
    one, drifted = a_fix(was="old"), a_fix(was="newer")
    known = facts(mode=Mode.approve, approved={one.key})
    assert granted([one], known) == [True]
    assert granted([drifted], known) == [False]


@pytest.mark.parametrize("state", [state for state in FixState if state is not FixState.planned])
def test_attempts_count_whatever_became_of_them(state: FixState) -> None:
    assert granted([a_fix()], facts(history=past(2, target="row 1", state=state))) == [False]


def test_a_failure_in_the_future_breaks_too() -> None:
    assert granted([a_fix()], facts(history=past(3, age=-MINUTES_15, state=FixState.failed))) == [False]


def test_attempts_in_the_future_count_because_clocks_are_set_back() -> None:
    assert granted([a_fix()], facts(history=past(2, target="row 1", age=-MINUTES_15))) == [False]
    day = {"runbook": Cap(), "set": Cap(per_24h=2)}
    assert granted([a_fix()], facts(history=past(2, age=-MINUTES_15), caps=day)) == [False]


def test_every_grant_counts_against_those_after_it() -> None:
    fixes = [a_fix(f"row {i}") for i in range(30)]
    assert granted(fixes, facts()) == [True] * 20 + [False] * 10


def test_one_target_is_granted_once_in_one_plan() -> None:
    assert granted([a_fix(), a_fix(action="other")], facts()) == [True, False]


def test_a_refused_fix_uses_up_nothing() -> None:
    fixes = [a_fix("row 1", risk=Risk.person), a_fix("row 1"), a_fix("row 2")]
    assert granted(fixes, facts(caps={**DEFAULT_CAPS, "set": Cap(per_run=1)})) == [False, True, False]


def test_every_verdict_says_why_and_keeps_the_order() -> None:
    fixes = [a_fix(f"row {i}") for i in range(25)]
    verdicts = decide(fixes, facts())
    assert [verdict.fix for verdict in verdicts] == fixes
    assert all(verdict.why for verdict in verdicts)


# -- for any history and any plan -----------------------------------------------------------------------------------

ROWS = [f"row {i}" for i in range(8)]
ACTIONS = ["set", "other"]
attempts = st.lists(
    st.builds(
        Attempt,
        runbook=st.sampled_from(["a-runbook", "b"]),
        action=st.sampled_from(ACTIONS),
        target=st.sampled_from(ROWS[:6]),
        at_ms=st.integers(NOW - 2 * HOURS_24, NOW + MINUTES_15),
        state=st.sampled_from(FixState),
        run_id=st.sampled_from(["run_0", "run_1"]),
    ),
    max_size=30,
)
plans = st.lists(
    st.builds(a_fix, st.sampled_from(ROWS), action=st.sampled_from(ACTIONS), risk=st.sampled_from(Risk)), max_size=20
)
limit = st.none() | st.integers(0, 12)
bounds = st.builds(Cap, per_run=limit, per_15min=limit, per_24h=limit, failures_15min=st.none() | st.integers(1, 4))
CAPPED = ["global", "target", "runbook", "a-runbook", *ACTIONS]
many_caps = st.fixed_dictionaries({"runbook": bounds}, optional={name: bounds for name in CAPPED if name != "runbook"})


def scopes(known: Facts) -> list[tuple[Cap, Callable[[Attempt | Fix], bool]]]:
    """Every cap in force with what it covers, said once more in other words than the policy's."""
    caps = known.caps
    found: list[tuple[Cap, Callable[[Attempt | Fix], bool]]] = [
        (caps.get("global", Cap()), lambda _one: True),
        (
            caps.get("a-runbook", caps["runbook"]),
            lambda one: one.runbook == "a-runbook" if isinstance(one, Attempt) else True,
        ),
    ]
    found += [(caps.get(name, Cap()), lambda one, name=name: one.action == name) for name in ACTIONS]  # type: ignore[misc]
    found += [(caps.get("target", Cap()), lambda one, name=name: one.target == name) for name in ROWS]  # type: ignore[misc]
    return found


@settings(deadline=None, max_examples=300)
@given(
    history=attempts,
    plan=plans,
    mode=st.sampled_from(Mode),
    caps=many_caps,
    open_targets=st.sets(st.sampled_from(ROWS), max_size=3),
    approved=st.sets(st.integers(0, 19)),
    stopped=st.sampled_from([None, None, None, "fire", ""]),
)
def test_no_history_and_no_plan_break_a_bound(
    history: list[Attempt],
    plan: list[Fix],
    mode: Mode,
    caps: dict[str, Cap],
    open_targets: set[str],
    approved: set[int],
    stopped: str | None,
) -> None:
    keys = {one.key for at, one in enumerate(plan) if at in approved}
    known = facts(history=history, mode=mode, caps=caps, open_targets=open_targets, approved=keys, stopped=stopped)
    out = [verdict.fix for verdict in decide(plan, known) if verdict.granted]
    for cap, covers in scopes(known):
        here, before = sum(covers(one) for one in out), [one for one in history if covers(one)]
        for bound, used in (
            (cap.per_run, sum(one.run_id == "run_1" for one in before)),
            (cap.per_15min, sum(NOW - one.at_ms < MINUTES_15 for one in before)),
            (cap.per_24h, sum(NOW - one.at_ms < HOURS_24 for one in before)),
        ):
            assert bound is None or here <= max(0, bound - used)
    assert len({one.target for one in out}) == len(out)
    assert not open_targets & {one.target for one in out}
    assert not out or (mode is not Mode.observe and stopped is None)
    assert mode is not Mode.approve or {one.key for one in out} <= keys
    assert all(one.risk is not Risk.person or one.key in keys for one in out)
    breaker = caps.get("a-runbook", caps["runbook"]).failures_15min
    bad = {FixState.failed, FixState.intended}
    broken = sum(one.runbook == "a-runbook" and one.state in bad and NOW - one.at_ms < MINUTES_15 for one in history)
    assert {one.key for one in out} <= keys or breaker is None or broken < breaker


@settings(deadline=None, max_examples=100)
@given(history=attempts, plan=plans)
def test_without_caps_every_free_target_is_granted(history: list[Attempt], plan: list[Fix]) -> None:
    known = facts(history=history, caps={"runbook": Cap()})
    out = [verdict.fix for verdict in decide(plan, known) if verdict.granted]
    assert {one.target for one in out} == {one.target for one in plan if one.risk is not Risk.person}
