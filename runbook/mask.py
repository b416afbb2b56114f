"""Keeps secrets and personal data out of every output, artifact and ledger row.

A secret is known by its value, where it is a setting; by its form, where its vendor gives it one; and by what stands
before it. A secret of no known form in the middle of a sentence is known to nobody: docs/security.md says so.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from runbook.errors import BadSetting
from runbook.model import Json
from runbook.settings import secrets_in_force

_NAMED = (
    r"(?<![\w\-])[\w\-]*(?:token|secret|passw(?:or)?d|passwd|pwd|credentials?|"
    r"(?:api|access|private|routing)[_\-]?key)"
)
_QUOTE = r"\\*[\"'`]"
# Every repetition is bounded, or begins where no other began: a hostile text costs no more than its length.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # what is a key by its own form
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "***"),
    (
        re.compile(
            r"\b((?:sk|rk|pk)_(?:live|test)_|whsec_|SG\.|sk-|xox[a-z]-|gh[a-z]_|github_pat_|glpat-|npm_|AKIA|ASIA)"
            r"[A-Za-z0-9_\-.]{4,}"
        ),
        r"\1***",
    ),
    (re.compile(r"\beyJ[\w\-]{8,}(?:\.[\w\-]*){0,4}"), "***"),
    # what is one by where it stands: in a URL, a header, beside its name
    (re.compile(r"(://[^:/@\s]{0,128}:)[^@\s]{1,512}@"), r"\1***@"),
    (re.compile(r"(?i)(/(?:reset|verify|confirm|magic|invite)[\w\-]*/)[\w\-]{16,}"), r"\1***"),
    (re.compile(r"(hooks\.slack\.com/\w+/)[\w/\-]+"), r"\1***"),
    (
        re.compile(
            r"(?i)([?&;](?:[\w\-]*(?:token|key|secret|sig|signature|password|code|auth|jwt|otp|ticket))=)[^&\s\"'#;]+"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/\-]{8,}=*"), r"\1***"),
    (
        re.compile(
            r"(?i)\b(authorization" + _QUOTE + r"?\s*[:=]\s*(?:" + _QUOTE + r")?(?:basic\s+|bearer\s+)?)[^\s\"'`,;\\]+"
        ),
        r"\1***",
    ),
    (
        re.compile(r"(?i)\b(cookie" + _QUOTE + r"?\s*[:=]\s*(?:" + _QUOTE + r")?)[^\s\"'`=;]{1,128}=[^\"'`\n\\]+"),
        r"\1***",
    ),
    (re.compile(r"(?i)(" + _NAMED + "(?:" + _QUOTE + r")?\s*[:=]\s*" + _QUOTE + r")[^\"'`\\]+"), r"\1***"),
    (re.compile(r"(?i)(" + _NAMED + r"=)[^\s\"'`,;&\\]+"), r"\1***"),
    (re.compile(r"(?i)\b(password\s*=\s*)[^\s\\]+"), r"\1***"),
    (re.compile(r"(?i)((?<![\w\-])--[\w\-]{0,32}(?:token|secret|passw(?:or)?d|key) )[^\s\"'`\\]+"), r"\1***"),
    (
        re.compile(
            r"(?i)\b((?:password|passwd|pwd|token|secret|api[_\-]?key)\s*:\s*)(?=\S{0,64}[\d_])[^\s\"'`,;&\\]{6,}"
        ),
        r"\1***",
    ),
    (re.compile(r"\b([A-Za-z0-9])[A-Za-z0-9._%+\-]{0,63}@([A-Za-z0-9.\-]{1,253}\.[A-Za-z]{2,})\b"), r"\1***@\2"),
)
PASSES = 5
"""What is blotted out may make something else look like a secret; a text is looked at until nothing changes."""

_SECRET_KEY = re.compile(r"(?i)" + _NAMED + r"|authorization|(?:set-)?cookie")
_LITERALS = re.compile(r"'(?:[^']|'')*'|\$([A-Za-z_]*)\$.*?\$\1\$|\b\d+(?:\.\d+)?\b", re.DOTALL)


def mask(value: Json) -> Json:
    """The same value with every secret in force, key-shaped word, URL password and mail address blotted out."""
    if isinstance(value, str):
        return _mask_text(value)
    if isinstance(value, Mapping):
        return {key: "***" if _hides(key, inner) else mask(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(inner) for inner in value]
    return value


def _hides(key: object, value: Json) -> bool:
    return isinstance(value, str) and value != "" and _SECRET_KEY.fullmatch(str(key)) is not None


def _mask_text(text: str) -> str:
    for secret in _secrets():
        text = text.replace(secret, "***")
    for _ in range(PASSES):
        before = text
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        if text == before:
            break
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
