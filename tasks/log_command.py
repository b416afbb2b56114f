"""The app's log where it is no file: what ``APP_LOG_COMMAND`` prints for a span of time, read like a file."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from runbook.errors import BadSetting, OutsideError
from tasks.log_files import Cursor, Piece

SETTING = "APP_LOG_COMMAND"
FIRST_SECONDS = 3600
LONGEST_SECONDS = 24 * 3600
SETTLE_SECONDS = 2
"""How late a line may reach the journal."""

TIMEOUT_SECONDS = 60


def window(was: Cursor | None, now_seconds: int) -> Cursor:
    """The span to read, as a cursor whose ``device`` and ``inode`` are its ends in Unix seconds.

    A span that was begun is gone on with: the same command prints the same bytes. One that is done has no length.
    """
    until = now_seconds - SETTLE_SECONDS
    if was is None:
        return Cursor(device=until - FIRST_SECONDS, inode=until)
    if was.device != was.inode:
        return was
    return Cursor(device=min(max(was.inode, until - LONGEST_SECONDS), until), inode=max(until, was.inode))


def done(span: Cursor) -> Cursor:
    """The cursor behind a span that was read to its end."""
    return Cursor(device=span.inode, inode=span.inode)


@contextmanager
def printed(command: str, span: Cursor) -> Iterator[Piece]:
    """What the command prints for the span; raises ``BadSetting`` or ``OutsideError`` when it does not do it."""
    try:
        words = [word.format(since=span.device, until=span.inode) for word in shlex.split(command)]
    except (ValueError, LookupError):
        words = []
    if not words or "{since}" not in command or "{until}" not in command:
        said = "must be one command with {since} and {until} (Unix seconds) in it"
        raise BadSetting(SETTING, said, "journalctl -u app -o cat --since @{since} --until @{until}")
    with tempfile.TemporaryFile() as file:
        try:
            # Containers print what went wrong on stderr: it is half of the log.
            subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise _failed(words[0], f"ended with {error.returncode}") from None
        except subprocess.TimeoutExpired:
            raise _failed(words[0], f"did not end within {TIMEOUT_SECONDS} s") from None
        except OSError as error:
            raise _failed(words[0], str(error.strerror)) from None
        yield Piece(file, span, final=True)


def _failed(program: str, how: str) -> OutsideError:
    return OutsideError(SETTING, f"{program} {how}", f"run {SETTING} by hand as this user")
