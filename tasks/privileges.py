"""What our database role may do, as the doctor reads it before anybody needs it at 3 a.m."""

from __future__ import annotations

from typing import LiteralString

from runbook.model import Frozen
from runbook.settings import profile
from runbook.step import reader
from tasks.database import connect

SQL: LiteralString = """
SELECT current_setting('server_version_num')::int AS version,
       current_user::text AS role,
       r.rolsuper AS superuser,
       pg_has_role(current_user, 'pg_monitor', 'member') AS monitor,
       pg_has_role(current_user, 'pg_signal_backend', 'member') AS signal,
       CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_use_reserved_connections')
            THEN pg_has_role(current_user, 'pg_use_reserved_connections', 'member')
                 AND coalesce(current_setting('reserved_connections', true)::int, 0) > 0 END AS reserved,
       to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) IS NOT NULL AS subscriptions,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') AS statements,
       coalesce(pg_get_userbyid(t.relowner)::text, '') AS owner,
       coalesce(pg_has_role(t.relowner, $right), false) AS owns
  FROM pg_roles r LEFT JOIN pg_class t ON t.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
 WHERE r.rolname = current_user
"""

COLUMN_SQL = """
SELECT a.attname::text AS name, has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS reads,
       has_column_privilege(a.attrelid, a.attnum, 'UPDATE') AS updates
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) AND a.attnum > 0
"""


class Privileges(Frozen):
    """The role's rights; ``reserved`` is None where PostgreSQL is older than 16. Sets hold column names.

    ``owns``: it may take the role of ``owner``, which the subscription table belongs to, as an index build must.
    """

    version: int
    role: str
    superuser: bool
    monitor: bool
    signal: bool
    reserved: bool | None
    subscriptions: bool
    statements: bool
    owner: str
    owns: bool
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
        # 16 tells apart who may take a role and who is merely a member of it.
        right: LiteralString = "'SET'" if connection.info.server_version >= 160_000 else "'MEMBER'"
        row = await (await connection.execute(SQL.replace("$right", right), names)).fetchone()
        columns = {one["name"]: one for one in await (await connection.execute(COLUMN_SQL, names)).fetchall()}
    return Privileges(
        **(row or {}),
        missing_columns=tuple(name for name in wanted if name not in columns),
        unreadable_columns=tuple(name for name in wanted if name in columns and not columns[name]["reads"]),
        updates_status=bool(columns.get(tables.subscription_status, {}).get("updates")),
    )
