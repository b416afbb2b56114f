"""Where this process's files and its ledger lie: all the red button needs to know, whatever else is set wrongly."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from runbook.errors import BadSetting

DEFAULT_LEDGER = "sqlite:///{state}/runbook/ledger.db"


def home() -> Path:
    """The folder that holds ``.env`` and ``runbook.toml``."""
    return Path(os.environ.get("RUNBOOK_HOME") or Path.cwd())


def unreadable(error: OSError | UnicodeError) -> BadSetting:
    """What to say of an ``.env`` that cannot be read."""
    problem = error.strerror if isinstance(error, OSError) else "is not UTF-8"
    return BadSetting(str(home() / ".env"), f"cannot be read: {problem}", "correct the file")


class Place(BaseSettings):
    """The ledger's address, read from the environment and ``.env`` without a look at any other setting."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    runbook_ledger_url: SecretStr = SecretStr("")

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


def of_environment() -> Place:
    """The ledger's place; raises ``BadSetting`` where only an ``.env`` that cannot be read could tell."""
    named = Place(_env_file=None)
    if named.runbook_ledger_url.get_secret_value():
        return named
    try:
        return Place(_env_file=home() / ".env")
    except (OSError, UnicodeError) as error:
        raise unreadable(error) from None
