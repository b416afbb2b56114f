"""The forms the app logs in, mixed in one stream: JSON lines, audit blocks, raw text. Bytes in, records out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from runbook.mask import mask
from runbook.model import Json

KEPT_INFO = frozenset(
    {
        "ai_success",
        "ai_using_template",
        "password_reset_email_sent",
        "payment_succeeded",
        "ip_unblocked",
        "trusted_ip_added",
        "trusted_ip_removed",
        "soft_throttle",
        "login_success",
        "login_succeeded",
        "login_successful",
        "user_login",
        "user_logged_in",
        "signin_success",
    }
)
"""What the runbooks count though nothing is wrong with it; of the rest only warnings and worse are kept."""

RAW_KEYS = frozenset({"ip", "email", "to", "identifier", "userId"})
"""Kept as they are: detections compare them. Everybody who shows them masks them."""

KEYS = RAW_KEYS | frozenset(
    {
        "user", "endpoint", "route", "path", "method", "count", "limit", "code", "status", "statusCode", "reason",
        "error", "message", "provider", "model", "attempt", "ms", "duration", "durationMs", "customer", "subscription",
        "invoice", "paymentIntent", "payment_intent", "decline_code", "type", "remaining", "action",
        "generationId", "jobId", "length",
    }
)  # fmt: skip
"""The only fields kept of an event, wherever in it they stand."""

IDENTIFYING = (
    "ip",
    "userId",
    "email",
    "to",
    "identifier",
    "customer",
    "invoice",
    "paymentIntent",
    "endpoint",
    "attempt",
    "generationId",
    "jobId",
)
"""Two records are never one failure when they differ in one of these."""

LEVELS = {
    **dict.fromkeys(("trace", "debug", "verbose", "info", "log", "notice", "10", "20", "30"), "info"),
    **dict.fromkeys(("warn", "warning", "40"), "warning"),
    **dict.fromkeys(("error", "err", "50"), "error"),
    **dict.fromkeys(("fatal", "critical", "crit", "alert", "emerg", "60"), "critical"),
}
REFUSED, HEAP, SMTP = "database_refused", "heap_out_of_memory", "smtp_reply"
WIDE = 200

NAME = re.compile(r"[A-Za-z][\w.:\-]{0,99}")
TIME = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?")
WORDS = re.compile(
    rb"(?P<refused>(?i:Too many database connections|\bP2024\b|timeout exceeded when trying to connect|"
    rb"sorry, too many clients already|remaining connection slots are reserved))|"
    rb"(?P<heap>JavaScript heap out of memory)"
)
HINTS = (b"connect", b"p2024", b"clients", b"heap")
"""One of them is in whatever ``WORDS`` finds, in lower case, and far quicker to look for."""

AUDIT = re.compile(rb"\[AUDIT(?:-([A-Z]+))?\] ([^\s{]+)")
PAIR = re.compile(
    r"(?:'([^'\n]{1,60})'|(?<![\w$])([A-Za-z_$][\w$]{0,99})):\s{1,200}(?:"
    r"'([^'\\]*(?:\\.[^'\\]*)*)'|\"([^\"\\]*(?:\\.[^\"\\]*)*)\"|`([^`\\]*(?:\\.[^`\\]*)*)`|"
    r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?\b)|(true|false)\b)",
    re.DOTALL,
)
JOINED = re.compile(r"' \+\n\s*'|\" \+\n\s*\"|` \+\n\s*`")
TEXT = re.compile(
    rb"\[next-auth\]\[(?:error|warn)\]\[(?P<auth>\w{1,60})\]|(?P<prisma>prisma:error)|"
    rb"(?P<smtp>(?<![\d.])[45]\d\d[ -][45]\.\d{1,3}\.\d{1,3}\b)|"
    rb"^\W{0,8}(?:Uncaught |Unhandled \w+:? ?)?(?P<error>[A-Z]\w*(?:Error|Exception)|Error)\b(?= \[|:|\r?$)"
)
HEADING = re.compile(r"prisma:error|Invalid `|\[next-auth\]|\w+:? *$")
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
SECRETIVE = re.compile(
    r"(?i)\b(token|secret|passw(?:or)?d|api[_-]?key|authorization|cookie)(\"?'? ?[=:] ?[\"']?)[^\s\"',;&]+"
)
BEARER = re.compile(r"\beyJ[\w\-]{8,}(?:\.[\w\-]*){0,4}|(?<=\?)[^\s\"']*=[^\s\"']*")
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


class Record(NamedTuple):
    """One thing the log says, in the form it was written in; ``at_ms`` is None where it says no time."""

    form: str
    name: str
    level: str
    at_ms: int | None
    fields: dict[str, Json]


def moment(value: object) -> int | None:
    """Unix milliseconds of an ISO time (UTC where it names no zone) or a Unix time in s or ms; None where unclear."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value if value > 1e11 else value * 1000)
    except (ValueError, OverflowError):
        pass
    return None


def from_json(line: bytes) -> Iterator[Record]:
    """The records of one JSON line; ``ValueError`` where it is none."""
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError("no object")
    level = LEVELS.get(str(entry.get("level", entry.get("severity", "info"))).lower(), "info")
    said = entry.get("msg", entry.get("message"))
    at_ms = next((at for key in ("time", "timestamp", "ts") if (at := moment(entry.get(key))) is not None), None)
    yield from _records("json", said, level, at_ms, line, entry)


