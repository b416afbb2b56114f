"""The database role the runbooks need and nothing more, as SQL for whoever owns the database."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from runbook.settings import Tables, profile, settings
from tasks.privileges import read_privileges
from tasks.rights import RIGHTS, grants, quoted

FROM_16, FROM_17 = 160_000, 170_000

HEAD = """\
-- The role of the runbooks and nothing more. For a superuser, or the database's owner with CREATEROLE.
-- Not in it, on purpose: ALTER ROLE (a person sets the app's idle timeout: the runbook says the statement), and
-- SELECT of any password or session token."""

OPTIONAL = """\
-- OPTIONAL, for slow-queries only: CREATE INDEX and DROP INDEX{vacuums} are for a table's owner; nothing else is.
-- It also lets slow-queries plan (EXPLAIN, never run) what the app runs as this role on tables we may not read.
-- Without it a person is told the statement instead.
-- Whoever has this role's password may then do to the app's tables all that their owner may.
-- {grant}"""


async def of_settings() -> str:
    """The role for the database and the names in force: the one ``RUNBOOK_DATABASE_URL`` names, else ``runbook``.

    Raises ``OutsideError`` where the database cannot be reached: its version and its owner decide what is granted.
    """
    seen = await read_privileges()
    own = settings().runbook_database_url
    named = unquote(urlsplit(own.get_secret_value()).username or "") if own else ""
    return role_sql(profile().tables, seen.database, seen.version, named or "runbook", seen.owner)


def role_sql(names: Tables, database: str, version: int, role: str = "runbook", owner: str = "") -> str:
    """The statements that make ``role``; ``owner`` of the app's tables is offered, as a comment, where it is known."""
    made = f"CREATE ROLE {quoted(role)} LOGIN;  -- then give it a password: \\password in psql"
    lines = [HEAD, made, *server_grants(database, version, role), *table_grants(names, version, role)]
    if owner:
        more = "" if version >= FROM_17 else " and VACUUM"
        # A name may hold a line break, and what follows one is no comment any more.
        shown = owner_grant(owner, version, role).replace("\n", "\n-- ")
        lines.append(OPTIONAL.format(vacuums=more, grant=shown))
    return "\n".join(lines)


def server_grants(database: str, version: int, role: str) -> list[str]:
    """What is not about any table: to come in, to see every session and statistic, to end a session."""
    who = quoted(role)
    lines = [
        f"GRANT CONNECT ON DATABASE {quoted(database)} TO {who};",
        f"GRANT pg_monitor TO {who};  -- every runbook that looks at the database",
        f"GRANT pg_signal_backend TO {who};  -- pool-exhaustion ends and cancels sessions, never a superuser's",
    ]
    if version >= FROM_16:
        lines.append(f"GRANT pg_use_reserved_connections TO {who};  -- with reserved_connections = 3, after a restart")
    return lines


def table_grants(names: Tables, version: int, role: str) -> list[str]:
    """What the runbooks read and change in the app's tables, column by column."""
    who, schema = quoted(role), quoted(names.db_schema)
    lines = [f"GRANT USAGE ON SCHEMA {schema} TO {who};"]
    for right in RIGHTS:
        lines += [f"-- {right.of}", *grants(right, names, role)]
    if version >= FROM_17:
        lines += ["-- slow-queries vacuums", f"GRANT MAINTAIN ON ALL TABLES IN SCHEMA {schema} TO {who};"]
    return lines


def owner_grant(owner: str, version: int, role: str) -> str:
    """Membership in the role of the tables' owner; on 16 and later only for what asks for it by SET ROLE."""
    only = " WITH INHERIT FALSE, SET TRUE" if version >= FROM_16 else ""
    return f"GRANT {quoted(owner)} TO {quoted(role)}{only};"
