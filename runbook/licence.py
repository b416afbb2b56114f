"""The licence to act alone: a passed drill of exactly this code, not too long ago, and no failure since.

Issued and taken away by entries of the ledger. Without one, mode ``auto`` is lowered to ``approve``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from sqlalchemy import Connection, select

from runbook.ledger import Ledger, now_ms
from runbook.model import FixState, Frozen, Json, Risk
from runbook.process import is_dead
from runbook.schema import entry, fix, run
from runbook.settings import settings

ROOT = Path(__file__).resolve().parent.parent
ISSUED, REVOKED = "licence", "licence_revoked"
DAY_MS = 86_400_000

STOPPED = frozenset({"KeyboardInterrupt", "SystemExit", "CancelledError", "TerminationSignal"})
"""How a run ends that somebody stopped: no failure of its own, whatever it left behind is judged by itself."""


class Standing(Frozen):
    """Whether a runbook may act alone now, why not, and the drill it rests on."""

    runbook: str
    valid: bool
    why: str = ""
    until_ms: int | None = None
    figures: Mapping[str, Json] = {}


@lru_cache(maxsize=32)
def code_version(runbook: str) -> str:
    """A hash over all code that decides what this runbook does: grammar, hands, its own flow, and what they stand on.

    The profile and its caps are not in it: a drill has a profile of its own.
    """
    flows = [ROOT / "flows" / f"{name}.py" for name in ("__init__", "health_sweep", runbook.replace("-", "_"))]
    files = [*sorted((ROOT / "runbook").rglob("*.py")), *sorted((ROOT / "tasks").rglob("*.py")), *flows]
    digest = hashlib.sha256("\n".join(dependencies()).encode())
    for file in files:
        if file.exists():
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def dependencies() -> list[str]:
    """Python and every package the product stands on, as they are installed here, with their versions."""
    found, seen = {f"python=={sys.version_info.major}.{sys.version_info.minor}"}, set[tuple[str, str]]()
    left = [("runbook", "")]
    while left:
        name, extra = one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found.add(f"{name}=={installed.version}")
        for needed in map(Requirement, installed.requires or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(needed.name.lower(), which) for which in ("", *needed.extras)]
    return sorted(found)


def issue(ledger: Ledger, runbook: str, figures: Mapping[str, Json]) -> None:
    """Write that a drill of this code passed, with its figures."""
    _write(ledger, ISSUED, {"runbook": runbook, "code": code_version(runbook), "figures": dict(figures)})


def revoke(ledger: Ledger, runbook: str, why: str) -> None:
    """Take the licence away until the next passed drill."""
    _write(ledger, REVOKED, {"runbook": runbook, "code": code_version(runbook), "why": why})


def standing(ledger: Ledger, runbook: str) -> Standing:
    """Whether ``runbook`` may act alone; with ``RUNBOOK_LICENCE_DAYS`` 0 no licence is asked for."""
    days = settings().runbook_licence_days
    if days == 0:
        return Standing(runbook=runbook, valid=True, why="RUNBOOK_LICENCE_DAYS is 0: no licence is asked for")
    with ledger.read() as connection:
        last = _last(connection, runbook)
        if last is None:
            return Standing(runbook=runbook, valid=False, why="it was never drilled here")
        kind, at_ms, body = last
        until = at_ms + days * DAY_MS
        figures = body.get("figures", {})
        if kind == REVOKED:
            why = str(body.get("why", "revoked"))
        elif body.get("code") != code_version(runbook):
            why = "its code has changed since its last drill"
        elif until <= now_ms():
            why = f"its last drill is more than {days} days old"
        else:
            why = (
                _failed(connection, runbook, at_ms)
                or _crashed(connection, runbook, at_ms)
                or _unseen(connection, runbook, at_ms)
            )
    return Standing(runbook=runbook, valid=not why, why=why, until_ms=until, figures=figures)


def _write(ledger: Ledger, kind: str, body: Mapping[str, Json]) -> None:
    with ledger.write() as connection:
        ledger.note(connection, kind, body)


def _last(connection: Connection, runbook: str) -> tuple[str, int, Mapping[str, Json]] | None:
    rule = select(entry.c.kind, entry.c.at_ms, entry.c.body).where(entry.c.kind.in_([ISSUED, REVOKED]))
    for row in connection.execute(rule.order_by(entry.c.seq.desc())):
        if row.body.get("runbook") == runbook:
            return row.kind, row.at_ms, row.body
    return None


def _failed(connection: Connection, runbook: str, since_ms: int) -> str:
    """The first fix since then that failed, unless a harder one made it good.

    What a person decides on and the system turns down (a card that is declined) says nothing of acting alone.
    """
    done = select(entry.c.seq).where(entry.c.fix_id == fix.c.id, entry.c.kind == FixState.applied.value).exists()
    later = fix.alias()
    made_good = select(later.c.seq).where(
        later.c.run_id == fix.c.run_id,
        later.c.target == fix.c.target,
        later.c.seq > fix.c.seq,
        later.c.state == FixState.proven.value,
    )
    rule = select(fix.c.id, done.label("done")).where(fix.c.runbook == runbook, fix.c.state == FixState.failed.value)
    rule = rule.where(done | (fix.c.risk != Risk.person.value), fix.c.decided_at_ms > since_ms, ~made_good.exists())
    row = connection.execute(rule.order_by(fix.c.seq).limit(1)).first()
    if row is None:
        return ""
    return f"{row.id} was {'done and not proven' if row.done else 'turned down'} since its last drill"


def _crashed(connection: Connection, runbook: str, since_ms: int) -> str:
    """The first run since then that ended in an error nobody expected, or whose process is gone."""
    rule = select(run.c.id, run.c.outcome, run.c.owner, run.c.report).order_by(run.c.started_at_ms)
    rule = rule.where(run.c.runbook == runbook, run.c.started_at_ms > since_ms)
    for row in connection.execute(rule.where(run.c.outcome.is_(None) | (run.c.outcome == "crashed"))):
        error = (row.report or {}).get("error", "")
        if (row.outcome == "crashed" and error not in STOPPED) or (row.outcome is None and is_dead(row.owner)):
            return f"{row.id} crashed since its last drill ({error or 'its process is gone'})"
    return ""


def _unseen(connection: Connection, runbook: str, since_ms: int) -> str:
    """The first fix since then whose run is over and of which nobody has seen whether it holds."""
    begun = fix.c.state.in_([FixState.intended.value, FixState.applied.value])
    over = run.c.outcome.is_not(None) & (run.c.outcome != "waiting")
    rule = select(fix.c.id).join(run, run.c.id == fix.c.run_id).where(fix.c.runbook == runbook, begun, over)
    left = connection.execute(rule.where(fix.c.decided_at_ms > since_ms).order_by(fix.c.seq).limit(1)).scalar()
    return f"{left} was begun and not seen to hold since its last drill" if left else ""
