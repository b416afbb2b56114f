"""What our database role may do, as the doctor reads it before anybody needs it at 3 a.m."""

from __future__ import annotations

from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from runbook.model import Frozen
from runbook.settings import profile
from runbook.step import reader
from tasks.database import connect
from tasks.rights import RIGHTS, Right, grants

SQL: LiteralString = """
SELECT current_setting('server_version_num')::int AS version,
       current_user::text AS role,
       current_database()::text AS database,
       r.rolsuper AS superuser,
       pg_has_role(current_user, 'pg_monitor', 'member') AS monitor,
       pg_has_role(current_user, 'pg_signal_backend', 'member') AS signal,
       CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_use_reserved_connections')
            THEN pg_has_role(current_user, 'pg_use_reserved_connections', 'member')
                 AND coalesce(current_setting('reserved_connections', true)::int, 0) > 0 END AS reserved,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') AS statements,
       coalesce(pg_get_userbyid(t.relowner)::text, '') AS owner,
       coalesce(pg_has_role(t.relowner, $right), false) AS owns,
       coalesce($maintain, false) AS maintains
  FROM pg_roles r LEFT JOIN pg_class t ON t.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
 WHERE r.rolname = current_user
"""

COLUMN_SQL = """
SELECT a.attname::text AS name, has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS "SELECT",
       has_column_privilege(a.attrelid, a.attnum, 'UPDATE') AS "UPDATE",
       has_column_privilege(a.attrelid, a.attnum, 'INSERT') AS "INSERT",
       has_table_privilege(a.attrelid, 'DELETE') AS deletes
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) AND a.attnum > 0
       AND NOT a.attisdropped
"""


class TableRights(Frozen):
    """Our rights on one table of the app: whether it is there, the columns it lacks, the grants we lack (SQL)."""

    name: str
    of: str
    found: bool
    missing: tuple[str, ...]
    grants: tuple[str, ...]


class Privileges(Frozen):
    """The role's rights; ``reserved`` is None where PostgreSQL is older than 16.

    ``owner`` is whose the subscription table is, empty where there is none. ``owns``: we may take that role, as an
    index build must. ``maintains``: we may vacuum, by ownership or, from 17 on, by MAINTAIN.
    """

    version: int
    role: str
    database: str
    superuser: bool
    monitor: bool
    signal: bool
    reserved: bool | None
    statements: bool
    owner: str
    owns: bool
    maintains: bool
    tables: tuple[TableRights, ...]


@reader("read our role's privileges")
async def read_privileges() -> Privileges:
    """Our role's rights on the server and on each of the app's tables. Source: pg_roles, pg_attribute."""
    names = profile().tables
    async with connect() as connection:
        version = connection.info.server_version
        # 16 tells apart who may take a role and who is merely a member of it.
        right: LiteralString = "'SET'" if version >= 160_000 else "'MEMBER'"
        query = SQL.replace("$right", right)
        maintain: LiteralString = f"pg_has_role(t.relowner, {right})"
        if version >= 170_000:
            maintain += " OR has_table_privilege(t.oid, 'MAINTAIN')"
        at = {"schema": names.db_schema, "table": names.subscription}
        row = await (await connection.execute(query.replace("$maintain", maintain), at)).fetchone() or {}
        tables = [await _table(connection, right, row["role"]) for right in RIGHTS]
    return Privileges(**row, tables=tuple(tables))


async def _table(connection: AsyncConnection[DictRow], right: Right, role: str) -> TableRights:
    names = profile().tables
    name = getattr(names, right.table)
    rows = await (await connection.execute(COLUMN_SQL, {"schema": names.db_schema, "table": name})).fetchall()
    there = {row["name"] for row in rows}
    wanted = dict.fromkeys(getattr(names, key) for keys in right.columns.values() for key in keys)
    has = {privilege: [row["name"] for row in rows if row[privilege]] for privilege in right.columns}
    lacking = grants(right, names, role, has, deletes=any(row["deletes"] for row in rows))
    return TableRights(
        name=name,
        of=right.of,
        found=bool(rows),
        missing=tuple(one for one in wanted if one not in there) if rows else (),
        grants=tuple(lacking) if rows else (),
    )
