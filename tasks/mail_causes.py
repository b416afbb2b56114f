"""Why a mail server said no, from the words it said it with. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

UNAUTHENTICATED, REPUTATION, CONTENT = "unauthenticated", "reputation", "content"
FULL, UNKNOWN_USER, TEMPORARY, UNCLEAR = "mailbox full", "no such mailbox", "temporary", "unclear"

# In this order: a refusal for spam may be given a temporary code, and is none that passes by itself.
_RULES = (
    (REPUTATION, r"black ?-?list|block ?-?list|deny ?-?list|spamhaus|barracuda|sorbs|spamcop|reputation|unsolicited"),
    (UNAUTHENTICATED, r"\b[45]\.7\.2[0-46]\b|\bspf\b|\bdkim\b|\bdmarc\b|unauthenticated|not authenticated"),
    (CONTENT, r"\bspam|content|virus|malware|phish|\burls?\b|\b[45]\.7\.(?:0|1)\b.*reject"),
    (FULL, r"\b[45]\.2\.2\b|mailbox (?:is )?full|over ?-?quota|out of storage|insufficient storage"),
    (UNKNOWN_USER, r"\b5\.1\.[0-36]\b|user unknown|unknown user|no such (?:user|mailbox|recipient)|does not exist"),
    (TEMPORARY, r"\b4\.\d{1,3}\.\d{1,3}\b|^4\d\d\b|try again|timed? ?out|refused to talk|no route to host|rate.?limit"),
)
_COMPILED = tuple((name, re.compile(rule, re.IGNORECASE)) for name, rule in _RULES)

BY_HAND: Mapping[str, str] = {
    UNAUTHENTICATED: "receivers cannot verify the sender: publish the DNS records of domain authentication",
    REPUTATION: "receivers refuse the sending IP: look it up on the list they name and have it delisted",
    CONTENT: "receivers refuse the content: see the template in the SendGrid dashboard",
    FULL: "the mailbox is full: only its owner can help",
    UNKNOWN_USER: "there is no such mailbox: ask the user for another address",
    TEMPORARY: "receivers ask to wait; it passes by itself",
    UNCLEAR: "read the reason",
}
"""What a person does about each."""

REPLY = re.compile(r"(?<![\d.])([45]\d\d)[ -]([45]\.\d{1,3}\.\d{1,3})\b")
"""A reply of a mail server: its code and its status (RFC 5321, RFC 3463)."""


def cause(status: str, reason: str) -> str:
    """The cause that ``status`` (``4.7.0``) and ``reason`` name; what no rule knows is unclear."""
    text = f"{status} {reason}".strip()
    return next((name for name, rule in _COMPILED if rule.search(text)), UNCLEAR)
