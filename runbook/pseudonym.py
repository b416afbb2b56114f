"""Names that stand for personal data where a reading is kept: equal in, equal out, and nobody can guess their way back.

Salted by each ledger of its own: a reading compares as it did before, and says nothing of whom it was about.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import lru_cache

from runbook import memory
from runbook.ledger import Ledger

SALT = "pseudonym/salt"


def pseudonym(book: Ledger, text: str) -> str:
    """Ten hex digits that stand for ``text``; case counts, so bring what is equal to one form before."""
    return _digest(book, text)[:10]


def network(book: Ledger, text: str) -> str:
    """A private IPv6 /64 (``fd…``) that stands for an address or a network; rules that only compare judge it alike."""
    digits = _digest(book, text)[:14]
    return f"fd{digits[:2]}:{digits[2:6]}:{digits[6:10]}:{digits[10:14]}::/64"


def _digest(book: Ledger, text: str) -> str:
    return hmac.new(_salt(book), text.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=4)
def _salt(book: Ledger) -> bytes:
    salt = memory.recall(book, SALT)
    if salt is None:
        with book.write() as connection:
            memory.swap(connection, SALT, None, secrets.token_hex(16))
        salt = memory.recall(book, SALT)
    return str(salt).encode()
