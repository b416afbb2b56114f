"""What each look at mail showed, whole, and what follows from it: the same for a look of now and one that was kept.

Pure. What is kept of a look shows no address: its first letter, its domain and its mark are all a rule needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.model import Fix, Frozen, Json, Judged, Share
from tasks import addresses, domains, mail, mail_log, suppressions
from tasks.mail_log import Failure, Refusals, Resets
from tasks.suppressions import Row


class Growth(Frozen):
    """New rows of each suppression list in a day, and how many are usual."""

    now: Mapping[str, int]
    usual: Mapping[str, float]


class Blocks(Frozen):
    """The blocks of the last weeks, by marks who is left alone and who objects to mail, and what the key may do.

    ``at`` and ``valid_since`` are Unix seconds; ``new`` blocks of a day stand against ``of`` mails of a day, None where
    that is not known. ``known``, in a second look: the rows that the first one wanted off, the only ones that count.
    """

    rows: tuple[Row, ...]
    at: float = 0
    valid_since: float | None = None
    left: frozenset[str] = frozenset()
    objecting: frozenset[str] = frozenset()
    may_remove: bool = False
    new: int = 0
    of: int | None = None
    known: frozenset[str] | None = None

    def due(self, cooled_hours: int) -> list[Row]:
        """The first rows that have outlived their cause and are not left alone; who objects was not asked yet."""
        gone = suppressions.outlived(self.rows, self.at, cooled_hours, self.valid_since)
        return [row for row in gone if row.mark not in self.left][: suppressions.LOOKED_AT]

    def clear(self, cooled_hours: int) -> list[Row]:
        """Those of them that may be taken off in one run."""
        if self.known is not None:
            return [row for row in self.rows if row.mark in self.known]
        return [row for row in self.due(cooled_hours) if row.mark not in self.objecting][: suppressions.AT_ONCE]


class Asked(Frozen):
    """The rows of the address a person named, and all that speaks against taking them off."""

    rows: tuple[Row, ...]
    against: tuple[str, ...] = ()
    removed: bool = False
    held_back: bool = False
    takes_mail: bool = False
    may_remove: bool = False


class Due(Frozen):
    """Reset mails that failed, those that may be asked for again, by mark who objects, and why nothing may be asked."""

    resets: Resets
    due: tuple[Failure, ...] = ()
    against: Mapping[str, Sequence[str]] = {}
    why_not: str = ""


def _sending(seen: mail.Channel, *, bad_share: float) -> Judged:
    return Judged(mail.detect_channel(seen, bad_share), domains.plan_domains(seen.own_domains))


def _growth(seen: Growth, *, growth_rows: int) -> Judged:
    return Judged(suppressions.detect_growth(seen.now, seen.usual, growth_rows), [])


def _blocks(seen: Blocks, *, cooled_hours: int) -> Judged:
    rows = seen.clear(cooled_hours)
    plan = suppressions.plan_blocks(rows) if seen.may_remove else []
    share = None if seen.of is None else Share(sick=seen.new, of=seen.of)
    return Judged(suppressions.detect_blocks(rows), plan, share)


def _asked(seen: Asked, *, mx_host: str) -> Judged:
    forbidden = seen.against or seen.removed or seen.held_back or not (seen.takes_mail and seen.may_remove)
    plan: list[Fix] = [] if forbidden else suppressions.plan_asked_for(seen.rows, mx_host)
    return Judged(suppressions.detect_asked_for(seen.rows, seen.against, seen.removed), plan)


def _refusals(seen: Refusals, *, failures_at: int) -> Judged:
    return Judged(mail_log.detect_refusals(seen, failures_at), [])


def _resets(seen: Due) -> Judged:
    plan = [] if seen.why_not else mail_log.plan_resets(seen.due, seen.against)
    return Judged(mail_log.detect_resets(seen.resets, seen.against), plan)


NONE = ("none",)  # an empty one would mean every action of the runbook


class Stage(NamedTuple):
    """What one stage reads, how that is judged, and what it may lead to."""

    reads: type[Frozen]
    judge: Callable[..., Judged]
    actions: tuple[str, ...] = NONE


STAGES: Mapping[str, Stage] = {
    "sendgrid": Stage(mail.Channel, _sending, ("revalidate_domain",)),
    "growth": Stage(Growth, _growth),
    "blocks": Stage(Blocks, _blocks, ("remove_block",)),
    "asked": Stage(Asked, _asked, ("remove_bounce",)),
    "refusals": Stage(Refusals, _refusals),
    "resets": Stage(Due, _resets, ("resend_reset",)),
}


def judged(stage: str, seen: Frozen, given: Mapping[str, Json]) -> Judged:
    """What the rules say of one look."""
    return STAGES[stage].judge(seen, **given)


def replayed(stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """The same of a look that was kept."""
    found = judged(stage, STAGES[stage].reads.model_validate(seen), given)
    return found._replace(actions=STAGES[stage].actions)


def concealed(seen: Frozen) -> Frozen:
    """A look without the addresses in it."""
    changed: dict[str, Any] = {}
    for name, value in seen:
        if isinstance(value, tuple) and value and isinstance(value[0], (Row, Failure)):
            changed[name] = tuple(one.model_copy(update={"address": addresses.shown(one.address)}) for one in value)
        elif isinstance(value, Resets):
            changed[name] = concealed(value)
    return seen.model_copy(update=changed)
