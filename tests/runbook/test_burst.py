"""What belongs to one incident, and when it is over: tables."""

from __future__ import annotations

import pytest

from runbook.burst import BURST_MS, MANY, QUIET_MS, Incident, Symptom, home, keys_of, over
from runbook.model import Finding

NOW = 10 * BURST_MS
OLD, FRESH = NOW - BURST_MS, NOW - BURST_MS + 1


def an(name: str, news: int, **symptoms: tuple[int, int | None]) -> Incident:
    held = {key: Symptom(since_ms=seen, seen_ms=seen, well_ms=gone) for key, (seen, gone) in symptoms.items()}
    return Incident(
        id=name,
        title=name,
        opened_at_ms=news,
        news_ms=news,
        closed_at_ms=None,
        closed_by=None,
        postmortem=None,
        symptoms=held,
    )


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        ([], None),
        ([an("a", FRESH, other=(FRESH, None))], "a"),  # a burst is one incident, whatever was found
        ([an("a", OLD, other=(FRESH, None))], None),  # what has been sick for long is no burst any more
        ([an("a", 0, key=(0, None))], "a"),  # what was always wrong stays where it is
        ([an("a", 0, key=(0, None)), an("b", FRESH, other=(FRESH, None))], "a"),
        ([an("a", 0, key=(0, FRESH))], "a"),  # it came back at once
        ([an("a", 0, key=(0, OLD), other=(0, None))], None),  # it came back after long: something new
        ([an("a", 0, key=(0, OLD)), an("b", FRESH, other=(FRESH, None))], "b"),
        ([an("a", FRESH, x=(FRESH, None)), an("b", FRESH + 1, y=(FRESH, None))], "b"),
    ],
)
def test_pure_where_a_symptom_belongs(opened: list[Incident], expected: str | None) -> None:
    found = home("key", NOW, opened)
    assert (found.id if found else None) == expected


LONG, SHORT = NOW - QUIET_MS, NOW - QUIET_MS + 1


@pytest.mark.parametrize(
    ("one", "pages", "expected"),
    [
        (an("a", 0, x=(0, LONG)), 0, True),
        (an("a", 0, x=(0, SHORT)), 0, False),
        (an("a", 0, x=(0, LONG), y=(0, SHORT)), 0, False),
        (an("a", 0, x=(0, LONG), y=(0, None)), 0, False),  # nobody has looked again: that is not well
        (an("a", 0, x=(0, LONG)), 1, False),
        (an("a", LONG), 0, True),  # opened by a page alone
        (an("a", SHORT), 0, False),
    ],
)
def test_pure_when_it_is_over(one: Incident, pages: int, expected: bool) -> None:
    assert over(one, pages, NOW) is expected


@pytest.mark.parametrize(
    ("subjects", "keys"),
    [
        ([], []),
        (["pid 4711", "pid 4712"], ["a:pid-#"]),
        (["mail of 2026-11-24", "drift"], ["a:mail-of-#-#-#", "a:drift"]),
        ([f"row {chr(97 + i)}" for i in range(MANY + 1)], ["a:many"]),
    ],
)
def test_pure_the_symptoms_of_findings(subjects: list[str], keys: list[str]) -> None:
    assert list(keys_of("a", [Finding(subject=one, detail="is wrong") for one in subjects])) == keys
