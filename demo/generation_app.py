"""The part of the app that writes résumés by AI: on failure its users get a template, and only the log tells."""

from __future__ import annotations

import threading
from types import TracebackType

import openai

from demo.app import App
from demo.openai_server import KEY, OpenAIServer

SECONDS = 1.0
"""The real app gives up after six seconds; a demo has no six."""


class Generator:
    """``with Generator(app, ai) as generator``: uses the model its flag file names, and works off its queue file."""

    def __init__(self, app: App, ai: OpenAIServer, seconds: float = SECONDS) -> None:
        self.app, self.ai = app, ai
        self.written: list[str] = []
        self._client = openai.OpenAI(api_key=KEY, base_url=ai.url, max_retries=0, timeout=seconds)
        self._done = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Generator:
        self._worker.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        self._done.set()
        self._worker.join(5)
        self._client.close()

    def generate(self, name: str, *, credits: bool = True, tries: int = 1) -> str:
        """What the user gets, always with a 200; each failed try and the template are logged."""
        if not credits:
            self.app.log("info", "ai_using_template", generationId=name, reason="no_credits")
            return "template"
        for attempt in range(1, tries + 1):
            if self._attempt(name, attempt):
                return "written"
        self.app.log("warn", "ai_using_template", generationId=name, reason="all_attempts_failed")
        return "template"

    def _attempt(self, name: str, attempt: int) -> bool:
        model = self.ai.flag.read_text()
        told = {"generationId": name, "attempt": attempt, "model": model}
        try:
            made = self._client.chat.completions.create(model=model, messages=[{"role": "user", "content": name}])
            text = made.choices[0].message.content or ""
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            self.app.log("warn", "ai_attempt_failed", error=type(error).__name__, **told)
            return False
        if not text:
            self.app.log("warn", "ai_attempt_failed", error="empty", **told)
            return False
        self.written.append(name)
        self.app.log("info", "ai_success", length=len(text), **told)
        return True

    def _work(self) -> None:
        done = 0
        while not self._done.wait(0.05):
            names = self.ai.queue.read_text().split()
            for name in names[done:]:
                self.generate(name)
            done = len(names)
