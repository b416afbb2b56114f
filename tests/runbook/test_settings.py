"""The names users already have, in the forms they already have them; and what is wrong is named, never shown."""

from __future__ import annotations

from pathlib import Path

import psycopg.conninfo
import pytest

from runbook import settings
from runbook.errors import BadSetting, NotConfigured
from runbook.model import Mode
from runbook.settings import Settings


def with_env(monkeypatch: pytest.MonkeyPatch, **env: str) -> Settings:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.forget()
    return settings.settings()


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("postgresql://u:p@h:5432/db?connection_limit=5&schema=public", "postgresql://u:p@h:5432/db"),
        ("postgres://u:p@h/db?pgbouncer=true&sslmode=require", "postgres://u:p@h/db?sslmode=require"),
        ("postgresql://u:p@h/db?pool_timeout=3&application_name=a%20b", "postgresql://u:p@h/db?application_name=a%20b"),
        ("postgresql://u:p%40ss@h/db", "postgresql://u:p%40ss@h/db"),
    ],
)
def test_prismas_url_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str, clean: str) -> None:
    known = with_env(monkeypatch, DATABASE_URL=url).database_conninfo("DATABASE_URL")
    assert known == clean
    psycopg.conninfo.conninfo_to_dict(known)


@pytest.mark.parametrize("url", ["mysql://u:hush-hush@h/db", "hush-hush", "http://hush-hush"])
def test_another_url_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(BadSetting, match="DATABASE_URL") as refused:
        with_env(monkeypatch, DATABASE_URL=url).database_conninfo("DATABASE_URL")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNBOOK_MODE", "yolo"),
        ("SMTP_PORT", "99999999"),
        ("STRIPE_API_BASE", "ftp://x"),
        ("RUNBOOK_APPROVAL_SECONDS", "1"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        with_env(monkeypatch, **{name: value})


def test_nothing_set_observes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_env(monkeypatch).runbook_mode is Mode.observe
    assert with_env(monkeypatch, RUNBOOK_MODE="").runbook_mode is Mode.observe


def test_every_missing_name_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotConfigured, match="DATABASE_URL, STRIPE_SECRET_KEY: not configured"):
        with_env(monkeypatch, DATABASE_URL="").need("DATABASE_URL", "STRIPE_SECRET_KEY")


def test_several_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_env(monkeypatch, APP_LOG="/a.log, /b.log").app_log == (Path("/a.log"), Path("/b.log"))


def test_the_env_file_of_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('STRIPE_SECRET_KEY="sk_test_file"\nSOMETHING_ELSE=1\n')
    assert with_env(monkeypatch).secret("STRIPE_SECRET_KEY") == "sk_test_file"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tabels]\n", "tabels"),
        ('[tables]\nsubscripton = "x"\n', "subscripton"),
        ("[caps.set]\nper_hour = 3\n", "caps.set.per_hour"),
        ("[caps.set]\nper_run = -3\n", "caps.set.per_run"),
        ("not toml", "cannot be read"),
    ],
)
def test_a_profile_with_unknown_keys_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "runbook.toml").write_text(text)
    with_env(monkeypatch)
    with pytest.raises(BadSetting, match=r"runbook\.toml") as refused:
        settings.profile()
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_named_profile_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with_env(monkeypatch, RUNBOOK_PROFILE="/nowhere/runbook.toml")
    with pytest.raises(BadSetting, match="RUNBOOK_PROFILE"):
        settings.profile()


def test_caps_are_overridden_field_by_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runbook.toml").write_text("[caps.runbook]\nper_run = 3\n[caps.mine]\nper_24h = 1\n")
    with_env(monkeypatch)
    assert settings.caps()["runbook"].per_run == 3
    assert settings.caps()["runbook"].per_15min == 40
    assert settings.caps()["mine"].per_24h == 1


def test_a_relative_ledger_lies_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert with_env(monkeypatch, RUNBOOK_LEDGER_URL="sqlite:///my.db").ledger_url() == f"sqlite:///{tmp_path}/my.db"
    monkeypatch.delenv("RUNBOOK_HOME")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1")
    with pytest.raises(BadSetting, match="another file each run"):
        settings.settings().ledger_url()


def test_the_ledger_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert with_env(monkeypatch, RUNBOOK_LEDGER_URL="").ledger_url() == f"sqlite:///{tmp_path}/state/runbook/ledger.db"
    assert (tmp_path / "state" / "runbook").is_dir()
