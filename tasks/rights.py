"""What the runbooks do to the app's own tables, privilege by privilege: the role is made from it and checked by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from psycopg.sql import Identifier

from runbook.settings import Tables


class Right(NamedTuple):
    """One table (a key of ``[tables]``), the runbooks that meet it, and its columns' keys by privilege."""

    table: str
    of: str
    columns: Mapping[str, Sequence[str]]
    delete: bool = False


RIGHTS = (
    Right(
        "subscription",
        "failed-payments",
        {
            "SELECT": (
                "subscription_id",
                "subscription_status",
                "subscription_stripe_id",
                "subscription_created",
            ),
            "UPDATE": ("subscription_status",),
        },
    ),
    Right(
        "user",
        "broken-sessions, rate-limited-users",
        {
            "SELECT": ("user_id", "user_email", "user_created", "user_failed_logins", "user_locked_until"),
            "UPDATE": ("user_failed_logins", "user_locked_until"),
        },
    ),
    Right(
        "session",
        "broken-sessions, performance-audit",
        {
            # Never SELECT of the token: it is a key to its user's account.
            "SELECT": ("session_id", "session_user", "session_expires"),
            "INSERT": ("session_id", "session_token", "session_user", "session_expires"),
        },
        delete=True,
    ),
    Right(
        "migration",
        "site-down: it never rolls back over one",
        {"SELECT": ("migration_name", "migration_started", "migration_finished", "migration_rolled_back")},
    ),
)
"""One line for each table a runbook meets. Every test and drill runs with exactly this; where an index is built, the
owner's role is lent beside it."""


def grants(
    right: Right, names: Tables, role: str, has: Mapping[str, Sequence[str]] | None = None, *, deletes: bool = False
) -> Iterator[str]:
    """The statements that give ``role`` what it lacks: all of ``right``, less the columns it ``has`` by privilege."""
    to = f"ON {table(right, names)} TO {quoted(role)};"
    for privilege, keys in right.columns.items():
        held = (has or {}).get(privilege, ())
        lacking = [name for name in (getattr(names, key) for key in keys) if name not in held]
        if lacking:
            yield f"GRANT {privilege} ({', '.join(map(quoted, lacking))}) {to}"
    if right.delete and not deletes:
        yield f"GRANT DELETE {to}"


def table(right: Right, names: Tables) -> str:
    """The table's name, quoted, with its schema."""
    return f"{quoted(names.db_schema)}.{quoted(getattr(names, right.table))}"


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return Identifier(name).as_string(None)
