"""SendGrid's door: the official client, bounded, without redirects; one closed table of errors; pages of a list."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request

import python_http_client
from python_http_client.exceptions import HTTPError as Refusal
from sendgrid import SendGridAPIClient

from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.mask import mask
from runbook.model import Json
from runbook.settings import settings

TIMEOUT_SECONDS = 5.0
RESET_SECONDS = 4
"""A rate limit that ends this soon is waited for, by the next try of a reader."""

PAGE, PAGES = 500, 20
KEY = re.compile(r"SG\.[\w.\-]{8,}")
ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s./]+(?:\.[^@\s./]+)+")
REMOVABLE = frozenset({"blocks", "bounces", "invalid_emails"})
"""The only lists a row is ever taken off: who reported spam or unsubscribed said so."""

# The client writes every request's headers, the key among them, and its body to its logger at DEBUG.
logging.getLogger("python_http_client").setLevel(logging.WARNING)


class TurnedDown(OutsideError):
    """SendGrid looked at the request and said no: nothing was done."""

    def __init__(self, problem: str, next_step: str, status: int) -> None:
        super().__init__("SendGrid", problem, next_step)
        self.status = status


class Lacks(BadSetting):
    """The key works, but not for this."""


class _NoRedirects(HTTPRedirectHandler):
    """A redirect is an answer: followed, it would carry the key to another host."""

    handler_order = 400  # before the one that every opener brings along

    def http_error_302(self, req: Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Raise it as the error it is here."""
        raise HTTPError(req.full_url, code, msg, headers, fp)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Client(python_http_client.Client):  # type: ignore[misc]
    """The official client, bounded in time, on a straight line to its host."""

    def _build_client(self, name: str | None = None) -> _Client:
        return _Client(
            host=self.host,
            version=self._version,
            request_headers=self.request_headers,
            url_path=[*self._url_path, name] if name else self._url_path,
            timeout=self.timeout,
        )

    def _make_request(self, opener: Any, request: Request, timeout: float | None = None) -> Any:
        opener.add_handler(_NoRedirects())
        return super()._make_request(opener, request, timeout)


def _client() -> _Client:
    key, base = settings().secret("SENDGRID_API_KEY"), settings().sendgrid_api_base
    if not KEY.fullmatch(key):
        raise BadSetting("SENDGRID_API_KEY", "is not a SendGrid API key", "set one that starts with SG.")
    headers = SendGridAPIClient(key, host=base)._default_headers
    return _Client(host=base, request_headers=headers, version=3, timeout=TIMEOUT_SECONDS)


async def ask(method: str, *path: str, query: Mapping[str, Json] | None = None, body: Json = None) -> Json:
    """One GET or POST and its parsed JSON (None where the answer is empty); path parts are escaped here.

    Raises ``BadSetting`` for the key, ``Lacks`` for its scopes, ``TurnedDown`` for a certain no, ``OutsideError`` when
    nobody can tell.
    """
    if method not in {"get", "post"}:
        raise ValueError(f"{method} has a door of its own")
    return await asyncio.to_thread(_asked, method, path, query, body)


async def delete_one(kind: str, address: str) -> None:
    """Take exactly one address off one list. An empty part of a path would name the whole list: refused here."""
    if kind not in REMOVABLE or not ADDRESS.fullmatch(address):
        raise ValueError(f"not one row of a list that may be shortened: {kind}")
    await asyncio.to_thread(_asked, "delete", ("suppression", kind, address), None, None)


def _asked(method: str, path: tuple[str, ...], query: Mapping[str, Json] | None, body: Json) -> Json:
    if not all(path):
        raise ValueError(f"an empty part in {path}")
    door = _client()
    for part in path:
        door = door._(quote(part, safe=""))
    try:
        answer = getattr(door, method)(query_params=dict(query or {}), request_body=body)
        return json.loads(answer.body) if answer.body else None
    except Refusal as error:
        raise _ours(error, f"{method} /v3/{'/'.join(path[:2])}") from None
    except ValueError:
        raise OutsideError(
            "SendGrid", "answered something that is no JSON", "check SENDGRID_API_BASE", transient=True
        ) from None
    except (OSError, http.client.HTTPException) as error:
        problem = f"did not answer ({type(getattr(error, 'reason', None) or error).__name__})"
        step = "check SENDGRID_API_BASE and https://status.sendgrid.com"
        raise OutsideError("SendGrid", problem, step, transient=True) from None


def _ours(error: Refusal, what: str) -> RunbookError:
    """The closed table: every status as one of our errors."""
    status, said = int(error.status_code), _said(error.body)
    match status:
        case 401:
            step = "make a new key in the SendGrid dashboard under Settings, API Keys"
            return BadSetting("SENDGRID_API_KEY", "SendGrid does not accept this key (401)", step)
        case 403 if "Sender Identity" in said:
            return TurnedDown(said, "verify the sender under Settings, Sender Authentication", status)
        case 403:
            step = "grant it in the SendGrid dashboard under Settings, API Keys"
            return Lacks("SENDGRID_API_KEY", f"this key may not {what}", step)
        case 429:
            wait = _seconds_to_reset(error.headers)
            problem = f"limits our rate (429), for {wait} s more"
            return OutsideError("SendGrid", problem, "run it again then", transient=wait <= RESET_SECONDS)
        case _ if status >= 500:
            return OutsideError("SendGrid", f"failed ({status})", "see https://status.sendgrid.com", transient=True)
        case _ if status < 400:
            return BadSetting("SENDGRID_API_BASE", f"answers with a redirect ({status})", "set the API's own address")
        case _:
            return TurnedDown(f"refused {what} ({status}): {said}", "see it in the SendGrid dashboard", status)


def _said(body: object) -> str:
    try:
        errors = json.loads(body)["errors"]  # type: ignore[arg-type]
        return str(mask("; ".join(str(one["message"]) for one in errors)))[:300]
    except (ValueError, TypeError, LookupError):
        return "no reason given"


def _seconds_to_reset(headers: Any) -> int:
    try:
        return max(0, int(headers["X-RateLimit-Reset"]) - int(time.time()))
    except (TypeError, ValueError, KeyError):
        return 60


async def listed(kind: str, since: int, until: int) -> list[dict[str, Json]]:
    """The rows of one suppression list made from ``since`` to ``until`` (Unix seconds, both included), each once.

    At most ``PAGE * PAGES``. A row has ``email``, ``created``, and ``reason`` and ``status`` where the list has them.
    """
    rows: dict[str, dict[str, Json]] = {}
    for page in range(PAGES):
        span = {"start_time": since, "end_time": until, "limit": PAGE, "offset": page * PAGE}
        found = await ask("get", "suppression", kind, query=span)
        if not isinstance(found, list) or not all(map(_is_row, found)):
            raise OutsideError("SendGrid", f"a page of {kind} is malformed", "run it again; nothing was changed")
        rows |= {row["email"].lower(): row for row in found}
        if len(found) < PAGE:
            break
    return list(rows.values())


def _is_row(row: Json) -> bool:
    # The list of invalid addresses holds what is no address at all: only a row to be taken off must be one.
    return isinstance(row, dict) and isinstance(row.get("email"), str) and isinstance(row.get("created"), int)
