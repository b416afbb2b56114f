"""What only looks like lost money is left alone: each case on PostgreSQL, a Stripe that keeps state, and the app."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from demo import stripe_faults
from runbook.run import ACTED
from tests.flows import payments_parts as parts
from tests.flows.payments_parts import World

Case = dict[str, Any]
CASES: list[Case] = tomllib.loads((Path(__file__).parents[1] / "corpus" / "failed_payments.toml").read_text("utf-8"))[
    "case"
]

seeded, world = parts.seeded, parts.world  # fixtures


def make(world: World, case: Case) -> None:
    store = world.stripe.store
    if "make" in case:
        getattr(stripe_faults, case["make"])(store)
    if "row" in case:
        *values, minutes = case["row"]
        world.sql(
            'INSERT INTO "Subscription" (id, "stripeCustomerId", "stripeSubscriptionId", status, "createdAt") '
            "VALUES (%s, %s, nullif(%s, ''), %s, now() AT TIME ZONE 'UTC' - make_interval(mins => %s))",
            *values,
            minutes,
        )
    if "subscription" in case:
        name, status, minutes = case["subscription"]
        store.add_subscription(name, name.replace("sub", "cus"), status, int(time.time()) - 60 * minutes)
    if "word" in case:
        store.set_status(*case["word"])
    if "event" in case:
        event = dict(case["event"])
        kind = event.pop("type", None)
        made = store.emit(event.pop("number"), **event)
        made |= {"type": kind} if kind else {}
        store.deliveries.clear()
    if "endpoint" in case:
        store.add_endpoint(case["endpoint"])["status"] = "disabled"


def state(world: World) -> Mapping[str, Any]:
    """All that the runbook could change."""
    store = world.stripe.store
    switches = {one["id"]: one["status"] for one in store.endpoints.values()}
    return {"rows": world.statuses(), "switches": switches, "charges": dict(store.tries), "sent": [*store.deliveries]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].replace(" ", "-"))
async def test_it_stays_as_it_is(world: World, case: Case) -> None:
    make(world, case)
    before = state(world)
    report = await world.run(money_cap_cents=1_000_000)
    assert state(world) == before
    assert not [fix for fix in report.fixes if fix.state in ACTED]
    told = "\n".join([*report.notices, *(f"{found.subject}: {found.detail}" for found in report.findings)])
    assert case.get("says", "") in told


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 5
