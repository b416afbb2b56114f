"""Everything known of the app's generations at one moment, and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from runbook.model import Finding, Fix, Frozen
from tasks.generation import Probe
from tasks.generation_errors import MEANING, Kind
from tasks.generation_log import Heard
from tasks.generation_switch import MINUTE_MS, Switch, flip, revert

LOW = 0.1
"""A share left of a rate limit below which a burst of users meets it."""

LOW_READINGS = 3
"""That many low readings in a row are a trend; one is a busy minute."""


class Bounds(NamedTuple):
    """From when on something counts: see the flow's parameters of these names."""

    samples: int = 3
    pause_seconds: float = 2.0
    timeout_seconds: float = 15.0
    failed_share: float = 0.3
    failed_least: int = 5
    by_design: Sequence[str] = ()
    ttl_minutes: int = 240
    least_minutes: int = 10


class Generation(Frozen):
    """What was read; None is what could not be, or did not matter. Times are Unix ms.

    ``shared``: the fallback spends the same key's quota. ``failed_before``: the last run saw nothing but failures.
    ``headroom``: the share left of each limit in earlier runs, the latest last. ``missing``: settings that are empty
    and without which nothing can be switched.
    """

    now_ms: int
    probed_ms: int
    primary: Probe | None
    fallback: Probe | None = None
    switch: Switch | None = None
    shared: bool = False
    failed_before: bool = False
    heard: Heard | None = None
    headroom: Mapping[str, tuple[float, ...]] = {}
    missing: tuple[str, ...] = ()

    @property
    def in_force(self) -> Probe | None:
        """The model the app uses now, as far as it was asked; None where a person set another."""
        states = {"primary": self.primary, "fallback": self.fallback, "other": None}
        return self.primary if self.switch is None else states[self.switch.state]

    @property
    def writes(self) -> bool:
        """The model in force answered the last time it was asked."""
        return self.in_force is not None and self.in_force.kind is Kind.ok

    @property
    def covered(self) -> bool:
        """The fallback model is in force and writes."""
        return self.switch is not None and self.switch.state == "fallback" and self.writes

    @property
    def expired(self) -> bool:
        """The fallback we set has outlived its time."""
        until = self.switch.until_ms if self.switch is not None else None
        return until is not None and self.now_ms >= until

    @property
    def app_succeeds(self) -> bool:
        """The app made one while all our samples failed: it is our own way to the provider that is broken."""
        return self.heard is not None and self.heard.last_success_ms >= self.probed_ms

    def down(self, at: Bounds) -> bool:
        """The app's own model fails, by several samples, or by one that the log or the run before bears out."""
        if self.primary is None or not self.primary.failing:
            return False
        heard = self.heard is not None and self.heard.failing(at.failed_share, at.failed_least)
        return len(self.primary.samples) >= at.samples or self.failed_before or heard


def detect(seen: Generation, at: Bounds) -> list[Finding]:
    """What is wrong; a model that fails while the fallback writes is only told, until the fallback's time is up."""
    return [*_own(seen, at), *_spare(seen, at), *_log(seen, at), *_headroom(seen)]


def _own(seen: Generation, at: Bounds) -> Iterator[Finding]:
    probe = seen.primary
    if probe is None or not probe.failing or not (probe.account or seen.down(at)):
        return
    if seen.covered and not probe.account and not seen.expired:
        return
    said = f"{_said(probe)}: {MEANING[probe.kind].next_step}"
    if seen.covered:
        said += "; the fallback model writes meanwhile"
    if seen.expired:
        said += ", but its time is up: a person must decide what the app uses from now on"
    retired = probe.kind is Kind.model and bool(seen.missing)
    page = probe.account or seen.expired or retired
    yield Finding(subject=f"AI model {probe.model}", detail=said, evidence=probe.evidence(), page=page)


def _spare(seen: Generation, at: Bounds) -> Iterator[Finding]:
    probe = seen.fallback
    if probe is None or seen.switch is None or seen.switch.state != "fallback":
        return
    if probe.failing:
        both = seen.primary is not None and seen.primary.failing
        said = f"{_said(probe)}, while it is in force" + ("; no model writes now" if both else "")
        yield Finding(
            subject=f"AI fallback model {probe.model}",
            detail=said,
            evidence=probe.evidence(),
            page=both or probe.account,
        )
    if why := _due(seen, at):
        yield Finding(subject=f"AI fallback model {probe.model}", detail=f"is still in force: {why}")


def _log(seen: Generation, at: Bounds) -> Iterator[Finding]:
    heard = seen.heard
    if heard is None or not heard.failing(at.failed_share, at.failed_least):
        return
    said = f"{heard.failed} of {heard.failed + heard.succeeded} generations gave a template or nothing"
    if seen.writes and seen.in_force is not None:
        took = max(one.seconds for one in seen.in_force.samples)
        said += (
            f", though {seen.in_force.model} answers us in {took:.1f} s: a person must see whether the app gives up "
            "sooner, asks for another model or uses another key"
        )
    yield Finding(subject="app log", detail=said, evidence={"reasons": heard.reasons, "by design": heard.by_design})


