"""Tries today's rules on what was read then: what they would have done, and where that differs from history."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from sqlalchemy import select

from runbook.ledger import Ledger, as_fix
from runbook.model import Fix, FixState, Frozen, Json, Judged, Mode
from runbook.policy import Attempt, Facts, attempt, decide
from runbook.recorder import Kept, Snapshot, kept, snapshots
from runbook.run import ACTED
from runbook.schema import entry, run
from runbook.schema import fix as fix_table
from runbook.settings import caps

Replay = Callable[[str, Json, Mapping[str, Json]], Judged]
"""A runbook's ``replay``: stage, reading and parameters as they were kept, and what its rules make of them today."""


class Differs(Frozen):
    """One reading of which today's rules make something else than was done then."""

    run_id: str
    at_ms: int
    stage: str
    would: tuple[str, ...]
    did: tuple[str, ...]


class Backtest(Frozen):
    """What a replay came to: readings tried, sick ones, fixes that would have been granted, and the differences.

    ``asked`` are fixes a person would have been asked about and was not. ``judged_by`` are the parameters that the
    rules of these readings depend on; ``kept`` says how much there was to replay.
    """

    runbook: str
    readings: int
    sick: int
    granted: int
    asked: int
    refused: int
    differs: tuple[Differs, ...]
    kept: Kept
    skipped: int = 0
    judged_by: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Json]:
        """The form ``--json`` prints."""
        return self.model_dump(mode="json")


def backtest(ledger: Ledger, name: str, replay: Replay, since_ms: int, given: Mapping[str, Json]) -> Backtest:
    """Replay every kept reading of ``name`` through detect, plan and policy as they are today; ``given`` wins.

    Each in the mode its run had, with what a person then approved; a run that only observed as in mode auto.
    """
    past, known = list[Attempt](), set[str]()
    counts = {"readings": 0, "sick": 0, "granted": 0, "asked": 0, "refused": 0, "skipped": 0}
    differs: list[Differs] = []
    for seen in snapshots(ledger, name, since_ms):
        known |= seen.parameters.keys()
        parameters = {key: given.get(key, value) for key, value in seen.parameters.items()}
        try:
            judged = replay(seen.stage, seen.reading, parameters)
        except (ValueError, TypeError, KeyError):  # an older version's reading, in another form
            counts["skipped"] += 1
            continue
        granted, asked = _granted(name, seen, judged, past, _person(ledger, seen.run_id))
        counts["readings"] += 1
        counts["sick"] += bool(judged.findings)
        counts["granted"] += len(granted)
        counts["asked"] += len(asked)
        counts["refused"] += len(judged.plan) - len(granted) - len(asked)
        would = tuple(sorted([*map(_words, granted), *(f"ask for {_words(one)}" for one in asked)]))
        did = _did(ledger, seen.run_id, judged.actions)
        if would != did:
            differs.append(Differs(run_id=seen.run_id, at_ms=seen.at_ms, stage=seen.stage, would=would, did=did))
    known_by = tuple(sorted(known))
    return Backtest(
        runbook=name, differs=tuple(differs), judged_by=known_by, kept=kept(ledger, name, since_ms), **counts
    )


class _Person(NamedTuple):
    """What a person said in one run, by the fixes' words: whether they were asked at all, what they agreed to."""

    asked: bool
    agreed: Collection[str]
    refused: Collection[str]


def _person(ledger: Ledger, run_id: str) -> _Person:
    answers = select(entry.c.body).where(entry.c.run_id == run_id, entry.c.kind == "approval")
    with ledger.read() as connection:
        mode = connection.execute(select(run.c.mode).where(run.c.id == run_id)).scalar()
        agreed = {key for body in connection.execute(answers).scalars() for key in body["approved"]}
        rows = connection.execute(select(fix_table).where(fix_table.c.run_id == run_id)).mappings()
        fixes = [as_fix(row) for row in rows]
    yes = {_words(one) for one in fixes if one.key in agreed}
    return _Person(mode == Mode.approve, yes, {_words(one) for one in fixes} - yes)


def _granted(
    name: str, seen: Snapshot, judged: Judged, past: list[Attempt], person: _Person
) -> tuple[list[Fix], list[Fix]]:
    """What the policy grants, and what it would but for a person who was not asked about it.

    The replay's grants so far are its history, and these are added to it.
    """
    open_to = [one for one in judged.plan if _words(one) in person.agreed or person.asked]
    planned = {(one.action, one.target) for one in judged.plan}
    # A run that went on after an answer was read twice: its own grants of these very fixes are no history.
    earlier = [one for one in past if one.run_id != seen.run_id or (one.action, one.target) not in planned]
    facts = Facts(
        runbook=name,
        run_id=seen.run_id,
        mode=Mode.approve if person.asked else Mode.auto,
        now_ms=seen.at_ms,
        stopped=None,
        history=earlier,
        open_targets=(),
        approved={one.key for one in open_to if _words(one) not in person.refused},
        share=judged.share,
        caps=caps(),
    )
    passed = [verdict.fix for verdict in decide(judged.plan, facts) if verdict.granted]
    granted = [one for one in passed if not person.asked or _words(one) in person.agreed]
    attempts = [attempt(one, name, seen.run_id, seen.at_ms) for one in granted]
    past[:] = [*earlier, *attempts]
    return granted, [one for one in passed if one not in granted]


def _words(one: Fix) -> str:
    return f"{one.action} {one.target}"


def _did(ledger: Ledger, run_id: str, actions: Collection[str]) -> tuple[str, ...]:
    rule = select(fix_table.c.action, fix_table.c.target, fix_table.c.state).where(fix_table.c.run_id == run_id)
    with ledger.read() as connection:
        rows = connection.execute(rule).all()
    done = (row for row in rows if FixState(row.state) in ACTED and (not actions or row.action in actions))
    return tuple(sorted(f"{row.action} {row.target}" for row in done))
