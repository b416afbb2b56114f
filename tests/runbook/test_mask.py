"""No secret in any output."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from runbook import settings
from runbook.mask import mask, secret_mark, statement
from runbook.settings import Settings

SECRETS = [name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]


def test_every_setting_that_is_a_secret_by_name_is_one_by_type() -> None:
    words = ("SECRET", "KEY", "TOKEN", "PASS", "DSN", "DATABASE_URL", "WEBHOOK_URL", "LEDGER_URL")
    named = {name.upper() for name in Settings.model_fields if any(word in name.upper() for word in words)}
    assert named - {"RUNBOOK_KEY_PAGES"} <= set(SECRETS)  # pages that matter most, no key to anything


@pytest.mark.parametrize("name", SECRETS)
def test_the_value_of_every_secret_setting_is_blotted_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "canary-value-1234")
    settings.forget()
    assert isinstance(getattr(settings.settings(), name.lower()), SecretStr)
    masked = mask({"a": ["x canary-value-1234 y"], "b": ("canary-value-1234",), "c": {"d": "canary-value-1234"}})
    assert "canary" not in str(masked)
    assert "canary" not in str(settings.settings())
    assert "canary" not in repr(settings.settings())


def test_a_secret_that_begins_like_another_leaves_no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASS", "shared-front")
    monkeypatch.setenv("ADMIN_SECRET", "shared-front-canary")
    settings.forget()
    assert mask("shared-front-canary and shared-front") == "*** and ***"


def test_a_password_inside_a_url_is_a_secret_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:canary%401234@db:5432/app")
    settings.forget()
    assert mask("refused canary@1234, written canary%401234") == "refused ***, written ***"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key sk_live_canary12345, next", "key sk_live_***, next"),
        ("rk_test_canary12345", "rk_test_***"),
        ("pk_live_canary12345", "pk_live_***"),
        ("whsec_canary12345", "whsec_***"),
        ("SG.canary12345.canary-ca_nary", "SG.***"),
        ("sk-canary12345", "sk-***"),
        ("sk-proj-canary12345", "sk-***"),
        ("Authorization: Bearer canary12345", "Authorization: Bearer ***"),
        ("bearer canary.canary.canary", "bearer ***"),
        ("postgresql://someone:canary@host/db", "postgresql://someone:***@host/db"),
        ("redis://:canary@host", "redis://:***@host"),
        ("password=canary host=db", "password=*** host=db"),
        ("Password = canary", "Password = ***"),
        ("canary12345@example.com", "c***@example.com"),
        ("<canary.canary+tag@mail.example.co.uk>", "<c***@mail.example.co.uk>"),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out(text: str, left: str) -> None:
    assert mask(text) == left


@pytest.mark.parametrize("value", ["session 42 on host:5432", "a task-list", "10:30@noon", 7, 1.5, None, True, [], {}])
def test_what_is_no_secret_stays(value: object) -> None:
    assert mask(value) == value


@pytest.mark.parametrize(
    ("sql", "shape"),
    [
        (
            "SELECT * FROM \"User\" WHERE email = 'canary''s@x.y' AND n > 42 AND t = $$canary$$",
            'SELECT * FROM "User" WHERE email = ? AND n > ? AND t = ?',
        ),
        ("SELECT 'canary\n canary', 1.5", "SELECT ?, ?"),
        ("SELECT $tag$ca'nary$$ $tag$, x1", "SELECT ?, x1"),
        ("UPDATE  t\n  SET  a = 'canary'", "UPDATE t SET a = ?"),
    ],
)
def test_a_statement_shows_its_shape_only(sql: str, shape: str) -> None:
    assert statement(sql) == shape


def test_a_long_statement_is_cut() -> None:
    assert statement("x" * 1000) == "x" * 199 + "…"
    assert statement("x" * 200) == "x" * 200


def test_a_mark_tells_two_secrets_apart_and_neither() -> None:
    assert secret_mark("canary-one") != secret_mark("canary-two")
    assert "canary" not in secret_mark("canary-one")
    assert secret_mark("canary-one").startswith("10 characters")
