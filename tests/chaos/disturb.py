"""What may go wrong around a run beside its own death: the database, the ledger, the vendors, Prefect, the clock,
another worker. Each is done for real, to a run that a boundary holds still, and judged as a crash is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from starlette.responses import Response

from demo.database_faults import wait_until
from demo.postgres import Postgres
from demo.prefect_server import Prefect
from demo.serving import Served
from demo.stripe_delivery import Hangup
from tests.chaos import child
from tests.chaos.boundaries import FULL, READ_ONLY, STOP, Point
from tests.chaos.child import Life
from tests.chaos.sweep import UNDISTURBED, Verdict, recover
from tests.chaos.world import ASKED, World, world

CALL = re.compile(r"(?:^|: )(?P<method>GET|POST|DELETE|PUT|PATCH) (?P<path>/\S*)$")
VENDOR_KINDS = ("429", "500", "reset", "acted, then 500", "acted, then reset")
SILENT, ACTED_SILENT = "silent", "acted, then silent"
"""It never answers: the client waits as long as it does in production, so that not every read can be tried."""

GONE = "gone"
ON_POSTGRES = ("failed-payments", "full-disk", "pool-exhaustion", "site-down", "undelivered-email")
GRANT_IS_OVER, HOUR_BACK = "660", "-3600"


class Case(NamedTuple):
    """One disturbance of one runbook: a row's name, and where it happens."""

    row: str
    runbook: str
    point: Point
    kind: str = ""


def first(passed: Iterable[Point], column: str, when: str, what: str = "") -> list[Point]:
    """The first boundary of that kind, or none."""
    return [one for one in passed if (one.column, one.when) == (column, when) and what in one.what][:1]


def last(passed: Sequence[Point], column: str, when: str, what: str = "") -> list[Point]:
    """The last boundary of that kind, or none."""
    return first(list(reversed(passed)), column, when, what)


def ledger_cases(runbook: str, passed: Sequence[Point]) -> list[Case]:
    """The ledger refuses all that follows: the grant, the intent, the outcome, the proof, the end of the run."""
    places = [first(passed, name, "after", "ledger ") for name in ("find", "gate", "intent", "outcome")]
    places.append(last(passed, "proof", "after", "ledger "))
    each = [(FULL,), *[(FULL, READ_ONLY)] * 3, (READ_ONLY,)]
    kinds = [(one, kind) for place, these in zip(places, each, strict=True) for one in place for kind in these]
    if runbook in ASKED:  # slow, and the rest is tried where nobody is asked
        kinds = [(one, kind) for one, kind in kinds if one.column in {"intent", "outcome"} and kind == READ_ONLY]
    gone = [(one, GONE) for place in places[1:3] for one in place if runbook in ON_POSTGRES]
    return [Case("ledger", runbook, one, kind) for one, kind in [*kinds, *gone]]


def cases(runbook: str, passed: Sequence[Point]) -> list[Case]:
    """All that is done to this runbook, by the boundaries it passes."""
    acts_on_rows = [one for when in ("before", "after") for one in first(passed, "act", when, ": SQL")]
    if runbook in ASKED:  # what it only reads is tried where nobody is asked
        passed = [one for one in passed if one.column not in {"open", "read"}]
    # The server's restart ends the sessions of the scene itself, which is no finding of a runbook's.
    own = [one for one in acts_on_rows if runbook not in {"slow-queries"}]
    found = [Case("PostgreSQL restarted", runbook, one) for one in own]
    found += ledger_cases(runbook, passed)
    turned = [*first(passed, "gate", "after", "ledger "), *first(passed, "intent", "after")]
    found += [Case("clock", runbook, one, kind) for one in turned for kind in (GRANT_IS_OVER, HOUR_BACK)]
    found += [Case("two workers", runbook, UNDISTURBED)]
    calls = {one.what: one for one in reversed(passed) if one.when == "before" and CALL.search(one.what)}
    for number, one in enumerate(calls.values()):
        if runbook == "site-down" and one.column == "read" and number % 2:  # it has forty, and is slow
            continue
        # Every call is failed in some way, and every call that acts in every way.
        kinds = [*VENDOR_KINDS, ACTED_SILENT] if one.column == "act" else [VENDOR_KINDS[number % len(VENDOR_KINDS)]]
        found += [Case("vendor", runbook, one, kind) for kind in kinds]
    found += [Case("vendor", runbook, one, SILENT) for one in [*calls.values()][:1]]
    return found


def prefect_cases(runbook: str, passed: Sequence[Point]) -> list[Case]:
    """Prefect's API gone before the run, in its middle, and at its end."""
    middle = [*first(passed, "act", "before"), *first(passed, "close", "before")]
    return [Case("Prefect gone", runbook, one) for one in (UNDISTURBED, *middle)]


def disturb(case: Case) -> Verdict:
    """Do it, let the run end as it may, let the runbook run again, and judge."""
    began = time.monotonic()
    with world(case.runbook) as here:
        problems = list(DEEDS[case.row](here, case))
        after = recover(here)
    if case.row == "PostgreSQL restarted":  # whatever lived in it went with it
        after = after._replace(problems=[one for one in after.problems if not one.startswith("touched")])
    point = case.point._replace(column=case.row, what=f"{case.point.what} {case.kind}".strip())
    return after._replace(point=point, problems=[*problems, *after.problems], seconds=time.monotonic() - began)


