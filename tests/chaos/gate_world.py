"""What the adversary of the gate acts on, with tight caps, and what must have happened for it to show anything."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sqlalchemy import RowMapping

from runbook.model import Fix, FixState, Proof
from runbook.permit import Hand, Permit
from runbook.policy import DEFAULT_CAPS, HOURS_24, IN_15MIN, IN_24H, IN_RUN, MASS_FAILURE, MINUTES_15, Cap
from runbook.process import this_process
from runbook.step import hand, reader

TARGETS, RUNBOOKS, ACTIONS = [f"row {n}" for n in range(6)], ["failed-payments", "pool-exhaustion"], ["set", "other"]
CAPS = {
    "global": Cap(per_15min=12, per_24h=30),
    "target": Cap(per_15min=2, per_24h=4),
    "runbook": Cap(per_run=3, per_15min=6, per_24h=12, failures_15min=3, sick_share=0.5),
    "other": Cap(per_run=1, per_15min=2, per_24h=3, rest_seconds=1800),
}
"""Tight, so that a few steps reach each of them; the production values differ in size only."""

BUSY = (FixState.granted.value, FixState.intended.value)
NOBODY = f"{this_process().partition(':')[0]}:4194305:1"
"""A process that is certainly gone: no pid is as high."""

REFUSALS = {
    "red button": "the red button",
    "breaker": "attempts of this runbook failed",
    "mass failure": MASS_FAILURE,
    "held target": "holds this target",
    "no person": "nobody is here",
    "said no": "refused by",
    "needs a person": "needs a person",
    "taken back": "a person undid",
    "cooldown": "cooldown:",
    "cap per run": f"used {IN_RUN}",
    "cap per 15 minutes": f"used {IN_15MIN}",
    "cap per 24 hours": f"used {IN_24H}",
    "changed": "the target changed",
    "expired": "its grant expired",
}
"""Why a fix was not granted, or its grant was given back, by what the ledger says of it."""

DOES = frozenset(
    {"open", "ask", "act", "forge", "take back", "settle"}
    | {f"meanwhile: {what}" for what in ("clock", "stop", "start", "somebody", "dies")}
)
HAPPENS = (
    *(
        "acted",
        "acted by a person's word",
        "approved late",
        "crashed",
        "turned down",
        "undone",
        "settled",
        "forged in vain",
        "only planned",
    ),
    *(f"refused: {name}" for name in REFUSALS),
)
"""What a run of the adversary must have done, or it shows nothing."""


class Crash(BaseException):
    """The process dies here, as far as the ledger can tell."""


class Terminal(io.StringIO):
    """A person at a terminal, with one answer, who thinks for so long."""

    def __init__(self, answer: str, think: Callable[[], None]) -> None:
        super().__init__(answer)
        self.think = think

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        self.think()
        return super().readline(-1 if size is None else size)


@dataclass
class World:
    """What acts change: each act is noted with the fix that made it."""

    acts: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=lambda: dict.fromkeys(TARGETS, "old"))
    how: str = "well"

    @cached_property
    def hands(self) -> dict[str, Hand]:
        """What acts here and what looks it up, for every action."""

        @hand("set {fix.target}")
        async def act(fix: Fix, permit: Permit) -> None:
            with permit.attempt(fix) as attempt:
                if self.how == "dies before":
                    raise Crash
                self.acts.append(fix.id)
                self.values[fix.target] = fix.want["v"]
                if self.how == "dies after":
                    raise Crash
                if self.how == "is turned down":
                    self.values[fix.target] = "old"
                    attempt.failed("no")

        @reader("look up {fix.target}")
        async def look_up(fix: Fix) -> Proof:
            return Proof(held=self.values[fix.target] == fix.want["v"], seen=self.values[fix.target])

        return dict.fromkeys(ACTIONS, Hand(act, look_up))


def within_caps(known: Sequence[RowMapping], row: RowMapping, together: Collection[str]) -> None:
    """Count anew, from the rows that came before, whether this grant had room in every window."""
    now = row["decided_at_ms"]
    # An attempt, or one that may yet come: still granted, or granted in the same breath.
    before = [
        one
        for one in known
        if one["seq"] < row["seq"]
        and (one["intended_at_ms"] or one["state"] == FixState.granted.value or one["id"] in together)
    ]
    caps = {**DEFAULT_CAPS, **CAPS}
    own = caps.get(row["runbook"], caps["runbook"])
    scopes = [
        ("global", caps["global"], before),
        ("target", caps["target"], [one for one in before if one["target"] == row["target"]]),
        ("runbook", own, [one for one in before if one["runbook"] == row["runbook"]]),
        ("action", caps.get(row["action"], Cap()), [one for one in before if one["action"] == row["action"]]),
    ]
    for name, cap, rows in scopes:
        others = [one for one in rows if (one["target"], one["run_id"] != row["run_id"]) == (row["target"], True)]
        rest = (cap.rest_seconds or 0) * 1000
        assert all(now - one["decided_at_ms"] >= rest for one in others) or not rest, "no rest for a target"
        ages = [now - one["decided_at_ms"] for one in rows]
        in_run = sum(one["run_id"] == row["run_id"] for one in rows)
        for limit, used in (
            (cap.per_run, in_run),
            (cap.per_15min, sum(age < MINUTES_15 for age in ages)),
            (cap.per_24h, sum(age < HOURS_24 for age in ages)),
        ):
            assert limit is None or used < limit, f"cap of {name} passed: {used + 1} of {limit}"
