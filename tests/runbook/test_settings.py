"""The names users already have, in the forms they already have them; and what is wrong is named, never shown."""

from __future__ import annotations

from pathlib import Path

import psycopg.conninfo
import pytest

from runbook import settings
from runbook.errors import BadSetting, NotConfigured
from runbook.model import Mode
from runbook.policy import DEFAULT_CAPS
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
        ("postgresql://u:p@[::1]:6432/db?socket_timeout=5", "postgresql://u:p@[::1]:6432/db"),
    ],
)
def test_prismas_url_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str, clean: str) -> None:
    known = with_env(monkeypatch, DATABASE_URL=url).database_conninfo("DATABASE_URL")
    assert known == clean
    psycopg.conninfo.conninfo_to_dict(known)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (
            "schema=a&sslmode=verify-full&sslrootcert=/ca.pem&connection_limit=1",
            "sslmode=verify-full&sslrootcert=/ca.pem",
        ),
        ("options=-c%20statement_timeout%3D5000&statement_cache_size=0", "options=-c%20statement_timeout%3D5000"),
        ("pgbouncer=true&schema=a&connection_limit=1&pool_timeout=0&socket_timeout=3", ""),
    ],
)
def test_only_prismas_own_parameters_are_stripped(monkeypatch: pytest.MonkeyPatch, query: str, kept: str) -> None:
    known = with_env(monkeypatch, DATABASE_URL=f"postgresql://u:p@h/db?{query}").database_conninfo()
    assert known == "postgresql://u:p@h/db" + (f"?{kept}" if kept else "")
    psycopg.conninfo.conninfo_to_dict(known)


@pytest.mark.parametrize(
    "url", ["mysql://u:hush-hush@h/db", "hush-hush", "http://hush-hush", "postgresql://u:hush-hush@[h/db"]
)
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


@pytest.mark.parametrize(
    "name", ["SMTP_PORT", "RUNBOOK_APPROVAL_SECONDS", "RUNBOOK_MODE", "APP_URL", "OPENAI_BASE_URL", "NEXTAUTH_URL"]
)
def test_a_secret_in_the_wrong_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(BadSetting) as refused:
        with_env(monkeypatch, **{name: "sk_live_canary"})
    said = str(refused.value)
    assert said.startswith(f"{name}: ")
    assert said.endswith(f"Next: correct {name} in the environment or in .env")
    assert "canary" not in said
    assert "\n" not in said
    assert refused.value.__cause__ is None, "its cause would show the value in a stack trace"


@pytest.mark.parametrize("name", sorted(name.upper() for name in Settings.model_fields))
def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    unset = Settings.model_fields[name.lower()].default
    assert getattr(with_env(monkeypatch, **{name: ""}), name.lower()) == unset


def test_a_value_is_read_once_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_env(monkeypatch, SMTP_HOST="one").smtp_host == "one"
    monkeypatch.setenv("SMTP_HOST", "two")
    assert settings.settings().smtp_host == "one"
    settings.forget()
    assert settings.settings().smtp_host == "two"


def test_nothing_set_observes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_env(monkeypatch).runbook_mode is Mode.observe
    assert with_env(monkeypatch, RUNBOOK_MODE="").runbook_mode is Mode.observe


def test_every_missing_name_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = with_env(monkeypatch, DATABASE_URL="", APP_URL="https://app.example/")
    with pytest.raises(NotConfigured, match=r"DATABASE_URL, APP_LOG: not configured\. Next: set DATABASE_URL, APP_LOG"):
        known.need("DATABASE_URL", "APP_URL", "APP_LOG")
    with pytest.raises(NotConfigured, match="STRIPE_SECRET_KEY"):
        known.secret("STRIPE_SECRET_KEY")
    known.need("APP_URL", "RUNBOOK_MODE")
    assert known.app_url == "https://app.example"


def test_the_runbooks_own_role_watches_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_env(monkeypatch).monitor_setting() == "DATABASE_URL"
    assert with_env(monkeypatch, RUNBOOK_DATABASE_URL="postgresql://r@h/db").monitor_setting() == "RUNBOOK_DATABASE_URL"


def test_several_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_env(monkeypatch, APP_LOG="/a.log, /b.log").app_log == (Path("/a.log"), Path("/b.log"))
    assert with_env(monkeypatch, APP_LOG="/a.log,").app_log == (Path("/a.log"),)


def test_the_env_file_of_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('STRIPE_SECRET_KEY="sk_test_file"\nSOMETHING_ELSE=1\n')
    assert with_env(monkeypatch).secret("STRIPE_SECRET_KEY") == "sk_test_file"
    assert with_env(monkeypatch, STRIPE_SECRET_KEY="sk_test_env").secret("STRIPE_SECRET_KEY") == "sk_test_env"
    settings.forget()
    (tmp_path / ".env").write_text("SMTP_PORT=many\n")
    with pytest.raises(BadSetting, match="SMTP_PORT"):
        settings.settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tabels]\n", "tabels"),
        ('[tables]\nsubscripton = "x"\n', "subscripton"),
        ("[caps.set]\nper_hour = 3\n", "caps.set.per_hour"),
        ("[caps.set]\nper_run = -3\n", "caps.set.per_run"),
        ("[caps.set]\nsick_share = 2\n", "caps.set.sick_share"),
        ("[caps]\nset = 3\n", "caps.set"),
        ("[tables]\nschema = 3\n", "tables.schema"),
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
    assert settings.caps()["runbook"].sick_share == 0.5
    assert settings.caps()["mine"].per_24h == 1
    assert settings.caps()["mine"].per_run is None
    assert settings.caps()["global"] == DEFAULT_CAPS["global"]
    assert DEFAULT_CAPS["runbook"].per_run == 20, "the built-in ones are not changed"


def test_the_profile_names_tables_and_parameters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '[tables]\nschema = "app"\nsubscription = "subs"\n[parameters.pool-exhaustion]\nidle_seconds = 60\n'
    (tmp_path / "other.toml").write_text(text)
    with_env(monkeypatch, RUNBOOK_PROFILE=str(tmp_path / "other.toml"))
    tables = settings.profile().tables
    assert (tables.db_schema, tables.subscription, tables.subscription_id) == ("app", "subs", "id")
    assert settings.parameter("pool-exhaustion", "idle_seconds", 300) == 60
    assert settings.parameter("pool-exhaustion", "hold_seconds", 3) == 3
    assert settings.parameter("another", "idle_seconds", 300) == 300


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
