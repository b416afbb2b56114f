"""When an alert fires and clears, as tables of minutes: nothing flaps, and silence is never health."""

from __future__ import annotations

import pytest

from runbook.alarm import Alarm, Point, Rule, Sample, State, fresh, step

MINUTE = 60_000
BLIND_MS = 10 * MINUTE
RULE = Rule(name="errors", trigger=5, need=3, of=5)
LOW = Rule(name="disk", trigger=0.1, need=2, of=3, below=True)

UNSEEN = Sample(unseen="went away")
FEW = Sample(said="3 of them say nothing")
UNSET = Sample(unset="APP_LOG: not configured")


def play(samples: list[float | Sample], rule: Rule = RULE) -> list[Alarm]:
    """The alert after each sample, one a minute; a number is a value of that minute."""
    now, alarm, seen = 100 * MINUTE, fresh(rule.name, 100 * MINUTE), list[Alarm]()
    for one in samples:
        sample = one if isinstance(one, Sample) else Sample(points=[Point(minute=now // MINUTE, value=one)])
        alarm = step(alarm, rule, sample, now, BLIND_MS)
        seen.append(alarm)
        now += MINUTE
    return seen


def states(samples: list[float | Sample], rule: Rule = RULE) -> str:
    """The first letter of each state (u is unknown, n is not configured)."""
    letters = {State.unset: "n"}
    return "".join(letters.get(one.state, one.state.value[0]) for one in play(samples, rule))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0, 0, 0], "ooo"),
        ([9], "p"),
        ([9, 9, 9], "ppf"),
        ([9, 0, 9, 0, 9], "ppppf"),  # 3 of 5
        ([9, 0, 0, 0, 9, 0, 9], "ppppppp"),  # never 3 of 5
        ([9, 0, 0, 0, 0, 0], "pppppo"),
        ([5, 5, 5, 5], "oooo"),  # the threshold itself is not over it
        ([9, 9, 9, 0, 0, 0], "ppfffo"),
        ([9, 9, 9, 5, 5, 5, 5], "ppfffff"),  # under the threshold, but not by the margin
        ([9, 9, 9, 4, 4, 4], "ppfffo"),  # 80% of the trigger is well
        ([9, 9, 9, 0, 0, 9, 0, 0, 0], "ppffffffo"),
        ([9, 9, 9, 0, 0, 0, 9, 9], "ppfffopp"),  # what made it fire does not make it fire again
        ([9, 9, 9, UNSEEN, UNSEEN], "ppfff"),  # missing data is not OK
        ([0, UNSEEN, 0], "ouo"),
        ([UNSEEN, 9, 9, 9], "uppf"),
        ([9, 9, UNSEEN, 9], "ppuf"),
        ([9, 9, 9, UNSEEN, 0, 0, 0], "ppffffo"),
        ([FEW, FEW], "qq"),
        ([9, 9, 9, FEW, 9], "ppfff"),
        ([UNSET, 9], "np"),
        ([9, 9, 9, UNSET], "ppfn"),
    ],
)
def test_pure_when_it_fires_and_clears(samples: list[float | Sample], expected: str) -> None:
    assert states(samples) == expected


def test_pure_what_is_sick_when_small_clears_above_its_threshold() -> None:
    assert states([0.09, 0.09, 0.11, 0.11, 0.13, 0.13], LOW) == "pffffo"


def test_pure_a_gap_of_watches_is_no_health() -> None:
    fired = play([9, 9, 9])[-1]
    later = 100 * MINUTE + 20 * MINUTE
    alone = Sample(points=[Point(minute=later // MINUTE, value=0)])
    assert step(fired, RULE, alone, later, BLIND_MS).state is State.firing  # one good minute after twenty unseen ones


def test_pure_history_read_at_once_is_as_good_as_history_seen() -> None:
    now = 100 * MINUTE
    points = [Point(minute=now // MINUTE - back, value=9) for back in (4, 3, 2)]
    assert step(fresh("errors", now), RULE, Sample(points=points), now, BLIND_MS).state is State.firing


def test_pure_the_same_minute_read_twice_is_one_minute() -> None:
    now, alarm = 100 * MINUTE, fresh("errors", 100 * MINUTE)
    for seconds in (0, 10, 20, 30):
        sample = Sample(points=[Point(minute=now // MINUTE, value=9)])
        alarm = step(alarm, RULE, sample, now + seconds * 1000, BLIND_MS)
    assert alarm.state is State.pending and len(alarm.points) == 1


def test_pure_blindness_is_told_after_a_while_and_ends_with_sight() -> None:
    seen = play([0, *[UNSEEN] * 12, 0])
    assert [one.blind for one in seen] == [False] * 10 + [True] * 3 + [False]
    assert seen[9].state is State.unknown and seen[-1].state is State.ok


def test_pure_a_source_that_never_answered_is_told_too() -> None:
    assert play([UNSEEN] * 11)[-1].blind


def test_pure_too_few_samples_end_a_firing_alert_only_after_an_hour() -> None:
    seen = play([9, 9, 9, *[FEW] * 61])
    assert [one.state for one in seen[3:62]] == [State.firing] * 59
    assert seen[-1].state is State.quiet


def test_pure_the_source_may_overrule_the_threshold() -> None:
    now = 100 * MINUTE
    calm, alarmed, alarm = fresh("x", now), fresh("x", now), Rule(name="x", trigger=0.05, need=1, of=1)
    few = Sample(points=[Point(minute=now // MINUTE, value=0.5, alarm=False)])
    down = Sample(points=[Point(minute=now // MINUTE, value=0.0, alarm=True)])
    assert step(calm, alarm, few, now, BLIND_MS).state is State.ok
    assert step(alarmed, alarm, down, now, BLIND_MS).state is State.firing


def test_pure_since_is_when_the_state_began() -> None:
    seen = play([9, 9, 9, 9, 0, 0, 0])
    assert [one.since_ms // MINUTE for one in seen] == [100, 100, 102, 102, 102, 102, 106]
