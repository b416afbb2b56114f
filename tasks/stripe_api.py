"""Stripe's door: one client, one closed table of errors, pages of a list, and the probe of the key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

import requests
import stripe
from stripe import RequestsClient, StripeClient
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.model import Json
from runbook.settings import settings
from runbook.step import reader

T = TypeVar("T")

TIMEOUT_SECONDS = 10
SDK_RETRIES = 2
TRIES = 3
"""Tries of one call in all, only for the errors which the SDK itself does not try again."""

WAIT = wait_exponential(multiplier=0.5, max=4) + wait_random(0, 0.5)
PAGE = 100
KEY = re.compile(r"(?:sk|rk)_(test|live)_\w+")
SCOPE = re.compile(r"'(rak_\w+)'")


class TurnedDown(OutsideError):
    """Stripe looked at the request and said no: nothing was done."""

    def __init__(self, problem: str, next_step: str, *, status: int = 0, code: str = "") -> None:
        super().__init__("Stripe", problem, next_step)
        self.status, self.code = status, code


class _Straight(requests.Session):
    """A redirect is an answer: followed, it would carry customers' data, and the key on the same host, elsewhere."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None is followed."""


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> StripeClient:
    return StripeClient(
        key,
        base_addresses={"api": base},
        max_network_retries=SDK_RETRIES,
        http_client=RequestsClient(timeout=TIMEOUT_SECONDS, session=_Straight()),
    )


def key_is_live() -> bool:
    """What the key says of itself; raises ``BadSetting`` when it is no secret key at all."""
    kind = KEY.fullmatch(settings().secret("STRIPE_SECRET_KEY"))
    if kind is None:
        raise BadSetting(
            "STRIPE_SECRET_KEY", "is not a Stripe secret key", "set one that starts with sk_test_, sk_live_ or rk_"
        )
    return kind[1] == "live"


def asked(method: str, path: str, params: Mapping[str, Json] | None = None, key: str | None = None) -> Json:
    """One call to Stripe and its parsed JSON; with ``key`` as Idempotency-Key it happens at most once.

    Raises ``BadSetting`` for the key, ``TurnedDown`` for a certain no, ``OutsideError`` when nobody can tell.
    """
    return _text_and_data(method, path, params, key)[1]


def asked_text(path: str) -> str:
    """One object exactly as Stripe spells it, for a signature over its bytes."""
    return _text_and_data("get", path, None, None)[0]


async def ask(method: str, path: str, params: Mapping[str, Json] | None = None, key: str | None = None) -> Json:
    """``asked`` outside the event loop."""
    return await asyncio.to_thread(asked, method, path, params, key)


def _text_and_data(method: str, path: str, params: Mapping[str, Json] | None, key: str | None) -> tuple[str, Json]:
    client = _client(settings().secret("STRIPE_SECRET_KEY"), settings().stripe_api_base)
    options = {"idempotency_key": key} if key else {}

    def once() -> tuple[str, Json]:
        answer = client.raw_request(method, path, **(params or {}), **options)
        return answer.body, answer.data

    return _tried(once, reading=method == "get")


def _tried(call: Callable[[], T], *, reading: bool) -> T:
    try:
        for attempt in Retrying(
            stop=stop_after_attempt(TRIES),
            wait=WAIT,
            retry=retry_if_exception(lambda error: _again(error, reading=reading)),
            reraise=True,
        ):
            with attempt:
                return call()
    except stripe.StripeError as error:
        raise _ours(error) from None
    raise AssertionError("tenacity always returns or raises")


def _again(error: BaseException, *, reading: bool) -> bool:
    """True for errors that deserve another try and that the SDK lets through at once."""
    if isinstance(error, stripe.RateLimitError):
        return "stripe-should-retry" not in (error.headers or {})
    if not reading:
        return False
    if isinstance(error, stripe.APIConnectionError):
        return isinstance(error.__cause__, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, stripe.APIError) and error.http_status is not None and error.http_status < 300


