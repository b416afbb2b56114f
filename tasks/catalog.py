"""What PostgreSQL keeps of its tables: indexes and their use, dead rows, ages, and who holds what up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow

from runbook.model import Frozen
from runbook.settings import settings
from runbook.step import reader
from tasks.database import connect

OURS = "runbook_"
"""How the name of every index begins that a runbook made."""

USER: LiteralString = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
ABOUT: LiteralString = """
SELECT current_database() AS database, current_user::text AS role, age(datfrozenxid) AS xid_age,
  mxid_age(datminmxid) AS multixact_age,
  CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END AS data,
  EXISTS (SELECT FROM pg_extension WHERE extname = 'hypopg') AS hypopg,
  EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.database = d.oid AND l.classid = 0
    AND l.objid = 72707369) AS migrating,
  (extract(epoch FROM clock_timestamp() - coalesce(s.stats_reset, pg_postmaster_start_time())) / 86400)::float8
    AS counted_days
FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = current_database()"""
TABLES: LiteralString = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, r.rolname AS owner,
  pg_has_role(r.oid, $right) AS owned, $maintain AS maintained, greatest(c.reltuples, 0)::float8 AS rows,
  c.relpages::bigint * current_setting('block_size')::int AS bytes, c.reltablespace = 0 AS default_space,
  coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead, s.last_vacuum::text AS last_vacuum,
  EXISTS (SELECT FROM pg_stat_progress_vacuum p WHERE p.relid = c.oid)
  OR EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'relation'
    AND l.relation = c.oid AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND a.backend_type = 'autovacuum worker') AS vacuuming,
  coalesce(c.reloptions::text[] && '{autovacuum_enabled=false,autovacuum_enabled=off}', false) AS autovacuum_off
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND $user""".replace("$user", USER)
INDEXES: LiteralString = """
SELECT c.oid::bigint AS oid, i.indrelid::bigint AS table_oid, n.nspname AS schema, c.relname AS name,
  i.indisvalid AND i.indisready AND i.indislive AS valid, i.indisunique OR i.indisexclusion AS is_unique,
  i.indisprimary OR i.indisreplident OR EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid) AS needed,
  i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree' AS plain,
  ARRAY(SELECT coalesce(a.attname::text, '(expression)') FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, at)
    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num AND k.num > 0
    WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS columns,
  ARRAY(SELECT concat_ws('/', (i.indclass::oid[])[n], (i.indcollation::oid[])[n], (i.indoption::int2[])[n])
    FROM generate_series(0, i.indnkeyatts - 1) n) AS kinds, i.indnatts > i.indnkeyatts AS includes,
  coalesce(s.idx_scan, 0) AS scans, c.relpages::bigint * current_setting('block_size')::int AS bytes,
  EXISTS (SELECT FROM pg_stat_progress_create_index p
    WHERE p.index_relid = c.oid OR p.relid = i.indrelid AND coalesce(p.index_relid, 0) = 0)
  OR NOT (i.indisvalid AND i.indisready) AND EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'relation'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock') AS in_progress
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_am m ON m.oid = c.relam LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid
WHERE $user""".replace("$user", USER)
FOREIGN: LiteralString = """
SELECT k.conname AS name, k.conrelid::bigint AS table_oid, k.confrelid::bigint AS refers_to,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, at)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.at) AS columns
FROM pg_constraint k
WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.conrelid
  AND i.indisvalid AND i.indpred IS NULL AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)"""
# Index builds wait for each other's snapshots in PostgreSQL 13 only.
TRANSACTIONS: LiteralString = """
SELECT a.pid, 'session ' || a.pid || coalesce(' of ' || nullif(a.application_name, ''), '') AS name,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
  greatest(age(a.backend_xmin), age(a.backend_xid), 0) AS xids,
  -- PostgreSQL 18 shows a session that is not signed in yet: in a transaction, and in no database.
  a.datname IS NOT DISTINCT FROM current_database() AND a.backend_xmin IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum p WHERE p.pid = a.pid)
    AND (current_setting('server_version_num')::int < 140000
      OR NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.pid = a.pid)) AS has_snapshot,
  coalesce(l.touched, '{}') AS touched, coalesce(l.written, '{}') AS written
FROM pg_stat_activity a LEFT JOIN LATERAL (
  SELECT array_agg(relation::bigint) AS touched,
    array_agg(relation::bigint) FILTER (WHERE mode NOT IN ('AccessShareLock', 'RowShareLock')) AS written
  FROM pg_locks WHERE pid = a.pid AND locktype = 'relation' AND relation >= 16384
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) l ON true
WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
UNION ALL
SELECT 0, 'prepared transaction ' || x.gid, extract(epoch FROM clock_timestamp() - x.prepared)::float8,
  age(x.transaction), false, coalesce(array_agg(l.relation::bigint), '{}'),
  coalesce(array_agg(l.relation::bigint), '{}')
FROM pg_prepared_xacts x LEFT JOIN pg_locks l ON l.virtualtransaction = '-1/' || x.transaction::text
  AND l.locktype = 'relation'
GROUP BY x.gid, x.prepared, x.transaction
UNION ALL
SELECT 0, 'replication slot ' || slot_name || CASE WHEN active THEN '' ELSE ' (inactive)' END, NULL,
  greatest(age(xmin), age(catalog_xmin)), false, '{}', '{}'
FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL"""


