"""The rules of what may be done, as one pure function over facts; it reads nothing and remembers nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from runbook.model import Fix, FixState, Json, Mode, Risk, Share

MINUTES_15 = 15 * 60 * 1000
HOURS_24 = 24 * 60 * 60 * 1000
IN_RUN, IN_15MIN, IN_24H = "in this run", "in 15 minutes", "in 24 hours"
CENTS = "cents in 24 hours"
MASS_FAILURE = "mass failure"
BAD_ENDS = frozenset({FixState.failed, FixState.intended})


class Cap(BaseModel):
    """How many attempts a scope allows; None is no bound of this kind. Attempts count, not successes.

    ``failures_15min`` stops what nobody asked for: what a person named or approved goes on.
    ``sick_share`` bounds plans that say how many of how many are sick; the others mend one thing and have no share.
    ``rest_seconds`` (of ``target`` or an action): after an attempt on a target no other run makes one for so long.
    ``cents_24h``: money that attempts of 24 hours may move before each further one needs a person, in the smallest unit
    of its currency, whatever that is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_run: int | None = Field(None, ge=0)
    per_15min: int | None = Field(None, ge=0)
    per_24h: int | None = Field(None, ge=0)
    failures_15min: int | None = Field(None, ge=1)
    sick_share: float | None = Field(None, gt=0, le=1)
    rest_seconds: int | None = Field(None, ge=1, le=86_400)
    cents_24h: int | None = Field(None, ge=0)


DEFAULT_CAPS: Mapping[str, Cap] = {
    "global": Cap(per_15min=2_000, per_24h=6_000),
    "target": Cap(per_15min=2, per_24h=4),
    "runbook": Cap(per_run=20, per_15min=40, per_24h=200, failures_15min=3, sick_share=0.5),
    "failed-payments": Cap(per_run=1_000, per_15min=1_500, per_24h=5_000, failures_15min=5, sick_share=0.05),
    "undelivered-email": Cap(per_run=12, per_15min=30, per_24h=200, failures_15min=3, sick_share=0.2),
    "remove_block": Cap(per_run=5, per_15min=5, per_24h=20),
    "remove_bounce": Cap(per_run=2, per_15min=2, per_24h=4),
    "resend_reset": Cap(per_run=4, per_15min=12, per_24h=120),
    "revalidate_domain": Cap(per_run=1, per_15min=1, per_24h=8),
    "retry_payment": Cap(per_run=5, per_15min=5, per_24h=20, cents_24h=10_000),
    "enable_endpoint": Cap(per_run=2, per_15min=2, per_24h=4),
    "restart_instance": Cap(per_run=1, per_15min=1, per_24h=12),  # with its cooldown: three an hour
    "roll_back": Cap(per_run=1, per_15min=2, per_24h=4),
    "promote_deployment": Cap(per_run=1, per_15min=2, per_24h=4),
    "start_maintenance": Cap(per_run=1, per_15min=1, per_24h=4),
    "scale_app": Cap(per_run=1, per_15min=2, per_24h=4),  # each with its undo
    "post_status": Cap(per_run=2, per_15min=2, per_24h=6),
    "take_snapshot": Cap(per_run=1, per_15min=1, per_24h=6),
    "trust_ip": Cap(per_run=3, per_15min=6, per_24h=20),
    "trust_again": Cap(per_run=10, per_15min=20, per_24h=40),
    "unblock_ip": Cap(per_run=5, per_15min=10, per_24h=30),
    "set_idle_timeout": Cap(per_run=1, per_15min=2, per_24h=4),  # each with its undo
    "use_fallback_model": Cap(per_run=1, per_15min=1, per_24h=2),  # a target has 4 in all: each flip may be reverted
    "requeue_generation": Cap(per_run=20, per_15min=20, per_24h=100),
    "broken-sessions": Cap(per_run=210, per_15min=400, per_24h=2_000, failures_15min=3, sick_share=0.5),
    "reset_lockout": Cap(per_run=200, per_15min=300, per_24h=1_500),
    "unlock_account": Cap(per_run=1, per_15min=3, per_24h=10),
    "purge_sessions": Cap(per_run=10, per_15min=20, per_24h=200),  # batches
    "create_index": Cap(per_run=2, per_15min=2, per_24h=8),  # builds load the disk, and each index costs every write
    "drop_invalid_index": Cap(per_run=3, per_15min=6, per_24h=12),
    "vacuum_table": Cap(per_run=2, per_15min=4, per_24h=12),
}
"""Caps by scope: ``global``, ``target`` (any one target), ``runbook`` (any runbook without its own), then by the
name of a runbook or of an action."""


