"""The Prisma migration of an index that a runbook made: without it the next migration would drop the index as drift."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from runbook.errors import BadSetting
from runbook.model import Fix
from tasks.rollback import Migrations, read_migrations


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


def _whole(fix: Fix) -> str:
    return f"-- {in_schema(fix)} in model {fix.expect['table']}\n{text(fix)}\n"


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
        path.write_text(_whole(fix), "utf-8")
    except OSError as error:
        raise BadSetting(
            "RUNBOOK_MIGRATIONS_DIR", f"{directory}: {error.strerror}", "name a folder this user may write"
        ) from None
    return path


async def take_back(fix: Fix, directory: Path | None) -> list[str]:
    """Remove what ``write`` wrote for an index that is gone again, if nobody changed or deployed it; what was done.

    What stays is said: the next deploy would build the index again, and hold up every write meanwhile.
    """
    paths = sorted(await asyncio.to_thread(directory.glob, folder(fix))) if directory else []
    if not paths:
        where = f"none is in {directory}" if directory else "RUNBOOK_MIGRATIONS_DIR is not set"
        return [f"if developers added prisma/migrations/{folder(fix)} ({where}): {_by_hand(fix)}"]
    deployed = await read_migrations.fn(0)
    return [await asyncio.to_thread(_take_back, fix, path, deployed) for path in paths]


def _take_back(fix: Fix, path: Path, deployed: Migrations) -> str:
    file = path / "migration.sql"
    if deployed.unread:
        return f"{path} stays: whether it was deployed cannot be read ({deployed.unread}): {_by_hand(fix)}"
    if path.name in deployed.names:
        drop = sql.SQL("DROP INDEX IF EXISTS {};").format(sql.Identifier(fix.expect["schema"], fix.want["index"]))
        return f"{path} was deployed and stays: add a migration with {drop.as_string()} and take {in_schema(fix)} out"
    try:
        if [one.name for one in path.iterdir()] != [file.name] or file.read_text("utf-8") != _whole(fix):
            return f"{path} was changed since it was written and stays: {_by_hand(fix)}"
        file.unlink()
        path.rmdir()
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} could not be removed ({error}): {_by_hand(fix)}"
    return f"removed: {path}; take {in_schema(fix)} out of schema.prisma too if it is there"


def _by_hand(fix: Fix) -> str:
    return (
        f"remove it and {in_schema(fix)} of schema.prisma by hand, or the next deploy builds the index again and holds "
        "up every write to its table meanwhile"
    )