def _headroom(seen: Generation) -> Iterator[Finding]:
    now = seen.primary.left if seen.primary is not None else {}
    for what, share in now.items():
        last = [*seen.headroom.get(what, ()), share][-LOW_READINGS:]
        if len(last) == LOW_READINGS and max(last) < LOW:
            said = f"{share:.0%} left, under {LOW:.0%} in {LOW_READINGS} runs in a row: raise the limit or ask for less"
            yield Finding(subject=f"AI limit on {what}", detail=said, evidence={"shares left": last})


def _said(probe: Probe) -> str:
    count = len(probe.samples)
    unlisted = ", and the provider does not list it" if probe.listed is False else ""
    return f"{MEANING[probe.kind].problem} ({count} of {count} samples){unlisted}"


def notices(seen: Generation, at: Bounds) -> Iterator[str]:
    """What a person should know that is no finding."""
    yield from _of_model(seen, at)
    flag = seen.switch
    if flag is not None and flag.state == "other":
        yield f"the app's flag says {flag.said}, neither model of ours: a person set it, and it is left alone"
    if flag is not None and flag.state == "fallback" and not flag.ours:
        yield "the fallback model is in force by a person's hand, and is left so"
    if flag is None or flag.state != "primary":
        if seen.down(at) and seen.missing:
            yield f"not configured: {', '.join(seen.missing)}, so no fallback model can be switched to"
        return
    if not seen.down(at) or seen.primary is None:
        return
    if seen.shared and seen.primary.account:
        yield "the fallback model spends the same key's quota: it is no help, and nothing is switched"
    elif seen.fallback is not None and not seen.fallback.well:
        yield f"the fallback model {seen.fallback.model} is no help: {seen.fallback.kind}"
    elif seen.app_succeeds:
        yield "the app itself succeeded while our samples failed: nothing is switched"


def _of_model(seen: Generation, at: Bounds) -> Iterator[str]:
    probe = seen.primary
    if probe is None:
        return
    if probe.kind is Kind.turned_down:
        yield f"{probe.model} did not take our question ({probe.samples[-1].said}): whether it writes is not known"
    elif probe.failing and seen.covered and not probe.account:
        yield f"{probe.model} fails ({probe.kind}); the fallback model is in force and writes"
    elif probe.failing and not probe.account and not seen.down(at):
        yield f"{probe.model} failed the only sample ({probe.kind}): the next run looks again before anything is done"
    elif not probe.failing and not probe.well:
        failed = [str(one.kind) for one in probe.samples if one.kind is not Kind.ok]
        yield f"{probe.model} failed {len(failed)} of {len(probe.samples)} samples ({', '.join(failed)})"


def plan(seen: Generation, at: Bounds) -> list[Fix]:
    """Turn the flag to the fallback where only that keeps the app writing, and back as soon as that is sure."""
    flag, own, spare = seen.switch, seen.primary, seen.fallback
    if flag is None or own is None:
        return []
    if why := _due(seen, at):
        return [revert(why, flag.until_ms)]
    helps = spare is not None and spare.well and not (seen.shared and own.account)
    if flag.state == "primary" and seen.down(at) and helps and not seen.app_succeeds:
        return [flip(f"{own.model}: {MEANING[own.kind].problem}", seen.now_ms, at.ttl_minutes)]
    return []


def _due(seen: Generation, at: Bounds) -> str:
    """Why the flag should be turned back now; empty where it should not, or is not ours to turn."""
    flag, own = seen.switch, seen.primary
    if flag is None or flag.since_ms is None or own is None:  # not ours to turn
        return ""
    settled = seen.now_ms - flag.since_ms >= at.least_minutes * MINUTE_MS
    useless = seen.fallback is not None and seen.fallback.failing
    if own.well and len(own.samples) > 1 and (settled or useless):
        return f"{own.model} writes again ({len(own.samples)} of {len(own.samples)} samples)"
    if seen.expired and not own.failing:
        return f"its time is up, and {own.model} is not seen to fail"
    return ""


def readings(seen: Generation) -> dict[str, float]:
    """The key readings for the trends."""
    found: dict[str, float] = {}
    if seen.primary is not None:
        samples = seen.primary.samples
        found["ai_probe_failed_share"] = sum(one.kind in MEANING for one in samples) / len(samples)
        found["ai_probe_seconds"] = samples[-1].seconds
        found |= {f"ai_{what}_left_share": share for what, share in seen.primary.left.items()}
    if seen.heard is not None and seen.heard.failed + seen.heard.succeeded:
        found["ai_failed_share"] = seen.heard.share
    return found
