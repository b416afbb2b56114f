"""What our database role may do, as the doctor reads it before anybody needs it at 3 a.m."""

from __future__ import annotations

from runbook.model import Frozen
from runbook.settings import profile
from runbook.step import reader
from tasks.database import connect

SQL = """
SELECT current_setting('server_version_num')::int AS version,
       current_user::text AS role,
       r.rolsuper AS superuser,
       pg_has_role(current_user, 'pg_monitor', 'member') AS monitor,
       pg_has_role(current_user, 'pg_signal_backend', 'member') AS signal,
       CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_use_reserved_connections')
            THEN pg_has_role(current_user, 'pg_use_reserved_connections', 'member')
                 AND coalesce(current_setting('reserved_connections', true)::int, 0) > 0 END AS reserved,
       to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) IS NOT NULL AS subscriptions,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') AS statements
  FROM pg_roles r WHERE r.rolname = current_user
"""

COLUMN_SQL = """
SELECT a.attname::text AS name, has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS reads,
       has_column_privilege(a.attrelid, a.attnum, 'UPDATE') AS updates
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) AND a.attnum > 0
"""


class Privileges(Frozen):
    """The role's rights; ``reserved`` is None where PostgreSQL is older than 16. Sets hold column names."""

    version: int
    role: str
    superuser: bool
    monitor: bool
    signal: bool
    reserved: bool | None
    subscriptions: bool
    statements: bool
    missing_columns: tuple[str, ...]
    unreadable_columns: tuple[str, ...]
    updates_status: bool


@reader("read our role's privileges")
async def read_privileges() -> Privileges:
    """Our role's rights on the server and on the subscription table. Source: pg_roles, pg_attribute."""
    tables = profile().tables
    names = {"schema": tables.db_schema, "table": tables.subscription}
    wanted = (
        tables.subscription_id,
        tables.subscription_status,
        tables.subscription_stripe_id,
        tables.subscription_stripe_customer,
        tables.subscription_created,
    )
    async with connect() as connection:
        row = await (await connection.execute(SQL, names)).fetchone()
        columns = {one["name"]: one for one in await (await connection.execute(COLUMN_SQL, names)).fetchall()}
    return Privileges(
        **(row or {}),
        missing_columns=tuple(name for name in wanted if name not in columns),
        unreadable_columns=tuple(name for name in wanted if name in columns and not columns[name]["reads"]),
        updates_status=bool(columns.get(tables.subscription_status, {}).get("updates")),
    )
