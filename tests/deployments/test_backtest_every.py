"""Every runbook tried on what it read of the demo's own faults: today's rules would do what was done, others would not.

One sweep over one broken stack gives the history that all of them are tried on.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import select

import flows
from demo.faults import Broken
from demo.prefect_server import BIN, ROOT
from demo.stack import Stack
from deployments.backtest import backtest
from runbook import settings
from runbook.errors import BadSetting
from runbook.ledger import Ledger, ledger
from runbook.recorder import snapshots
from runbook.schema import fix

OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "broken-sessions": {"users_per_ip": 2, "ips_per_user": 2},
    "failed-generations": {"samples": 10, "failed_least": 1000},
    "failed-payments": {"money_cap_cents": 10_000_000},
    "full-disk": {"free_at": 0.01},
    "memory-pressure": {"window_seconds": 86_400},
    "pool-exhaustion": {"idle_seconds": 86_400, "wait_seconds": 86_400},
    "rate-limited-users": {"least_users": 1_000},
    "slow-queries": {"min_calls": 100_000},
    "undelivered-email": {"cooled_hours": 720},
}
"""A parameter of each runbook under which it would have done something else."""


@pytest.fixture(scope="module")
def history() -> Iterator[Ledger]:
    """The ledger of a sweep that mended the demo's stack."""
    with Stack(lambda _text: None, prefect=False) as stack, pytest.MonkeyPatch.context() as patch:
        broken = Broken(stack, with_payment=True)
        try:
            env = {**os.environ, **stack.env()}
            done = subprocess.run(
                [BIN / "runbook", "sweep", "--json"], env=env, cwd=ROOT, capture_output=True, timeout=300
            )
        finally:
            broken.close()
        assert done.stdout, done.stderr.decode()[-2000:]
        for name, value in stack.env().items():
            patch.setenv(name, value)
        settings.forget()
        yield ledger()
    settings.forget()


@pytest.mark.parametrize("name", flows.names())
def test_the_same_rules_would_do_what_was_done(history: Ledger, name: str) -> None:
    found = backtest(history, name, 0, {})
    assert found.sick and found.granted and not found.skipped, found
    assert found.differs == ()


@pytest.mark.parametrize("name", flows.names())
def test_other_rules_would_do_something_else(history: Ledger, name: str) -> None:
    assert backtest(history, name, 0, OTHERWISE[name]).differs


@pytest.mark.parametrize("name", flows.names())
def test_a_parameter_that_no_rule_knows_is_refused(history: Ledger, name: str) -> None:
    with pytest.raises(BadSetting, match="no rule depends on it"):
        backtest(history, name, 0, {"unheard_of": 1})


def test_what_is_kept_names_nobody_but_whom_a_fix_names(history: Ledger) -> None:
    with history.read() as connection:
        known = json.dumps([row.target for row in connection.execute(select(fix.c.target))])
    for name in flows.names():
        for seen in snapshots(history, name, 0):
            text = json.dumps([seen.reading, seen.parameters])
            assert "@example.com" not in text.replace("***@example.com", ""), (name, seen.stage)
            for word in ("203.0.113.", "198.51.100."):  # where the demo's people and attackers come from
                assert word not in text or word in known, (name, seen.stage, word)
