"""What the grammar's tests share: fixes of no particular runbook, and a small world they act on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sqlalchemy import select

from runbook.errors import OutsideError
from runbook.ledger import Ledger
from runbook.model import Finding, Fix, FixState, Proof, Risk
from runbook.permit import Hand, Permit
from runbook.schema import entry
from runbook.step import hand, reader

RUNBOOK = "a-runbook"
FINDING = Finding(subject="rows", detail="are old")


def a_fix(target: str = "row 1", *, action: str = "set", risk: Risk = Risk.auto, was: str = "old") -> Fix:
    return Fix(
        action=action, target=target, risk=risk, why="it is wrong", undo="swap", expect={"v": was}, want={"v": "new"}
    )


def rows(n: int, risk: Risk = Risk.auto, action: str = "set") -> list[Fix]:
    return [a_fix(f"row {i}", risk=risk, action=action) for i in range(n)]


def grant(book: Ledger, one: Fix, ttl_ms: int = 60_000, runbook: str = RUNBOOK) -> Fix:
    """Write one granted fix, as the gate does."""
    granted = try_grant(book, one, ttl_ms, runbook)
    assert granted is not None
    return granted


def try_grant(book: Ledger, one: Fix, ttl_ms: int = 60_000, runbook: str = RUNBOOK) -> Fix | None:
    run_id = book.open_run(runbook, "auto")
    with book.write() as connection:
        return book.record(
            connection, run_id, runbook, one.model_copy(update={"state": FixState.granted}), "plan", ttl_ms
        )


def told(book: Ledger, fix_id: str) -> list[tuple[str, dict[str, object]]]:
    """What the ledger's entries say of one fix, in order."""
    with book.read() as connection:
        found = connection.execute(select(entry).where(entry.c.fix_id == fix_id).order_by(entry.c.seq)).mappings()
        return [(row["kind"], row["body"]) for row in found]


@dataclass
class World:
    """Ten rows, and the ways in which setting one and looking at it go wrong."""

    rows: dict[str, str] = field(default_factory=lambda: {f"row {i}": "old" for i in range(10)})
    fails_before: set[str] = field(default_factory=set)
    fails_after: set[str] = field(default_factory=set)
    turned_down: set[str] = field(default_factory=set)
    crashes: set[str] = field(default_factory=set)
    dark: set[str] = field(default_factory=set)
    acts: list[str] = field(default_factory=list)

    def hands(self) -> dict[str, Hand]:
        """The hands of a runbook for this world, as real steps."""
        return {name: Hand(self._act(), self._look_up()) for name in ("set", "other")}

    def _act(self) -> Callable[[Fix, Permit], Awaitable[None]]:
        @hand("set {fix.target}")
        async def act(fix: Fix, permit: Permit) -> None:
            with permit.attempt(fix) as attempt:
                self.acts.append(fix.target)
                if fix.target in self.crashes:
                    raise ZeroDivisionError
                if fix.target in self.turned_down:
                    attempt.failed("the world said no")
                    return
                if fix.target in self.fails_before:
                    raise OutsideError("world", "went away", "look", transient=True)
                if self.rows[fix.target] != fix.expect["v"]:
                    attempt.moved_on("not as it was read")
                    return
                self.rows[fix.target] = fix.want["v"]
                if fix.target in self.fails_after:
                    raise OutsideError("world", "did not answer", "look", transient=True)
                attempt.did(rows=1)

        return act

    def _look_up(self) -> Callable[[Fix], Awaitable[Proof]]:
        @reader("look up {fix.target}")
        async def look_up(fix: Fix) -> Proof:
            if fix.target in self.dark:
                raise OutsideError("world", "is dark", "wait")
            return Proof(held=self.rows[fix.target] == fix.want["v"], seen=self.rows[fix.target])

        return look_up
