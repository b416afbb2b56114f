"""What a run comes to: outcome, exit code, one line for what stopped it, and a record of every crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from runbook import settings
from runbook.errors import BadSetting, LedgerError, NotConfigured, OutsideError
from runbook.ledger import ledger
from runbook.model import Finding, FixState, Mode, Outcome, Risk
from runbook.permit import Hand
from runbook.process import this_process
from runbook.run import Run
from runbook.schema import run as table
from tests.runbook.parts import FINDING, RUNBOOK, a_fix


@pytest.fixture(autouse=True)
def may_act(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_MODE", "auto")
    settings.forget()


def recorded(run: Run) -> tuple[str, object]:
    with ledger().read() as connection:
        row = connection.execute(select(table).where(table.c.id == run.id)).mappings().one()
    return row["outcome"], row["report"]


def write(run: Run, *states: FixState, target: str = "") -> None:
    """Fixes of this run in these states, as their hands left them."""
    for at, state in enumerate(states):
        one = a_fix(target or f"row {at}").model_copy(update={"state": state})
        with run.ledger.write() as connection:
            assert run.ledger.record(connection, run.id, RUNBOOK, one, "plan", 1000)


S = FixState


@pytest.mark.parametrize(
    ("found", "states", "left", "error", "outcome", "code"),
    [
        (False, [], None, None, Outcome.healthy, 0),
        (True, [S.proven], [], None, Outcome.fixed, 0),
        (True, [S.proven, S.proven], [], None, Outcome.fixed, 0),
        (True, [], [], None, Outcome.fixed, 0),
        (True, [S.proven], [FINDING], None, Outcome.unsolved, 4),
        (True, [S.proven], None, None, Outcome.unsolved, 4),
        (True, [S.failed], [], None, Outcome.unsolved, 4),
        (True, [S.intended], [], None, Outcome.unsolved, 4),
        (True, [S.applied], [], None, Outcome.unsolved, 4),
        (True, [S.proven, S.failed], [], None, Outcome.unsolved, 4),
        (True, [S.failed, S.proven], [], None, Outcome.unsolved, 4),
        (True, [S.refused], [FINDING], None, Outcome.refused, 3),
        (True, [S.refused], None, None, Outcome.refused, 3),
        (True, [], None, None, Outcome.refused, 3),
        (True, [S.proven, S.refused], [FINDING], None, Outcome.refused, 3),
        (True, [S.proven, S.refused], [], None, Outcome.fixed, 0),
        (False, [], None, OutsideError("db", "is gone", "look"), Outcome.refused, 2),
        (True, [S.refused], None, OutsideError("db", "is gone", "look"), Outcome.refused, 2),
        (True, [S.proven], None, OutsideError("db", "is gone", "look"), Outcome.unsolved, 4),
        (True, [S.applied], [], BadSetting("A", "is bad", "correct it"), Outcome.unsolved, 4),
    ],
)
async def test_what_a_run_comes_to(
    found: bool,
    states: list[FixState],
    left: list[Finding] | None,
    error: Exception | None,
    outcome: Outcome,
    code: int,
) -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        if found:
            run.found([FINDING])
        write(run, *states)
        if left is not None:
            run.remains(left)
        if error:
            raise error
    report = run.result()
    assert (report.outcome, report.exit_code) == (outcome, code)
    assert report.reason == (str(error) if error else "")
    assert recorded(run) == (outcome, report.as_json())


async def test_what_a_run_that_only_looks_comes_to() -> None:
    async with Run(RUNBOOK, Mode.observe) as run:
        run.found([FINDING])
        write(run, FixState.planned)
    assert (run.result().outcome, run.result().exit_code) == (Outcome.observed, 3)


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ([S.failed, S.proven], Outcome.fixed),
        ([S.failed, S.refused], Outcome.unsolved),
        ([S.proven, S.failed], Outcome.unsolved),
        ([S.applied, S.proven], Outcome.unsolved),
    ],
)
async def test_a_failure_is_made_good_by_a_later_proof_on_its_target(states: list[FixState], outcome: Outcome) -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        run.found([FINDING])
        write(run, *states, target="row 1")
        run.remains([])
    assert run.result().outcome is outcome


async def test_every_stage_of_a_run_says_what_remains() -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        run.found([FINDING])
        write(run, FixState.proven)
        run.remains([FINDING])
        run.remains([])
    assert run.result().outcome is Outcome.unsolved


async def test_what_is_not_configured_is_said_and_marked() -> None:
    async with Run(RUNBOOK, Mode.auto) as run:
        raise NotConfigured("STRIPE_SECRET_KEY", "APP_URL")
    report = run.result()
    assert report.not_configured
    assert report.exit_code == 2
    assert report.reason.startswith("STRIPE_SECRET_KEY, APP_URL: not configured. Next: set ")


async def test_no_secret_is_in_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "canary-value-1234")
    settings.forget()
    async with Run(RUNBOOK, Mode.auto) as run:
        run.found([Finding(subject="canary-value-1234", detail="x", evidence={"a": ["canary-value-1234"]})])
        run.notice("someone@canary-value-1234")
        raise OutsideError("stripe", "refused canary-value-1234", "look")
    assert "canary" not in str(run.result())
    assert "canary" not in str(recorded(run))


@pytest.mark.parametrize("crash", [ZeroDivisionError, KeyboardInterrupt])
async def test_a_crash_is_recorded_and_goes_on(crash: type[BaseException]) -> None:
    with pytest.raises(crash):
        async with Run(RUNBOOK, Mode.auto) as run:
            raise crash
    assert recorded(run) == ("crashed", {"error": crash.__name__})
    assert run.report is None


async def test_a_ledger_that_is_lost_under_way_is_no_report() -> None:
    with pytest.raises(LedgerError):
        async with Run(RUNBOOK, Mode.auto) as run:
            run.ledger.engine.dispose()
            path = run.ledger.engine.url.database
            assert path
            Path(path).rename(f"{path}.away")
            Path(path).mkdir()
    assert run.report is None


async def test_an_unsettled_fix_whose_outcome_stays_unseen_is_told() -> None:
    async with Run(RUNBOOK, Mode.auto) as before:
        one = a_fix(risk=Risk.auto).model_copy(update={"state": FixState.granted})
        with before.ledger.write() as connection:
            recorded_fix = before.ledger.record(connection, before.id, RUNBOOK, one, "plan", 60_000)
        assert recorded_fix is not None
        fix_id = recorded_fix.id
        before.ledger.move(fix_id, [FixState.granted], FixState.intended, {})
        with before.ledger.write() as connection:
            connection.exec_driver_sql("UPDATE fix SET intended_at_ms = 0, owner = 'elsewhere:1:1'")

    async def act(*_all: object) -> None:
        raise AssertionError("settling never acts")

    async def dark(*_all: object) -> None:
        raise OutsideError("world", "is dark", "wait")

    async with Run(RUNBOOK, Mode.auto) as run:
        await run.settle({"set": Hand(act, dark)})  # type: ignore[arg-type]
    assert f"settled {fix_id} (set row 1) by looking: intended, could not be seen" in run.notices[0]


async def test_a_run_whose_process_is_gone_is_called_crashed_by_the_next() -> None:
    book = ledger()
    lost, alive, other = (book.open_run(name, "auto") for name in (RUNBOOK, RUNBOOK, "another"))
    with book.write() as connection:
        host, pid, _ = this_process().rsplit(":", 2)
        connection.execute(table.update().where(table.c.id.in_([lost, other])).values(owner=f"{host}:{pid}:1"))
    async with Run(RUNBOOK, Mode.auto):
        pass
    with book.read() as connection:
        found = {row.id: row.outcome for row in connection.execute(select(table.c.id, table.c.outcome))}
    assert (found[lost], found[alive], found[other]) == ("crashed", None, None)


async def test_a_run_of_a_host_that_is_gone_is_closed_after_two_days() -> None:
    book = ledger()
    of_old, of_late = (book.open_run(RUNBOOK, "auto") for _ in range(2))
    with book.write() as connection:
        connection.execute(table.update().values(owner="a-host-that-was:1:1"))
        long_ago = table.c.started_at_ms - 2 * 86_400_000 - 1
        connection.execute(table.update().where(table.c.id == of_old).values(started_at_ms=long_ago))
    async with Run(RUNBOOK, Mode.auto):
        pass
    with book.read() as connection:
        found = {row.id: row.outcome for row in connection.execute(select(table.c.id, table.c.outcome))}
    assert (found[of_old], found[of_late]) == ("crashed", None)


async def test_an_end_that_a_wrong_clock_wrote_hides_nothing() -> None:
    ends = []
    for _ in range(2):
        async with Run(RUNBOOK, Mode.observe) as run:
            pass
        ends.append(run.id)
    with ledger().write() as connection:
        ahead = update(table).where(table.c.id == ends[1]).values(ended_at_ms=table.c.ended_at_ms + 3_600_000)
        connection.execute(ahead)
        first = select(table.c.ended_at_ms).where(table.c.id == ends[0])
        expected = connection.execute(first).scalar_one()
    assert Run(RUNBOOK, Mode.observe).well_ms() == expected
