"""Every environment variable and every line of ``runbook.toml``, in one place.

Names are those the app's own ``.env`` already has. A value is read once per process; nothing else reads the
environment. ``.env`` and ``runbook.toml`` are looked for in ``RUNBOOK_HOME``, or in the current folder where that is
not set: a Prefect worker starts each run in a folder of its own, so a host that has a worker sets it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runbook.cooldown import Rule
from runbook.errors import BadSetting, NotConfigured
from runbook.model import Mode
from runbook.policy import DEFAULT_CAPS, Cap

T = TypeVar("T")

# Prisma reads these from the URL's query; libpq refuses the whole URL because of any of them.
PRISMA_ONLY = frozenset(
    {
        "connection_limit",
        "pool_timeout",
        "schema",
        "pgbouncer",
        "socket_timeout",
        "statement_cache_size",
        "sslaccept",
        "sslidentity",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
    }
)
DEFAULT_LEDGER = "sqlite:///{state}/runbook/ledger.db"
POSTGRES_SCHEMES = ("postgres://", "postgresql://")


class Tables(BaseModel):
    """Names of the app's tables and columns; a name is one identifier, quoted by the code that uses it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    db_schema: str = Field("public", alias="schema")
    subscription: str = "Subscription"
    subscription_id: str = "id"
    subscription_status: str = "status"
    subscription_stripe_id: str = "stripeSubscriptionId"
    subscription_stripe_customer: str = "stripeCustomerId"
    subscription_created: str = "createdAt"


