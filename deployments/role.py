"""The database role the runbooks need and nothing more, as SQL for whoever owns the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.sql import Identifier

from runbook.settings import Tables


class Right(NamedTuple):
    """What runbooks may do to one table of the app: keys of ``[tables]`` by privilege; ``rows`` is DELETE, INSERT."""

    table: str
    read: Sequence[str]
    update: Sequence[str] = ()
    rows: bool = False


RIGHTS = (
    Right(
        "subscription",
        (
            "subscription_id",
            "subscription_status",
            "subscription_stripe_id",
            "subscription_stripe_customer",
            "subscription_created",
        ),
        update=("subscription_status",),
    ),
)
"""One line for each table a runbook meets; the tests run every runbook with this role."""

FROM_16 = 160_000


def role_sql(names: Tables, database: str, version: int, role: str = "runbook") -> str:
    """The statements that make ``role``, to be run by a superuser or the database's owner with CREATEROLE."""
    who = _quoted(role)
    lines = [
        f"CREATE ROLE {who} LOGIN;  -- then, in psql: \\password {role}",
        f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {who};",
        f"GRANT pg_monitor, pg_signal_backend TO {who};",
    ]
    if version >= FROM_16:
        lines.append(f"GRANT pg_use_reserved_connections TO {who};  -- with reserved_connections = 3, after a restart")
    lines.append(f"GRANT USAGE ON SCHEMA {_quoted(names.db_schema)} TO {who};")
    for right in RIGHTS:
        lines += _grants(right, names, who)
    table = f"{_quoted(names.db_schema)}.{_quoted('_prisma_migrations')}"
    columns = "migration_name, started_at, finished_at, rolled_back_at"
    lines.append(f"GRANT SELECT ({columns}) ON {table} TO {who};  -- so that no rollback goes back over a migration")
    return "\n".join(lines)


def _grants(right: Right, names: Tables, who: str) -> list[str]:
    table = f"{_quoted(names.db_schema)}.{_quoted(getattr(names, right.table))}"

    def columns(keys: Sequence[str]) -> str:
        return ", ".join(_quoted(getattr(names, key)) for key in keys)

    lines = [f"GRANT SELECT ({columns(right.read)}) ON {table} TO {who};"]
    if right.update:
        lines.append(f"GRANT UPDATE ({columns(right.update)}) ON {table} TO {who};")
    if right.rows:
        lines.append(f"GRANT DELETE, INSERT ON {table} TO {who};")
    return lines


def _quoted(name: str) -> str:
    return Identifier(name).as_string(None)
