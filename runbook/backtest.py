"""Tries today's rules on what was read then: what they would have done, and where that differs from history."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import select

from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Frozen, Json, Judged, Mode
from runbook.policy import Attempt, Facts, attempt, decide
from runbook.recorder import Snapshot, snapshots
from runbook.run import ACTED
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

    ``judged_by`` are the parameters that the rules of these readings depend on.
    """

    runbook: str
    readings: int
    sick: int
    granted: int
    refused: int
    differs: tuple[Differs, ...]
    skipped: int = 0
    judged_by: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Json]:
        """The form ``--json`` prints."""
        return self.model_dump(mode="json")


def backtest(ledger: Ledger, name: str, replay: Replay, since_ms: int, given: Mapping[str, Json]) -> Backtest:
    """Replay every kept reading of ``name`` through detect, plan and policy as they are today; ``given`` wins."""
    past, known = list[Attempt](), set[str]()
    counts = {"readings": 0, "sick": 0, "granted": 0, "refused": 0, "skipped": 0}
    differs: list[Differs] = []
    for seen in snapshots(ledger, name, since_ms):
        known |= seen.parameters.keys()
        parameters = {key: given.get(key, value) for key, value in seen.parameters.items()}
        try:
            judged = replay(seen.stage, seen.reading, parameters)
        except (ValueError, TypeError, KeyError):  # an older version's reading, in another form
            counts["skipped"] += 1
            continue
        granted = _granted(name, seen, judged, past)
        counts["readings"] += 1
        counts["sick"] += bool(judged.findings)
        counts["granted"] += len(granted)
        counts["refused"] += len(judged.plan) - len(granted)
        would = tuple(sorted(f"{one.action} {one.target}" for one in granted))
        did = _did(ledger, seen.run_id, judged.actions)
        if would != did:
            differs.append(Differs(run_id=seen.run_id, at_ms=seen.at_ms, stage=seen.stage, would=would, did=did))
    return Backtest(runbook=name, differs=tuple(differs), judged_by=tuple(sorted(known)), **counts)


def _granted(name: str, seen: Snapshot, judged: Judged, past: list[Attempt]) -> list[Fix]:
    """What the policy grants in mode auto; the replay's grants so far are its history, and these are added to it."""
    facts = Facts(
        runbook=name,
        run_id=seen.run_id,
        mode=Mode.auto,
        now_ms=seen.at_ms,
        stopped=None,
        history=past,
        open_targets=(),
        share=judged.share,
        caps=caps(),
    )
    granted = [verdict.fix for verdict in decide(judged.plan, facts) if verdict.granted]
    past += [attempt(one, name, seen.run_id, seen.at_ms) for one in granted]
    return granted


def _did(ledger: Ledger, run_id: str, actions: Collection[str]) -> tuple[str, ...]:
    rule = select(fix_table.c.action, fix_table.c.target, fix_table.c.state).where(fix_table.c.run_id == run_id)
    with ledger.read() as connection:
        rows = connection.execute(rule).all()
    done = (row for row in rows if FixState(row.state) in ACTED and (not actions or row.action in actions))
    return tuple(sorted(f"{row.action} {row.target}" for row in done))
