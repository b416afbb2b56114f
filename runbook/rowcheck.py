"""Holds every run, finding and fix against its entries: these alone are chained, and a row must say what they say.

A row's own moments are taken just before its entry's, so they are held against that one's time.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import Connection, RowMapping, Select, select

from runbook.model import FixState, Json
from runbook.schema import entry, finding, fix, run

BATCH = 1_000
CLOCK_MS = 60_000
"""How far a row's moment may lie from its entry's: waiting for the lock lies between them."""
CARRIED, RUN, RESUMED, ENDED, FOUND = "carried", "run", "resumed", "ended", "found"
STATES = frozenset(state.value for state in FixState)
IMAGE = ("action", "target", "risk", "undo", "expect", "want")
"""What of a fix its ``image`` is the hash of."""
Row: TypeAlias = dict[str, Json]
Found: TypeAlias = defaultdict[str, list[tuple[str, int]]]


@dataclass
class Told:
    """What the entries say of each row: its columns by name, and of a run what it found, in order."""

    runs: dict[str, Row] = field(default_factory=dict)
    fixes: dict[str, Row] = field(default_factory=dict)
    found: Found = field(default_factory=lambda: defaultdict(list))
    begun: set[str] = field(default_factory=set)


def fix_image(row: Mapping[str, Json]) -> str:
    """A hash over what a fix is: its act, target, images of before and after, and how it is undone."""
    return hash_of({name: row[name] for name in IMAGE})


def hash_of(said: Json) -> str:
    """SHA-256 over a value, in the form a database gives it back in."""
    as_stored = json.loads(json.dumps(said))
    return hashlib.sha256(json.dumps(as_stored, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def of_run(row: Mapping[str, Json]) -> Row:
    """What an entry must say of a run whose own entries are sealed away."""
    names = ("runbook", "mode", "owner", "outcome", "started_at_ms", "ended_at_ms")
    return {name: row[name] for name in names} | {"report": hash_of(row["report"])}


def of_fix(row: Mapping[str, Json]) -> Row:
    """What an entry must say of a fix whose own entries are sealed away."""
    names = ("runbook", "run_id", "state", "why", "plan_hash", "owner", "decided_at_ms", "granted_until_ms")
    return {name: row[name] for name in (*names, "intended_at_ms")} | {"image": fix_image(row)}


def strange(connection: Connection, *, judge_missing: bool) -> str:
    """The first row that is not as its entries say, that has none, or that is gone; empty where all agree.

    ``judge_missing`` is False after an older version's seal, which cut rows and entries at different places.
    """
    told = _told(connection)
    return (
        _differing(connection, select(run).order_by(run.c.started_at_ms), "run", told.runs, judge_missing)
        or _differing(connection, select(fix).order_by(fix.c.seq), "fix", told.fixes, judge_missing)
        or _strange_findings(connection, told, judge_missing)
    )


def _told(connection: Connection) -> Told:
    told = Told()
    rule = select(entry).order_by(entry.c.seq).execution_options(yield_per=BATCH)
    for one in connection.execute(rule).mappings():
        if one["fix_id"] is not None:
            _tell_fix(told, one)
        elif one["run_id"] is not None:
            _tell_run(told, one)
    return told


def _tell_fix(told: Told, one: RowMapping) -> None:
    kind, body = one["kind"], one["body"]
    if kind == CARRIED:
        told.fixes.setdefault(one["fix_id"], {}).update(body)
    if kind not in STATES:
        return
    row = told.fixes.setdefault(one["fix_id"], {})
    row["state"] = kind
    if one["run_id"] is not None:  # the decision: what follows names the fix alone
        of_its_run = {name: value for name, value in told.runs.get(one["run_id"], {}).items() if name == "runbook"}
        row |= {name: body[name] for name in ("why", "plan_hash", "image", "granted_until_ms") if name in body}
        row |= {"run_id": one["run_id"], "owner": one["actor"], "decided_at_ms": one["at_ms"], "intended_at_ms": None}
        row |= of_its_run
    elif kind == FixState.intended.value:
        row |= {"intended_at_ms": one["at_ms"], "owner": one["actor"]}
    elif kind == FixState.refused.value:
        row["why"] = body.get("why", "")


def _tell_run(told: Told, one: RowMapping) -> None:
    kind, body = one["kind"], one["body"]
    if kind == FOUND:
        said = {name: body[name] for name in ("subject", "detail", "evidence")}
        told.found[one["run_id"]].append((hash_of(said), one["at_ms"]))
    if kind not in {RUN, RESUMED, ENDED, CARRIED}:
        return
    row = told.runs.setdefault(one["run_id"], {})
    if kind == RUN:
        told.begun.add(one["run_id"])
        row |= {"runbook": body["runbook"], "mode": body["mode"], "owner": one["actor"]}
        row |= {"started_at_ms": one["at_ms"], "ended_at_ms": None, "outcome": None, "report": hash_of(None)}
    elif kind == RESUMED:
        row |= {"mode": body["mode"], "owner": one["actor"], "ended_at_ms": None, "outcome": None}
    elif kind == CARRIED:
        row.update(body)
    elif "report" in body:
        row |= {"outcome": body["outcome"], "ended_at_ms": one["at_ms"], "report": body["report"]}
    else:
        _tell_older_end(row, one)


def _tell_older_end(row: Row, one: RowMapping) -> None:
    """An older version told less of a report, and nothing at all when a run that waited went on."""
    body = one["body"]
    for name in ("report", "reason", "notices", "outcome", "ended_at_ms"):
        row.pop(name, None)
    if body["outcome"] == "waiting":
        row.pop("mode", None)
        row.pop("owner", None)
    else:
        row |= {"outcome": body["outcome"], "ended_at_ms": one["at_ms"]}
        row |= {name: body[name] for name in ("reason", "notices") if name in body}


def _differing(connection: Connection, rule: Select[Json], noun: str, told: dict[str, Row], judge: bool) -> str:
    left = dict(told)
    for row in connection.execute(rule.execution_options(yield_per=BATCH)).mappings():
        said = left.pop(row["id"], None)
        if said is None and judge:
            return f"{noun} {row['id']} (no entry tells of it)"
        wrong = next((name for name, value in (said or {}).items() if not _agrees(row, name, value)), "")
        if wrong:
            return f"{noun} {row['id']} ({wrong})"
    return f"{noun} {next(iter(left))} (its row is gone)" if left and judge else ""


def _agrees(row: RowMapping, name: str, said: Json) -> bool:
    if name == "image":
        return bool(fix_image(dict(row)) == said)
    if name == "report":
        return bool(hash_of(row["report"]) == said)
    if name in {"reason", "notices"}:
        return bool((row["report"] or {}).get(name, type(said)()) == said)
    if name.endswith("_at_ms"):
        is_set = row[name] is not None and said is not None
        return bool(abs(row[name] - said) <= CLOCK_MS if is_set else row[name] == said)
    return bool(row[name] == said)


def _strange_findings(connection: Connection, told: Told, judge: bool) -> str:
    rows: Found = defaultdict(list)
    rule = select(finding).order_by(finding.c.seq)
    for row in connection.execute(rule.execution_options(yield_per=BATCH)).mappings():
        said = {name: row[name] for name in ("subject", "detail", "evidence")}
        rows[row["run_id"]].append((hash_of(said), row["at_ms"]))
    for run_id in sorted({*rows, *told.found}):
        seen, said_of = rows[run_id], told.found[run_id]
        if run_id not in told.begun or not judge:  # its first entries may be sealed away
            seen = seen[max(0, len(seen) - len(said_of)) :]
        pairs = list(zip(seen, said_of, strict=False))
        same = all(one == other and abs(at - noted) <= CLOCK_MS for (one, at), (other, noted) in pairs)
        if not same or (judge and len(seen) != len(said_of)):
            return f"a finding of run {run_id}"
    return ""
