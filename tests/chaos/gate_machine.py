"""An adversary of the gate: asks, acts, crashes, forges, takes back, turns the clock, presses the button, in any order.

The gate, the permit and the ledger are the production ones, on a real database. What must hold is judged from outside:
from the world the acts change, and from the ledger's raw rows by counting anew, never by the code under test.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from sqlalchemy import RowMapping, bindparam, func, select

from runbook import gate, undo
from runbook.errors import NotPermitted
from runbook.ledger import Ledger
from runbook.model import Finding, Fix, FixState, Mode, Risk, Share
from runbook.permit import Permit
from runbook.policy import HOURS_24, MINUTES_15
from runbook.run import ACT_MS, Run
from runbook.schema import entry
from runbook.schema import fix as table
from tests.chaos import gate_world
from tests.chaos.gate_world import ACTIONS, BUSY, REFUSALS, RUNBOOKS, TARGETS, Crash, Terminal, World, within_caps

T = TypeVar("T")
BY_SEQ = select(table).order_by(table.c.seq)
SHOWN = select(table.c.id, table.c.target, table.c.state, table.c.why)
WRITTEN = select(func.count()).where(entry.c.fix_id == bindparam("fix_id"), entry.c.kind == bindparam("kind"))
HOW = ["well", "well", "well", "well", "is turned down", "dies before", "dies after"]


class GateMachine(RuleBasedStateMachine):
    """Use ``over(make)``: ``make()`` gives an empty ledger for each example."""

    make: Callable[[], Ledger]
    steps: ClassVar[Counter[str]] = Counter()
    runs, permits = Bundle("runs"), Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.book, self.world = type(self).make(), World()
        self.clock = time.time_ns()
        self._real, self._stdin, self._stderr = time.time_ns, sys.stdin, sys.stderr
        time.time_ns = lambda: self.clock
        sys.stderr = io.StringIO()
        self.loop = asyncio.new_event_loop()
        self.stopped = False
        self.judged = 0
        self.taken_back: dict[str, int] = {}  # by target, when a person undid an act on it
        self.counted: set[str] = set()

    def teardown(self) -> None:
        time.time_ns, sys.stdin, sys.stderr = self._real, self._stdin, self._stderr
        self.loop.close()

    def wait(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def rows(self) -> list[RowMapping]:
        with self.book.read() as connection:
            return list(connection.execute(BY_SEQ).mappings())

    # -- what the adversary does --------------------------------------------------------------------------------

    @initialize(target=runs)
    def open_both(self) -> Any:
        return multiple(*(self.open(name, Mode.auto) for name in RUNBOOKS))

    @rule(target=runs, runbook=st.sampled_from(RUNBOOKS), mode=st.sampled_from(list(Mode)))
    def open(self, runbook: str, mode: Mode) -> Run:
        self.steps["open"] += 1
        run = Run(runbook, mode)
        run.ledger = self.book
        self.wait(run.__aenter__())
        run.findings.append(Finding(subject="rows", detail="are old"))
        return run

    @rule(
        target=permits,
        run=runs,
        wanted=st.lists(st.tuples(st.sampled_from(TARGETS), st.sampled_from(ACTIONS)), max_size=4),
        risk=st.sampled_from(list(Risk)),
        by_hand=st.booleans(),
        sick=st.sampled_from([None, Share(sick=1, of=10), Share(sick=6, of=10), Share(sick=1, of=0)]),
        answer=st.sampled_from(["", "yes", "no"]),
        changed=st.booleans(),
        late=st.sampled_from([0, gate.GRANT_MS + 1, MINUTES_15]),
    )
    def ask(
        self,
        run: Run,
        wanted: list[tuple[str, str]],
        risk: Risk,
        by_hand: bool,
        sick: Share | None,
        answer: str,
        changed: bool,
        late: int = 0,
    ) -> tuple[Permit, Risk]:
        self.steps["ask"] += 1
        plan = [
            Fix(action=action, target=one, risk=risk, why="old", undo="", expect={"v": "old"}, want={"v": "new"})
            for one, action in wanted
        ]
        sys.stdin = Terminal(answer + "\n", lambda: self._passes(late)) if answer else io.StringIO()

        async def again() -> list[Fix]:
            return plan[:1] if changed else plan

        known = {row["id"] for row in self.rows()}
        permit = self.wait(gate.ask(run, plan, share=sick, by_hand=by_hand, again=again))
        rows = self.rows()
        fresh = [row for row in rows if row["id"] not in known]
        granted = [row for row in fresh if self._ever(row["id"], FixState.granted)]
        self.steps["only planned"] += sum(row["state"] == FixState.planned.value for row in fresh)
        person = by_hand or (run.mode is Mode.approve and answer == "yes")
        assert not granted or run.mode is not Mode.observe, "observe granted"
        assert not granted or not self.stopped, "granted behind the red button"
        assert not granted or person or (run.mode is Mode.auto and risk is not Risk.person), "granted unasked"
        assert not granted or sick is None or sick.value <= 0.5, "granted in a mass failure"
        lately = {one for one, at in self.taken_back.items() if at > self._now() - HOURS_24}
        assert person or not lately & {row["target"] for row in granted}, "granted on what a person took back"
        self.steps["approved late"] += bool(granted and answer == "yes" and late and run.mode is Mode.approve)
        assert {fix.id for fix in permit.fixes} <= {row["id"] for row in granted}, "a permit without its row"
        for row in granted:
            within_caps(rows, row, {one["id"] for one in granted})
        return permit, risk

    @rule(target=permits, run=runs, row=st.sampled_from(TARGETS), action=st.sampled_from(ACTIONS))
    def ask_plainly(self, run: Run, row: str, action: str) -> tuple[Permit, Risk]:
        """A little, with nobody about."""
        held: tuple[Permit, Risk]
        held = self.ask(run, [(row, action)], Risk.auto, by_hand=False, sick=None, answer="", changed=False)  # type: ignore[assignment]
        return held

    @rule(
        held=permits,
        at=st.integers(0, 3),
        how=st.sampled_from(HOW),
    )
    def act(self, held: tuple[Permit, Risk], at: int, how: str) -> None:
        """Use a permit, again and again if it comes so."""
        self.steps["act"] += 1
        permit, _risk = held
        if permit.fixes:
            fix = permit.fixes[at % len(permit.fixes)]
            self._try(permit, fix, how)

    @rule(
        target=permits,
        run=runs,
        row=st.sampled_from(TARGETS),
        action=st.sampled_from(ACTIONS),
        how=st.sampled_from(HOW),
    )
    def work(self, run: Run, row: str, action: str, how: str) -> tuple[Permit, Risk]:
        """As most runs do: ask for a little, and do it at once."""
        held: tuple[Permit, Risk] = self.ask_plainly(run, row, action)  # type: ignore[assignment]
        self.act(held, 0, how)
        return held

    @rule(
        target=permits,
        run=runs,
        row=st.sampled_from(TARGETS),
        action=st.sampled_from(ACTIONS),
        answer=st.sampled_from(["yes", "yes", "no"]),
        late=st.sampled_from([0, gate.GRANT_MS + 1]),
        how=st.sampled_from(HOW),
    )
    def work_with_a_person(
        self, run: Run, row: str, action: str, answer: str, late: int, how: str
    ) -> tuple[Permit, Risk]:
        """As where a fix needs a person: one starts it by hand, or is asked and answers; then it is done at once."""
        held: tuple[Permit, Risk]
        by_hand = run.mode is Mode.auto
        held = self.ask(run, [(row, action)], Risk.person, by_hand, None, answer, changed=False, late=late)  # type: ignore[assignment]
        self.act(held, 0, how)
        return held

    @rule(target=permits, run=runs, at=st.integers(0, len(TARGETS) - 1), times=st.sampled_from([1, 1, 2, 3]))
    def fail_and_go_on(self, run: Run, at: int, times: int) -> tuple[Permit, Risk]:
        """As a runbook that does not work: turned down so many times, it asks for more."""
        rows = [TARGETS[(at + more) % len(TARGETS)] for more in range(times + 1)]
        for row in rows[:-1]:
            self.work(run, row, ACTIONS[0], "is turned down")
        held: tuple[Permit, Risk] = self.ask_plainly(run, rows[-1], ACTIONS[0])  # type: ignore[assignment]
        return held

    @rule(runbook=st.sampled_from(RUNBOOKS), row=st.sampled_from(TARGETS), times=st.sampled_from([1, 2, 5]))
    def mend_again(self, runbook: str, row: str, times: int) -> None:
        """As with a fault that comes back: the same row in one run after the other, a quarter of an hour apart."""
        for _ in range(times):
            self.work(self.open(runbook, Mode.auto), row, ACTIONS[0], "well")
            self._passes(MINUTES_15)

    @rule(held=permits, other=permits, at=st.integers(0, 3), field=st.sampled_from(["target", "want", "id", "permit"]))
    def forge(self, held: tuple[Permit, Risk], other: tuple[Permit, Risk], at: int, field: str) -> None:
        """Act with a permit on something it was not granted for."""
        self.steps["forge"] += 1
        permit = held[0]
        if not permit.fixes:
            return
        fix = permit.fixes[at % len(permit.fixes)]
        if field == "permit":
            permit = other[0]
            if any(one.id == fix.id for one in permit.fixes):
                return
        changes: Mapping[str, Mapping[str, object]] = {
            "target": {"target": "row 99"},
            "want": {"want": {"v": "x"}},
            "id": {"id": "fix_0"},
            "permit": {},
        }
        before = list(self.world.acts)
        self._try(permit, fix.model_copy(update=changes[field]), "well")
        assert self.world.acts == before, "acted on a forged permit"
        self.steps["forged in vain"] += 1

    def _try(self, permit: Permit, fix: Fix, how: str) -> None:
        self.world.how = how
        stopped, before = self.stopped, list(self.world.acts)
        live = [r for r in self.rows() if r["id"] == fix.id and r["state"] == FixState.granted.value]
        expired = not live or live[0]["granted_until_ms"] <= self.clock // 1_000_000
        try:
            self.wait(self.world.hands[fix.action].act(fix, permit))
        except NotPermitted:
            self.steps["not permitted"] += 1
        except Crash:
            self.steps["crashed"] += 1
        if self.world.acts != before:
            assert not stopped, "acted behind the red button"
            assert not expired, "acted on a used or expired grant"
            self.steps["acted"] += 1
            self.steps["acted by a person's word"] += live[0]["risk"] == Risk.person.value
            self.steps["turned down"] += how == "is turned down"
            if how == "well":  # done with effect, which a person let happen
                self.taken_back.pop(fix.target, None)

    @rule(run=runs, at=st.integers(0, 9))
    def take_back(self, run: Run, at: int) -> None:
        """A person undoes something that was done, as ``runbook undo`` does."""
        self.steps["take back"] += 1
        done = [row for row in self.rows() if row["state"] in {FixState.applied.value, FixState.proven.value}]
        if not done:
            return
        row = done[at % len(done)]
        back = Fix(action=row["action"], target=row["target"], risk=Risk.auto, why="undo", undo="",
                   expect=row["want"], want=row["expect"])  # fmt: skip
        permit = self.wait(gate.ask(run, [back], by_hand=True, share=None))
        for one in permit.fixes:
            undo.intend(self.book, row["id"], one.id)
        self.world.how = "well"
        self.wait(permit.apply(self.world.hands))
        if permit.fixes and self.book.state(permit.fixes[0].id) is FixState.proven:
            assert not self.stopped, "undone behind the red button"
            assert self.book.state(row["id"]) is FixState.undone
            self.taken_back[row["target"]] = self._now()
            self.steps["undone"] += 1

    def _now(self) -> int:
        return self.clock // 1_000_000

    def _passes(self, ms: int) -> None:
        self.clock += ms * 1_000_000

    @rule(
        what=st.sampled_from(["clock", "clock", "stop", "start", "start", "start", "somebody", "dies"]),
        ms=st.sampled_from(
            [1_000, 60_000, ACT_MS + 1, gate.GRANT_MS + 1, MINUTES_15, HOURS_24 // 2, HOURS_24, -60_000]
        ),
        row=st.sampled_from(TARGETS),
    )
    def meanwhile(self, what: str, ms: int, row: str) -> None:
        """The clock jumps, a person presses the button, somebody else changes a target, who holds a grant dies."""
        self.steps[f"meanwhile: {what}"] += 1
        if what == "clock":
            self._passes(ms)
        elif what == "somebody":
            self.world.values[row] = "old"
        elif what == "dies":
            with self.book.write() as connection:
                connection.execute(table.update().where(table.c.state.in_(BUSY)).values(owner=gate_world.NOBODY))
        else:
            self.book.press(what, "by the adversary")
            self.stopped = what == "stop"

    @rule(run=runs)
    def settle(self, run: Run) -> None:
        """What the next run does with what a dead one left."""
        self.steps["settle"] += 1
        before = list(self.world.acts)
        self.steps["settled"] += len(self.book.unsettled(run.runbook, ACT_MS))
        self.wait(run.settle(self.world.hands))
        assert self.world.acts == before, "settled by acting"

    # -- what must hold, after every step -----------------------------------------------------------------------

    @invariant()
    def no_fix_acts_twice(self) -> None:
        doubled = [one for one, count in Counter(self.world.acts).items() if count > 1]
        assert not doubled, f"acted twice: {doubled}"

    @invariant()
    def every_act_was_written_before(self) -> None:
        fresh = self.world.acts[self.judged :]
        for one in fresh:
            assert self._ever(one, FixState.intended) == 1, f"{one} acted without one intent"
        self.judged = len(self.world.acts)

    @invariant()
    def a_target_has_one_holder(self) -> None:
        with self.book.read() as connection:
            rows = connection.execute(SHOWN).mappings().all()
        open_now = Counter(row["target"] for row in rows if row["state"] in BUSY)
        assert not [one for one, count in open_now.items() if count > 1], "two hold one target"
        for row in rows:
            if row["state"] == FixState.refused.value and row["id"] not in self.counted:
                self.counted.add(row["id"])
                self.steps.update(f"refused: {name}" for name, said in REFUSALS.items() if said in row["why"])

    def _ever(self, fix_id: str, state: FixState) -> int:
        with self.book.read() as connection:
            return connection.execute(WRITTEN, {"fix_id": fix_id, "kind": state.value}).scalar_one()


def over(make: Callable[[], Ledger]) -> type[GateMachine]:
    """The machine over the ledgers that ``make`` gives."""
    return type("GateMachine", (GateMachine,), {"make": staticmethod(make)})
