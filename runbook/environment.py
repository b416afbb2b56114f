"""Every environment variable the product knows, by the names an app's own ``.env`` already has."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from runbook.errors import BadSetting, NotConfigured
from runbook.inline import inline
from runbook.model import Mode
from runbook.place import Place

# Prisma reads these from the URL's query; libpq refuses the whole URL because of any of them.
PRISMA_ONLY = frozenset(
    {
        "connection_limit", "pool_timeout", "schema", "pgbouncer", "socket_timeout", "statement_cache_size",
        "sslaccept", "sslidentity", "max_connection_lifetime", "max_idle_connection_lifetime",
    }
)  # fmt: skip
OFFICE_PREFIX = {4: 24, 6: 48}
"""The widest network that may be one office, by version of IP."""

POSTGRES_SCHEMES = ("postgres://", "postgresql://")


class Settings(Place):
    """The settings of one process, from the environment and an optional ``.env`` beside it."""

    database_url: SecretStr | None = None
    runbook_database_url: SecretStr | None = None
    pgbouncer_url: SecretStr | None = None
    stripe_secret_key: SecretStr | None = None
    stripe_webhook_secret: SecretStr | None = None
    stripe_api_base: str = "https://api.stripe.com"
    app_url: str | None = None
    app_log: Annotated[tuple[Path, ...], NoDecode] = ()
    app_log_command: str = ""
    access_log: Annotated[tuple[Path, ...], NoDecode] = ()
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
    runbook_ai_fallback_model: str | None = None
    runbook_ai_fallback_base_url: str | None = None
    runbook_ai_fallback_api_key: SecretStr | None = None
    runbook_ai_fallback_command: str = ""
    runbook_ai_state_command: str = ""
    runbook_ai_requeue_command: str = ""
    sentry_dsn: SecretStr | None = None
    sentry_auth_token: SecretStr | None = None
    sentry_org: str | None = None
    sentry_project: str | None = None
    sentry_api_base: str = "https://sentry.io"
    pagerduty_routing_key: SecretStr | None = None
    pagerduty_api_base: str = "https://events.pagerduty.com"
    slack_webhook_url: SecretStr | None = None
    runbook_notify_urls: SecretStr | None = None
    vercel_token: SecretStr | None = None
    vercel_project_id: str | None = None
    vercel_team_id: str | None = None
    vercel_api_base: str = "https://api.vercel.com"
    statuspage_api_key: SecretStr | None = None
    statuspage_page_id: str | None = None
    statuspage_api_base: str = "https://api.statuspage.io"
    instatus_api_key: SecretStr | None = None
    instatus_page_id: str | None = None
    instatus_api_base: str = "https://api.instatus.com"

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
    runbook_profile: Path | None = None
    runbook_approval_seconds: int = Field(900, ge=30, le=86_400)
    runbook_keep_reading_days: int = Field(90, ge=1, le=3650)
    runbook_keep_days: int = Field(400, ge=31, le=36_500)
    runbook_minutes_per_fix: int = Field(20, ge=0, le=1440)
    runbook_report_to: Annotated[tuple[str, ...], NoDecode] = ()
    runbook_licence_days: int = Field(30, ge=0, le=3650)
    runbook_webhook_path: str = "/api/subscription/webhook"
    runbook_migrations_dir: Path | None = None
    runbook_reset_path: str = "/api/auth/forgot-password"
    runbook_escalate_seconds: int = Field(900, ge=60, le=86_400)
    runbook_disk_paths: Annotated[tuple[Path, ...], NoDecode] = (Path("/"),)
    runbook_archive_logs: Annotated[tuple[str, ...], NoDecode] = ()
    runbook_cgroup: Path | None = None
    runbook_slow_routes: str = r"stream|/sse\b|/ai\b|generat|chat|summar"
    runbook_app_match: str = ""
    runbook_app_user: str = ""
    runbook_app_env: Annotated[tuple[Path, ...], NoDecode] = ()
    runbook_supervisors: Annotated[tuple[str, ...], NoDecode] = ()
    runbook_restart_command: str = ""
    runbook_health_url: str | None = None
    runbook_deploy_lock: Path | None = None
    runbook_cgroup_root: Path = Path("/sys/fs/cgroup")
    runbook_key_pages: Annotated[tuple[str, ...], NoDecode] = ("/",)
    runbook_status_pages: Annotated[tuple[str, ...], NoDecode] = ()
    runbook_deploys_command: str = ""
    runbook_rollback_command: str = ""
    runbook_maintenance_command: str = ""
    runbook_maintenance_state_command: str = ""
    runbook_scale_command: str = ""
    runbook_scale_state_command: str = ""
    runbook_war_room_url: str | None = None
    runbook_contacts: Annotated[tuple[str, ...], NoDecode] = (
        "Stripe https://stripe.com/support",
        "Sentry https://sentry.io/support",
    )
    runbook_login_failed: Annotated[tuple[str, ...], NoDecode] = (
        "login_failed",
        "login_failure",
        "login_attempt_failed",
        "failed_login",
        "signin_failed",
        "auth_failed",
        "authentication_failed",
        "invalid_credentials",
        "invalid_password",
    )

    runbook_trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    runbook_known_offices: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    runbook_trust_keeps_login_limits: bool = False

    @field_validator("runbook_known_offices")
    @classmethod
    def _is_one_office(cls, value: tuple[IPv4Network | IPv6Network, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
        for one in value:
            if one.prefixlen < OFFICE_PREFIX[one.version]:
                raise ValueError(f"{one} is wider than /{OFFICE_PREFIX[one.version]}: name its own addresses")
        return value

    @field_validator("runbook_app_match")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value

    @field_validator(
        "app_log",
        "access_log",
        "runbook_app_env",
        "runbook_archive_logs",
        "runbook_contacts",
        "runbook_disk_paths",
        "runbook_key_pages",
        "runbook_known_offices",
        "runbook_login_failed",
        "runbook_report_to",
        "runbook_status_pages",
        "runbook_supervisors",
        "runbook_trusted_proxies",
        mode="before",
    )
    @classmethod
    def _several(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator(
        "stripe_api_base",
        "app_url",
        "sendgrid_api_base",
        "openai_base_url",
        "nextauth_url",
        "pagerduty_api_base",
        "sentry_api_base",
        "runbook_ai_fallback_base_url",
        "runbook_health_url",
        "runbook_war_room_url",
        "vercel_api_base",
        "statuspage_api_base",
        "instatus_api_base",
    )
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
        """Every secret in force, those inside URLs and commands too, longest first: masking leaves no tail behind."""
        values = [getattr(self, name) for name in type(self).model_fields]
        clear = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        clear += self.notify_urls
        written = [_password(text) for text in clear]
        found = {*clear, *written, *map(unquote, written)}
        for name in type(self).model_fields:
            if name.endswith(("_command", "_url", "_base")) and isinstance(text := getattr(self, name), str):
                found |= inline(text, path=name == "runbook_health_url")  # elsewhere a path is a name
        return sorted((text for text in found if len(text) >= 6), key=len, reverse=True)

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
    def notify_urls(self) -> tuple[str, ...]:
        """The Apprise URLs, one for each channel; they are told apart by their schemes, as they may hold commas."""
        text = self.runbook_notify_urls.get_secret_value() if self.runbook_notify_urls else ""
        return tuple(filter(None, re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)", text.strip(" \t\r\n,"))))

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
