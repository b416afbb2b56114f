"""The Prisma migration of an index that a runbook made: without it the next migration would drop the index as drift."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from runbook.errors import BadSetting
from runbook.model import Fix


def folder(fix: Fix, at: datetime | None = None) -> str:
    """The migration's folder, as Prisma names them; with ``*`` for the time while there is none."""
    stamp = at.astimezone(UTC).strftime("%Y%m%d%H%M%S") if at else "*"
    return f"{stamp}_{fix.want['index']}"


def text(fix: Fix) -> str:
    """Its SQL: makes the index where it is missing (a developer's database) and does nothing where it is there."""
    columns = sql.SQL(", ").join(map(sql.Identifier, fix.want["columns"]))
    create = sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({});").format(
        sql.Identifier(fix.want["index"]), sql.Identifier(fix.expect["schema"], fix.expect["table"]), columns
    )
    return create.as_string()


def in_schema(fix: Fix) -> str:
    """The line for the model in schema.prisma: what it does not name there, Prisma takes for drift."""
    return f'@@index([{", ".join(fix.want["columns"])}], map: "{fix.want["index"]}")'


def notice(fix: Fix) -> str:
    """What the developers are told."""
    return (
        f"for the developers: prisma/migrations/{folder(fix)}/migration.sql: {text(fix)} and in the model "
        f"{fix.expect['table']} of schema.prisma: {in_schema(fix)}"
    )


def write(fix: Fix, directory: Path, at: datetime) -> Path | None:
    """Write ``migration.sql`` below ``directory`` (Prisma's ``migrations``); None where there is one for this index.

    Raises ``BadSetting`` where the folder cannot be written.
    """
    try:
        if not directory.is_dir():
            raise NotADirectoryError(20, "no such folder")
        if any(directory.glob(folder(fix))):
            return None
        path = directory / folder(fix, at) / "migration.sql"
        path.parent.mkdir()
        path.write_text(f"-- {in_schema(fix)} in model {fix.expect['table']}\n{text(fix)}\n", "utf-8")
    except OSError as error:
        raise BadSetting(
            "RUNBOOK_MIGRATIONS_DIR", f"{directory}: {error.strerror}", "name a folder this user may write"
        ) from None
    return path
