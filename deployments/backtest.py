"""``runbook backtest``: which runbooks keep readings to try rules on, and the replay as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flows
from deployments.ledger_view import when
from runbook import backtest as replaying
from runbook.backtest import Backtest
from runbook.errors import BadSetting
from runbook.ledger import Ledger
from runbook.model import Json
from runbook.recorder import BYTES, EVERY_MS


def backtest(ledger: Ledger, name: str, since_ms: int, given: Mapping[str, Json]) -> Backtest:
    """Replay every kept reading of ``name`` through its rules as they are today; ``given`` wins.

    Raises ``BadSetting`` where it keeps none, none was kept in that time, or none was judged by one of ``given``.
    """
    replay = getattr(flows.module(name), "replay", None)
    if replay is None:
        problem = "keeps no readings to replay: it judges many systems at one moment, and calls the other runbooks"
        raise BadSetting(name, problem, f"backtest one of {', '.join(flows.names())}")
    found = replaying.backtest(ledger, name, replay, since_ms, given)
    if not found.readings and not found.skipped:
        large = f", {found.kept.too_large} were too large to keep" if found.kept.too_large else ""
        raise BadSetting(
            name, f"no reading was kept in that time{large}", "try a longer --since; each run keeps its own"
        )
    if unknown := sorted(given.keys() - set(found.judged_by)):
        problem = "no rule depends on it once the world was read"
        raise BadSetting(", ".join(unknown), problem, f"set one of {', '.join(found.judged_by)}")
    return found


def as_text(found: Backtest, shown: int = 20) -> str:
    """The replay in a few lines, then where it differs from what was done, the newest first."""
    lines = [
        f"{found.runbook}: {found.readings} readings replayed, {found.sick} sick, "
        f"{found.granted} fixes granted, {found.asked} to ask a person about, {found.refused} refused; "
        f"{len(found.differs)} differ from what was done",
        *_seen(found),
    ]
    if found.skipped:
        lines.append(f"  {found.skipped} readings of an older version were left out")
    newest = reversed(found.differs[-shown:])
    lines += [f"  {one.run_id} {one.stage}: would {_list(one.would)}; did {_list(one.did)}" for one in newest]
    return "\n".join(lines)


def _seen(found: Backtest) -> list[str]:
    """What there was to replay, and what a replay cannot know."""
    kept = found.kept
    lines = [f"  from {when(kept.first_ms)} on; {kept.with_reading} of {kept.runs} runs left a reading"]
    if kept.with_reading < kept.runs:
        minutes = EVERY_MS // 60_000
        thinned = f"  of readings in which nothing was wrong one in {minutes} minutes is kept: stricter rules"
        lines.append(f"{thinned} may find more in the others than is shown here")
    if kept.too_large:
        lines.append(f"  {kept.too_large} readings were larger than {BYTES // 2**20} MiB packed and were not kept")
    return lines


def _list(words: Sequence[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return (", ".join(words[:3]) or "nothing") + more
