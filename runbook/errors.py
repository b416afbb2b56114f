"""Errors a person can act on: each names the setting or target at fault and the next step."""

from __future__ import annotations

LONGEST_CHAIN = 20
"""Errors that led to each other; a longer chain is somebody's loop."""


class RunbookError(Exception):
    """What stopped a run, in one line without a stack trace: the subject, what is wrong, what to do next.

    ``subject`` is the name of a setting (``DATABASE_URL``) or of a target (``table Subscription``).
    """

    def __init__(self, subject: str, problem: str, next_step: str) -> None:
        self.subject, self.problem, self.next_step = subject, problem, next_step
        super().__init__(f"{subject}: {problem}. Next: {next_step}")


class NotConfigured(RunbookError):
    """A setting this runbook needs is empty; the other runbooks go on."""

    def __init__(self, *names: str) -> None:
        listed = ", ".join(names)
        super().__init__(listed, "not configured", f"set {listed} in the environment or in .env")


class BadSetting(RunbookError):
    """A setting has a value that cannot be right."""


class OutsideError(RunbookError):
    """A system under care refused or did not answer; ``transient`` says whether asking again may help.

    ``problem`` may hold the system's own words: they are masked here, once, wherever the error goes.
    """

    def __init__(self, subject: str, problem: str, next_step: str, *, transient: bool = False) -> None:
        super().__init__(subject, _masked(problem), next_step)
        self.transient = transient


class LedgerError(RunbookError):
    """The ledger cannot be read or written, so nothing may act; its database's own words are masked here."""

    def __init__(self, subject: str, problem: str, next_step: str) -> None:
        super().__init__(subject, _masked(problem), next_step)


class NotPermitted(RunbookError):
    """An act was tried without a live grant for exactly this fix."""


class Crash(Exception):
    """An error nobody expected, in masked words: Prefect keeps what an error says in its logs and its database."""


def without_secrets(error: Exception) -> Exception:
    """``error`` itself, or a ``Crash`` in its place where it, or what led to it, says a secret."""
    chain: list[str] = []
    one: BaseException | None = error
    while one is not None and len(chain) < LONGEST_CHAIN:
        chain.append(f"{type(one).__name__}: {one}")
        one = one.__cause__ or one.__context__
    said = " after ".join(chain)
    masked = _masked(said)
    return error if masked == said else Crash(masked).with_traceback(error.__traceback__)


def _masked(text: str) -> str:
    from runbook.mask import mask  # masking reads the settings, which raise errors of this file

    return str(mask(text))
