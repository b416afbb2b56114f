"""A reader may be asked again when that may help; a hand never; nothing is cached."""

from __future__ import annotations

import pytest

from runbook.errors import BadSetting, OutsideError
from runbook.step import READ_TRIES, hand, reader

calls: list[Exception] = []


def failing(*errors: Exception) -> int:
    if len(calls) < len(errors):
        calls.append(errors[len(calls)])
        raise calls[-1]
    return len(calls)


BUSY = OutsideError("x", "is busy", "wait", transient=True)
FINAL = OutsideError("x", "said no", "look")


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()


@pytest.mark.parametrize(
    ("errors", "tries"), [([BUSY], 2), ([BUSY] * 9, READ_TRIES), ([FINAL], 1), ([BadSetting("A", "b", "c")], 1)]
)
async def test_a_reading_is_tried_again_only_when_that_may_help(errors: list[Exception], tries: int) -> None:
    counted = 0

    @reader("read")
    async def read() -> int:
        nonlocal counted
        counted += 1
        return failing(*errors)

    try:
        await read()
    except (OutsideError, BadSetting):
        assert tries != 2
    assert counted == tries


async def test_a_hand_is_never_tried_again() -> None:
    counted = 0

    @hand("act")
    async def act() -> int:
        nonlocal counted
        counted += 1
        return failing(BUSY)

    with pytest.raises(OutsideError):
        await act()
    assert counted == 1


async def test_a_second_reading_reads_again() -> None:
    values = iter([1, 2])

    @reader("read")
    async def read() -> int:
        return next(values)

    assert [await read(), await read()] == [1, 2]
