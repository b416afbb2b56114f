"""What is new in the app's log, brought into the ledger once, whoever reads and whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from runbook import memory
from runbook.errors import OutsideError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.model import Frozen
from runbook.settings import settings
from runbook.step import reader
from tasks.log_command import done, printed, window
from tasks.log_files import Cursor, Piece, as_cursor, mark, pieces, unreadable
from tasks.log_forms import forget_masked
from tasks.log_scan import Scan

CHUNK = 1024 * 1024
BATCH_BYTES = 32 * 1024 * 1024
BATCH_EVENTS = 2_000
FIRST_BYTES = 64 * 1024 * 1024

TOLD = {
    "doubles": "doubles collapsed",
    "huge": "lines too long, skipped",
    "malformed": "malformed",
    "ahead": "from the future, taken as now: the app's clock is ahead",
}
"""What is counted while reading and told to a person."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class LogRead(Frozen):
    """What one reading brought: bytes that were new, events kept of them, and what a person should know."""

    bytes: int = 0
    events: int = 0
    malformed: int = 0
    notes: tuple[str, ...] = ()


@reader("read what is new in the app's log")
async def read_log(first_bytes: int = FIRST_BYTES) -> LogRead:
    """Bring all that is new in every file of ``APP_LOG``, and of what ``APP_LOG_COMMAND`` prints, into the ledger.

    ``memory.events`` answers from there.

    Each batch of events is written in one transaction with the place where reading goes on, which is compared with
    the place it began at: nothing is lost or doubled by a crash or by another reader. A file never read before is read
    from at most ``first_bytes`` before its end. Raises ``NotConfigured`` without ``APP_LOG``, ``OutsideError`` where no
    file can be read.
    """
    if not settings().has_app_log:
        settings().need("APP_LOG")
    turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with turn:
        return await asyncio.to_thread(_read, settings().app_log, settings().app_log_command, first_bytes)


class _Lost(Exception):
    """Another reader was first with this batch."""


class _Tally:
    """What one reading came to, over all files; grows with each batch that was saved."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.notes: list[str] = []

    def result(self) -> LogRead:
        told = [f"{self.counts[name]} {what}" for name, what in TOLD.items() if self.counts[name]]
        kept = {name: self.counts[name] for name in ("bytes", "events", "malformed")}
        return LogRead(**kept, notes=(*self.notes, *told))


def _read(paths: tuple[Path, ...], command: str, first_bytes: int) -> LogRead:
    forget_masked()
    tally, failed = _Tally(), list[OutsideError]()
    sources = [partial(_read_file, path.absolute(), first_bytes, tally) for path in paths]
    if command:
        sources.append(partial(_read_command, command, tally))
    for read in sources:
        try:
            read()
        except OutsideError as error:
            failed.append(error)
    if failed and len(failed) == len(sources):
        raise failed[0]
    tally.notes += map(str, failed)
    return tally.result()


def _read_file(path: Path, first_bytes: int, tally: _Tally) -> None:
    book, key = ledger(), f"log/{str(path)[-240:]}"
    while True:
        notes: list[str] = []
        was = as_cursor(memory.recall(book, key))
        try:
            with ExitStack() as stack:
                for piece in pieces(path, was, first_bytes, notes, stack):
                    was = _read_piece(Batches(book, key, was, tally), piece)
        except OSError as error:
            raise unreadable(path, error.strerror) from None
        except _Lost:
            continue  # from where the other reader is by now
        tally.notes += notes
        return


def _read_command(command: str, tally: _Tally) -> None:
    book, key = ledger(), f"log/{hashlib.sha256(command.encode()).hexdigest()[:16]}"
    was = as_cursor(memory.recall(book, key))
    span = window(was, now_ms() // 1000)
    batches = Batches(book, key, was, tally)
    try:
        with printed(command, span) as piece:
            _read_piece(batches, piece)
        batches.save(Scan(0, 0), done(span))
    except _Lost:
        return  # another reader is at it


class Batches:
    """Saves what a scan found, batch by batch, each together with the place where reading goes on."""

    def __init__(self, book: Ledger, key: str, was: Cursor | None, tally: _Tally) -> None:
        self.book, self.key, self.was, self.tally = book, key, was, tally

    def save(self, scan: Scan, cursor: Cursor) -> None:
        """One transaction; raises ``_Lost`` where somebody else read on from the same place."""
        if cursor == self.was:
            return
        with self.book.write() as connection:
            was = None if self.was is None else self.was.model_dump()
            if not memory.swap(connection, self.key, was, cursor.model_dump()):
                raise _Lost
            memory.keep(connection, scan.events)
        self.was = cursor
        self.tally.counts.update(scan.counts)
        self.tally.counts["events"] += len(scan.events)
        scan.counts.clear()
        scan.events.clear()


def _read_piece(batches: Batches, piece: Piece) -> Cursor | None:
    """Read one file from its cursor to its end; the cursor that is in the ledger then."""
    file, at, final = piece
    known = os.fstat(file.fileno())
    if at == batches.was and known.st_size <= at.offset:
        return at
    scan = Scan(now_ms(), round(known.st_mtime * 1000))
    data = bytearray(CHUNK + 2)
    data[0] = 0x0A
    held, cut, ended = 0, at.cut, False
    while not ended:
        with memoryview(data) as view, view[1 + held : -1] as free:
            got = os.preadv(file.fileno(), [free], at.offset + held)
        held, ended = held + got, got == 0
        if ended and final and held:
            data[1 + held] = 0x0A
        used, cut = _use(scan, data, held, cut, final and ended)
        scan.counts["bytes"] += used
        data[1 : 1 + held - used] = data[1 + used : 1 + held]
        held -= used
        at = at.model_copy(update={"offset": at.offset + used, "cut": cut})
        if ended or scan.counts["bytes"] >= BATCH_BYTES or len(scan.events) >= BATCH_EVENTS:
            at = at.model_copy(update={"mark": mark(file, at.offset)})
            batches.save(scan, at)
    return batches.was


def _use(scan: Scan, data: bytearray, held: int, cut: bool, final: bool) -> tuple[int, bool]:
    """How many of the ``held`` bytes after the line feed are done with, and whether they end inside a skipped line."""
    if cut:
        end = data.find(b"\n", 1, 1 + held)
        return (held, True) if end < 0 else (end, False)
    used = min(held, scan.take(data, 1 + held + final, final=final) - 1)
    if used == 0 and held == CHUNK:
        scan.counts["huge"] += 1
        return held, True
    return used, False
