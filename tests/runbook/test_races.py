"""Several runs at once, in processes of their own: one target is granted once, one grant is used once, caps hold."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text

from runbook.errors import NotPermitted
from runbook.ledger import Ledger
from runbook.model import Finding, FixState, Mode, Outcome
from runbook.permit import Permit
from runbook.run import Run
from runbook.schema import fix as table
from tests.runbook import racers
from tests.runbook.parts import RUNBOOK, World, a_fix, grant, told, try_grant


def counted(book: Ledger) -> Counter[str]:
    with book.read() as connection:
        return Counter(connection.execute(select(table.c.state)).scalars())


def test_four_that_begin_at_once_make_one_ledger(ledger_url: str) -> None:
    assert racers.race(racers.begin, [[ledger_url]] * 4) == ["run_"] * 4
    with Ledger(ledger_url).read() as connection:
        assert connection.execute(text("SELECT count(*) FROM run")).scalar_one() == 4
        assert connection.execute(text("SELECT count(*) FROM runbook_version")).scalar_one() == 1


def test_of_many_threads_one_enters(book: Ledger) -> None:
    one = grant(book, a_fix())
    permit = Permit(book, [one])

    def enter(_n: int) -> int:
        try:
            with permit.attempt(one):
                return 1
        except NotPermitted:
            return 0

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(enter, range(64))) == 1


def test_of_many_processes_one_enters(book: Ledger, ledger_url: str) -> None:
    one = grant(book, a_fix())
    with book.read() as connection:
        run_id = connection.execute(select(table.c.run_id)).scalar_one()
    assert racers.race(racers.enter, [[ledger_url, run_id, one.id]] * 8) == ["entered"] + ["refused"] * 7
    assert [kind for kind, _body in told(book, one.id)] == ["granted", "intended", "applied"]


def test_of_many_gates_that_race_for_one_target_one_grants(in_force: Ledger) -> None:
    assert racers.race(racers.ask, [["row 1"]] * 8) == [0] * 7 + [1]
    assert counted(in_force) == {"granted": 1, "refused": 7}


def test_a_cap_holds_between_processes(in_force: Ledger, tmp_path: Path) -> None:
    (tmp_path / "runbook.toml").write_text("[caps.set]\nper_15min = 7\n")
    granted = racers.race(racers.ask, [[f"row {i}.{n}" for n in range(5)] for i in range(10)])
    assert sum(granted) == 7, granted
    assert counted(in_force) == {"granted": 7, "refused": 43}


def test_the_target_itself_is_the_lock_even_without_the_gate(book: Ledger) -> None:
    one = grant(book, a_fix())
    assert try_grant(book, a_fix(action="other")) is None
    book.move(one.id, [FixState.granted], FixState.intended, {})
    assert try_grant(book, a_fix(action="other")) is None
    book.move(one.id, [FixState.intended], FixState.applied, {})
    assert try_grant(book, a_fix(action="other")) is not None


def test_the_grant_of_a_killed_process_is_free_at_once(in_force: Ledger, ledger_url: str) -> None:
    assert racers.killed(racers.die_granted, ledger_url).exitcode == -signal.SIGKILL
    assert counted(in_force) == {"granted": 1}
    assert racers.race(racers.ask, [["row 1"]]) == [1]
    assert counted(in_force) == {"granted": 1, "refused": 1}


@pytest.mark.parametrize(("there", "state"), [("new", FixState.proven), ("old", FixState.failed)])
async def test_the_intent_of_a_killed_process_is_settled_by_looking_at_once(
    in_force: Ledger, ledger_url: str, world: World, there: str, state: FixState
) -> None:
    assert racers.killed(racers.die_acting, ledger_url).exitcode == -signal.SIGKILL
    assert racers.race(racers.ask, [["row 1"]]) == [0], "it holds its target until somebody has looked"
    (left,) = in_force.unsettled(RUNBOOK, 120_000)
    world.rows["row 1"] = there
    async with Run(RUNBOOK, Mode.auto) as run:
        run.found([Finding(subject="rows", detail="were left behind")])
        await run.settle(world.hands())
    assert in_force.state(left.id) is state
    assert [kind for kind, _body in told(in_force, left.id)] == ["granted", "intended", state.value]
    assert world.acts == [], "looking is all: it is never done again"
    assert (left.id in run.notices[0], str(state) in run.notices[0]) == (True, True)
    assert run.report is not None and run.report.outcome is Outcome.refused
    assert racers.race(racers.ask, [["row 1"]]) == [1]