def from_audit(block: bytes) -> Iterator[Record]:
    """The records of one audit block, whole or cut short; nothing where its head is none."""
    head = AUDIT.match(block)
    if head is None:
        return
    text = JOINED.sub("", block.decode("utf-8", "replace"))
    entry: dict[str, Any] = {}
    for pair in PAIR.finditer(text):
        single, double, back, number, truth = pair.group(3, 4, 5, 6, 7)
        word = next((one for one in (single, double, back) if one is not None), None)
        value = _unescaped(word) if word is not None else truth == "true" if truth else float(number)
        entry.setdefault(pair[1] or pair[2], int(value) if isinstance(value, float) and value.is_integer() else value)
    level = LEVELS.get((head[1] or b"info").decode().lower(), "warning")
    entry.pop("action", None)
    yield from _records(
        "audit", head[2].decode("utf-8", "replace"), level, moment(entry.get("timestamp")), block, entry
    )


def from_text(text: bytes) -> Iterator[Record]:
    """The record of a raw line or block: a refused connection, a full heap, an error of Prisma, NextAuth or Node."""
    text = COLOUR.sub(b"", text)
    found, words = TEXT.search(text), _words(text)
    if found is None and words is None:
        return
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip() and line[:2] != "  "]
    wordy = [line for line in lines if words and words[0].decode().lower() in line.lower()]
    plain = [line for line in lines if not HEADING.match(line)] or lines or [""]
    fields: dict[str, Json] = {"error": _text("error", (wordy or plain)[0])}
    name, level = "error", "error"
    if words:
        name, level = _said(words, fields)
    elif found and found["auth"]:
        name = found["auth"].decode()
    elif found and found["prisma"]:
        name = "prisma_error"
    elif found and found["smtp"]:
        name, level = SMTP, "error" if found["smtp"].startswith(b"5") else "warning"
        fields |= {"code": int(found["smtp"][:3]), "status": found["smtp"][4:].decode()}
    at = TIME.search(text)
    yield Record("text", name, level, moment(at[0].decode()) if at else None, fields)


def starts_block(line: bytes) -> bool:
    """True for a raw line whose following lines belong to it."""
    found = TEXT.search(COLOUR.sub(b"", line))
    return found is not None and found["smtp"] is None


def _records(
    form: str, said: object, level: str, at_ms: int | None, source: bytes, entry: Mapping[str, Any]
) -> Iterator[Record]:
    named = isinstance(said, str) and NAME.fullmatch(said) is not None
    name = str(said) if named else level
    if level == "info" and name not in KEPT_INFO:
        return
    fields = _fields(entry)
    if not named and said is not None:
        fields["message"] = _text("message", str(said))
    words = _words(source)
    if words is None:
        yield Record(form, name, level, at_ms, fields)
    elif named and _is_known(name):
        yield Record(form, name, level, at_ms, fields)
        # A second name for what is counted under its own: info, so that no count of errors takes it twice.
        yield Record(form, _said(words, fields)[0], "info", at_ms, {**fields, "message": name})
    else:
        more = {**fields, "message": name} if named else fields
        worse, at_least = _said(words, more)
        yield Record(form, worse, at_least, at_ms, more)


def _words(source: bytes) -> re.Match[bytes] | None:
    lowered = source.lower()
    return WORDS.search(source) if any(hint in lowered for hint in HINTS) else None


def _is_known(name: str) -> bool:
    return name not in {"database_error", "prisma_error"}


def _said(words: re.Match[bytes], fields: dict[str, Json]) -> tuple[str, str]:
    fields["words"] = words[0].decode("utf-8", "replace").lower()
    return (REFUSED, "error") if words["refused"] else (HEAP, "critical")


def _fields(entry: Mapping[str, Any], depth: int = 3) -> dict[str, Json]:
    found: dict[str, Json] = {}
    inner: list[Mapping[str, Any]] = []
    for key, value in entry.items():
        if isinstance(value, dict):
            inner.append(value)
            if key in {"error", "err"} and isinstance(value.get("message"), str):
                found["error"] = _text("error", value["message"])
        elif key in KEYS and (kept := _scalar(key, value)) is not None:
            found[key] = kept
    for nested in inner if depth else ():
        for key, value in _fields(nested, depth - 1).items():
            found.setdefault(key, value)
    return found


def _scalar(key: str, value: object) -> Json:
    if isinstance(value, str):
        return _text(key, value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    return None


def _text(key: str, value: str) -> str:
    # A secret cut in half is no longer known as one: the word at the cut goes.
    short = value if len(value) <= 4 * WIDE else value[: 4 * WIDE].rpartition(" ")[0]
    text = CONTROL.sub(" ", short).strip()
    if key in RAW_KEYS and " " not in text and "://" not in text:
        return "@".join(_masked(part) for part in text.split("@"))[: WIDE + 54]  # a mail address may have 254
    return _masked(text.partition("?")[0] if key in {"endpoint", "route", "path"} else text)[:WIDE]


@lru_cache(maxsize=4096)
def _masked(text: str) -> str:
    return BEARER.sub("***", SECRETIVE.sub(r"\1\2***", str(mask(text))))


def forget_masked() -> None:
    """Mask everything anew: the settings, and with them the secrets, may have changed."""
    _masked.cache_clear()


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda one: " " if one[1] in "nrt" else one[1], text, flags=re.DOTALL)
