"""Packs a rotated log where it lies: read back and compared before the original goes, and unpacked by undo."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from runbook.errors import OutsideError
from runbook.model import Fix, Json, Proof
from runbook.permit import Attempt, Permit
from runbook.step import hand, reader
from tasks.rotated_logs import written

SETTING = "RUNBOOK_ARCHIVE_LOGS"
CHUNK = 1024 * 1024


@hand("archive {fix.target}")
async def archive_log(fix: Fix, permit: Permit) -> None:
    """Pack one log beside itself, read it back, and only then remove the original, if it is still what was read."""
    with permit.attempt(fix) as attempt:
        await asyncio.to_thread(_tried, _pack, fix, attempt)


def _tried(act: Any, fix: Fix, attempt: Attempt) -> None:
    """An act that removes nothing before its copy is whole: what the system refuses is certainly not done."""
    try:
        act(fix, attempt)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        attempt.failed(f"{fix.expect['path']}: {'no room for the copy' if full else error.strerror or error}")


def _pack(fix: Fix, attempt: Attempt) -> None:
    path, packed = Path(str(fix.expect["path"])), Path(str(fix.want["path"]))
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as source:
        known = os.fstat(number)
        if not _same(known, fix.expect) or written({(known.st_dev, known.st_ino)}):
            attempt.moved_on("it is not as it was read any more")
            return
        if packed.exists():
            if _held(packed) != _digest(source):
                attempt.moved_on(f"{packed} is there already and holds something else")
                return
        else:
            with _beside(packed, known) as part:
                wanted = _packed(source, part, fix)
                if _held(part) != wanted:
                    raise OSError(errno.EIO, "the copy is not the original")
                os.link(part, packed)  # unlike a rename it never takes another file's place
        _sync(packed.parent)
        if not _same(os.lstat(path), fix.expect):
            attempt.moved_on("it was written to meanwhile; the copy beside it is what it was")
            return
        path.unlink()
        attempt.did(packed_bytes=packed.stat().st_size)


def _packed(source: IO[bytes], part: Path, fix: Fix) -> str:
    digest = hashlib.sha256()
    with part.open("wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packer:
            while piece := source.read(CHUNK):
                digest.update(piece)
                packer.write(piece)
        raw.flush()
        os.fsync(raw.fileno())
    os.utime(part, ns=(int(fix.expect["mtime_ns"]), int(fix.expect["mtime_ns"])))
    return digest.hexdigest()


@contextmanager
def _beside(final: Path, like: os.stat_result) -> Iterator[Path]:
    """A new file that only we can have made, with the owner and rights of ``like``; gone when the block ends."""
    part = final.with_name(f".{final.name}.runbook")
    with suppress(FileNotFoundError):
        part.unlink()  # of a run that died
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        with suppress(PermissionError):
            os.chown(part, like.st_uid, like.st_gid)
        part.chmod(stat.S_IMODE(like.st_mode))
        yield part
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _same(seen: os.stat_result, expect: Mapping[str, Json]) -> bool:
    now = {"device": seen.st_dev, "inode": seen.st_ino, "size": seen.st_size, "mtime_ns": seen.st_mtime_ns}
    return stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and all(expect[name] == now[name] for name in now)


def _digest(file: Any) -> str:
    found: str = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _held(packed: Path) -> str | None:
    """The digest of what a packed file holds, or None where it is no whole one."""
    try:
        with gzip.open(packed, "rb") as copy:
            return _digest(copy)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@reader("look up {fix.target}")
async def look_up_log(fix: Fix) -> Proof:
    """Whether the original is gone and the copy beside it unpacks to its size; or, undone, the other way round."""
    return await asyncio.to_thread(_looked_up, fix)


def _looked_up(fix: Fix) -> Proof:
    here, there = Path(str(fix.want["path"])), Path(str(fix.expect["path"]))
    if there.exists():
        return Proof(held=False, seen=f"{there} is still there")
    if not here.exists():
        return Proof(held=None, seen=f"neither {there} nor {here} is there: somebody moved them")
    try:
        size = here.stat().st_size if fix.action == "restore_log" else _unpacked_size(here)
    except OSError as error:
        raise OutsideError(SETTING, f"{here}: {error.strerror or error}", "run it again as a user who may") from None
    return Proof(held=size == fix.expect["size"], seen=f"{here} holds {size} bytes", evidence={"bytes": size})


def _unpacked_size(packed: Path) -> int:
    try:
        with gzip.open(packed, "rb") as copy:
            return sum(len(piece) for piece in iter(lambda: copy.read(CHUNK), b""))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return -1


def undo_archive(fix: Fix) -> Fix:
    """The inverse: unpack the copy to the original's place."""
    kept = {name: fix.expect[name] for name in ("size", "mtime_ns")}
    expect = {**kept, "path": fix.want["path"]}
    changed = {"action": "restore_log", "expect": expect, "want": {"path": fix.expect["path"]}}
    return fix.model_copy(
        update=changed | {"why": f"undo of {fix.id}", "undo": "archived again by a run of another day"}
    )


@hand("restore {fix.target}")
async def restore_log(fix: Fix, permit: Permit) -> None:
    """Unpack one log to where it was, if nothing else took its place and the copy is the one we made."""
    with permit.attempt(fix) as attempt:
        await asyncio.to_thread(_tried, _unpack, fix, attempt)


def _unpack(fix: Fix, attempt: Attempt) -> None:
    packed, path = Path(str(fix.expect["path"])), Path(str(fix.want["path"]))
    if not packed.exists() or os.lstat(packed).st_mtime_ns != fix.expect["mtime_ns"]:
        attempt.moved_on(f"{packed} is not the copy that was made")
        return
    if path.exists():
        attempt.moved_on(f"{path} is another file by now")
        return
    with _beside(path, packed.stat()) as part:
        try:
            with gzip.open(packed, "rb") as copy, part.open("wb") as whole:
                shutil.copyfileobj(copy, whole, CHUNK)
                whole.flush()
                os.fsync(whole.fileno())
        except (EOFError, zlib.error):
            raise OSError(errno.EIO, "the copy is spoiled") from None
        if part.stat().st_size != fix.expect["size"]:
            raise OSError(errno.EIO, "the copy does not unpack to the original")
        os.utime(part, ns=(int(fix.expect["mtime_ns"]), int(fix.expect["mtime_ns"])))
        os.link(part, path)
    _sync(path.parent)
    packed.unlink()
