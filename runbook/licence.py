"""The licence to act alone: a passed drill of exactly this code, not too long ago, and no failed proof since.

Issued and taken away by entries of the ledger. Without one, mode ``auto`` is lowered to ``approve``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from sqlalchemy import Connection, select

from runbook.ledger import Ledger, now_ms
from runbook.model import FixState, Frozen, Json
from runbook.schema import entry, fix
from runbook.settings import settings

ROOT = Path(__file__).resolve().parent.parent
ISSUED, REVOKED = "licence", "licence_revoked"
DAY_MS = 86_400_000


class Standing(Frozen):
    """Whether a runbook may act alone now, why not, and the drill it rests on."""

    runbook: str
    valid: bool
    why: str = ""
    until_ms: int | None = None
    figures: Mapping[str, Json] = {}


@lru_cache(maxsize=32)
def code_version(runbook: str) -> str:
    """A hash over all code that decides what this runbook does: the grammar, the hands and its own flow."""
    own = ROOT / "flows" / f"{runbook.replace('-', '_')}.py"
    files = [*sorted((ROOT / "runbook").rglob("*.py")), *sorted((ROOT / "tasks").rglob("*.py")), own]
    digest = hashlib.sha256()
    for file in files:
        if file.exists():
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


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
            why = _failed_proof(connection, runbook, at_ms)
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


def _failed_proof(connection: Connection, runbook: str, since_ms: int) -> str:
    """The first fix since then that was done and seen to have had no effect, unless a harder one made it good."""
    done = select(entry.c.seq).where(entry.c.fix_id == fix.c.id, entry.c.kind == FixState.applied.value).exists()
    later = fix.alias()
    made_good = select(later.c.seq).where(
        later.c.run_id == fix.c.run_id,
        later.c.target == fix.c.target,
        later.c.seq > fix.c.seq,
        later.c.state == FixState.proven.value,
    )
    rule = select(fix.c.id).where(fix.c.runbook == runbook, fix.c.state == FixState.failed.value, done)
    rule = rule.where(fix.c.decided_at_ms > since_ms, ~made_good.exists()).order_by(fix.c.seq).limit(1)
    failed = connection.execute(rule).scalar_one_or_none()
    return f"{failed} was done and not proven since its last drill" if failed else ""
