"""Which lines of an app's log count as a refused connection, and since when."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbook import settings
from runbook.errors import OutsideError
from tasks.app_log import TAIL_BYTES, read_refusals

SINCE = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
BEFORE, AFTER = "2026-01-02T02:59:59.999Z", "2026-01-02T03:00:00.000Z"
MESSAGE = "timeout exceeded when trying to connect"


async def count(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    path.write_text(text)
    monkeypatch.setenv("APP_LOG", str(path))
    settings.forget()
    counts = await read_refusals(SINCE)
    settings.forget()
    return counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", {}),
        (f'{{"time":"{AFTER}","msg":"{MESSAGE}"}}', {MESSAGE: 1}),
        (f'{{"time":"{BEFORE}","msg":"{MESSAGE}"}}', {}),
        (f"{AFTER} prisma:error\nToo many database connections opened", {"too many database connections": 1}),
        (f"{BEFORE} prisma:error\nToo many database connections opened", {}),
        (f"{AFTER} code: 'P2024'\n{AFTER} code: 'P2024'", {"p2024": 2}),
        (f"{AFTER} request P20245 took 2024 ms, 5 connections", {}),
        ("2026-01-02 05:00:00+02:00 sorry, too many clients already", {"sorry, too many clients already": 1}),
        ("2026-01-02 04:00:00+02:00 sorry, too many clients already", {}),
        ("2026-99-99T03:00:00Z P2024", {}),
        (f"P2024 before any time\n{AFTER} later", {}),
    ],
)
async def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, counts: dict[str, int]) -> None:
    assert await count(tmp_path / "app.log", text, monkeypatch) == counts


@pytest.mark.parametrize(("written", "counts"), [(SINCE.timestamp() - 1, {}), (SINCE.timestamp(), {"p2024": 1})])
async def test_a_log_without_any_time_is_as_old_as_its_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: float, counts: dict[str, int]
) -> None:
    log = tmp_path / "app.log"
    log.write_text("prisma:error P2024\n")
    os.utime(log, (written, written))
    monkeypatch.setenv("APP_LOG", str(log))
    settings.forget()
    assert await read_refusals(SINCE) == counts
    settings.forget()


async def test_only_the_end_of_a_large_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"{AFTER} P2024\n"
    text = line * 5 + f"{AFTER} all is well\n" * (TAIL_BYTES // 20) + line
    assert await count(tmp_path / "app.log", text, monkeypatch) == {"p2024": 1}


async def test_a_log_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG", str(tmp_path / "gone.log"))
    settings.forget()
    with pytest.raises(OutsideError, match=r"APP_LOG: .*gone\.log: No such file"):
        await read_refusals(SINCE)
    settings.forget()
