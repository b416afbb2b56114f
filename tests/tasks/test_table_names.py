"""The app's own spelling of tables and columns is found, and what is not there is named."""

from __future__ import annotations

from runbook.settings import Tables
from tasks.table_names import Catalog, groups, match

PRISMA = ("id", "stripeCustomerId", "stripeSubscriptionId", "status", "plan", "createdAt", "userId")
SNAKE = ("id", "stripe_customer_id", "stripe_subscription_id", "status", "created_at")


def test_a_prisma_app_is_the_default() -> None:
    found = match({("public", "Subscription"): PRISMA, ("public", "Other"): ("id",)})
    known = Tables()
    assert {key: found.names[key] for key in groups()["subscription"]} == {
        key: getattr(known, key) for key in groups()["subscription"]
    }
    assert found.names["schema"] == "public"


def test_snake_case_plurals_in_another_schema_are_found() -> None:
    found = match({("shop", "subscriptions"): SNAKE})
    assert found.names["schema"] == "shop"
    assert found.names["subscription"] == "subscriptions"
    assert found.names["subscription_stripe_id"] == "stripe_subscription_id"


def test_what_is_not_there_is_named() -> None:
    found = match({("public", "Subscription"): ("id", "status")})
    assert {"subscription_stripe_id", "subscription_created"} <= set(found.missing)
    assert "subscription" in match({}).missing


def test_the_named_schema_wins_over_a_copy_elsewhere() -> None:
    both: Catalog = {("backup", "Subscription"): PRISMA, ("public", "Subscription"): PRISMA}
    assert match(both).names["schema"] == "public"
    assert match(both, "backup").names["schema"] == "backup"
