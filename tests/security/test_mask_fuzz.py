"""Masking under whatever text there is: once is as good as twice, no secret stays, and no text makes it slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from demo.prefect_server import ROOT
from runbook import settings
from runbook.mask import mask

KNOWN = {"ADMIN_SECRET": "q7Vb2kXw9ZtR", "SMTP_PASS": "p@ss:w/rd 1", "DATABASE_URL": "postgresql://a:s3cr%40t-x@db/app"}
SECRETS = ("q7Vb2kXw9ZtR", "p@ss:w/rd 1", "s3cr%40t-x", "s3cr@t-x")
SAID = (
    *SECRETS,
    "password=",
    "token: ",
    '"apiKey": "',
    "Authorization: Bearer ",
    "Cookie: a=",
    "sk_live_",
    "://a:",
    "@b.co",
    "?token=",
    "eyJhbGciOiJI",
    "-----BEGIN PRIVATE KEY-----",
    "***",
    "\\",
    '"',
    " ",
    "\n",
    "abcdefgh12",
)
TEXTS = st.lists(st.sampled_from(SAID) | st.text(max_size=8), max_size=12).map("".join)
SIZE = 200_000
HOSTILE = (
    "a",
    "a-",
    "a.",
    "://a:",
    "token",
    "token:",
    "password ",
    "cookie:",
    "cookie: a",
    "eyJ",
    "sk-",
    "/reset",
    "?token",
    "&key=",
    "a@",
    "@a.",
    "\\",
    "token\\",
    "-----BEGIN PRIVATE KEY-----",
    "authorization: basic ",
    "bearer ",
    "'",
    "$a$",
)
SLOW = f"""
from runbook.mask import mask, statement
for piece in {HOSTILE!r}:
    text = (piece * {SIZE})[:{SIZE}]
    mask(text)
    statement(text)
"""


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KNOWN.items():
            patch.setenv(name, value)
        settings.forget()
        yield
    settings.forget()


@given(TEXTS)
@bounds(max_examples=600, deadline=None)
def test_masked_once_is_masked(text: str) -> None:
    once = str(mask(text))
    assert mask(once) == once
    assert not [secret for secret in SECRETS if secret in once]


@given(TEXTS, st.sampled_from(SECRETS), TEXTS)
@bounds(max_examples=300, deadline=None)
def test_no_neighbour_saves_a_known_secret(before: str, secret: str, after: str) -> None:
    masked = str(mask({"a": [before + secret + after]}))
    assert secret not in masked
    text = before + secret + after
    grows = 3 * sum(map((before + after).count, "=@"))  # a value or a name of one letter is longer when masked
    assert len(str(mask(text))) <= len(text) + grows


@given(st.recursive(TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
@bounds(max_examples=100, deadline=None)
def test_the_shape_of_what_is_masked_stays(value: object) -> None:
    masked = mask(value)
    assert type(masked) is type(value)
    assert mask(masked) == masked


def test_no_text_makes_it_slow() -> None:
    """Quadratic time in any pattern is minutes for one of these; linear time is a second for all."""
    done = subprocess.run([sys.executable, "-c", SLOW], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0
