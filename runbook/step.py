"""The two kinds of Prefect task a runbook is made of: a reader may be asked again, a hand may not."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from runbook.errors import OutsideError, RunbookError, without_secrets

P = ParamSpec("P")
R = TypeVar("R")

READ_TRIES = 3
"""How often a reading is tried in all, when the error says that asking again may help."""
WAIT = wait_exponential_jitter(multiplier=0.5, max=3)


def may_help(error: BaseException) -> bool:
    """True for the errors that deserve another reading: the closed table is ``OutsideError.transient``."""
    return isinstance(error, OutsideError) and error.transient


class Step(Generic[P, R]):
    """A task that runs under Prefect inside a flow run, and as a plain coroutine where Prefect is away.

    No decision, cap, lock or record may depend on Prefect being up: with its API down the same flow body runs from
    the command line, and there is nobody to report a task run to.
    """

    def __init__(self, fn: Callable[P, Coroutine[Any, Any, R]], name: str | None, tries: int) -> None:
        self.fn, self.tries, self.__doc__, self.__name__ = fn, tries, fn.__doc__, fn.__name__
        self.task: Task[P, Coroutine[Any, Any, R]] = Task(
            _quiet(fn),
            task_run_name=name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=tries - 1,
            retry_delay_seconds=[1.0, 3.0][: tries - 1] or None,
            retry_condition_fn=_retry_state if tries > 1 else None,
        )

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if FlowRunContext.get() is not None:
            return await cast("Awaitable[R]", self.task(*args, **kwargs))
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.tries),
            wait=WAIT,
            retry=retry_if_exception(may_help),
            reraise=True,
        ):
            with attempt:
                return await self.fn(*args, **kwargs)
        raise AssertionError("tenacity always returns or raises")


def _quiet(fn: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """``fn``, whose unexpected errors say no secret."""

    @functools.wraps(fn)
    async def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await fn(*args, **kwargs)
        except RunbookError:
            raise  # says none
        except Exception as error:
            quieter = without_secrets(error)
            if quieter is error:
                raise
            raise quieter from None

    return quiet


async def _retry_state(_task: object, _run: object, state: Any) -> bool:
    try:
        await state.aresult(raise_on_failure=True)
    except OutsideError as error:
        return may_help(error)
    except BaseException:  # noqa: BLE001 - any other error is final: the caller sees it unchanged
        return False
    return False


def reader(name: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Step[P, R]]:
    """Make a coroutine a task that only reads; ``name`` is its task run name, parameters in braces."""
    return lambda fn: Step(fn, name, READ_TRIES)


def hand(name: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Step[P, R]]:
    """Make a coroutine a task that acts: it takes a ``permit`` and is never retried."""
    return lambda fn: Step(fn, name, 1)
