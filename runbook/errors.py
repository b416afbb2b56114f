"""Errors a person can act on: each names the setting or target at fault and the next step."""

from __future__ import annotations


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


def _masked(text: str) -> str:
    from runbook.mask import mask  # masking reads the settings, which raise errors of this file

    return str(mask(text))
