"""Keeps secrets and personal data out of every output, artifact and ledger row."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from runbook.errors import BadSetting
from runbook.model import Json
from runbook.settings import secrets_in_force

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b((?:sk|rk|pk)_(?:live|test)_|whsec_|SG\.|sk-)[A-Za-z0-9_\-.]{4,}"), r"\1***"),
    (re.compile(r"(://[^:/@\s]*:)[^@\s]+@"), r"\1***@"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._\-]{8,}"), r"\1***"),
    (re.compile(r"(?i)\b(password\s*=\s*)\S+"), r"\1***"),
    (re.compile(r"\b([A-Za-z0-9])[A-Za-z0-9._%+\-]*@([A-Za-z0-9.\-]+\.[A-Za-z]{2,})\b"), r"\1***@\2"),
)
_LITERALS = re.compile(r"'(?:[^']|'')*'|\$([A-Za-z_]*)\$.*?\$\1\$|\b\d+(?:\.\d+)?\b", re.DOTALL)


def mask(value: Json) -> Json:
    """The same value with every secret in force, key-shaped word, URL password and mail address blotted out."""
    if isinstance(value, str):
        return _mask_text(value)
    if isinstance(value, Mapping):
        return {key: mask(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(inner) for inner in value]
    return value


def _mask_text(text: str) -> str:
    for secret in _secrets():
        text = text.replace(secret, "***")
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def _secrets() -> list[str]:
    try:
        return secrets_in_force()
    except BadSetting:  # the line that says so must come out; no value of any setting is in it
        return []


def statement(sql: str, width: int = 200) -> str:
    """A statement's shape without its literals, in at most ``width`` characters."""
    shape = " ".join(_LITERALS.sub("?", sql).split())
    return shape if len(shape) <= width else f"{shape[: width - 1]}…"


def secret_mark(secret: str) -> str:
    """A secret's length and a short keyed fingerprint: enough to tell two apart, useless to an attacker."""
    digest = hmac.new(b"runbook", secret.encode(), hashlib.sha256).hexdigest()[:8]
    return f"{len(secret)} characters, fingerprint {digest}"
