"""The Permit: the only key that opens a hand, and the proof that what the hand did is really so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from runbook import undo
from runbook.errors import LedgerError, NotPermitted, OutsideError, RunbookError
from runbook.ledger import Ledger
from runbook.mask import mask
from runbook.model import Fix, FixState, Json, Proof, Risk
from runbook.process import ACTING


@dataclass
class Attempt:
    """What a hand says of its one try; saying nothing means it was applied."""

    state: FixState = FixState.applied
    body: dict[str, Json] = field(default_factory=dict)

    def did(self, **what: Json) -> None:
        """The act went through; ``what`` is kept as evidence."""
        self.body.update(what)

    def moved_on(self, why: str) -> None:
        """The target was no longer as it was read, so nothing was done."""
        self.state, self.body = FixState.refused, {"why": why}

    def failed(self, why: str) -> None:
        """The act was certainly turned down by the system under care."""
        self.state, self.body = FixState.failed, {"why": why}


class Permit:
    """The fixes one ``gate.ask`` granted; good for one attempt each, until the grant expires."""

    def __init__(self, ledger: Ledger, granted: Sequence[Fix]) -> None:
        self.ledger = ledger
        self.fixes = tuple(granted)
        self._keys = {fix.id: fix.key for fix in granted}

    @contextmanager
    def attempt(self, fix: Fix) -> Iterator[Attempt]:
        """Open the hand for ``fix``: writes the intent before the body runs and the outcome after it.

        Raises ``NotPermitted`` unless exactly this fix is granted, unexpired, untried and the red button is out.
        When the body raises, the fix stays ``intended``: what happened is then looked up, never tried again. An outcome
        that comes after another run has settled the fix is noted beside it.
        """
        if self._keys.get(fix.id) != fix.key:
            raise NotPermitted(f"fix {fix.id or fix.action}", "no permit for it", "ask the gate")
        if not self.ledger.move(fix.id, [FixState.granted], FixState.intended, {}, fresh=True):
            raise self._why_not(fix)
        attempt = Attempt()
        ACTING.add(fix.id)
        try:
            yield attempt
            if not self.ledger.move(fix.id, [FixState.intended], attempt.state, mask(attempt.body)):
                self._note(fix, "late", {"outcome": attempt.state.value, **attempt.body})
        except BaseException as error:
            # Without this line no other process could tell a broken act from one that is still under way in this one.
            said = str(error) if isinstance(error, RunbookError) else type(error).__name__
            with suppress(LedgerError):
                self._note(fix, "interrupted", {"error": said})
            raise
        finally:
            ACTING.discard(fix.id)

    def _why_not(self, fix: Fix) -> NotPermitted:
        with self.ledger.read() as connection:
            reason = self.ledger.stopped(connection)
        if reason is None:
            return NotPermitted(f"fix {fix.id}", "its grant is used up or expired", "run the runbook again")
        self.refuse(fix, f"the red button is pressed: {reason}")
        return NotPermitted(f"fix {fix.id}", "the red button is pressed", "runbook start")

    def _note(self, fix: Fix, kind: str, body: Mapping[str, Json]) -> None:
        with self.ledger.write() as connection:
            self.ledger.note(connection, kind, body, fix_id=fix.id)

    def refuse(self, fix: Fix, why: str) -> None:
        """Give a grant back untried."""
        self.ledger.move(fix.id, [FixState.granted], FixState.refused, {"why": why})

    async def apply(self, hands: Mapping[str, Hand], *, at_once: int = 1) -> None:
        """Do every granted fix and prove it by a second reading; guarded ones only after a proven canary each."""
        for action in dict.fromkeys(fix.action for fix in self.fixes):
            fixes: Sequence[Fix] = [fix for fix in self.fixes if fix.action == action]
            if any(fix.risk is Risk.guarded for fix in fixes):
                fixes = await self._after_canary(fixes, hands[action])
            await self._all(fixes, hands[action], at_once)

    async def _after_canary(self, fixes: Sequence[Fix], hand: Hand) -> Sequence[Fix]:
        """What is left to do after the first fix that was really tried; nothing where that was not proven."""
        for at, canary in enumerate(fixes):
            if await self._do(canary, hand):
                return fixes[at + 1 :]
            if self.ledger.state(canary.id) is not FixState.refused:
                for fix in fixes[at + 1 :]:
                    self.refuse(fix, f"the first {fix.action} ({canary.target}) was not proven")
                break
        return ()

    async def _all(self, fixes: Sequence[Fix], hand: Hand, at_once: int) -> None:
        left = list(reversed(fixes))

        async def work() -> None:
            try:
                while left:
                    await self._do(left.pop(), hand)
            except BaseException:
                left.clear()  # after a crash none begins any more
                raise

        # All workers are waited for: none may act on behind the back of a run that is already closed.
        for error in await asyncio.gather(*(work() for _ in range(at_once)), return_exceptions=True):
            if error is not None:
                raise error

    async def _do(self, fix: Fix, hand: Hand) -> bool:
        try:
            await hand.act(fix, self)
        except NotPermitted:
            return False
        except OutsideError as error:
            # Once begun it may or may not have happened, and looking is the only honest answer.
            self.refuse(fix, f"before it was begun: {error}")
        return await settle(self.ledger, fix, hand)


class Hand(NamedTuple):
    """How one action is done, looked up, and taken back (None where nothing can take it back).

    ``undone`` puts right what stands beside the system once that was proven, and says what a person must know.
    """

    act: Callable[[Fix, Permit], Awaitable[None]]
    look_up: Callable[[Fix], Awaitable[Proof]]
    undo: Callable[[Fix], Fix] | None = None
    undone: Callable[[Fix], Awaitable[Sequence[str]]] | None = None


async def settle(ledger: Ledger, fix: Fix, hand: Hand) -> bool:
    """Prove or disprove a fix by looking; False also when it was never done. Unseen stays as it is."""
    if ledger.state(fix.id) not in {FixState.applied, FixState.intended}:
        return False
    try:
        proof = await hand.look_up(fix)
    except OutsideError as error:
        proof = Proof(held=None, seen=str(error))
    body = mask({"seen": proof.seen, **proof.evidence})
    if proof.held is None:
        with ledger.write() as connection:
            ledger.note(connection, "unseen", body, fix_id=fix.id)
        return False
    end = FixState.proven if proof.held else FixState.failed
    if not ledger.move(fix.id, [FixState.applied, FixState.intended], end, body):
        return False
    if proof.held:
        undo.finish(ledger, fix.id)
    return proof.held
