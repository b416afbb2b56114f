"""What becomes of granted fixes: done once, proven by looking, guarded ones behind a canary, nothing after a crash."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from runbook.errors import OutsideError
from runbook.ledger import Ledger
from runbook.model import Fix, FixState, Proof, Risk
from runbook.permit import Hand, Permit, settle
from tests.runbook.parts import World, a_fix, grant, rows, told


def granted(book: Ledger, plan: list[Fix]) -> list[Fix]:
    return [grant(book, one) for one in plan]


def states(book: Ledger, fixes: list[Fix]) -> list[str]:
    return [book.state(one.id).value for one in fixes]


async def test_every_fix_is_done_and_proven(book: Ledger, world: World) -> None:
    fixes = granted(book, rows(3))
    await Permit(book, fixes).apply(world.hands())
    assert states(book, fixes) == ["proven"] * 3
    assert [kind for kind, _body in told(book, fixes[0].id)] == ["granted", "intended", "applied", "proven"]
    assert told(book, fixes[0].id)[-1][1] == {"seen": "new"}


async def test_a_permit_is_good_for_one_application(book: Ledger, world: World) -> None:
    fixes = granted(book, rows(2))
    permit = Permit(book, fixes)
    await permit.apply(world.hands())
    await permit.apply(world.hands())
    assert world.acts == ["row 0", "row 1"]
    assert states(book, fixes) == ["proven"] * 2


@pytest.mark.parametrize("broken", ["fails_before", "turned_down", "dark"])
async def test_guarded_ones_wait_for_a_proven_first(book: Ledger, world: World, broken: str) -> None:
    getattr(world, broken).add("row 0")
    fixes = granted(book, rows(3, Risk.guarded))
    await Permit(book, fixes).apply(world.hands(), at_once=8)
    assert world.acts == ["row 0"]
    assert states(book, fixes)[1:] == ["refused"] * 2
    assert "the first set (row 0) was not proven" in str(told(book, fixes[1].id)[-1])


async def test_after_a_canary_that_moved_on_the_next_is_the_canary(book: Ledger, world: World) -> None:
    world.rows["row 0"] = "somebody else's"
    world.fails_before.add("row 1")
    fixes = granted(book, rows(3, Risk.guarded))
    await Permit(book, fixes).apply(world.hands())
    assert states(book, fixes) == ["refused", "failed", "refused"]
    assert world.rows["row 0"] == "somebody else's"
    assert world.rows["row 2"] == "old"


async def test_each_guarded_action_has_a_canary_of_its_own(book: Ledger, world: World) -> None:
    world.fails_before.add("row 0")
    others = [a_fix(f"row {i}", action="other", risk=Risk.guarded) for i in (5, 6)]
    fixes = granted(book, [*rows(2, Risk.guarded), *others])
    await Permit(book, fixes).apply(world.hands())
    assert states(book, fixes) == ["failed", "refused", "proven", "proven"]


async def test_one_guarded_fix_guards_its_whole_action(book: Ledger, world: World) -> None:
    world.fails_before.add("row 0")
    fixes = granted(book, [a_fix("row 0"), *(a_fix(f"row {i}", risk=Risk.guarded) for i in (1, 2))])
    await Permit(book, fixes).apply(world.hands())
    assert states(book, fixes) == ["failed", "refused", "refused"]


async def test_others_go_on_when_one_fails(book: Ledger, world: World) -> None:
    world.fails_before.add("row 0")
    world.turned_down.add("row 1")
    fixes = granted(book, rows(4))
    await Permit(book, fixes).apply(world.hands(), at_once=2)
    assert states(book, fixes) == ["failed", "failed", "proven", "proven"]


async def test_the_red_button_stops_the_rest(book: Ledger, world: World) -> None:
    fixes = granted(book, rows(3))
    hands = world.hands()

    async def press(fix: Fix, permit: Permit) -> None:
        await hands["set"].act(fix, permit)
        if fix.target == "row 0":
            book.press("stop", "fire")

    await Permit(book, fixes).apply({"set": Hand(press, hands["set"].look_up)})
    assert world.acts == ["row 0"]
    assert states(book, fixes) == ["proven", "refused", "refused"]


async def test_a_hand_that_cannot_read_before_it_begins_gives_the_grant_back(book: Ledger, world: World) -> None:
    fixes = granted(book, rows(1))

    async def act(_fix: Fix, _permit: Permit) -> None:
        raise OutsideError("world", "is dark", "wait")

    await Permit(book, fixes).apply({"set": Hand(act, world.hands()["set"].look_up)})
    assert states(book, fixes) == ["refused"] and "is dark" in str(told(book, fixes[0].id)[-1])


async def test_no_more_than_asked_at_once(book: Ledger) -> None:
    fixes = granted(book, rows(9))
    inside, most = 0, 0

    async def act(fix: Fix, permit: Permit) -> None:
        nonlocal inside, most
        with permit.attempt(fix):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    async def seen(_fix: Fix) -> Proof:
        return Proof(held=True, seen="")

    await Permit(book, fixes).apply({"set": Hand(act, seen)}, at_once=3)
    assert most == 3
    assert states(book, fixes) == ["proven"] * 9


async def test_after_a_crash_none_begins_and_none_is_left_running(book: Ledger) -> None:
    fixes = granted(book, rows(8))
    begun, ended = [], []
    both = asyncio.Event()

    async def act(fix: Fix, permit: Permit) -> None:
        with permit.attempt(fix):
            begun.append(fix.target)
            if fix.target == "row 0":
                await both.wait()
                raise ZeroDivisionError
            both.set()
            await asyncio.sleep(0.05)
            ended.append(fix.target)

    async def seen(_fix: Fix) -> Proof:
        return Proof(held=True, seen="")

    with pytest.raises(ZeroDivisionError):
        await Permit(book, fixes).apply({"set": Hand(act, seen)}, at_once=2)
    assert (begun, ended) == (["row 0", "row 1"], ["row 1"])
    assert Counter(states(book, fixes)) == {"intended": 1, "proven": 1, "granted": 6}
    assert len(asyncio.all_tasks()) == 1


# -- settle ---------------------------------------------------------------------------------------------------------


def begun(book: Ledger, state: FixState) -> Fix:
    one = grant(book, a_fix("row 0"))
    book.move(one.id, [FixState.granted], FixState.intended, {})
    if state is not FixState.intended:
        book.move(one.id, [FixState.intended], state, {})
    return one


@pytest.mark.parametrize("state", [FixState.applied, FixState.intended])
@pytest.mark.parametrize(
    ("there", "dark", "end"), [("new", False, FixState.proven), ("old", False, FixState.failed), ("new", True, None)]
)
async def test_a_fix_is_what_is_seen(
    book: Ledger, world: World, state: FixState, there: str, dark: bool, end: FixState | None
) -> None:
    one = begun(book, state)
    world.rows["row 0"] = there
    world.dark = {"row 0"} if dark else set()
    assert await settle(book, one, world.hands()["set"]) is (end is FixState.proven)
    assert book.state(one.id) is (end or state)
    kind, body = told(book, one.id)[-1]
    assert kind == (end.value if end else "unseen")
    assert ("is dark" in str(body)) is dark


@pytest.mark.parametrize("held", [True, False, None])
async def test_a_look_that_says_it_could_not_see_changes_nothing(book: Ledger, held: bool | None) -> None:
    one = begun(book, FixState.applied)

    async def act(_fix: Fix, _permit: Permit) -> None:
        raise AssertionError("settling never acts")

    async def seen(_fix: Fix) -> Proof:
        return Proof(held=held, seen="someone@example.com", evidence={"n": 1})

    assert await settle(book, one, Hand(act, seen)) is bool(held)
    assert book.state(one.id) is {True: FixState.proven, False: FixState.failed, None: FixState.applied}[held]
    assert told(book, one.id)[-1][1] == {"seen": "s***@example.com", "n": 1}


@pytest.mark.parametrize("state", [FixState.refused, FixState.failed, FixState.proven])
async def test_what_is_over_is_not_settled_again(book: Ledger, world: World, state: FixState) -> None:
    one = begun(book, state)
    before = told(book, one.id)

    async def never(*_all: object) -> Proof:
        raise AssertionError("there is nothing to look up")

    assert not await settle(book, one, Hand(world.hands()["set"].act, never))
    assert book.state(one.id) is state
    assert told(book, one.id) == before


async def test_an_answer_that_was_lost_is_looked_up_and_the_act_not_repeated(book: Ledger, world: World) -> None:
    world.fails_after.add("row 0")
    world.fails_before.add("row 1")
    fixes = granted(book, rows(2))
    await Permit(book, fixes).apply(world.hands())
    assert world.acts == ["row 0", "row 1"]
    assert states(book, fixes) == ["proven", "failed"]
    assert [kind for kind, _body in told(book, fixes[0].id)] == ["granted", "intended", "interrupted", "proven"]
