"""A reader may be asked again when that may help; a hand never; nothing is cached."""

from __future__ import annotations

import pytest
from prefect.cache_policies import NO_CACHE

from runbook.errors import BadSetting, LedgerError, NotPermitted, OutsideError
from runbook.step import READ_TRIES, Step, hand, reader

BUSY = OutsideError("x", "is busy", "wait", transient=True)
FINAL = OutsideError("x", "said no", "look")
CRASH = ZeroDivisionError()


class Asked:
    """Raises what it was given, one each time, then answers how often it was asked."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.times = list(errors), 0

    async def __call__(self) -> int:
        self.times += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.times


def a_reader(asked: Asked) -> Step[[], int]:
    @reader("read")
    async def read() -> int:
        return await asked()

    return read


async def test_a_reading_is_tried_again_when_that_may_help() -> None:
    assert await a_reader(Asked(BUSY))() == 2


@pytest.mark.parametrize(
    "error", [FINAL, BadSetting("A", "b", "c"), LedgerError("A", "b", "c"), NotPermitted("A", "b", "c"), CRASH]
)
async def test_a_final_error_is_raised_unchanged_at_once(error: Exception) -> None:
    asked = Asked(error)
    with pytest.raises(type(error)) as raised:
        await a_reader(asked)()
    assert raised.value is error
    assert asked.times == 1


async def test_a_reading_is_given_up_with_its_own_error() -> None:
    asked = Asked(*[BUSY] * 9)
    with pytest.raises(OutsideError) as raised:
        await a_reader(asked)()
    assert raised.value is BUSY
    assert asked.times == READ_TRIES


@pytest.mark.parametrize("error", [BUSY, FINAL, CRASH])
async def test_a_hand_is_never_tried_again(error: Exception) -> None:
    asked = Asked(error)

    @hand("act")
    async def act() -> int:
        return await asked()

    with pytest.raises(type(error)):
        await act()
    assert asked.times == 1
    assert act.task.retries == 0


async def test_a_second_reading_reads_again() -> None:
    read = a_reader(Asked())
    assert [await read(), await read()] == [1, 2]
    assert read.task.cache_policy == NO_CACHE
    assert read.task.persist_result is False


async def test_a_step_hands_over_what_it_was_given() -> None:
    @reader("read {one}")
    async def read(one: int, *, other: str) -> str:
        """Reads."""
        return f"{one} {other}"

    assert await read(1, other="two") == "1 two"
    assert (read.__name__, read.__doc__) == ("read", "Reads.")
