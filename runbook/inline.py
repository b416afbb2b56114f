"""Secrets written into settings that are none themselves: a token in a command's argument, or in a URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, unquote, urlsplit

_NAME = r"[\w\-]*(?:token|secret|passw(?:or)?d|passwd|pwd|key|authorization|signature)"
# What a name gives: --token VALUE, --token=VALUE, TOKEN=VALUE, ?token=VALUE, "X-Token: Bearer VALUE".
_NAMED = re.compile(
    rf"(?i)(?:(?<![\w\-])--{_NAME}[ =]|(?<![\w\-]){_NAME}=|(?<![\w\-]){_NAME}:\s*(?:bearer\s+|basic\s+)?)"
    r"[\"']?([^\s\"'&;,#{}]{6,})"
)
_URL = re.compile(r"https?://[^\s\"'<>]+")
_TOKEN = re.compile(r"(?=[\w\-]*\d)(?=[\w\-]*[A-Za-z])[\w\-]{16,}")


def inline(text: str, *, path: bool = False) -> set[str]:
    """Every secret in a command or URL, as written and decoded; with ``path`` what looks like a token in one too."""
    found = {value for value in _NAMED.findall(text) if not value.startswith(("/", "./", "http"))}
    for url in _URL.findall(text):
        found |= {value for value in _of_url(url, path=path) if len(value) >= 6}
    return found | {unquote(value) for value in found}


def _of_url(url: str, *, path: bool) -> Iterator[str]:
    try:
        parts: SplitResult = urlsplit(url)
        yield parts.password or ""
    except ValueError:
        return
    if path:
        yield from (segment for segment in parts.path.split("/") if _TOKEN.fullmatch(segment))
