"""How PostgreSQL would run a statement, asked without running it, and whether an index would change that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg.rows import DictRow

from runbook.errors import OutsideError
from runbook.mask import statement
from runbook.model import Frozen, Json
from runbook.settings import profile
from runbook.step import reader
from tasks.database import connect
from tasks.statements import Statement

# Only what an ordinary index answers: a bare column (or a varchar read as text), equal to a value known beforehand.
_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_COLUMN = rf"(?:{_NAME}\.)?(?P<{{}}>{_NAME})"
_VALUE = r"(?:\(?\$\d+\)?|'(?:[^']|'')*'|-?\d+)(?:::[\w\" ]+(?:\[\])?)?"
EQUALS = re.compile(
    rf"\((?:\({_COLUMN.format('cast')}\)::text|{_COLUMN.format('bare')}) = (?:{_VALUE}|ANY \({_VALUE}\))\)"
)
RIGHT: LiteralString = """
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s) AND pg_has_role(%(role)s, $right) AS may"""
STATISTICS: LiteralString = """
SELECT s.attname::text AS name, s.avg_width::int AS width, c.reltuples::float8 AS rows,
  least(1, greatest(1 - s.null_frac, 0) / greatest(1, CASE WHEN s.n_distinct < 0
    THEN -s.n_distinct * greatest(c.reltuples, 1) ELSE s.n_distinct END))::float8 AS selectivity
FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = ANY (%s) AND NOT s.inherited"""
PARAMETERS: LiteralString = """
SELECT cardinality(parameter_types) AS n FROM pg_prepared_statements WHERE name = 'looked_at'"""
HYPOPG: LiteralString = """
SELECT n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'hypopg'"""


class Column(Frozen):
    """One column compared for equality: the share of rows one value has on average, and its width in bytes."""

    name: str
    selectivity: float
    width: int


class Scan(Frozen):
    """A table read from end to end, for the rows in which these columns have given values."""

    db_schema: str
    table: str
    rows: float
    equals: Sequence[Column] = ()


class Plan(Frozen):
    """How one statement would be run; ``problem`` says why that is not known."""

    scans: Sequence[Scan] = ()
    indexes: Sequence[str] = ()
    cost: float = 0.0
    deletes_from: str = ""
    problem: str = ""


@reader("plan statements")
async def read_plans(statements: Sequence[Statement]) -> dict[str, Plan]:
    """The generic plan of each statement by its id; none is run. Source: EXPLAIN, in a read-only transaction."""
    if not statements:
        return {}
    async with connect() as connection:
        return {one.id: await _plan(connection, one) for one in statements}


@reader("try {index} without building it")
async def try_index(one: Statement, index: str) -> tuple[float, float, bool] | None:
    """The statement's cost now, its cost with ``index`` (a CREATE INDEX) and whether it would be used; by hypopg.

    None where hypopg is not installed in this database, or where the statement cannot be planned.
    """
    async with connect() as connection:
        row = await (await connection.execute(HYPOPG)).fetchone()
        if row is None:
            return None
        schema = sql.Identifier(row["schema"])
        before = await _plan(connection, one)
        create = sql.SQL("SELECT indexname AS name FROM {}.hypopg_create_index(%s)").format(schema)
        made = await (await connection.execute(create, [index])).fetchone()
        after = await _plan(connection, one)
        await connection.execute(sql.SQL("SELECT {}.hypopg_reset()").format(schema))
    if made is None or before.problem or after.problem:
        return None
    return before.cost, after.cost, made["name"] in after.indexes


async def _plan(connection: AsyncConnection[DictRow], one: Statement) -> Plan:
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute("SET LOCAL TRANSACTION READ ONLY")
            await connection.execute("SET LOCAL statement_timeout = '2s'")
            await connection.execute("SET LOCAL lock_timeout = '500ms'")
            await _as(connection, one.role)
            tree = await _explain(connection, one.text)
            scans = [await _with_statistics(connection, scan) for scan in scans_of(tree)]
    except errors.InsufficientPrivilege as error:
        said = str(error).split("\n")[0]
        return Plan(problem=f"{said}: GRANT {one.role or 'its role'} TO our role, or SELECT on the table")
    except (errors.QueryCanceled, errors.LockNotAvailable):
        return Plan(problem="its table was locked when it was to be planned")
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        # Cut off, of unclear parameter types, or naming what our search_path does not know.
        return Plan(problem=statement(str(error).split("\n")[0]))
    nodes = list(_nodes(tree))
    deletes = [one for one in nodes if one.get("Operation") == "Delete"]
    return Plan(
        scans=scans,
        indexes=[str(node["Index Name"]) for node in nodes if "Index Name" in node],
        cost=float(tree["Total Cost"]),
        deletes_from=str(deletes[0].get("Relation Name", "")) if deletes else "",
    )


async def _as(connection: AsyncConnection[DictRow], role: str) -> None:
    """Take the role that runs the statement where we may: its rights decide what can be planned."""
    right: LiteralString = "'SET'" if connection.info.server_version >= 160_000 else "'MEMBER'"
    row = await (await connection.execute(RIGHT.replace("$right", right), {"role": role})).fetchone()
    if row is not None and row["may"]:
        await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
    schema = sql.Identifier(profile().tables.db_schema)
    await connection.execute(sql.SQL("SET LOCAL search_path TO {}, public").format(schema))


async def _explain(connection: AsyncConnection[DictRow], text: str) -> dict[str, Json]:
    # Through the extended protocol PREPARE takes exactly one command: no second one can ride along in the text.
    await connection.execute("DEALLOCATE ALL")
    await connection.execute(sql.Composed([sql.SQL("PREPARE looked_at AS "), sql.SQL(text)]), prepare=True)
    if connection.info.server_version >= 160_000:
        query = sql.Composed([sql.SQL("EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) "), sql.SQL(text)])
    else:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        row = await (await connection.execute(PARAMETERS)).fetchone()
        nulls = sql.SQL(", ").join([sql.NULL] * int(row["n"] if row else 0))
        query = sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE looked_at") + (
            sql.SQL("({})").format(nulls) if row and row["n"] else sql.SQL("")
        )
    row = await (await connection.execute(query)).fetchone()
    if row is None:
        raise OutsideError("PostgreSQL", "EXPLAIN gave no plan", "run it by hand")
    tree: dict[str, Json] = row["QUERY PLAN"][0]["Plan"]
    return tree


async def _with_statistics(connection: AsyncConnection[DictRow], scan: Scan) -> Scan:
    names = [one.name for one in scan.equals]
    rows = await (await connection.execute(STATISTICS, (scan.db_schema, scan.table, names))).fetchall()
    known = [Column(name=row["name"], selectivity=row["selectivity"], width=row["width"]) for row in rows]
    known.sort(key=lambda one: one.selectivity)
    return scan.model_copy(update={"equals": known, "rows": rows[0]["rows"] if rows else scan.rows})


def scans_of(tree: Mapping[str, Json]) -> list[Scan]:
    """The sequential scans of a plan with the columns each compares for equality; pure."""
    return [
        Scan(
            db_schema=str(node.get("Schema", "public")),
            table=str(node["Relation Name"]),
            rows=0.0,
            equals=[Column(name=name, selectivity=1.0, width=0) for name in equal_columns(str(node.get("Filter", "")))],
        )
        for node in _nodes(tree)
        if node["Node Type"] == "Seq Scan"
    ]


def equal_columns(condition: str) -> list[str]:
    """The columns that must equal a value for a row to pass; none where an OR lets other rows pass too."""
    if " OR " in condition:
        return []
    found = (one["cast"] or one["bare"] for one in EQUALS.finditer(condition))
    return list(dict.fromkeys(_unquoted(name) for name in found))


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _nodes(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield tree
    for below in tree.get("Plans", ()):
        yield from _nodes(below)
