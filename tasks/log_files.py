"""Where reading of a log goes on: cursors, and what became of a file that was rotated or truncated since."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from runbook.errors import OutsideError
from runbook.model import Frozen, Json

MARK_BYTES = 256
ROTATED = re.compile(r"(?:\.\d{1,4}|[.-]\d{4}-?\d\d-?\d\d[\w.-]{0,20})(?<!\.gz)")


class Cursor(Frozen):
    """How far one file was read: which, how many bytes, the hash of the bytes before, whether it ends inside a line."""

    device: int
    inode: int
    offset: int = 0
    mark: str = ""
    cut: bool = False


class Piece(NamedTuple):
    """A file to read from ``cursor`` on; ``final`` when nobody writes to it any more."""

    file: BinaryIO
    cursor: Cursor
    final: bool


def pieces(path: Path, cursor: Cursor | None, first_bytes: int, notes: list[str], stack: ExitStack) -> Iterator[Piece]:
    """What is to be read of ``path`` after ``cursor``, in order: the rest of the file it was, then the file it is."""
    file = _open(path, stack)
    if cursor is None:
        if file is None:
            raise unreadable(path, "No such file or directory")
        yield _first(path, file, first_bytes, notes)
        return
    if file is not None and _same(file, cursor) and _goes_on(file, cursor):
        yield Piece(file, cursor, final=False)
        return
    old = _rotated(path, cursor, stack)
    if old is not None:
        notes.append(f"{path}: rotated")
        yield Piece(old, cursor, final=True)
    elif file is not None:
        what = "truncated" if _same(file, cursor) else "replaced"
        notes.append(f"{path}: {what}; what was written in between is nowhere beside it")
    if file is not None:
        yield Piece(file, _at(file, 0), final=False)
    elif old is None:
        raise unreadable(path, "No such file or directory")


def mark(file: BinaryIO, offset: int) -> str:
    """A short hash of the bytes just before ``offset``: what another file has there hashes to something else."""
    start = max(0, offset - MARK_BYTES)
    return hashlib.sha256(os.pread(file.fileno(), offset - start, start)).hexdigest()[:16]


def unreadable(path: Path, problem: str | None) -> OutsideError:
    """The error that names the file."""
    return OutsideError("APP_LOG", f"{path}: {problem or 'cannot be read'}", "name readable files in APP_LOG")


def as_cursor(body: Json) -> Cursor | None:
    """The cursor the ledger remembers, or None."""
    return None if body is None else Cursor.model_validate(body)


def _open(path: Path, stack: ExitStack) -> BinaryIO | None:
    try:
        # A pipe with nobody at its other end would hang an ordinary open.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error.strerror) from None
    file: BinaryIO = stack.enter_context(os.fdopen(number, "rb"))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        raise unreadable(path, "not a regular file")
    return file


def _first(path: Path, file: BinaryIO, first_bytes: int, notes: list[str]) -> Piece:
    size = os.fstat(file.fileno()).st_size
    start = max(0, size - first_bytes)
    if start:
        notes.append(f"{path}: read for the first time, its last {first_bytes >> 20} MiB of {size >> 20} only")
    return Piece(file, _at(file, start), final=False)


def _at(file: BinaryIO, offset: int) -> Cursor:
    known = os.fstat(file.fileno())
    return Cursor(device=known.st_dev, inode=known.st_ino, offset=offset, mark=mark(file, offset), cut=offset > 0)


def _same(file: BinaryIO, cursor: Cursor) -> bool:
    known = os.fstat(file.fileno())
    return (known.st_dev, known.st_ino) == (cursor.device, cursor.inode)


def _goes_on(file: BinaryIO, cursor: Cursor) -> bool:
    return os.fstat(file.fileno()).st_size >= cursor.offset and mark(file, cursor.offset) == cursor.mark


def _rotated(path: Path, cursor: Cursor, stack: ExitStack) -> BinaryIO | None:
    """The file that was read so far, under its new name, or the copy that was made before it was truncated."""
    try:
        beside = [one for one in path.parent.iterdir() if one.name.startswith(path.name)]
    except OSError:
        return None
    copies = []
    for one in sorted(beside):
        if not ROTATED.fullmatch(one.name.removeprefix(path.name)):
            continue
        try:
            file = _open(one, stack)
        except OutsideError:
            continue
        if file is not None and _goes_on(file, cursor):
            if _same(file, cursor):
                return file
            copies.append(file)
    return copies[0] if copies and cursor.offset else None