def code_of(error: stripe.StripeError) -> str:
    """Stripe's word for the error; ``error.code`` alone is None on rate limits and authentication."""
    inner = error.error
    words = (getattr(inner, "decline_code", None), error.code, getattr(inner, "code", None))
    return next((str(word) for word in words if word), "")


def _ours(error: stripe.StripeError) -> RunbookError:
    """The closed table: every error of the SDK as one of ours."""
    status, code = error.http_status or 0, code_of(error)
    match error:
        case stripe.AuthenticationError():
            problem = f"Stripe does not accept this key ({code or status})"
            return BadSetting("STRIPE_SECRET_KEY", problem, "copy the current secret key from the Stripe dashboard")
        case stripe.PermissionError():
            scope = SCOPE.search(str(error))
            problem = f"this key lacks the permission {scope[1] if scope else 'for this call'}"
            return BadSetting("STRIPE_SECRET_KEY", problem, "grant it to the restricted key in the Stripe dashboard")
        case stripe.RateLimitError():
            return OutsideError("Stripe", "limits our rate (429)", "run it again in a minute", transient=True)
        case stripe.APIConnectionError():
            timed_out = isinstance(error.__cause__, requests.exceptions.Timeout)
            problem = f"did not answer ({type(error.__cause__).__name__})"
            step = "check STRIPE_API_BASE and https://status.stripe.com"
            return OutsideError("Stripe", problem, step, transient=not timed_out)  # three times 10 s are enough
        case stripe.CardError():
            return TurnedDown(f"the card was declined: {code or 'no code'}", "see the invoice", status=402, code=code)
        case stripe.InvalidRequestError() | stripe.IdempotencyError():
            return TurnedDown(
                f"refused ({status}): {error.user_message}", "see it in the dashboard", status=status, code=code
            )
        case _ if 300 <= status < 400:
            return BadSetting("STRIPE_API_BASE", f"answers with a redirect ({status})", "set the API's own address")
        case _ if status < 300:
            return OutsideError("Stripe", "answered something that is no JSON", "check STRIPE_API_BASE", transient=True)
        case _:
            return OutsideError(
                "Stripe", f"failed ({status})", "see https://status.stripe.com", transient=status >= 500
            )


def pages(path: str, **params: Json) -> Iterator[list[dict[str, Json]]]:
    """Every page of a list, each checked before it is given out; one call a page and none beyond the last."""
    after: dict[str, Json] = {}
    while True:
        body = asked("get", path, {"limit": PAGE, **params, **after})
        rows, more = _checked(path, body)
        yield rows
        if not more:
            return
        after = {"starting_after": rows[-1]["id"]}


def _checked(path: str, body: Json) -> tuple[list[dict[str, Json]], bool]:
    rows = body.get("data") if isinstance(body, dict) and body.get("object") == "list" else None
    more = body.get("has_more") if isinstance(body, dict) else None
    well = isinstance(rows, list) and isinstance(more, bool)
    if not well or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows or ()):
        raise OutsideError("Stripe", f"a page of {path} is malformed", "run it again; nothing was changed")
    assert isinstance(rows, list)
    if more and len(rows) < PAGE:
        problem = f"a page of {path} is partial: {len(rows)} of {PAGE} with more to come"
        raise OutsideError("Stripe", problem, "run it again; nothing was changed")
    live = key_is_live()
    if any(row.get("livemode", live) is not live for row in rows):
        raise wrong_mode(live=live)
    return rows, bool(more)


def wrong_mode(*, live: bool) -> BadSetting:
    """The refusal for a key whose prefix and answers disagree."""
    ours, theirs = ("live", "test") if live else ("test", "live")
    problem = f"is a {ours} key but Stripe answers in {theirs} mode"
    return BadSetting("STRIPE_SECRET_KEY", problem, "set the key that belongs to this app and to STRIPE_API_BASE")


@reader("probe the Stripe key")
async def probe_key() -> None:
    """Return when the key works and Stripe answers in the mode of its prefix, else raise ``BadSetting``."""
    live = key_is_live()
    balance = await ask("get", "/v1/balance")
    if not isinstance(balance, dict) or balance.get("livemode") is not live:
        raise wrong_mode(live=live)
