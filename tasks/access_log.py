"""How slow the API is: the 95th percentile by route and minute of an access log, or one request without one."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from runbook.alarm import MINUTE_MS, Point, Sample
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import now_ms
from runbook.settings import settings
from runbook.step import reader
from tasks.log_forms import moment
from tasks.web import call

TAIL_BYTES = 4 * 1024 * 1024
MINUTES = 5
LEAST = 50
"""Requests of one route within five minutes, below which a percentile says nothing."""

LEAST_A_MINUTE = 10
PROBE_SECONDS = 8.0

TEXT = re.compile(
    r'\[(?P<time>[^\]]+)\].*?"(?:GET|POST|PUT|PATCH|DELETE|HEAD) (?P<path>\S+)[^"]*" (?P<status>\d{3})'
    r".*?\b(?:rt|request_time|duration|took)=\"?(?P<seconds>\d+(?:\.\d+)?)(?P<unit>ms)?"
)
NGINX = "%d/%b/%Y:%H:%M:%S %z"
PATHS = ("path", "url", "uri", "request_uri", "route")
IN_SECONDS = ("request_time", "seconds")
IN_MS = ("durationMs", "duration", "responseTime", "duration_ms", "latency_ms", "ms")
TIMES = ("time", "timestamp", "ts", "time_iso8601")
VARIABLE = re.compile(r"^(?:\d+|[0-9a-f]{8}-[0-9a-f-]{27}|c[a-z0-9]{20,30}|[0-9a-f]{16,}|[A-Za-z]+_[A-Za-z0-9]{8,})$")


class Request(NamedTuple):
    """One answered request: its route, the minute, and the seconds it took."""

    route: str
    minute: int
    seconds: float


@reader("read the access log")
async def read_requests() -> list[Request]:
    """API requests of the last five whole minutes in the end of every file of ``ACCESS_LOG``, without those that are
    slow by nature (``RUNBOOK_SLOW_ROUTES``). Forms: JSON lines, or combined lines with ``rt=`` or ``request_time=``."""
    try:
        slow = re.compile(settings().runbook_slow_routes or r"(?!)", re.IGNORECASE)
    except re.error as error:
        raise BadSetting("RUNBOOK_SLOW_ROUTES", f"is no regular expression ({error})", "correct it") from None
    now = now_ms() // MINUTE_MS
    return await asyncio.to_thread(
        lambda: [
            one
            for path in settings().access_log
            for one in parsed(_tail(path))
            if now - MINUTES <= one.minute < now and not slow.search(one.route)
        ]
    )


def _tail(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - TAIL_BYTES)
            file.seek(start)
            lines = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise OutsideError("ACCESS_LOG", f"{path}: {error.strerror}", "name readable files in ACCESS_LOG") from None
    yield from lines[1:] if start else lines


def parsed(lines: Iterable[str]) -> Iterator[Request]:
    """The API requests these lines tell of; a line of another form is passed over."""
    for line in lines:
        found = _from_json(line) if line.startswith("{") else _from_text(line)
        if found is not None and found.route.startswith("/api/"):
            yield found


def _from_json(line: str) -> Request | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    path = next((entry[key] for key in PATHS if isinstance(entry.get(key), str)), None)
    at = next((moment(entry[key]) for key in TIMES if key in entry), None)
    scaled = [(key, 1.0) for key in IN_SECONDS] + [(key, 0.001) for key in IN_MS]
    for key, scale in scaled:
        try:
            seconds = float(entry[key]) * scale
        except (KeyError, TypeError, ValueError):
            continue
        upgraded = str(entry.get("status")) == "101"
        return None if path is None or at is None or upgraded else Request(route(path), at // MINUTE_MS, seconds)
    return None


def _from_text(line: str) -> Request | None:
    found = TEXT.search(line)
    if found is None or found["status"] == "101":
        return None
    try:
        at = round(datetime.strptime(found["time"], NGINX).timestamp() * 1000)
    except ValueError:
        at = moment(found["time"]) or 0
    seconds = float(found["seconds"]) * (0.001 if found["unit"] else 1)
    return Request(route(found["path"]), at // MINUTE_MS, seconds)


def route(path: str) -> str:
    """A path without its query, each id in it as ``:id``."""
    parts = path.partition("?")[0].split("/")
    return "/".join(":id" if VARIABLE.match(part) else part for part in parts)[:120]


def p95(values: Sequence[float]) -> float:
    """The 95th percentile of raw samples: the smallest that 95 of 100 do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def slowest(requests: Sequence[Request]) -> tuple[str, int, Mapping[int, float]] | None:
    """The route that was slow for longest, how often it was asked for, and its percentile by minute; None where no
    route was asked for often enough."""
    by_route: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in requests:
        by_route[one.route][one.minute].append(one.seconds)
    judged = []
    for name, minutes in by_route.items():
        asked = sum(map(len, minutes.values()))
        found = {minute: p95(values) for minute, values in minutes.items() if len(values) >= LEAST_A_MINUTE}
        if asked >= LEAST and found:
            judged.append((name, asked, found))
    # By the third worst minute, because three of five must be slow before anybody is told.
    return max(judged, key=lambda one: [*sorted(one[2].values(), reverse=True), 0.0, 0.0][2], default=None)


async def api_sample() -> Sample:
    """Seconds of the slowest route, or of one request to ``APP_URL``."""
    if not settings().access_log:
        return await _probed()
    found = slowest(await read_requests())
    if found is None:
        return Sample(said=f"no API route was asked for {LEAST} times in {MINUTES} minutes")
    name, asked, minutes = found
    points = [Point(minute=minute, value=value) for minute, value in sorted(minutes.items())]
    said = f"p95 of {name} was {points[-1].value:.2f} s, asked for {asked} times in {MINUTES} minutes"
    return Sample(points=points, said=said, evidence={"route": name, "requests": asked})


async def _probed() -> Sample:
    settings().need("APP_URL")
    now = now_ms() // MINUTE_MS
    try:
        answer = await call("APP_URL", "GET", settings().secret("APP_URL"), seconds=PROBE_SECONDS)
    except OutsideError as error:  # it is the app that does not answer: that is the alert, not a blind eye
        return Sample(points=[Point(minute=now, value=PROBE_SECONDS, alarm=True)], said=str(error))
    said = f"APP_URL answered {answer.status} in {answer.seconds:.2f} s"
    sick = True if answer.status >= 500 else None
    return Sample(points=[Point(minute=now, value=answer.seconds, alarm=sick)], said=said)
