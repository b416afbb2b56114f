"""The AI provider as a generation meets it: a tiny completion is asked for, and every way it can fail has a name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import openai

from runbook.errors import BadSetting
from runbook.mask import mask
from runbook.model import Frozen, Json
from runbook.settings import settings
from runbook.step import reader
from tasks.generation_errors import MEANING, Kind, asked_wait, classify, judge, left

OPENAI = "https://api.openai.com/v1"
TOKENS = 16
"""Asked for by a probe; a model that reasons may use them all up and say nothing, which is no failure."""

PATIENCE = 30.0
"""Seconds a run waits at most before it asks again; a provider that wants longer is asked by the next run."""


class Access(NamedTuple):
    """Where a model is to be had; ``key_setting`` names the setting that holds the key."""

    model: str
    base_url: str
    key_setting: str

    def shares(self, other: Access) -> bool:
        """True where both spend the same quota: the same key at the same address."""
        same_key = settings().secret(self.key_setting) == settings().secret(other.key_setting)
        return self.base_url == other.base_url and same_key


class Sample(Frozen):
    """One probe: how it ended, what the provider said of it (masked), and the limits its headers tell.

    ``wait`` is how long the provider asks us to wait, in seconds; ``left`` the share of each limit that is left.
    """

    kind: Kind
    seconds: float
    status: int | None = None
    code: str = ""
    said: str = ""
    wait: float | None = None
    left: Mapping[str, float] = {}


class Probe(Frozen):
    """Some samples of one model in a row; ``listed`` says whether the provider knows it, None where it did not say."""

    model: str
    samples: tuple[Sample, ...]
    listed: bool | None = None

    @property
    def kind(self) -> Kind:
        return self.samples[-1].kind

    @property
    def failing(self) -> bool:
        """Every sample failed."""
        return all(one.kind in MEANING for one in self.samples)

    @property
    def well(self) -> bool:
        """Every sample succeeded."""
        return all(one.kind is Kind.ok for one in self.samples)

    @property
    def account(self) -> bool:
        """The account is at fault, not the model."""
        return self.kind in MEANING and MEANING[self.kind].account

    @property
    def left(self) -> Mapping[str, float]:
        return next((one.left for one in reversed(self.samples) if one.left), {})

    def plus(self, later: Probe) -> Probe:
        """These samples and some later ones of the same model."""
        return self.model_copy(update={"samples": (*self.samples, *later.samples)})

    def evidence(self) -> dict[str, Json]:
        """The samples as a person reads them."""
        keep = {"kind", "status", "code", "seconds", "said"}
        return {"samples": [one.model_dump(mode="json", include=keep) for one in self.samples], "listed": self.listed}


def primary() -> Access | None:
    """The app's own model, or None where it is not configured."""
    known = settings()
    if not (known.openai_api_key and known.openai_model):
        return None
    return Access(known.openai_model, known.openai_base_url or OPENAI, "OPENAI_API_KEY")


def fallback() -> Access | None:
    """The model to fall back to; where it has no address or key of its own it uses the app's."""
    known, main = settings(), primary()
    if main is None or not known.runbook_ai_fallback_model:
        return None
    own_key = known.runbook_ai_fallback_api_key is not None
    key = "RUNBOOK_AI_FALLBACK_API_KEY" if own_key else "OPENAI_API_KEY"
    return Access(known.runbook_ai_fallback_model, known.runbook_ai_fallback_base_url or main.base_url, key)


@reader("probe {access.model}")
async def read_probe(access: Access, samples: int, pause: float, seconds: float, *, every: bool = False) -> Probe:
    """Ask until it answers, or ``samples`` times; with ``every`` also after an answer, to see that it lasts.

    Samples that differ end it early, and so does a failure that asking again cannot change. Between two samples it
    waits ``pause`` seconds, or as long as the provider asks; ``seconds`` bounds each.
    """
    taken: list[Sample] = []
    listed: bool | None = None
    async with _client(access, seconds) as client:
        while True:
            taken.append(await _sample(client, access.model))
            last = taken[-1]
            if last.kind in MEANING and not MEANING[last.kind].account and listed is None:
                listed = await _listed(client, access.model)
            mixed = len({one.kind in MEANING for one in taken}) > 1
            final = (last.kind not in MEANING and not every) or last.kind is Kind.turned_down
            wait = max(pause, last.wait or 0)
            if len(taken) >= samples or mixed or final or _account(last) or wait > PATIENCE:
                return Probe(model=access.model, samples=tuple(taken), listed=listed)
            await asyncio.sleep(wait)


def _account(sample: Sample) -> bool:
    return sample.kind in MEANING and MEANING[sample.kind].account


def _client(access: Access, seconds: float) -> openai.AsyncOpenAI:
    key = settings().secret(access.key_setting)
    if not key.isascii() or not key.isprintable():
        raise BadSetting(access.key_setting, "holds characters no key has", f"copy {access.key_setting} once more")
    # The SDK's own retries repeat even insufficient_quota, its timeout is ten minutes, and it follows redirects.
    http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
    client = openai.AsyncOpenAI(api_key=key, base_url=access.base_url, http_client=http)
    return client.with_options(max_retries=0, timeout=seconds)


async def _sample(client: openai.AsyncOpenAI, model: str) -> Sample:
    began = time.monotonic()
    try:
        raw = await _complete(client, model)
    except openai.OpenAIError as error:
        return failed(error, time.monotonic() - began)
    seconds = time.monotonic() - began
    try:
        kind = judge(raw.parse())
    except ValueError:
        kind = Kind.malformed
    return Sample(kind=kind, seconds=round(seconds, 3), status=raw.status_code, left=left(raw.headers))


async def _complete(client: openai.AsyncOpenAI, model: str) -> Any:
    create = client.chat.completions.with_raw_response.create
    ask: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Answer with the word ok."}]}
    try:
        return await create(**ask, max_completion_tokens=TOKENS)
    except openai.BadRequestError as error:
        if "max_completion_tokens" not in str(error):
            raise
    return await create(**ask, max_tokens=TOKENS)  # a compatible server that knows the older name only


async def _listed(client: openai.AsyncOpenAI, model: str) -> bool | None:
    try:
        await client.models.retrieve(model)
    except openai.NotFoundError:
        return False
    except (openai.OpenAIError, ValueError):
        return None
    return True


def failed(error: openai.OpenAIError, seconds: float) -> Sample:
    """The sample of an error of the SDK."""
    found: dict[str, Any] = {"kind": classify(error), "seconds": round(seconds, 3), "said": str(mask(str(error)))[:200]}
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        found |= {"status": error.status_code, "wait": asked_wait(headers, time.time()), "left": left(headers)}
    if isinstance(error, openai.APIError):
        found["code"] = str(mask(error.code or error.type or ""))
    return Sample(**found)
