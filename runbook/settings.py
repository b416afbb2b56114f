"""Every environment variable and every line of ``runbook.toml``, in one place.

Names are those the app's own ``.env`` already has. A value is read once per process; nothing else reads the
environment. ``.env`` and ``runbook.toml`` are looked for in ``RUNBOOK_HOME``, or in the current folder where that is
not set: a Prefect worker starts each run in a folder of its own, so a host that has a worker sets it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runbook.cooldown import Rule
from runbook.environment import Settings as Settings
from runbook.errors import BadSetting
from runbook.place import home as home
from runbook.place import of_environment, unreadable
from runbook.policy import DEFAULT_CAPS, Cap

T = TypeVar("T")


class Tables(BaseModel):
    """Names of the app's tables and columns; a name is one identifier, quoted by the code that uses it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    db_schema: str = Field("public", alias="schema")
    subscription: str = "Subscription"
    subscription_id: str = "id"
    subscription_status: str = "status"
    subscription_stripe_id: str = "stripeSubscriptionId"
    subscription_created: str = "createdAt"
    user: str = "User"
    user_id: str = "id"
    user_email: str = "email"
    user_created: str = "createdAt"
    user_failed_logins: str = "failedLoginAttempts"
    user_locked_until: str = "lockedUntil"
    migration: str = "_prisma_migrations"
    migration_name: str = "migration_name"
    migration_started: str = "started_at"
    migration_finished: str = "finished_at"
    migration_rolled_back: str = "rolled_back_at"
    session: str = "Session"
    session_id: str = "id"
    session_token: str = "sessionToken"  # noqa: S105 - a column's name
    session_user: str = "userId"
    session_expires: str = "expires"


class Profile(BaseModel):
    """The optional ``runbook.toml``: names of tables and columns, flow parameters by runbook, caps by scope, how often
    events may start a runbook."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: Tables = Tables()
    parameters: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    caps: Mapping[str, Cap] = Field(default_factory=dict)
    cooldown: Mapping[str, Rule] = Field(default_factory=dict)


def _problem(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]) or "?", first["msg"]


@lru_cache(maxsize=1)
def settings() -> Settings:
    """This process's settings; raises ``BadSetting`` naming the first variable that cannot be right."""
    try:
        return Settings(_env_file=home() / ".env")
    except ValidationError as error:
        name, problem = _problem(error)
        raise BadSetting(name.upper(), problem, f"correct {name.upper()} in the environment or in .env") from None
    except (OSError, UnicodeError) as error:
        raise unreadable(error) from None


@lru_cache(maxsize=1)
def ledger_url() -> str:
    """The ledger's database URL, whatever else is wrong in the settings: the red button is in there."""
    return of_environment().ledger_url()


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
    ledger_url.cache_clear()
    secrets_in_force.cache_clear()
    profile.cache_clear()
