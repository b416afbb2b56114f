"""No secret in any output."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from runbook import settings
from runbook.mask import mask, secret_mark, statement
from runbook.settings import Settings

SECRETS = [
    name.upper()
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation) and name != "runbook_ledger_url"
]


@pytest.mark.parametrize("name", SECRETS)
def test_the_value_of_every_secret_setting_is_blotted_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "canary-value-1234")
    settings.forget()
    assert isinstance(getattr(settings.settings(), name.lower()), SecretStr)
    masked = mask({"a": ["x canary-value-1234 y"], "b": ("canary-value-1234",)})
    assert "canary" not in str(masked)
    assert "canary" not in str(settings.settings())


@pytest.mark.parametrize(
    "text",
    [
        "key sk_live_canary12345",
        "rk_test_canary12345",
        "whsec_canary12345",
        "SG.canary12345.canary",
        "sk-canary12345",
        "Authorization: Bearer canary12345",
        "postgresql://someone:canary@host/db",
        "password=canary",
        "canary12345@example.com",
    ],
)
def test_what_looks_like_a_secret_is_blotted_out(text: str) -> None:
    assert "canary" not in str(mask(text))


def test_a_statement_shows_its_shape_only() -> None:
    shape = statement("SELECT * FROM \"User\" WHERE email = 'canary''s@x.y' AND n > 42 AND t = $$canary$$")
    assert shape == 'SELECT * FROM "User" WHERE email = ? AND n > ? AND t = ?'
    assert len(statement("x" * 1000)) == 200


def test_a_mark_tells_two_secrets_apart_and_neither() -> None:
    assert secret_mark("canary-one") != secret_mark("canary-two")
    assert "canary" not in secret_mark("canary-one")
