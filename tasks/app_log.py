"""What the app logged of connections it was refused."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from runbook import memory
from runbook.ledger import ledger
from tasks.log_forms import REFUSED
from tasks.logs import read_log


async def read_refusals(since: datetime) -> dict[str, int]:
    """How many events at or after ``since`` say that no connection was to be had, by the words they say it with."""
    await read_log()
    refused = memory.events(ledger(), {REFUSED}, round(since.timestamp() * 1000))
    return dict(Counter(str(one.fields["words"]) for one in refused))
