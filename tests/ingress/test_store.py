"""The store on both ledgers, and two receivers on one of them: a hook is kept once and told by whoever looks first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ingress.providers import Hook
from ingress.store import Store
from runbook.ledger import Ledger
from tests.runbook.conftest import book as book
from tests.runbook.conftest import ledger_server as ledger_server
from tests.runbook.conftest import ledger_url as ledger_url
from tests.runbook.conftest import own_environment as own_environment
from tests.runbook.conftest import postgres_url as postgres_url


def hook(number: int) -> Hook:
    return Hook(id=f"generic:{number}", event="generic.x", resource="runbook.generic.x", payload={"n": number})


@pytest.fixture
def stores(ledger_url: str, book: Ledger) -> Iterator[tuple[Store, Store]]:
    """Two receivers' stores, each with connections of its own."""
    with ExitStack() as exits:
        other = Ledger(ledger_url)
        exits.callback(other.engine.dispose)
        made = Store(book), Store(other)
        for one in made:
            one.start()
            exits.callback(one.stop)
        yield made


async def test_a_hook_that_two_receivers_get_is_kept_once(stores: tuple[Store, Store]) -> None:
    each = 100
    said = await asyncio.gather(*(one.keep([hook(n), hook(n)]) for n in range(each) for one in stores))
    assert sum(said) == each
    assert all(len(one.pending(1_000)) == one.backlog() == each for one in stores)


async def test_what_one_receiver_told_the_other_does_not_tell(stores: tuple[Store, Store]) -> None:
    mine, other = stores
    await mine.keep([hook(n) for n in range(3)])
    first, second, third = [number for number, _, _ in other.pending(10)]
    mine.handled([first])
    mine.drop([second])
    assert [number for number, _, _ in other.pending(10)] == [third]
    told = [(number, one.id) for number, one in other.told(0, 2**62)]
    assert told == [(first, "generic:0")]
    other.put_back([first])
    assert [number for number, _, _ in mine.pending(10)] == [first, third]
    assert await other.keep([hook(1)]) == 0
