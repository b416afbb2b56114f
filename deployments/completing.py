"""What the shell completes after the Tab key: names of runbooks, and ids out of the ledger.

A ledger that cannot be read completes nothing: an error there would be printed into the person's command line.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, select

from runbook.errors import RunbookError
from runbook.ledger import ledger
from runbook.schema import fix, incident, page, run

NEWEST = 50
FLOWS = Path(__file__).resolve().parent.parent / "flows"


def runbooks(incomplete: str) -> list[str]:
    """The names of the flows, without the second that importing them takes."""
    names = (one.name.replace("_", "-") for one in pkgutil.iter_modules([str(FLOWS)]))
    return sorted(name for name in names if name.startswith(incomplete))


def ids(incomplete: str) -> list[str]:
    """The newest ids that ``runbook show`` takes."""
    return [one for column in COLUMNS for one in _newest(*column)(incomplete)]


def fix_ids(incomplete: str) -> list[str]:
    """The newest fixes."""
    return _newest(fix.c.id, fix.c.seq)(incomplete)


def page_keys(incomplete: str) -> list[str]:
    """The pages that nobody has answered, and the incidents they belong to."""
    return [*_newest(page.c.key, page.c.seq)(incomplete), *incident_ids(incomplete)]


def incident_ids(incomplete: str) -> list[str]:
    """The newest incidents."""
    return _newest(incident.c.id, incident.c.opened_at_ms)(incomplete)


COLUMNS = (
    (incident.c.id, incident.c.opened_at_ms),
    (run.c.id, run.c.started_at_ms),
    (fix.c.id, fix.c.seq),
    (page.c.key, page.c.seq),
)


def _newest(column: Column[str], by: Column[int]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        rule = select(column).where(column.startswith(incomplete, autoescape=True)).order_by(by.desc()).limit(NEWEST)
        try:
            with ledger().read() as connection:
                return list(dict.fromkeys(connection.execute(rule).scalars()))
        except RunbookError:
            return []

    return complete
