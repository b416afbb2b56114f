"""The nouns: what a runbook reads, finds, plans, is granted and reports. Pure: no I/O library may be imported here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Json = Any
"""Anything ``json.dumps`` takes: evidence and images are stored as they are."""


class Frozen(BaseModel):
    """A value that never changes after it was made and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Mode(StrEnum):
    """How far a run may go: ``observe`` changes nothing, ``approve`` asks a person first, ``auto`` acts alone."""

    observe = "observe"
    approve = "approve"
    auto = "auto"

    def under(self, ceiling: Mode) -> Mode:
        """The weaker of this mode and ``ceiling``."""
        order = list(Mode)
        return order[min(order.index(self), order.index(ceiling))]


class Risk(StrEnum):
    """``auto``: reversible or self-healing. ``guarded``: after one proven canary. ``person``: always asks."""

    auto = "auto"
    guarded = "guarded"
    person = "person"


class FixState(StrEnum):
    """Where a fix stands; ``intended`` left behind by a dead process is settled by looking, never by acting."""

    planned = "planned"
    granted = "granted"
    refused = "refused"
    intended = "intended"
    applied = "applied"
    proven = "proven"
    failed = "failed"
    undone = "undone"


class Outcome(StrEnum):
    """What a run came to."""

    healthy = "healthy"
    observed = "observed"
    fixed = "fixed"
    refused = "refused"
    unsolved = "unsolved"
    undone = "undone"


def fingerprint(value: Json) -> str:
    """A short stable hash of any JSON value (16 hex digits of SHA-256 over its sorted form)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Finding(Frozen):
    """What is wrong, on which subject, with the evidence that shows it (already masked).

    ``page`` says that no machine can mend it and a person must be told now, at night too.
    """

    subject: str
    detail: str
    evidence: Mapping[str, Json] = Field(default_factory=dict)
    page: bool = False


class Fix(Frozen):
    """One act on one target.

    ``expect`` is the image of the target the act compares with before it sets anything (and the undo image);
    ``want`` is the image afterwards. ``undo`` says in words how it is taken back, or that it cannot be.
    ``id`` is given by the ledger when the fix is recorded; a plan has none.
    """

    action: str
    target: str
    risk: Risk
    why: str
    undo: str
    expect: Mapping[str, Json] = Field(default_factory=dict)
    want: Mapping[str, Json] = Field(default_factory=dict)
    id: str = ""
    state: FixState = FixState.planned

    @property
    def key(self) -> str:
        """What makes two plans the same act on the same state of the same target."""
        return fingerprint([self.action, self.target, self.expect, self.want])


def plan_hash(fixes: Sequence[Fix]) -> str:
    """The identity of a whole plan, whatever the order of its fixes: an approval is good for this only."""
    return fingerprint(sorted(fix.key for fix in fixes))


class Proof(Frozen):
    """What a second reading of a target showed.

    ``held`` is True when the effect of the fix is there, False when it is not, None when it could not be seen.
    """

    held: bool | None
    seen: str
    evidence: Mapping[str, Json] = Field(default_factory=dict)


class Share(Frozen):
    """How many of a population are sick; past a bound the gate acts on none of them and pages."""

    sick: int
    of: int

    @property
    def value(self) -> float:
        return self.sick / self.of if self.of else 1.0


class Judged(NamedTuple):
    """What a runbook's rules make of one reading; the same for a reading of now and of long ago.

    ``actions`` are those that this kind of reading may lead to; empty means all of the runbook's.
    """

    findings: Sequence[Finding]
    plan: Sequence[Fix]
    share: Share | None = None
    actions: Collection[str] = ()


class Report(Frozen):
    """What a run returns. ``reason`` says why it stopped early, ``notices`` what a person should know anyway.

    ``sealed_by`` is the ledger's last hash when the run ended: noted outside, it shows that nothing was cut off later.
    """

    id: str
    runbook: str
    mode: Mode
    outcome: Outcome
    findings: Sequence[Finding] = ()
    fixes: Sequence[Fix] = ()
    notices: Sequence[str] = ()
    reason: str = ""
    not_configured: bool = False
    duration_ms: int = 0
    sealed_by: str = ""

    @property
    def one_line(self) -> str:
        """The run in one line: counts, ledger id, why it stopped early."""
        done = sum(fix.state in {"proven", "applied"} for fix in self.fixes)
        found = f"{len(self.findings)} finding{'' if len(self.findings) == 1 else 's'}"
        text = f"{found}, {done} of {len(self.fixes)} fixes done, ledger {self.id}"
        return f"{text}: {self.reason}" if self.reason else text

    @property
    def exit_code(self) -> int:
        """0 healthy or fixed and proven, 2 bad setting, 3 findings left, 4 acted but not proven."""
        match self.outcome:
            case Outcome.healthy | Outcome.fixed | Outcome.undone:
                return 0
            case Outcome.unsolved:
                return 4
            case Outcome.refused if self.reason:
                return 2
            case _:
                return 3

    def as_json(self) -> dict[str, Json]:
        """The document ``--json`` prints for one run."""
        keep = {"id", "action", "target", "risk", "state", "why"}
        return {
            "runbook": self.runbook,
            "mode": self.mode.value,
            "outcome": self.outcome.value,
            "findings": [f.model_dump(mode="json") for f in self.findings],
            "fixes": [f.model_dump(mode="json", include=keep) for f in self.fixes],
            "duration_ms": self.duration_ms,
            "id": self.id,
            "notices": list(self.notices),
            "reason": self.reason,
        }
