"""``runbook backtest``: which runbooks keep readings to try rules on, and the replay as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flows
from runbook import backtest as replaying
from runbook.backtest import Backtest
from runbook.errors import BadSetting
from runbook.ledger import Ledger
from runbook.model import Json


def backtest(ledger: Ledger, name: str, since_ms: int, given: Mapping[str, Json]) -> Backtest:
    """Replay every kept reading of ``name`` through its rules as they are today; ``given`` wins.

    Raises ``BadSetting`` where no reading was kept in that time, or none was judged by a parameter of ``given``.
    """
    found = replaying.backtest(ledger, name, flows.module(name).replay, since_ms, given)
    if not found.readings and not found.skipped:
        raise BadSetting(name, "no reading was kept in that time", "try a longer --since; each run keeps its own")
    if unknown := sorted(given.keys() - set(found.judged_by)):
        problem = "no rule depends on it once the world was read"
        raise BadSetting(", ".join(unknown), problem, f"set one of {', '.join(found.judged_by)}")
    return found


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
