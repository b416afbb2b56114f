"""The comparison of two sorted streams, as tables and against the simplest thing that could be right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import OutsideError
from runbook.model import Share
from tasks import reconcile, subscriptions
from tasks.reconcile import Comparison, Drift, Merge, Tally
from tasks.subscriptions import NoStripeId, Row


def run(theirs: dict[str, str], ours: Sequence[Row], busy: Sequence[str] = ()) -> Tally:
    tally = Tally(set(busy))
    merge = Merge(iter(sorted(theirs.items())), tally)
    for row in sorted(ours, key=lambda row: (row.stripe_id, row.id)):
        merge.feed(row)
    merge.end()
    return tally


def row(stripe_id: str, status: str | None, *, row_id: str = "r1", young: bool = False) -> Row:
    return Row(row_id, stripe_id, status, young)


@pytest.mark.parametrize(
    ("theirs", "ours", "counts"),
    [
        ({"s1": "active"}, [row("s1", "active")], {"rows": 1, "compared": 1}),
        ({"s1": "canceled"}, [row("s1", "active")], {"rows": 1, "compared": 1, "drifted": 1}),
        ({"s1": "active"}, [row("s1", None)], {"rows": 1, "compared": 1, "drifted": 1}),
        ({"s1": "active"}, [row("s1", "pending")], {"rows": 1, "compared": 1, "drifted": 1}),
        ({"s1": "canceled"}, [row("s1", "active", young=True)], {"rows": 1, "young": 1}),
        ({"s1": "brand_new"}, [row("s1", "active")], {"rows": 1}),
        ({}, [row("s1", "active")], {"rows": 1, "lost": 1}),
        ({"s1": "active"}, [], {"unseen": 1}),
        ({"s1": "canceled", "s2": "incomplete_expired"}, [], {}),
        (
            {"s1": "canceled"},
            [row("s1", "active"), row("s1", "canceled", row_id="r2")],
            {"rows": 2, "compared": 2, "drifted": 1},
        ),
        (
            {"s1": "active", "s3": "active"},
            [row("s1", "active"), row("s2", "active"), row("s3", "unpaid")],
            {"rows": 3, "compared": 2, "lost": 1, "drifted": 1},
        ),
    ],
)
def test_each_case_is_counted_once(theirs: dict[str, str], ours: list[Row], counts: dict[str, int]) -> None:
    assert dict(run(theirs, ours).counts) == counts


def test_a_subscription_with_an_event_under_way_is_left_alone() -> None:
    tally = run({"s1": "canceled", "s2": "active"}, [row("s1", "active")], busy=["s1", "s2"])
    assert dict(tally.counts) == {"rows": 1, "busy": 1} and tally.drifts == []


WORDS = st.sampled_from([*sorted(reconcile.STATUSES), "brand_new"])
IDS = st.text("ab_Z09", min_size=1, max_size=4)


@given(st.dictionaries(IDS, WORDS), st.lists(st.tuples(IDS, st.none() | WORDS | st.just("pending"))))
def test_the_merge_agrees_with_a_dictionary(theirs: dict[str, str], pairs: list[tuple[str, str | None]]) -> None:
    ours = [row(stripe_id, status, row_id=f"r{place}") for place, (stripe_id, status) in enumerate(pairs)]
    tally = run(theirs, ours)
    known = {one.id: (one, theirs[one.stripe_id]) for one in ours if theirs.get(one.stripe_id) in reconcile.STATUSES}
    differ = {key for key, (one, word) in known.items() if one.status != word}
    assert {drift.row for drift in tally.drifts} == differ
    assert tally.counts["compared"] == len(known)
    assert tally.counts["lost"] == sum(one.stripe_id not in theirs for one in ours)
    named = {one.stripe_id for one in ours}
    assert set(tally.unseen_ids) <= {key for key in theirs if key not in named}
    assert tally.counts["unseen"] == sum(
        key not in named and word not in reconcile.TERMINAL for key, word in theirs.items()
    )


def test_samples_and_plans_are_bounded_but_counts_are_not() -> None:
    many = 1_500
    tally = run(
        {f"s{i:05}": "active" for i in range(many)},
        [row(f"s{i:05}", "unpaid", row_id=f"r{i}") for i in range(many)] + [row(f"x{i}", "active") for i in range(50)],
    )
    assert tally.counts["drifted"] == many and len(tally.drifts) == reconcile.PLAN_AT_MOST
    assert tally.counts["lost"] == 50 and len(tally.lost_ids) == reconcile.SAMPLE


# -- what a whole reading refuses -----------------------------------------------------------------------------------


def counted(**counts: int) -> Tally:
    tally = Tally(())
    tally.counts.update(counts)
    return tally


@pytest.mark.parametrize(
    ("listed", "counts", "word"),
    [(0, {"rows": 1, "lost": 1}, "lists no subscription"), (10, {"rows": 100, "lost": 51}, "does not know 51")],
)
def test_an_empty_or_foreign_list_is_refused(listed: int, counts: dict[str, int], word: str) -> None:
    with pytest.raises(OutsideError, match=word):
        reconcile._checked(counted(**counts), listed, NoStripeId(0, ()))


@pytest.mark.parametrize(("listed", "counts"), [(0, {}), (9, {"rows": 12, "lost": 3}), (9, {"rows": 100, "lost": 50})])
def test_an_empty_app_or_a_few_lost_rows_are_not(listed: int, counts: dict[str, int]) -> None:
    assert reconcile._checked(counted(**counts), listed, NoStripeId(0, ())).listed == listed


@pytest.mark.parametrize(
    ("drifted", "share"), [(0, None), (5, None), (6, Share(sick=6, of=10)), (10, Share(sick=10, of=10))]
)
def test_a_few_rows_are_no_mass_failure_in_a_small_app(drifted: int, share: Share | None) -> None:
    assert Comparison(compared=10, drifted=drifted).share == share


# -- rules ----------------------------------------------------------------------------------------------------------


def drift(ours: str | None, theirs: str, number: int = 1) -> Drift:
    return Drift(row=f"r{number}", stripe_id=f"s{number}", ours=ours, theirs=theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ("active", "past_due", ""),
        ("active", "canceled", ""),
        ("canceled", "active", "final at Stripe"),
        ("incomplete_expired", "active", "final at Stripe"),
        ("pending", "active", "no word of Stripe's"),
        (None, "active", "no word of Stripe's"),
    ],
)
def test_odd_changes_are_told_but_copied_all_the_same(ours: str | None, theirs: str, word: str) -> None:
    one = drift(ours, theirs)
    assert (word in one.anomaly) if word else one.anomaly == ""
    plan = reconcile.plan_drift(Comparison(drifts=(one,), drifted=1))
    assert [(fix.action, fix.target, dict(fix.expect), dict(fix.want)) for fix in plan] == [
        ("copy_status", "Subscription/r1", {"status": ours, "stripe_id": "s1"}, {"status": theirs})
    ]


def test_an_unknown_word_is_a_finding_and_no_fix() -> None:
    seen = Comparison(unknown={"brand_new": 3})
    assert "brand_new" in reconcile.detect_drift(seen)[0].detail
    assert reconcile.plan_drift(seen) == []


def test_what_is_left_after_the_fix() -> None:
    seen = Comparison(drifted=5, compared=9, drifts=tuple(drift("active", "unpaid", n) for n in range(4)))
    now: dict[str, tuple[str, str | None]] = {
        "r0": ("s0", "unpaid"),  # fixed
        "r1": ("s1", "active"),  # not fixed
        "r2": ("s2", "trialing"),  # a webhook came meanwhile
    }  # r3 is gone
    left = reconcile.still_drifted(seen, now)
    assert [one.row for one in left.drifts] == ["r1"] and left.drifted == 2  # and the one that was never planned


def test_undo_of_a_copy_swaps_old_and_new_and_keeps_the_subscription() -> None:
    fix = reconcile.plan_drift(Comparison(drifts=(drift("active", "unpaid"),), drifted=1))[0]
    back = subscriptions.undo_copy(fix)
    assert back.action == "restore_status" and back.target == fix.target
    assert dict(back.expect) == {"status": "unpaid", "stripe_id": "s1"} and dict(back.want) == {"status": "active"}


def test_rows_no_machine_may_touch_are_told() -> None:
    seen = Comparison(lost=12, lost_ids=("a", "b"), without_id=NoStripeId(1, ("c",)), unseen=1, unseen_ids=("s9",))
    assert [text.split(" ", 1)[0] for text in reconcile.notices_of(seen)] == ["12", "1", "1"]
    assert reconcile.notices_of(Comparison()) == []


def test_names_from_the_profile_are_quoted() -> None:
    text = subscriptions.named("SELECT {id} FROM {table}").as_string()
    assert text == 'SELECT "id" FROM "public"."Subscription"'
