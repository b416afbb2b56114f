"""How a generation can fail: a closed table of kinds; one place that reads a provider's errors and headers. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

import openai
from openai.types.chat import ChatCompletion


class Kind(StrEnum):
    """How one probe ended."""

    ok = "ok"
    key = "key"
    forbidden = "forbidden"
    quota = "quota"
    model = "model"
    rate_limit = "rate limit"
    timeout = "timeout"
    unreachable = "unreachable"
    server = "server error"
    malformed = "malformed answer"
    empty = "empty answer"
    turned_down = "turned down"


class Meaning(NamedTuple):
    """What a kind of failure is and who does what about it.

    ``account``: the key or its account is at fault, so asking again is useless, every model behind the key fails
    alike, and only a person mends it.
    """

    problem: str
    next_step: str
    account: bool = False


MEANING: Mapping[Kind, Meaning] = {
    Kind.key: Meaning("the key is refused", "make a new key at the provider and set OPENAI_API_KEY", account=True),
    Kind.forbidden: Meaning(
        "this key, project or region may not use it", "see the project's limits and the server's region", account=True
    ),
    Kind.quota: Meaning(
        "the quota or the credit is used up", "add credit on the provider's billing page", account=True
    ),
    Kind.model: Meaning("the model is retired, misspelled or not for this key", "set OPENAI_MODEL to one that exists"),
    Kind.rate_limit: Meaning("rate limited, and still so after the pause asked for", "ask less or raise the limit"),
    Kind.timeout: Meaning("gives no answer in time", "see the provider's status page"),
    Kind.unreachable: Meaning("cannot be reached", "see the provider's status page, DNS and OPENAI_BASE_URL"),
    Kind.server: Meaning("answers with server errors", "see the provider's status page"),
    Kind.malformed: Meaning("answers what is no completion", "see whether OPENAI_BASE_URL is right"),
    Kind.empty: Meaning("answers without a single token", "see the provider's status page"),
}
"""The closed table of failures. ``turned_down`` is none of them: our own question was not understood."""

BY_CODE: Mapping[str, Kind] = {
    "insufficient_quota": Kind.quota,
    "billing_hard_limit_reached": Kind.quota,
    "billing_not_active": Kind.quota,
    "rate_limit_exceeded": Kind.rate_limit,
    "model_not_found": Kind.model,
    "model_decommissioned": Kind.model,
    "invalid_api_key": Kind.key,
    "unsupported_country_region_territory": Kind.forbidden,
}
BY_STATUS: Mapping[int, Kind] = {
    401: Kind.key,
    402: Kind.quota,
    403: Kind.forbidden,
    404: Kind.model,
    408: Kind.timeout,
    429: Kind.rate_limit,
}


def judge(completion: object) -> Kind:
    """Whether a parsed answer is a completion with at least one token, said or thought."""
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        return Kind.malformed
    if completion.usage is not None:
        return Kind.ok if completion.usage.completion_tokens else Kind.empty
    message = completion.choices[0].message
    return Kind.ok if message is not None and message.content else Kind.empty


def classify(error: openai.OpenAIError) -> Kind:
    """The kind of an error of the SDK; the vendor's code weighs more than the status."""
    if isinstance(error, openai.APITimeoutError):  # before its parent, APIConnectionError
        return Kind.timeout
    if isinstance(error, openai.APIConnectionError):
        return Kind.unreachable
    if not isinstance(error, openai.APIStatusError):
        return Kind.malformed
    for code in (error.code, error.type):
        if code is not None and code in BY_CODE:
            return BY_CODE[code]
    if error.status_code >= 500 or error.status_code == 409:
        return Kind.server
    return BY_STATUS.get(error.status_code, Kind.turned_down)


def asked_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, as ``retry-after-ms``, ``retry-after`` (seconds or a date) or a spent limit's reset say."""
    told = (_number(headers.get("retry-after-ms", ""), 0.001), _number(headers.get("retry-after", ""), 1))
    if (seconds := next((one for one in told if one is not None), None)) is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except ValueError:
        pass
    spent = [what for what in ("requests", "tokens") if headers.get(f"x-ratelimit-remaining-{what}") == "0"]
    resets = [span(headers.get(f"x-ratelimit-reset-{what}", "")) for what in spent]
    return max((one for one in resets if one is not None), default=None)


def _number(text: str, unit: float) -> float | None:
    try:
        value = float(text) * unit
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def span(text: str) -> float | None:
    """Seconds of a span such as ``6m0s``, ``1.5s`` or ``20ms``; None where it is none."""
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|[dhms]))+", text):
        return None
    unit = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
    return sum(float(count) * unit[name] for count, name in re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms])", text))


def left(headers: Mapping[str, str]) -> dict[str, float]:
    """The share left of the limits on requests and tokens, 0 to 1, where the headers tell both numbers."""
    shares: dict[str, float] = {}
    for what in ("requests", "tokens"):
        limit, rest = headers.get(f"x-ratelimit-limit-{what}", ""), headers.get(f"x-ratelimit-remaining-{what}", "")
        if limit.isdecimal() and rest.isdecimal() and int(limit):
            shares[what] = min(1.0, int(rest) / int(limit))
    return shares
