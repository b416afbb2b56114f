"""Every address something is wrong with, and what is to be done about it. Pure: a world in, cases out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ConfigDict, Field

from runbook.errors import OutsideError
from runbook.model import Finding, Fix, Frozen, Json, Risk
from tasks.limit_score import Bounds, Evidence, Judgement, judge
from tasks.limit_tally import Limits
from tasks.networks import group, hide, read
from tasks.quotas import Trusted
from tasks.trusts import Trust, target

SHOWN = 5
MOST_ACTS = 3
"""Acts on one entry within a day before it is put back no more: the cap of a target must leave one to take it off."""

EXEMPTS = "the app's trust is for every page, sign-in and reset too, so a person must approve it; "
EXEMPTS += "RUNBOOK_TRUST_KEEPS_LOGIN_LIMITS=true says that the app keeps those limits"


class World(Frozen):
    """The log's limits, the app's list (None: not read) and our own trusts, at one moment."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    limits: Limits | None
    listed: Trusted | None
    trusts: Sequence[Trust]
    now_ms: int
    keeps_login_limits: bool = False
    problems: Sequence[OutsideError] = Field(default=(), exclude=True)

    @property
    def stopped(self) -> list[Evidence]:
        """The parties that are blocked now and neither trusted already nor ours to look after."""
        spared = {str(read(one.ip)) for one in self.trusts} | (self.listed.somewhere if self.listed else frozenset())
        parties = self.limits.parties if self.limits else ()
        return [one for one in parties if one.stopped_at_ms and str(read(one.key)) not in spared]

    def judged(self, seen: Evidence, at: Bounds) -> Judgement:
        """One party, by what this log can show."""
        assert self.limits is not None
        return judge(seen, self.limits.witness, at)

    def harm(self, ip: str, at: Bounds) -> str:
        """What the log says against a trusted address; empty where it says nothing."""
        found = read(ip)
        parties = self.limits.parties if self.limits and found else ()
        return "; ".join(
            said for one in parties if found and one.group == group(found) for said in self.judged(one, at).harm
        )


class Case(NamedTuple):
    """One thing that is wrong, and what is to be done about it."""

    finding: Finding
    fixes: Sequence[Fix] = ()


# -- addresses that are trusted because of us ------------------------------------------------------------------------


def kept(world: World, at: Bounds) -> Iterator[Case]:
    """Trusts that ended, that are abused, or that the app forgot."""
    if world.listed is None:
        return
    valid = [one for one in world.trusts if one.until_ms > world.now_ms]
    for one in world.trusts:
        harm, over = world.harm(one.ip, at), one not in valid
        if _in(one, world.listed.somewhere) and (over or harm):
            why = f"its trust ended {_when(one.until_ms)}" if over else f"abuse from a trusted address: {harm}"
            yield _case(one, why, _end(one, why))
        elif over or harm or _in(one, world.listed.everywhere):
            continue
        elif one.acts >= MOST_ACTS:
            yield _case(one, f"the app forgot it again, after {one.acts} acts on it within a day: trust it by hand")
        elif not any(_in(other, world.listed.everywhere) for other in valid) and world.limits is not None:
            why = f"the app restarted and lost its list; it is trusted until {_when(one.until_ms)}"
            yield _case(one, why, _again(one, why))
        else:
            missing = "it is not on the app's list, and whether a person removed it the log does not tell"
            yield _case(one, f"{missing}: trust it by hand, or runbook undo {one.fix_id}")


def _in(one: Trust, listed: frozenset[str]) -> bool:
    return str(read(one.ip)) in listed


def _case(one: Trust, why: str, *fixes: Fix) -> Case:
    evidence = {"trusted by": one.fix_id, "since": _when(one.at_ms), "until": _when(one.until_ms)}
    return Case(Finding(subject=f"trusted address {hide(one.ip)}", detail=why, evidence=evidence), fixes)


