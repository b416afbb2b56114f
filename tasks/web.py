"""One HTTP call to a system under care: bounded in time and size, every failure in one line to act on."""

from __future__ import annotations

import json as jsonlib
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from runbook.errors import OutsideError
from runbook.mask import mask
from runbook.model import Frozen, Json

SECONDS = 10.0
BYTES = 4 * 1024 * 1024


class Answer(Frozen):
    """What came back: the status, headers by lower-case name, at most ``BYTES`` of the body, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def parsed(self, setting: str) -> Json:
        """The body as JSON; raises ``OutsideError`` naming ``setting`` where it is none."""
        try:
            return jsonlib.loads(self.body)
        except ValueError:
            raise OutsideError(
                setting, f"answered {self.status} with a body that is no JSON", f"see whether {setting} is right"
            ) from None

    def said(self, width: int = 200) -> str:
        """The body's first words, for a person: masked before they are cut, as half a secret is known to nobody."""
        return str(mask(" ".join(self.body[: 64 * 1024].decode("utf-8", "replace").split())))[:width]


async def call(
    setting: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    json: Json = None,
    content: bytes | None = None,
    seconds: float = SECONDS,
) -> Answer:
    """One request, never repeated here; any status is an answer. ``setting`` is what the error names.

    Raises ``OutsideError``, transient, where no whole answer came: the request may have been acted on all the same.
    """
    sent: dict[str, Any] = {"headers": dict(headers or {}), "content": content}
    if json is not None:
        sent["json"] = json
    try:
        async with (
            httpx.AsyncClient(
                timeout=seconds, follow_redirects=False, trust_env=False, verify=certificates()
            ) as client,
            client.stream(method, url, **sent) as answer,
        ):
            body = bytearray()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > BYTES:
                    raise OutsideError(setting, f"{_host(url)} answered more than {BYTES} bytes", f"correct {setting}")
    except httpx.InvalidURL:
        raise OutsideError(setting, "is no URL", f"correct {setting}") from None
    except httpx.TimeoutException:
        raise OutsideError(
            setting, f"{_host(url)} did not answer in {seconds:g} s", "see whether it is up", transient=True
        ) from None
    except httpx.HTTPError as error:
        said = f"{_host(url)} cannot be reached ({type(error).__name__})"
        raise OutsideError(
            setting, said, f"see whether it is up, and whether {setting} is right", transient=True
        ) from None
    return Answer(
        status=answer.status_code,
        headers={name.lower(): value for name, value in answer.headers.items()},
        body=bytes(body),
        seconds=answer.elapsed.total_seconds(),
    )


@lru_cache(maxsize=1)
def certificates() -> ssl.SSLContext:
    """Whom to believe over TLS: read once, since reading them takes longer than a call on the same machine."""
    return httpx.create_ssl_context(trust_env=False)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