@dataclass(frozen=True)
class Attempt:
    """One earlier grant, as the ledger remembers it."""

    runbook: str
    action: str
    target: str
    at_ms: int
    state: FixState
    run_id: str
    cents: int = 0


@dataclass(frozen=True)
class Facts:
    """All that a decision depends on. A fact that could not be read must stop the caller before this is made."""

    runbook: str
    run_id: str
    mode: Mode
    now_ms: int
    stopped: str | None
    history: Sequence[Attempt]
    open_targets: Collection[str]
    taken_back: Collection[str] = ()
    approved: Collection[str] = ()
    refusal: str = ""
    share: Share | None = None
    caps: Mapping[str, Cap] = field(default_factory=lambda: DEFAULT_CAPS)


@dataclass(frozen=True)
class Verdict:
    """One fix and what was decided of it."""

    fix: Fix
    granted: bool
    why: str


def decide(fixes: Sequence[Fix], facts: Facts) -> list[Verdict]:
    """Grant or refuse every fix, in the order given; each grant counts against the caps of those after it."""
    blanket, broken = _for_all(facts), _broken(facts)
    used = Counter[tuple[str, str, str]]()
    for past in facts.history:
        _count(used, past, facts)
    taken = set(facts.open_targets)
    verdicts: list[Verdict] = []
    for fix in fixes:
        unasked = broken if fix.key not in facts.approved else ""
        why = blanket or unasked or _for_one(fix, facts, used, taken)
        verdicts.append(Verdict(fix, granted=not why, why=why or f"{fix.why}; inside every cap"))
        if not why:
            taken.add(fix.target)
            _count(used, attempt(fix, facts.runbook, facts.run_id, facts.now_ms), facts)
    return verdicts


def attempt(fix: Fix, runbook: str, run_id: str, at_ms: int) -> Attempt:
    """The attempt that a grant of ``fix`` counts as."""
    return Attempt(runbook, fix.action, fix.target, at_ms, fix.state, run_id, cents(fix.expect))


def cents(expect: Mapping[str, Json]) -> int:
    """The money a fix with this image moves, 0 where it moves none."""
    return int(expect.get("amount", 0))


def _for_all(facts: Facts) -> str:
    if facts.stopped is not None:
        return f"the red button is pressed: {facts.stopped}"
    if facts.mode is Mode.observe:
        return "mode observe changes nothing"
    bound = facts.caps.get(facts.runbook, facts.caps["runbook"]).sick_share
    if bound is not None and facts.share is not None and facts.share.value > bound:
        return f"{MASS_FAILURE}: {facts.share.sick} of {facts.share.of} are sick, more than {bound:.0%}"
    return ""


def _broken(facts: Facts) -> str:
    """Why nothing may be done unasked, or nothing: who names or approves a fix is the person who looks."""
    caps = facts.caps.get(facts.runbook, facts.caps["runbook"])
    bad = [past for past in facts.history if past.runbook == facts.runbook and past.state in BAD_ENDS]
    recent = [past for past in bad if past.at_ms > facts.now_ms - MINUTES_15]
    if caps.failures_15min is None or len(recent) < caps.failures_15min:
        return ""
    return f"{len(recent)} attempts of this runbook failed in 15 minutes: a person must look: run it with mode approve"