def _end(one: Trust, why: str) -> Fix:
    return Fix(
        action="untrust_ip",
        target=target(one.ip),
        risk=Risk.auto,
        why=why,
        undo="not needed: this runbook trusts it again when the log speaks for it",
        expect={"ip": one.ip, "trusted": True},
        want={"ip": one.ip, "trusted": False},
    )


def _again(one: Trust, why: str) -> Fix:
    return Fix(
        action="trust_again",
        target=target(one.ip),
        risk=Risk.auto,
        why=why,
        undo="take it off the app's list",
        expect={"ip": one.ip, "trusted": False},
        want={"ip": one.ip, "trusted": True, "until_ms": one.until_ms},
    )


# -- addresses that are blocked --------------------------------------------------------------------------------------


def blocked(world: World, at: Bounds, hours: int) -> Iterator[Case]:
    """Blocked addresses with honest people behind, and those of which that cannot be told."""
    nameless = []
    for seen in world.stopped:
        said = world.judged(seen, at)
        if said.against:
            continue
        if not seen.users:
            nameless.append(seen)
            continue
        few = len(seen.users) < at.least_users
        yield Case(_finding(seen, said), () if few else list(_lift(world, seen, said, hours)))
    if nameless:
        detail = (
            f"cannot tell who is behind {len(nameless)} blocked addresses: the log names nobody who signed in there"
        )
        shown = {hide(one.key): one.shown() for one in nameless[:SHOWN]}
        yield Case(Finding(subject="blocked addresses", detail=detail, evidence=shown))


def left(world: World, at: Bounds) -> Iterator[str]:
    """Blocked addresses that something speaks against, one line each: their block is right."""
    against = [(seen, world.judged(seen, at)) for seen in world.stopped]
    against = [(seen, said) for seen, said in against if said.against]
    for seen, said in against[:SHOWN]:
        why = "; ".join(said.harm or said.short)
        yield f"{hide(seen.key)}, last seen {_when(seen.last_ms)}, stays blocked (score {said.score}): {why}"
    if len(against) > SHOWN:
        yield f"{len(against) - SHOWN} more addresses stay blocked"


def _finding(seen: Evidence, said: Judgement) -> Finding:
    people = f"{len(seen.users)} signed-in people"
    if said.unknown:
        detail = f"cannot tell whether {people} share it honestly: {'; '.join(said.unknown)}"
    elif seen.limited_at_ms or seen.blocked_at_ms:
        detail = f"{people} share it and it is blocked; {said.score} of 5 signs speak for it and none against"
    else:
        detail = (
            f"{people} share it and reach the limit of sign-in, registration or reset, from which nobody is exempted: "
            "it ends by itself in 5 minutes; raise it in the app if that is too long"
        )
    evidence: dict[str, Json] = {**seen.shown(), "score": said.score, "last seen": _when(seen.last_ms)}
    return Finding(subject=f"blocked address {hide(seen.key)}", detail=detail, evidence=evidence)


def _lift(world: World, seen: Evidence, said: Judgement, hours: int) -> Iterator[Fix]:
    why = f"{len(seen.users)} signed-in people share it, {seen.successes} of {seen.attempts} sign-ins succeed"
    unseen = f"; unseen: {'; '.join(said.unknown)}" if said.unknown else ""
    if seen.blocked_at_ms:
        yield Fix(
            action="unblock_ip",
            target=f"Block/{read(seen.key)}",
            risk=Risk.auto if said.shared else Risk.person,
            why=why + unseen,
            undo="not needed: the app blocks again by itself",
            expect={"ip": seen.key, "blocked_at_ms": seen.blocked_at_ms},
            want={"ip": seen.key, "blocked": False},
        )
    if seen.limited_at_ms:
        exempts = "" if world.keeps_login_limits else f"; {EXEMPTS}"
        yield Fix(
            action="trust_ip",
            target=target(seen.key),
            risk=Risk.auto if said.shared and world.keeps_login_limits else Risk.person,
            why=why + unseen + exempts,
            undo="take it off the app's list",
            expect={"ip": seen.key, "trusted": False},
            want={"ip": seen.key, "trusted": True, "hours": hours},
        )


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