@contextmanager
def stopped(here: World, life: Life) -> Iterator[BaseProcess]:
    """A run that stands still at its point while the block lasts, and goes on to its end after it."""
    one, folder = here.start(life._replace(deed=STOP))
    try:
        wait_until(lambda: not one.is_alive() or _state(one.pid) == "T", f"{life.at} to be reached", 90)
        yield one
    finally:
        if one.is_alive() and one.pid:
            os.kill(one.pid, signal.SIGCONT)
        child.result(one, folder)


def _state(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _restart(here: World, case: Case) -> Iterator[str]:
    with stopped(here, Life(at=case.point)) as one:
        if not one.is_alive():
            yield "never reached"
        here.stack.postgres.restart()


def _ledger(here: World, case: Case) -> Iterator[str]:
    if case.kind == GONE:
        yield from _ledger_gone(here, case)
        return
    ended = here.run(Life(at=case.point, deed=case.kind))
    if case.point not in ended.passed:
        yield "never reached"
    elif ended.code == 0:
        yield "the ledger refused nothing"


def _ledger_gone(here: World, case: Case) -> Iterator[str]:
    own = here.exit.enter_context(Postgres(max_connections=30))
    here.more = {"RUNBOOK_LEDGER_URL": own.url()}
    with ExitStack() as until_it_ended, stopped(here, Life(at=case.point)) as one:
        if not one.is_alive():
            yield "never reached"
        until_it_ended.enter_context(own.gone())
    if one.exitcode == 0:
        yield "the ledger refused nothing"


def _clock(here: World, case: Case) -> Iterator[str]:
    ended = here.run(Life(at=case.point, deed=case.kind))
    if case.point not in ended.passed:
        yield "never reached"
    elif ended.code != 0:
        yield f"it ended with {ended.code}"
    elif (case.kind, case.point.column) == (GRANT_IS_OVER, "gate") and _all_proven(ended.report):
        yield "a grant outlived its end"


def _all_proven(report: Mapping[str, Any]) -> bool:
    return all(one["state"] == "proven" for one in report["fixes"])


def _race(here: World, _case: Case) -> Iterator[str]:
    for one, folder in [here.start(Life()), here.start(Life())]:
        code = child.result(one, folder).code
        if code != 0:
            yield f"one of two ended with {code}"


def _spoil(here: World, case: Case) -> Iterator[str]:
    match = CALL.search(case.point.what)
    assert match is not None
    for one in (here.stack.stripe, here.stack.app, *here.stack.standins):
        served = getattr(one, "_served", None)
        if isinstance(served, Served):
            served._app = Spoiled(served._app, match["method"], match["path"], case.kind)
    ended = here.run()
    if ended.code != 0:
        yield f"it ended with {ended.code}"


class Spoiled:
    """A server that fails the first request of one kind, before it acts or after it did."""

    def __init__(self, app: Any, method: str, template: str, kind: str) -> None:
        self.app, self.method, self.kind, self.left = app, method, kind, 1
        self.path = re.compile(re.escape(template).replace(r"\{id\}", "[^/]+"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.left or scope["method"] != self.method or not self.path.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        self.left -= 1
        if self.kind.startswith("acted"):
            await self.app(scope, receive, _unheard)
        if self.kind.endswith("silent"):
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if self.kind.endswith("reset"):
            await Hangup()(scope, receive, send)
            return
        status = int(self.kind.split()[-1])
        headers = {"retry-after": "1"} if status == 429 else {}
        answer = Response('{"error": {"message": "injected"}}', status, headers, "application/json")
        await answer(scope, receive, send)


async def _unheard(_message: Any) -> None:
    await asyncio.sleep(0)


def _without_prefect(here: World, case: Case) -> Iterator[str]:
    prefect = Prefect(here.stack.folder, here.env, f"sqlite+aiosqlite:///{here.stack.folder}/prefect.db")
    api = {name: value for name, value in prefect.env.items() if name.startswith("PREFECT")}
    here.more = api | {"PREFECT_CLIENT_MAX_RETRIES": "0"}
    try:
        if case.point == UNDISTURBED:
            if here.run(Life(under_prefect=True)).code == 0:
                yield "it found a Prefect"
            return
        prefect.start_server()
        with stopped(here, Life(at=case.point, under_prefect=True)) as one:
            if not one.is_alive():
                yield "never reached"
            prefect.stop()
        yield from (f"not mended without Prefect: {name}" for name in here.not_mended())
    finally:
        prefect.stop()
        here.more = {}


DEEDS: Mapping[str, Callable[[World, Case], Iterator[str]]] = {
    "PostgreSQL restarted": _restart,
    "ledger": _ledger,
    "clock": _clock,
    "two workers": _race,
    "vendor": _spoil,
    "Prefect gone": _without_prefect,
}