def _for_one(fix: Fix, facts: Facts, used: Counter[tuple[str, str, str]], taken: Collection[str]) -> str:
    if fix.target in taken:
        return "another fix holds this target"
    if facts.mode is Mode.approve and fix.key not in facts.approved:
        return facts.refusal or "no person approved it"
    if fix.risk is Risk.person and fix.key not in facts.approved:
        return "needs a person: run it with mode approve"
    if fix.target in facts.taken_back and fix.key not in facts.approved:
        return "a person undid an act on it within 24 hours: run it with mode approve to act again"
    for scope, name in _scopes(facts.runbook, fix.action, fix.target):
        general = facts.caps["runbook"] if scope == "runbook" else Cap()
        cap = facts.caps.get(scope if scope in {"global", "target"} else name, general)
        if cap.rest_seconds is not None and (age := _since(fix, scope, facts)) < cap.rest_seconds * 1000:
            return f"cooldown: another run tried this target {age // 1000} s ago, {cap.rest_seconds} s must pass"
        for window, limit in ((IN_RUN, cap.per_run), (IN_15MIN, cap.per_15min), (IN_24H, cap.per_24h)):
            count = used[scope, name, window]
            if limit is not None and count >= limit:
                return f"cap of {name if name else scope}: {count} of {limit} attempts used {window}"
        money, moved = cents(fix.expect), used[scope, name, CENTS]
        if cap.cents_24h is not None and money and fix.key not in facts.approved and moved + money > cap.cents_24h:
            said = f"{moved} of {cap.cents_24h} {CENTS}, and this moves {money}"
            return f"cap of {name if name else scope}: {said}: run it with mode approve"
    return ""


def _since(fix: Fix, scope: str, facts: Facts) -> int:
    """How long ago, in ms, another run last tried this target (by this action, when ``scope`` is one); else a day."""
    tried = [past for past in facts.history if past.target == fix.target and past.run_id != facts.run_id]
    moments = [past.at_ms for past in tried if scope != "action" or past.action == fix.action]
    return facts.now_ms - max(moments, default=facts.now_ms - HOURS_24)


def used(fixes: Sequence[Fix], facts: Facts) -> list[str]:
    """What of the caps these fixes fall under is used up by now, a line for the runbook and for each action."""
    counts = Counter[tuple[str, str, str]]()
    for past in facts.history:
        _count(counts, past, facts)
    lines = []
    for scope, name in [
        ("runbook", facts.runbook),
        *(("action", one) for one in dict.fromkeys(f.action for f in fixes)),
    ]:
        cap = facts.caps.get(name, facts.caps["runbook"] if scope == "runbook" else Cap())
        windows = ((IN_RUN, cap.per_run), (IN_15MIN, cap.per_15min), (IN_24H, cap.per_24h))
        said = [f"{counts[scope, name, window]} of {limit} {window}" for window, limit in windows if limit is not None]
        if said:
            lines.append(f"{name} {', '.join(said)}")
    return lines


def _scopes(runbook: str, action: str, target: str) -> tuple[tuple[str, str], ...]:
    return (("global", ""), ("target", target), ("runbook", runbook), ("action", action))


def _count(used: Counter[tuple[str, str, str]], past: Attempt, facts: Facts) -> None:
    # An attempt dated in the future (a clock was set back) still counts: windows have no upper edge.
    age = facts.now_ms - past.at_ms
    inside = ((IN_RUN, past.run_id == facts.run_id), (IN_15MIN, age < MINUTES_15), (IN_24H, age < HOURS_24))
    for window, counts in inside:
        if counts:
            used.update((scope, name, window) for scope, name in _scopes(past.runbook, past.action, past.target))
    if age < HOURS_24:
        for scope, name in _scopes(past.runbook, past.action, past.target):
            used[scope, name, CENTS] += past.cents
