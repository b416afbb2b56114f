"""Stand-ins for PagerDuty's Events API, Slack's and a plain webhook: they keep what they hear, and fail on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from demo.serving import Served

ROUTING_KEY = "R0123456789abcdef0123456789abcdef"
SEVERITIES = ("critical", "error", "warning", "info")
HOOK = "/services/T0001/B0001/demoslackhook0123456789"


@dataclass
class Fault:
    """How the next ``times`` messages are answered: ``status`` after ``seconds``; with ``taken`` they count all the
    same, as when the answer was lost."""

    times: int
    status: int = 503
    seconds: float = 0.0
    taken: bool = False


class _Recorder:
    """What the two have in common: a port, faults as data, and every message that was taken, in order.

    ``answer`` reads one message and says what the vendor says to it.
    """

    def __init__(self, path: str, answer: Callable[[bytes], Response]) -> None:
        self._answer = answer
        self.messages: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.asked = 0
        self._lock = threading.Lock()
        self._served = Served(Starlette(routes=[Route(path, self._take, methods=["POST"])]))
        self.url = self._served.url

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()

    def _fault(self) -> Fault | None:
        with self._lock:
            self.asked += 1
            while self.faults and self.faults[0].times == 0:
                self.faults.pop(0)
            if not self.faults:
                return None
            self.faults[0].times -= 1
            return self.faults[0]

    async def _take(self, request: Request) -> Response:
        fault, body = self._fault(), await request.body()
        if fault is not None:
            await asyncio.sleep(fault.seconds)
            if not fault.taken:
                return PlainTextResponse("no", fault.status)
        answer = self._answer(body)
        return PlainTextResponse("no", fault.status) if fault is not None else answer


class PagerDuty(_Recorder):
    """``incidents`` are those not yet resolved, by dedup_key; a trigger of one of them opens no new one."""

    def __init__(self) -> None:
        super().__init__("/v2/enqueue", self._event)
        self.incidents: dict[str, str] = {}
        self.opened: list[str] = []

    def __enter__(self) -> PagerDuty:
        self._served.start()
        return self

    def env(self) -> Mapping[str, str]:
        """The settings that send pages here."""
        return {"PAGERDUTY_ROUTING_KEY": ROUTING_KEY, "PAGERDUTY_API_BASE": self.url}

    def triggers(self, page_key: str) -> int:
        """How often a page was raised here, under whatever incident it was grouped."""
        asked = [one.get("payload", {}).get("custom_details", {}).get("acknowledge") for one in self.messages]
        return asked.count(f"runbook ack {page_key}")

    def _event(self, body: bytes) -> Response:
        event = json.loads(body)
        problem = _problem(event)
        if problem:
            return JSONResponse(
                {"status": "invalid event", "message": "Event object is invalid", "errors": [problem]}, 400
            )
        key = event["dedup_key"]
        with self._lock:
            self.messages.append(event)
            match event["event_action"]:
                case "trigger" if key not in self.incidents:
                    self.incidents[key] = "triggered"
                    self.opened.append(key)
                case "acknowledge" if key in self.incidents:
                    self.incidents[key] = "acknowledged"
                case "resolve":
                    self.incidents.pop(key, None)
        return JSONResponse({"status": "success", "message": "Event processed", "dedup_key": key}, 202)


def _problem(event: Mapping[str, Any]) -> str:
    if event.get("routing_key") != ROUTING_KEY:
        return "Invalid routing key"
    if event.get("event_action") not in {"trigger", "acknowledge", "resolve"}:
        return "'event_action' is missing or invalid"
    if not 0 < len(str(event.get("dedup_key") or "")) <= 255:
        return "'dedup_key' is missing or too long"
    if event["event_action"] != "trigger":
        return ""
    payload = event.get("payload") or {}
    missing = [name for name in ("summary", "source", "severity") if not payload.get(name)]
    if missing or payload["severity"] not in SEVERITIES or len(payload["summary"]) > 1024:
        return f"'payload' is missing or invalid: {missing}"
    return ""


class Slack(_Recorder):
    """One incoming webhook of Slack's."""

    def __init__(self) -> None:
        super().__init__(HOOK, self._message)

    def __enter__(self) -> Slack:
        self._served.start()
        return self

    def env(self) -> Mapping[str, str]:
        """The setting that sends messages here."""
        return {"SLACK_WEBHOOK_URL": f"{self.url}{HOOK}"}

    @property
    def text(self) -> str:
        """All that was posted."""
        return "\n".join(str(one["text"]) for one in self.messages)

    def _message(self, body: bytes) -> Response:
        message = json.loads(body)
        if not message.get("text"):
            return PlainTextResponse("no_text", 400)
        with self._lock:
            self.messages.append(message)
        return PlainTextResponse("ok")


class PlainHook(_Recorder):
    """Any service that takes JSON by POST, in the form Apprise sends to ``json://``."""

    def __init__(self) -> None:
        super().__init__("/hook", self._message)

    def __enter__(self) -> PlainHook:
        self._served.start()
        return self

    def env(self) -> Mapping[str, str]:
        """The setting that sends messages here."""
        return {"RUNBOOK_NOTIFY_URLS": f"json{self.url.removeprefix('http')}/hook?rto=1"}

    def _message(self, body: bytes) -> Response:
        with self._lock:
            self.messages.append(json.loads(body))
        return PlainTextResponse("ok")