class Table(Frozen):
    """One table or materialized view. ``owned``: our role may act as its owner; ``maintained``: may vacuum it."""

    oid: int
    db_schema: str
    name: str
    owner: str
    owned: bool
    maintained: bool
    rows: float
    bytes: int
    default_space: bool
    live: int
    dead: int
    last_vacuum: str | None
    vacuuming: bool
    autovacuum_off: bool

    @property
    def dead_share(self) -> float:
        return self.dead / (self.live + self.dead) if self.dead else 0.0


class Index(Frozen):
    """One index. ``needed``: a key, constraint or replica identity lives in it; ``plain``: a whole btree of columns."""

    oid: int
    table_oid: int
    db_schema: str
    name: str
    valid: bool
    is_unique: bool
    needed: bool
    plain: bool
    columns: Sequence[str]
    kinds: Sequence[str]
    includes: bool
    scans: int
    bytes: int
    in_progress: bool

    @property
    def ours(self) -> bool:
        """True for one that a runbook made; what REINDEX CONCURRENTLY left beside it is somebody else's."""
        return self.name.startswith(OURS) and "_ccnew" not in self.name and "_ccold" not in self.name

    @property
    def left_behind(self) -> bool:
        """True for what a failed build of ours left; ours are never unique."""
        return self.ours and not (self.valid or self.in_progress or self.is_unique or self.needed)


class Bare(Frozen):
    """A foreign key whose columns lead no index: every delete of what it refers to reads its whole table."""

    name: str
    table_oid: int
    refers_to: int
    columns: Sequence[str]


class Transaction(Frozen):
    """What may hold up an index build or keep dead rows: open transactions, prepared ones, replication slots.

    ``xids`` is the age of the oldest row version it keeps; ``touched`` and ``written`` are oids of locked tables.
    """

    pid: int
    name: str
    seconds: float | None
    xids: int
    has_snapshot: bool
    touched: Sequence[int]
    written: Sequence[int]


class Catalog(Frozen):
    """All of it, as our role sees it from one database; ``free_bytes`` is None where the server's disk is not ours."""

    database: str
    role: str
    version: int
    xid_age: int
    multixact_age: int
    hypopg: bool
    migrating: bool
    counted_days: float
    free_bytes: int | None
    tables: Sequence[Table]
    indexes: Sequence[Index]
    bare: Sequence[Bare]
    transactions: Sequence[Transaction]

    def table(self, schema: str, name: str) -> Table | None:
        """The table of this name."""
        return next((one for one in self.tables if (one.db_schema, one.name) == (schema, name)), None)

    def by_oid(self, oid: int) -> Table | None:
        """The table with this oid."""
        return next((one for one in self.tables if one.oid == oid), None)

    def index(self, schema: str, name: str) -> Index | None:
        """The index of this name."""
        return next((one for one in self.indexes if (one.db_schema, one.name) == (schema, name)), None)


@reader("read catalogue")
async def read_catalog() -> Catalog:
    """Tables, indexes, foreign keys and open transactions of this database. Source: pg_catalog and pg_stat_*."""
    async with connect() as connection:
        about = (await _rows(connection, ABOUT))[0]
        version = connection.info.server_version
        data, hypopg = about.pop("data"), about.pop("hypopg")
        return Catalog(
            **about,
            hypopg=hypopg,
            version=version,
            free_bytes=_free(data),
            tables=[_table(row) for row in await _rows(connection, _tables(version))],
            indexes=[Index(db_schema=row.pop("schema"), **row) for row in await _rows(connection, INDEXES)],
            bare=[Bare(**row) for row in await _rows(connection, FOREIGN)],
            transactions=[Transaction(**row) for row in await _rows(connection, TRANSACTIONS)],
        )


def _tables(version: int) -> LiteralString:
    # 16 tells apart who may take a role and who merely is a member; 17 has a right to vacuum by itself.
    right: LiteralString = "'SET'" if version >= 160_000 else "'MEMBER'"
    maintain: LiteralString = "false"
    if version >= 170_000:
        maintain = "has_table_privilege(c.oid, 'MAINTAIN')"
    return TABLES.replace("$right", right).replace("$maintain", maintain)


def _table(row: dict[str, Any]) -> Table:
    return Table(db_schema=row.pop("schema"), **row)


async def _rows(connection: AsyncConnection[DictRow], query: LiteralString) -> list[dict[str, Any]]:
    return await (await connection.execute(query)).fetchall()


def _free(data: str | None) -> int | None:
    """Free bytes of the server's disk, where the server runs on this machine and lets us see its folder."""
    host = str(conninfo_to_dict(settings().database_conninfo(settings().monitor_setting())).get("host") or "/")
    if data is None or not (host.startswith("/") or host in {"localhost", "127.0.0.1", "::1"}):
        return None
    try:
        return shutil.disk_usage(data).free if Path(data).is_dir() else None
    except OSError:
        return None
