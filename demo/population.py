"""The make-believe customers, as functions of a number, so that the app's rows and Stripe's objects agree
without either side reading the other."""

from __future__ import annotations

USERS = 50_000
SUBSCRIPTIONS = 45_000
EPOCH = 1_735_689_600  # 2025-01-01T00:00:00Z: customer number 0 signed up then, one more every ten minutes


def user_id(i: int) -> str:
    return f"user_{i:08d}"


def row_id(i: int) -> str:
    return f"row_{i:08d}"


def customer_id(i: int) -> str:
    return f"cus_demo{i:08d}"


def subscription_id(i: int) -> str:
    return f"sub_demo{i:08d}"


def created(i: int) -> int:
    """Unix seconds at which customer ``i`` subscribed (older than 5 minutes for every number below 90,000)."""
    return EPOCH + 600 * (i % 90_000)


def status(i: int) -> str:
    """Stripe's word for subscription ``i``: 88% active, the rest spread over the other steady states."""
    match i % 100:
        case 1 | 2 | 3:
            return "trialing"
        case 4 | 5 | 6:
            return "past_due"
        case 7 | 8 | 9 | 10 | 11:
            return "canceled"
        case 12:
            return "unpaid"
        case _:
            return "active"
