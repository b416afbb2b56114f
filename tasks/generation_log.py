"""What the app logged of its generations: an app that answers 200 with a template hides that the model failed."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select

from runbook import memory
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger, ledger, now_ms
from runbook.mask import mask
from runbook.memory import LogEvent
from runbook.model import Finding, Fix, Frozen, Proof, Risk
from runbook.permit import Permit
from runbook.schema import fix as fix_table
from runbook.settings import settings
from runbook.step import hand, reader
from tasks import commands
from tasks.logs import read_log

SUCCESS, TEMPLATE, ATTEMPT = "ai_success", "ai_using_template", "ai_attempt_failed"
FAILED = ("ai_generation_failed", "ai_empty_response")
NAMES = (SUCCESS, TEMPLATE, ATTEMPT, *FAILED)
IDS = ("generationId", "jobId")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}")
"""An id comes from a log, which users write to: only in this form, without a dash first, is it an argument."""

REQUEUE = "requeue_generation"
SETTLED_MS = 24 * 3_600_000
APPEARS_WITHIN = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
"""Pauses in seconds between looks for what became of a generation that was queued again."""


class Lost(Frozen):
    """One generation that failed and was not made since."""

    id: str
    at_ms: int


class Heard(Frozen):
    """The app's generations in a span of its log. ``failed`` are those a user got a template or nothing for.

    ``by_design`` are templates nobody should be woken for; ``reasons`` are the app's words, masked.
    """

    succeeded: int = 0
    failed: int = 0
    by_design: int = 0
    reasons: Mapping[str, int] = {}
    lost: tuple[Lost, ...] = ()
    last_success_ms: int = 0

    @property
    def share(self) -> float:
        return self.failed / (self.failed + self.succeeded) if self.failed else 0.0

    def failing(self, share: float, least: int) -> bool:
        """True where enough generations failed, and enough of all."""
        return self.failed >= least and self.share >= share


async def read_generations(since_ms: int, by_design: Collection[str]) -> Heard | None:
    """What the log says of generations at or after ``since_ms``; None where no log is configured."""
    if not settings().has_app_log:
        return None
    await read_log()
    return hear(memory.events(ledger(), NAMES, since_ms), by_design)


def hear(events: Sequence[LogEvent], by_design: Collection[str]) -> Heard:
    """Count generations. A template is a failure unless its reason is one of ``by_design``; one without a reason only
    where a failed attempt stands behind it. Failed attempts that succeed in the end count for nothing."""
    made = [one for one in events if one.name == SUCCESS and one.fields.get("length") != 0]
    empty = [one for one in events if one.name in FAILED or (one.name == SUCCESS and one.fields.get("length") == 0)]
    templates = [one for one in events if one.name == TEMPLATE]
    attempts = [one for one in events if one.name == ATTEMPT]
    meant = _by_design(templates, attempts, by_design)
    failed = sorted([*empty, *(one for one in templates if id(one) not in meant)], key=lambda one: one.at_ms)
    reasons = Counter(str(mask(_reason(one) or one.name)) for one in [*attempts, *failed])
    return Heard(
        succeeded=len(made),
        failed=len(failed),
        by_design=len(meant),
        reasons=dict(reasons.most_common(5)),
        lost=_lost(failed, made),
        last_success_ms=max((one.at_ms for one in made), default=0),
    )


def _by_design(templates: Sequence[LogEvent], attempts: Sequence[LogEvent], reasons: Collection[str]) -> set[int]:
    behind = Counter(_id(one) for one in attempts)  # "" counts those that name no generation
    meant: set[int] = set()
    for one in templates:
        if _reason(one):
            by_design = _reason(one) in reasons
        elif _id(one) and behind[_id(one)]:
            by_design = False
        else:
            by_design = behind[""] == 0
            behind[""] -= not by_design
        if by_design:
            meant.add(id(one))
    return meant


def _reason(event: LogEvent) -> str:
    return str(event.fields.get("reason") or event.fields.get("code") or event.fields.get("error") or "")[:60]


def _id(event: LogEvent) -> str:
    named = next((str(event.fields[key]) for key in IDS if key in event.fields), "")
    return named if SAFE_ID.fullmatch(named) else ""


def _lost(failed: Sequence[LogEvent], made: Sequence[LogEvent]) -> tuple[Lost, ...]:
    done = {_id(one): one.at_ms for one in made}
    last = {_id(one): one.at_ms for one in failed}  # the latest failure of each
    return tuple(Lost(id=name, at_ms=at) for name, at in last.items() if name and done.get(name, 0) < at)


# -- queue again ------------------------------------------------------------------------------------------------------


def tried_targets(book: Ledger) -> set[str]:
    """Generations that were queued again before, whatever came of it: none ever is twice."""
    rule = select(fix_table.c.target).where(fix_table.c.action == REQUEUE, fix_table.c.intended_at_ms.is_not(None))
    with book.read() as connection:
        return {row.target for row in connection.execute(rule)}


def to_requeue(lost: Sequence[Lost], tried: Collection[str]) -> list[Lost]:
    """Lost generations, the oldest first, that were never queued again."""
    return [one for one in sorted(lost, key=lambda one: one.at_ms) if f"generation {one.id}" not in tried]


def detect_lost(lost: Sequence[Lost], tried: Collection[str]) -> list[Finding]:
    """One finding for all of them, and one for those nobody queues a second time but a person."""
    said = "generations failed and were not made since"
    known = [one for one in lost if f"generation {one.id}" in tried]
    found = [(f"{len(lost) - len(known)} {said}", [one for one in lost if one not in known])]
    found += [(f"{len(known)} {said} they were queued again, which is done once: see the app's queue", known)]
    return [
        Finding(subject="lost generations", detail=detail, evidence={"ids": [one.id for one in some[:10]]})
        for detail, some in found
        if some
    ]


def plan_requeue(lost: Sequence[Lost]) -> list[Fix]:
    """Queue each again, once."""
    return [
        Fix(
            action=REQUEUE,
            target=f"generation {one.id}",
            risk=Risk.guarded,
            why="its user got a template or nothing",
            undo="a generation cannot be taken back; its user has both answers",
            expect={"failed_at_ms": one.at_ms},
            want={"made": True},
        )
        for one in lost
    ]


@hand("queue {fix.target} again")
async def requeue_generation(fix: Fix, permit: Permit) -> None:
    """Have the app queue one generation again, unless its log says that it was made meanwhile."""
    setting, name = "RUNBOOK_AI_REQUEUE_COMMAND", fix.target.partition(" ")[2]
    with permit.attempt(fix) as attempt:
        if await _became(fix) is True:
            attempt.moved_on("it was made meanwhile")
            return
        try:
            ran = await commands.run(setting, id=name)
        except BadSetting as no:
            attempt.failed(str(no))
            return
        if ran.code:
            raise OutsideError(setting, f"ended with {ran.code}: {ran.said[-200:]}", f"run {setting} by hand")
        attempt.did(said=ran.said[-200:])


@reader("look for {fix.target}")
async def look_up_generation(fix: Fix) -> Proof:
    """Whether the app logged that it made it; after a day without a word it counts as not made."""
    for pause in APPEARS_WITHIN:
        if (made := await _became(fix)) is not None:
            return Proof(held=made, seen="the app made it" if made else "it failed once more")
        await asyncio.sleep(pause)
    old = now_ms() - int(fix.expect["failed_at_ms"]) > SETTLED_MS
    return Proof(held=False if old else None, seen="the app's log says nothing of it since")


async def _became(fix: Fix) -> bool | None:
    """True once it was made after it failed, False when it failed again, None while the log says neither."""
    name, failed_at = fix.target.partition(" ")[2], int(fix.expect["failed_at_ms"])
    await read_log()
    since = [one for one in memory.events(ledger(), NAMES, failed_at + 1) if _id(one) == name and one.name != ATTEMPT]
    if not since:
        return None
    return since[-1].name == SUCCESS and since[-1].fields.get("length") != 0
