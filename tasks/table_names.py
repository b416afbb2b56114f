"""Which of the database's tables and columns are those the runbooks speak of, however the app spells them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runbook.model import Frozen
from runbook.settings import Tables
from runbook.step import reader
from tasks.database import connect

SQL = """
SELECT n.nspname::text AS schema, c.relname::text AS table,
       array_agg(a.attname::text ORDER BY a.attnum) AS columns
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
 GROUP BY 1, 2
"""

Catalog = Mapping[tuple[str, str], tuple[str, ...]]
"""Columns by (schema, table)."""


class Named(Frozen):
    """What was found: names by key of ``[tables]``, and the keys for which there is nothing."""

    names: Mapping[str, str]
    missing: tuple[str, ...]


@reader("read the catalog")
async def read_catalog() -> Catalog:
    """Every ordinary table of the database with its columns. Source: pg_class, pg_attribute."""
    async with connect() as connection:
        rows = await (await connection.execute(SQL)).fetchall()
    return {(row["schema"], row["table"]): tuple(row["columns"]) for row in rows}


def groups() -> dict[str, list[str]]:
    """The keys of ``[tables]`` that name a table, each with the keys of its columns."""
    keys = [name for name in Tables.model_fields if name != "db_schema"]
    tables = [key for key in keys if any(other.startswith(f"{key}_") for other in keys)]
    return {table: [key for key in keys if key.startswith(f"{table}_")] for table in tables}


def match(catalog: Catalog, schema: str = "") -> Named:
    """The app's names, where one table fits best: by its name first, then by how many of its columns are there.

    ``schema`` (Prisma's URL names it) is preferred. All tables are taken from one schema, the first one's.
    """
    known = Tables()
    names: dict[str, str] = {}
    missing: list[str] = []
    for table, columns in groups().items():
        wanted = getattr(known, table)
        fits = [at for at in catalog if _plain(at[1]) == _plain(wanted) and at[0] == names.get("schema", at[0])]
        if not fits:
            missing += [table, *columns]
            continue
        best = max(fits, key=lambda at: (at[0] == (schema or known.db_schema), _score(catalog[at], columns), at))
        names |= {"schema": best[0], table: best[1]}
        for key in columns:
            spelled = [one for one in catalog[best] if _plain(one) == _plain(getattr(known, key))]
            if spelled:
                names[key] = spelled[0]
            else:
                missing.append(key)
    return Named(names=names, missing=tuple(missing))


def _score(found: tuple[str, ...], keys: list[str]) -> int:
    plain = {_plain(one) for one in found}
    return sum(_plain(getattr(Tables(), key)) in plain for key in keys)


def _plain(name: str) -> str:
    """A name without case, underscores and the plural: ``Subscription``, ``subscriptions``, ``SUBSCRIPTION``."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s")
