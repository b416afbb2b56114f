"""A connection to PostgreSQL that does not wait for ever: what a stopped server owes is never paid."""

from __future__ import annotations

import time
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")
ANSWER_SECONDS = 35.0
"""How long a server may say nothing: one that is stopped, or gone without a word, ends none of its own waits."""


class Answering(psycopg.Connection[Any]):
    """A connection that is closed when its server says nothing for ``ANSWER_SECONDS``."""

    def wait(self, gen: PQGen[T], *given: Any, **named: Any) -> T:
        """Wait as any connection does, but not for ever."""
        try:
            return super().wait(_answered(gen), *given, **named)
        except psycopg.errors.ConnectionTimeout:
            self.pgconn.finish()  # an answer that comes later must meet nobody
            raise


def _answered(gen: PQGen[T]) -> PQGen[T]:
    heard = time.monotonic()
    try:
        wants = next(gen)
        while True:
            ready = yield wants
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > ANSWER_SECONDS:
                raise psycopg.errors.ConnectionTimeout(f"its server has not answered for {ANSWER_SECONDS:.0f} seconds")
            wants = gen.send(ready)
    except StopIteration as done:
        return cast("T", done.value)


def connect(_dialect: object, _record: object, words: tuple[Any, ...], named: dict[str, Any]) -> Answering:
    """Such a connection, where SQLAlchemy would make a plain one."""
    return Answering.connect(*words, **named)
