"""A stand-in for an OpenAI-compatible provider over HTTP, faithful enough for the official SDK, with faults as data."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.serving import Served
from demo.stripe_delivery import Fault, Half, Hangup, pick

KEY = "sk-demo-0123456789abcdef"
OWN, SPARE = "gpt-4o-mini", "gpt-4.1-nano"

ERRORS: Mapping[str, tuple[int, str, str, str]] = {
    "key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-***."),
    "region": (
        *(403, "request_forbidden", "unsupported_country_region_territory"),
        "Country, region, or territory not supported",
    ),
    "gone": (404, "invalid_request_error", "model_not_found", "The model does not exist or you do not have access."),
    "quota": (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota, check your billing."),
    "rate": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests per min (RPM)."),
    "400": (400, "invalid_request_error", "", "Unsupported value."),
    "500": (500, "server_error", "", "The server had an error while processing your request."),
    "503": (503, "service_unavailable", "", "The engine is currently overloaded, please try again later."),
}
"""What the provider answers to each kind of fault: status, type, code, message."""


class OpenAIServer:
    """``with OpenAIServer() as ai``: at ``ai.url`` until the block ends; ``faults`` meet ``METHOD /path model``.

    Kinds: those of ``ERRORS`` (``rate`` asks to wait ``seconds``), ``burst`` (the same, and it is over by then, but no
    sooner), ``slow`` (answers after ``seconds``), ``empty`` (a
    completion without a token), ``thinks`` (all tokens spent on reasoning, no text), ``garbage`` (no JSON), ``page``
    (HTML), ``half``, ``drop``. ``left`` is the share of the rate limits its headers tell. ``flag`` is the app's own
    file that says which model it uses, ``queue`` the one its worker reads.
    """

    def __init__(self, models: tuple[str, ...] = (OWN, SPARE), keys: tuple[str, ...] = (KEY,)) -> None:
        self._offered, self.keys = models, set(keys)
        self.asked: Counter[str] = Counter()
        self._folder = tempfile.TemporaryDirectory(prefix="runbook-ai-", ignore_cleanup_errors=True)
        self.flag, self.queue = Path(self._folder.name) / "model", Path(self._folder.name) / "queue"
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/models/{model:path}", self._model),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
        ]
        self._served = Served(Starlette(routes=routes))
        self.url = f"{self._served.url}/v1"

        self.reset()

    def reset(self) -> None:
        """Everything well, as at first."""
        self.models = list(self._offered)
        self.faults: list[Fault] = []
        self.asked.clear()
        self.left, self.old_names = 0.9, False
        self._limited_until = 0.0
        self.flag.write_text(OWN)
        self.queue.write_text("")

    def __enter__(self) -> OpenAIServer:
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()
        self._folder.cleanup()

    def env(self) -> dict[str, str]:
        """The provider, the fallback model, and the commands that turn, read and feed the app's own files."""
        return {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": self.url,
            "OPENAI_MODEL": OWN,
            "RUNBOOK_AI_FALLBACK_MODEL": SPARE,
            "RUNBOOK_AI_FALLBACK_COMMAND": f"""sh -c 'printf %s "$0" > {self.flag}' {{model}}""",
            "RUNBOOK_AI_STATE_COMMAND": f"cat {self.flag}",
            "RUNBOOK_AI_REQUEUE_COMMAND": f"""sh -c 'echo "$0" >> {self.queue}' {{id}}""",
        }

    def fault(self, kind: str, model: str = OWN, *, path: str = "chat", times: int = 1000, seconds: float = 0) -> Fault:
        """Inject one, on completions of one model unless said otherwise."""
        made = Fault(f"{path}.* {model}$", kind, times=times, seconds=seconds)
        self.faults.append(made)
        return made

    # -- what it answers ----------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"object": "list", "data": [_model(one) for one in self.models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        self.asked[f"models {name}"] += 1
        if refused := self._refused(request):
            return refused
        return JSONResponse(_model(name)) if name in self.models else _error("gone")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked[body["model"]] += 1
        if refused := self._refused(request):
            return refused
        fault = pick(self.faults, f"POST {request.url.path} {body['model']}")
        if fault is not None and fault.kind == "burst":
            self._limited_until = self._limited_until or time.monotonic() + fault.seconds
            fault = None if time.monotonic() >= self._limited_until else replace(fault, kind="rate")
        if fault is not None and fault.kind in ERRORS:
            return self._failure(fault)
        if fault is not None and fault.kind == "drop":
            return Hangup()
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if body["model"] not in self.models:
            return _error("gone")
        if self.old_names and "max_completion_tokens" in body:
            return _answer(400, "invalid_request_error", "", "Unknown parameter: 'max_completion_tokens'.")
        return self._answered(body["model"], fault.kind if fault is not None else "")

    def _refused(self, request: Request) -> Response | None:
        return None if request.headers.get("authorization", "").removeprefix("Bearer ") in self.keys else _error("key")

    def _failure(self, fault: Fault) -> Response:
        answer = _error(fault.kind)
        if fault.kind == "rate":
            answer.headers["retry-after"] = f"{fault.seconds:g}"
            answer.headers.update(self._limits() | {"x-ratelimit-remaining-requests": "0"})
        return answer

    def _answered(self, model: str, kind: str) -> Response:
        text = json.dumps(_completion(model, kind))
        if kind == "half":
            return Half(text, media_type="application/json")
        if kind == "garbage":
            text = text[: len(text) // 2]
        if kind == "page":
            return Response("<html>welcome to the proxy</html>", headers=self._limits(), media_type="text/html")
        return Response(text, headers=self._limits(), media_type="application/json")

    def _limits(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": str(round(500 * self.left)),
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": str(round(30_000 * self.left)),
            "x-ratelimit-reset-tokens": "6s",
        }


def _error(kind: str) -> Response:
    return _answer(*ERRORS[kind])


def _answer(status: int, type_: str, code: str, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": type_, "param": None, "code": code or None}}, status)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_735_000_000, "owned_by": "system"}


def _completion(model: str, kind: str) -> dict[str, Any]:
    used = 0 if kind == "empty" else 16
    text = "" if kind in {"empty", "thinks"} else "ok"
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_735_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "length" if kind == "thinks" else "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": used, "total_tokens": 12 + used},
    }
