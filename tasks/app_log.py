"""The end of the app's log: how often it was refused a connection, lately."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from runbook.errors import OutsideError
from runbook.settings import settings
from runbook.step import reader

TAIL_BYTES = 256 * 1024
REFUSED = re.compile(
    r"Too many database connections|\bP2024\b|timeout exceeded when trying to connect|sorry, too many clients already|"
    r"remaining connection slots are reserved",
    re.IGNORECASE,
)
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?")


@reader("read app log")
async def read_refusals(since: datetime) -> dict[str, int]:
    """How many lines at or after ``since`` say that no connection was to be had, by the words they say it with.

    Reads at most the last ``TAIL_BYTES`` of each file in ``APP_LOG``.
    """
    return await asyncio.to_thread(_count, settings().app_log, since)


def _count(files: tuple[Path, ...], since: datetime) -> dict[str, int]:
    counts = Counter[str]()
    for path in files:
        try:
            counts.update(_refusals(path, since))
        except OSError as error:
            raise OutsideError("APP_LOG", f"{path}: {error.strerror}", "name readable files in APP_LOG") from None
    return dict(counts)


def _refusals(path: Path, since: datetime) -> Iterator[str]:
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
        lines = log.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
    # A line without a time is as old as the last one that had one; a log without any is as old as its last write.
    at = written if not any(map(TIME.search, lines)) else None
    for line in lines:
        at = _time(line) or at
        match = REFUSED.search(line)
        if match and at is not None and at >= since:
            yield match.group().lower()


def _time(line: str) -> datetime | None:
    match = TIME.search(line)
    if match is None:
        return None
    try:
        at = datetime.fromisoformat(match.group())
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
