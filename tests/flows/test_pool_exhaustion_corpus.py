"""Whoever only looks as if they filled the pool lives on: each case on a real server, in mode auto."""

from __future__ import annotations

import pytest

from demo import database_faults as faults
from demo.postgres import Postgres
from runbook.ledger import ledger
from runbook.run import ACTED
from tests.flows.conftest import Keep, run
from tests.flows.pool_parts import CASES, Case, lookalike


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].replace(" ", "-"))
async def test_it_is_left_alone(server: Postgres, keep: Keep, case: Case) -> None:
    made = keep(lookalike(server, case))
    if not case.get("room"):
        keep(faults.fill_slots(server))
    if case.get("stopped"):
        ledger().press("stop", "a person looks at it")
    report = await run(**case.get("bounds", {}))
    assert made.untouched
    assert not [fix for fix in report.fixes if fix.state in ACTED]


async def test_the_same_session_is_ended_once_nothing_speaks_for_it(server: Postgres, keep: Keep) -> None:
    made = keep(lookalike(server, {"name": "an old transaction in a full pool"}))
    keep(faults.fill_slots(server))
    await run()
    assert not made.untouched


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 5
