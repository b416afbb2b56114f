"""Every boundary a run passes, and what befalls its process at one of them: loaded into the process that is to die.

A boundary is the moment right before or right after something that others can see: a step, a transaction of the
ledger, a request, a statement, a program, a signal, a change of a file. Right after a request is after the server
acted and before anything of ours has read its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import os
import re
import signal
import smtplib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import httpx
import httpx2
import psycopg
from sqlalchemy import Connection, event

from runbook.ledger import Ledger, ledger
from runbook.permit import Hand
from runbook.step import Step

END = (os.getpid, os.kill)  # ours, from before anything is wrapped
KILL, STOP, FULL, READ_ONLY = "kill", "stop", "full", "read-only"
LEDGER = {FULL: "PRAGMA max_page_count = 1", READ_ONLY: "PRAGMA query_only = 1"}
"""What makes SQLite itself refuse every write to come."""
COLUMNS = ("open", "read", "find", "gate", "intent", "act", "outcome", "proof", "close")
NUMBER = re.compile(r"[^/]*\d[^/]*|[^/]*(?:@|%40)[^/]*")


class Point(NamedTuple):
    """One boundary: its column in the matrix, before or after, what, and which of its kind, from 1 on."""

    column: str
    when: str
    what: str
    nth: int = 1

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.column, self.when, self.what


def befall(deed: str) -> None:
    """Do it to this process: ``kill``, ``stop`` (until somebody says go on), make the ledger ``full`` or ``read-only``,
    or turn the clock by so many seconds."""
    match deed:
        case "kill":
            END[1](END[0](), signal.SIGKILL)
        case "stop":
            END[1](END[0](), signal.SIGSTOP)
        case "full" | "read-only":
            event.listen(ledger().engine, "checkout", lambda raw, _record, _proxy: raw.execute(LEDGER[deed]))
            if deed == FULL:
                event.listen(ledger().engine, "begin", _needs_room)
        case seconds:
            turn_clock(int(seconds))


def _needs_room(connection: Connection) -> None:
    """Some writes still fit into pages that are there, which is luck: here none does."""
    if connection.get_execution_options().get("runbook_write"):
        connection.exec_driver_sql("CREATE TABLE chaos AS SELECT zeroblob(1000000)")


def turn_clock(seconds: int) -> None:
    """From here on this process has another time; the world has not."""
    plain, plain_ns = time.time, time.time_ns
    time.time = lambda: plain() + seconds
    time.time_ns = lambda: plain_ns() + seconds * 1_000_000_000


class Watch:
    """Notes every boundary in ``trace``, one a line, and does ``deed`` to this process at ``at``."""

    def __init__(self, trace: Path, at: Point | None, deed: str, hands: dict[str, Hand]) -> None:
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.at, self.deed, self.passed = at, deed, Counter[tuple[str, str, str]]()
        self.acts = {hand.act.__name__ for hand in hands.values() if isinstance(hand.act, Step)}
        self.looks = {hand.look_up.__name__ for hand in hands.values() if isinstance(hand.look_up, Step)}
        self.step: ContextVar[str] = ContextVar("step", default="")
        self.noted: ContextVar[set[str] | None] = ContextVar("noted", default=None)

    def reach(self, when: str, what: str, column: str = "") -> None:
        kind = (column or self.column(), when, what)
        self.passed[kind] += 1
        here = Point(*kind, self.passed[kind])
        os.write(self.trace, ("\t".join(map(str, here)) + "\n").encode())
        if here == self.at:
            befall(self.deed)

    def column(self) -> str:
        """Where an outside call belongs, by the step it is made in."""
        step = self.step.get()
        return "act" if step in self.acts else "proof" if step in self.looks else "read"

    @contextlib.contextmanager
    def around(self, what: str, column: str = "") -> Iterator[None]:
        self.reach("before", what, column)
        yield
        self.reach("after", what, column)

    def called(self, what: str) -> str:
        step = self.step.get()
        return f"{step}: {what}" if step else what


def watch(trace: Path, at: Point | None, deed: str, hands: dict[str, Hand]) -> None:
    """Wrap everything of this process that a boundary can be seen at."""
    one = Watch(trace, at, deed, hands)
    _steps(one)
    _ledger(one)
    _http(one)
    _database(one)
    _programs(one)
    _files(one)


def _steps(one: Watch) -> None:
    plain = Step.__call__

    async def call(step: Step[Any, Any], *args: Any, **kwargs: Any) -> Any:
        token = one.step.set(step.__name__)
        try:
            with one.around(step.__name__):
                return await plain(step, *args, **kwargs)
        finally:
            one.step.reset(token)

    setattr(Step, "__call__", call)  # noqa: B010 - mypy lets no method be replaced by assignment


def _ledger(one: Watch) -> None:
    plain_write, plain_note = Ledger.write, Ledger.note

    @contextlib.contextmanager
    def write(book: Ledger) -> Iterator[Connection]:
        noted: set[str] = set()
        token = one.noted.set(noted)
        try:
            with plain_write(book) as connection:
                yield connection
                what, column = f"ledger {'+'.join(sorted(noted)) or 'memory'}", _column(one, noted)
                one.reach("before", what, column)
            one.reach("after", what, column)
        finally:
            one.noted.reset(token)

    def note(book: Ledger, connection: Connection, kind: str, *args: Any, **kwargs: Any) -> None:
        if (noted := one.noted.get()) is not None:
            noted.add(kind)
        plain_note(book, connection, kind, *args, **kwargs)

    setattr(Ledger, "write", write)  # noqa: B010
    setattr(Ledger, "note", note)  # noqa: B010


def _column(one: Watch, kinds: set[str]) -> str:
    """Which row of the ledger this is; the same word means another thing inside a hand than outside."""
    if kinds & {"run", "ended", "found"}:
        return {"run": "open", "ended": "close", "found": "find"}[min(kinds & {"run", "ended", "found"})]
    if one.step.get() in one.acts:
        return "intent" if "intended" in kinds else "outcome"
    if kinds & {"granted", "refused", "planned", "approval"}:
        return "gate"
    return "proof" if kinds & {"proven", "failed", "unseen", "interrupted"} else "read"


def _http(one: Watch) -> None:
    for library in (httpx, httpx2):  # the second is OpenAI's
        _httpx(one, library)
    put, got = http.client.HTTPConnection.putrequest, http.client.HTTPConnection.getresponse
    asked, said = smtplib.SMTP.putcmd, smtplib.SMTP.getreply

    def putrequest(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        self.boundary = one.called(f"{method} {_template(url.partition('?')[0])}")
        one.reach("before", self.boundary)
        put(self, method, url, *args, **kwargs)

    def getresponse(self: Any) -> Any:
        answer = got(self)
        one.reach("after", self.boundary)
        return answer

    def putcmd(self: Any, cmd: str, args: str = "") -> None:
        self.boundary = one.called(f"SMTP {cmd.split()[0].upper()}")
        one.reach("before", self.boundary)
        asked(self, cmd, args)

    def getreply(self: Any) -> Any:
        answer = said(self)
        one.reach("after", getattr(self, "boundary", one.called("SMTP greeting")))
        return answer

    for owner, name, function in (
        (http.client.HTTPConnection, "putrequest", putrequest),
        (http.client.HTTPConnection, "getresponse", getresponse),
        (smtplib.SMTP, "putcmd", putcmd),
        (smtplib.SMTP, "getreply", getreply),
    ):
        setattr(owner, name, function)


def _httpx(one: Watch, library: ModuleType) -> None:
    plain_async, plain_sync = library.AsyncHTTPTransport.handle_async_request, library.HTTPTransport.handle_request

    async def over_async(self: Any, request: Any) -> Any:
        with one.around(one.called(f"{request.method} {_template(request.url.path)}")):
            return await plain_async(self, request)

    def over_sync(self: Any, request: Any) -> Any:
        with one.around(one.called(f"{request.method} {_template(request.url.path)}")):
            return plain_sync(self, request)

    setattr(library.AsyncHTTPTransport, "handle_async_request", over_async)  # noqa: B010
    setattr(library.HTTPTransport, "handle_request", over_sync)  # noqa: B010


def _template(path: str) -> str:
    return "/".join(NUMBER.sub("{id}", part) if not re.fullmatch(r"v\d+", part) else part for part in path.split("/"))


def _database(one: Watch) -> None:
    plain_execute, plain_wait = psycopg.AsyncCursor.execute, psycopg.AsyncConnection.wait
    verb: ContextVar[str] = ContextVar("verb", default="")

    async def execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        text = query if isinstance(query, str) else query.as_string(self) if hasattr(query, "as_string") else str(query)
        token = verb.set(next(iter(text.split()), ""))
        try:
            return await plain_execute(self, query, *args, **kwargs)
        finally:
            verb.reset(token)

    async def wait(self: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
        with one.around(one.called(f"SQL {verb.get()}".strip())):
            return await plain_wait(self, gen, *args, **kwargs)

    setattr(psycopg.AsyncCursor, "execute", execute)  # noqa: B010
    setattr(psycopg.AsyncConnection, "wait", wait)  # noqa: B010


def _programs(one: Watch) -> None:
    plain_run, plain_exec = subprocess.run, asyncio.create_subprocess_exec

    def run(words: Any, *args: Any, **kwargs: Any) -> Any:
        with one.around(one.called(f"run {Path(words[0]).name}")):
            return plain_run(words, *args, **kwargs)

    async def create(*words: Any, **kwargs: Any) -> Any:
        what = one.called(f"run {Path(words[0]).name}")
        one.reach("before", what)
        process = await plain_exec(*words, **kwargs)
        plain = process.communicate

        async def communicate(*args: Any, **more: Any) -> Any:
            said = await plain(*args, **more)
            one.reach("after", what)
            return said

        setattr(process, "communicate", communicate)  # noqa: B010
        return process

    setattr(subprocess, "run", run)  # noqa: B010
    setattr(asyncio, "create_subprocess_exec", create)  # noqa: B010
    _wrap(one, os, "kill", lambda _pid, number: f"signal {signal.Signals(number).name}" if number else "")


def _files(one: Watch) -> None:
    for name in ("rename", "replace", "link", "unlink", "remove", "rmdir", "fsync", "chmod"):
        _wrap(one, os, name, lambda *_args, name=name, **_kwargs: f"file {name}")


def _wrap(one: Watch, owner: Any, name: str, what: Callable[..., str]) -> None:
    """Wrap a function of the operating system, where a step calls it: libraries have files of their own."""
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        said = what(*args, **kwargs) if one.step.get() else ""
        if not said:
            return plain(*args, **kwargs)
        with one.around(one.called(said)):
            return plain(*args, **kwargs)

    setattr(owner, name, call)
