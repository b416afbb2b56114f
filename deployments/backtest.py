"""Tries today's rules on what was read then: what they would have done, and where that differs from history."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select

import flows
from runbook.errors import BadSetting
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Frozen, Json, Judged, Mode
from runbook.policy import Attempt, Facts, decide
from runbook.recorder import Snapshot, snapshots
from runbook.run import ACTED
from runbook.schema import fix as fix_table
from runbook.settings import caps


class Differs(Frozen):
    """One reading of which today's rules make something else than was done then."""

    run_id: str
    at_ms: int
    stage: str
    would: tuple[str, ...]
    did: tuple[str, ...]


class Backtest(Frozen):
    """What a replay came to: readings tried, sick ones, fixes that would have been granted, and the differences."""

    runbook: str
    readings: int
    sick: int
    granted: int
    refused: int
    differs: tuple[Differs, ...]
    skipped: int = 0

    def as_json(self) -> dict[str, Json]:
        """The form ``--json`` prints."""
        return self.model_dump(mode="json")


def backtest(ledger: Ledger, name: str, since_ms: int, given: Mapping[str, Json]) -> Backtest:
    """Replay every kept reading of ``name`` through detect, plan and policy as they are today; ``given`` wins.

    Raises ``BadSetting`` where no reading was kept in that time, or none was judged by a parameter of ``given``.
    """
    module, past, known = flows.module(name), list[Attempt](), set[str]()
    counts = {"readings": 0, "sick": 0, "granted": 0, "refused": 0, "skipped": 0}
    differs: list[Differs] = []
    for seen in snapshots(ledger, name, since_ms):
        known |= seen.parameters.keys()
        parameters = {key: given.get(key, value) for key, value in seen.parameters.items()}
        try:
            judged: Judged = module.replay(seen.stage, seen.reading, parameters)
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
    if not counts["readings"] and not counts["skipped"]:
        raise BadSetting(name, "no reading was kept in that time", "try a longer --since; each run keeps its own")
    if unknown := sorted(given.keys() - known):
        problem = "no rule depends on it once the world was read"
        raise BadSetting(", ".join(unknown), problem, f"set one of {', '.join(sorted(known))}")
    return Backtest(runbook=name, differs=tuple(differs), **counts)


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
    past += [Attempt(name, one.action, one.target, seen.at_ms, FixState.proven, seen.run_id) for one in granted]
    return granted


def _did(ledger: Ledger, run_id: str, actions: Collection[str]) -> tuple[str, ...]:
    rule = select(fix_table.c.action, fix_table.c.target, fix_table.c.state).where(fix_table.c.run_id == run_id)
    with ledger.read() as connection:
        rows = connection.execute(rule).all()
    done = (row for row in rows if FixState(row.state) in ACTED and (not actions or row.action in actions))
    return tuple(sorted(f"{row.action} {row.target}" for row in done))


def as_text(found: Backtest, shown: int = 20) -> str:
    """The replay in a few lines, then where it differs from what was done, the newest first."""
    lines = [
        f"{found.runbook}: {found.readings} readings replayed, {found.sick} sick, "
        f"{found.granted} fixes granted, {found.refused} refused; {len(found.differs)} differ from what was done"
    ]
    if found.skipped:
        lines.append(f"  {found.skipped} readings of an older version were left out")
    newest = reversed(found.differs[-shown:])
    lines += [f"  {one.run_id} {one.stage}: would {_list(one.would)}; did {_list(one.did)}" for one in newest]
    return "\n".join(lines)


def _list(words: Sequence[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return (", ".join(words[:3]) or "nothing") + more