class Profile(BaseModel):
    """The optional ``runbook.toml``: names of tables and columns, flow parameters by runbook, caps by scope, how often
    events may start a runbook."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: Tables = Tables()
    parameters: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    caps: Mapping[str, Cap] = Field(default_factory=dict)
    cooldown: Mapping[str, Rule] = Field(default_factory=dict)


class Settings(BaseSettings):
    """The settings of one process, from the environment and an optional ``.env`` beside it."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr | None = None
    runbook_database_url: SecretStr | None = None
    pgbouncer_url: SecretStr | None = None
    stripe_secret_key: SecretStr | None = None
    stripe_webhook_secret: SecretStr | None = None
    stripe_api_base: str = "https://api.stripe.com"
    app_url: str | None = None
    app_log: Annotated[tuple[Path, ...], NoDecode] = ()
    app_log_command: str = ""
    admin_secret: SecretStr | None = None
    nextauth_url: str | None = None
    nextauth_secret: SecretStr | None = None
    sendgrid_api_key: SecretStr | None = None
    sendgrid_sender_email: str | None = None
    sendgrid_api_base: str = "https://api.sendgrid.com"
    smtp_host: str | None = None
    smtp_port: int | None = Field(None, ge=1, le=65535)
    smtp_user: str | None = None
    smtp_pass: SecretStr | None = None
    smtp_from: str | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    openai_model: str | None = None
    sentry_dsn: SecretStr | None = None
    sentry_auth_token: SecretStr | None = None
    sentry_org: str | None = None
    sentry_project: str | None = None
    pagerduty_routing_key: SecretStr | None = None
    slack_webhook_url: SecretStr | None = None

    ingress_host: str = "127.0.0.1"
    ingress_port: int = Field(8787, ge=1, le=65535)
    ingress_stripe_secret: SecretStr | None = None
    ingress_sentry_secret: SecretStr | None = None
    ingress_sendgrid_public_key: SecretStr | None = None
    ingress_pagerduty_secret: SecretStr | None = None
    ingress_alertmanager_token: SecretStr | None = None
    ingress_vercel_secret: SecretStr | None = None
    ingress_app_token: SecretStr | None = None
    ingress_generic_secret: SecretStr | None = None

    runbook_mode: Mode = Mode.observe
    runbook_ledger_url: SecretStr = SecretStr("")
    runbook_profile: Path | None = None
    runbook_approval_seconds: int = Field(900, ge=30, le=86_400)
    runbook_webhook_path: str = "/api/subscription/webhook"

    @field_validator("app_log", mode="before")
    @classmethod
    def _several_files(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("stripe_api_base", "app_url", "sendgrid_api_base", "openai_base_url", "nextauth_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in {"http", "https"} or not urlsplit(value).netloc):
            raise ValueError("must be a URL that starts with http:// or https://")
        return value.rstrip("/") if value else value

    def need(self, *names: str) -> None:
        """Return when every named setting has a value; raise ``NotConfigured`` with those that have none."""
        missing = [name for name in names if not getattr(self, name.lower())]
        if missing:
            raise NotConfigured(*missing)

    def secret(self, name: str) -> str:
        """The clear value of a secret setting, for the one call that hands it to its vendor."""
        self.need(name)
        value = getattr(self, name.lower())
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    def secrets(self) -> list[str]:
        """Every secret in force, a URL's password by itself too, longest first: masking never leaves a tail behind."""
        values = [getattr(self, name) for name in type(self).model_fields]
        clear = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        written = [_password(text) for text in clear]
        found = {*clear, *written, *map(unquote, written)}
        return sorted((text for text in found if len(text) >= 6), key=len, reverse=True)

    def ledger_url(self) -> str:
        """The ledger's database URL; by default an SQLite file in the user's state folder, which is made."""
        url = self.runbook_ledger_url.get_secret_value()
        if not url:
            state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
            url = DEFAULT_LEDGER.format(state=state)
        if not url.startswith("sqlite:///") or ":memory:" in url:
            return url
        path = Path(url.removeprefix("sqlite:///"))
        if not path.is_absolute():
            if "PREFECT__FLOW_RUN_ID" in os.environ and "RUNBOOK_HOME" not in os.environ:
                raise BadSetting(
                    "RUNBOOK_LEDGER_URL",
                    "is a relative path, which under a Prefect worker is another file each run",
                    "use sqlite:////absolute/path or set RUNBOOK_HOME",
                )
            path = home() / path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadSetting(
                "RUNBOOK_LEDGER_URL", f"cannot make {path.parent}: {error.strerror}", "name a folder you may write"
            ) from None
        return f"sqlite:///{path}"

    def database_conninfo(self, name: str = "DATABASE_URL") -> str:
        """The URL in setting ``name`` as libpq takes it: Prisma's own parameters stripped, the rest kept."""
        url = self.secret(name)
        if not url.startswith(POSTGRES_SCHEMES):
            raise BadSetting(name, "is not a PostgreSQL URL", "use postgresql://user:password@host:5432/db")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BadSetting(name, "is not a URL", "percent-encode what is special in its password") from None
        # The pairs stay as they are written: decoding and encoding again would turn a space into a plus.
        kept = [pair for pair in parts.query.split("&") if pair.partition("=")[0] not in PRISMA_ONLY]
        return urlunsplit(parts._replace(query="&".join(kept)))

    @property
    def has_app_log(self) -> bool:
        """True when there is a log to read: files, or a command that prints it."""
        return bool(self.app_log or self.app_log_command)

    def monitor_setting(self) -> str:
        """The setting the runbooks watch the database with: their own role's where there is one."""
        return "RUNBOOK_DATABASE_URL" if self.runbook_database_url else "DATABASE_URL"


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def _problem(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]) or "?", first["msg"]


def home() -> Path:
    """The folder that holds ``.env`` and ``runbook.toml``."""
    return Path(os.environ.get("RUNBOOK_HOME") or Path.cwd())


@lru_cache(maxsize=1)
def settings() -> Settings:
    """This process's settings; raises ``BadSetting`` naming the first variable that cannot be right."""
    try:
        return Settings(_env_file=home() / ".env")
    except ValidationError as error:
        name, problem = _problem(error)
        raise BadSetting(name.upper(), problem, f"correct {name.upper()} in the environment or in .env") from None


@lru_cache(maxsize=1)
def secrets_in_force() -> list[str]:
    """``settings().secrets()``, worked out once: every text that leaves the process is searched for them."""
    return settings().secrets()


@lru_cache(maxsize=1)
def profile() -> Profile:
    """The profile file's content, or the defaults where there is none; unknown keys raise ``BadSetting``."""
    named = settings().runbook_profile
    path = named or home() / "runbook.toml"
    if not path.exists():
        if named:
            raise BadSetting("RUNBOOK_PROFILE", f"no file at {path}", "name an existing file or unset it")
        return Profile()
    try:
        return Profile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSetting(str(path), f"cannot be read: {error}", "correct the file") from None
    except ValidationError as error:
        key, problem = _problem(error)
        raise BadSetting(f"{path}: {key}", problem, "see docs/settings.md for the keys it knows") from None


def parameter(runbook: str, name: str, default: T) -> T:
    """The default of a flow's parameter: the profile's value where it has one, so that the UI form shows it."""
    value: T = profile().parameters.get(runbook, {}).get(name, default)
    return value


def caps() -> dict[str, Cap]:
    """The caps in force: the built-in ones, each field overridden where the profile names it."""
    merged = dict(DEFAULT_CAPS)
    for scope, cap in profile().caps.items():
        merged[scope] = merged.get(scope, Cap()).model_copy(update=cap.model_dump(exclude_unset=True))
    return merged


def forget() -> None:
    """Read the environment and the profile anew at the next call (tests and the demo change them)."""
    settings.cache_clear()
    secrets_in_force.cache_clear()
    profile.cache_clear()
