"""The commands a person configured: a restart, a switch, a roll back. An argument list, no shell, bounded in time."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from contextlib import suppress

from runbook.errors import BadSetting, OutsideError
from runbook.mask import mask
from runbook.model import Frozen
from runbook.settings import settings

SECONDS = 60.0
SAID = 2_000
"""Characters kept of what a command printed: its end says what went wrong."""


class Ran(Frozen):
    """How a command ended: its exit code and the masked end of what it printed."""

    code: int
    said: str


def words(setting: str, **values: str) -> list[str]:
    """The command in ``setting`` as words, each ``{name}`` filled in; a value is never split into words.

    Raises ``NotConfigured`` where it is empty, ``BadSetting`` where it is no command or names what is not known.
    """
    settings().need(setting)
    try:
        found = [word.format(**values) for word in shlex.split(str(getattr(settings(), setting.lower())))]
    except (ValueError, LookupError, AttributeError):
        known = ", ".join(f"{{{name}}}" for name in values) or "no {name}"
        raise BadSetting(
            setting, "is no command", f"write words as a shell would read them; it may hold {known}"
        ) from None
    if not found:
        raise BadSetting(setting, "is no command", "write a program and its arguments")
    return found


async def run(setting: str, *, seconds: float = SECONDS, **values: str) -> Ran:
    """Run the command in ``setting`` to its end, in a process group of its own; any exit code is an answer.

    Raises ``OutsideError`` where it cannot be started, or had to be killed after ``seconds``: it may have acted.
    """
    code, said = await execute(setting, words(setting, **values), seconds=seconds)
    return Ran(code=code, said=str(mask(said.decode("utf-8", "replace")[-SAID:])).strip())


async def execute(setting: str, argv: list[str], *, seconds: float = SECONDS) -> tuple[int, bytes]:
    """The exit code of a program and all it printed, as ``run`` does it; what it printed may hold secrets."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise OutsideError(setting, f"{argv[0]}: {error.strerror}", f"run {setting} by hand as this user") from None
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate()
    except TimeoutError:
        raise OutsideError(
            setting, f"{argv[0]} did not end in {seconds:g} s", f"run {setting} by hand as this user", transient=True
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode or 0, said
