"""The first start on a real app: its ``.env`` taken over, its tables found, everything checked, nothing changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from dotenv import dotenv_values, set_key

import flows
from deployments import doctor, role
from deployments.doctor import Check
from runbook.errors import BadSetting, RunbookError
from runbook.model import Frozen, Json, Mode, Report
from runbook.settings import Settings, Tables, forget, home, settings
from tasks.table_names import Named, match, read_catalog

EACH_SECONDS = 120
Ask = Callable[[str], str]
"""Puts one question to a person and returns the answer, empty for none."""


class Started(Frozen):
    """What the first start did and saw; ``role`` is SQL for the database's owner, empty where it was not reached."""

    told: tuple[str, ...]
    role: str
    checks: tuple[Check, ...]
    reports: tuple[Report, ...]

    def as_json(self) -> dict[str, Json]:
        """The form ``--json`` prints."""
        return {
            "told": list(self.told),
            "role": self.role,
            "checks": [one.as_json() for one in self.checks],
            "runs": [one.as_json() for one in self.reports],
        }


async def begin(source: Path | None, ask: Ask | None, say: Callable[[str], None]) -> Started:
    """Set up ``RUNBOOK_HOME`` from the app's own ``.env``, write runbook.toml, check, and sweep in mode observe.

    Nothing that exists is overwritten. ``ask`` is None where nobody is there to answer. Raises ``BadSetting`` where
    there is neither a ``.env`` nor a ``DATABASE_URL``, or where ``RUNBOOK_HOME`` cannot be written.
    """
    told = [_environment(source, ask)]
    say(told[0])
    sql = ""
    try:
        found = await _names()
    except RunbookError as error:
        told.append(f"The database was not looked at. {error}")
    else:
        told.append(_profile(found))
        forget()
        sql = await role.of_settings()
    say(told[1])
    forget()
    say("Checking every setting, connection, privilege and scope …")
    checks = tuple(await doctor.examine())
    say("Looking at everything once, in mode observe: nothing is changed …")
    from flows.health_sweep import sweep  # the flows read their defaults from runbook.toml, which is only now there

    reports = tuple(await sweep(flows.names(), Mode.observe, EACH_SECONDS))
    return Started(told=tuple(told), role=sql, checks=checks, reports=reports)


def _environment(source: Path | None, ask: Ask | None) -> str:
    target = home() / ".env"
    if target.exists():
        return f"{target} is there and stays as it is."
    if source is None and ask is not None and not settings().database_url:
        answer = ask("Path of the app's .env (empty: none)").strip()
        source = Path(answer).expanduser() if answer else None
    found = _known(source) if source else {}
    if not found and not settings().database_url and ask is not None:
        url = ask("DATABASE_URL (postgresql://user:password@host:5432/db)").strip()
        found = {"DATABASE_URL": url} if url else {}
    if not found and not settings().database_url:
        raise BadSetting("DATABASE_URL", "is not set and there is no .env", "runbook init --env /path/to/the/app/.env")
    if not found:
        return "The settings come from the environment; no .env was written."
    _write(target, found)
    forget()
    return f"{target} written, readable by you only: {', '.join(sorted(found))}."


def _known(source: Path) -> dict[str, str]:
    """The settings in the app's file that this product knows; how far runbooks may go is never taken from there."""
    try:
        values: Mapping[str, str | None] = dotenv_values(source)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting("--env", f"{source} cannot be read ({type(error).__name__})", "name the app's .env") from None
    if not source.is_file():
        raise BadSetting("--env", f"no file at {source}", "name the app's .env")
    names = {name.upper() for name in Settings.model_fields if name != "runbook_mode"}
    found = {name: value for name, value in values.items() if value and name in names}
    if not found:
        raise BadSetting("--env", f"{source} holds no setting this product knows", "see docs/settings.md")
    return found


def _write(target: Path, values: Mapping[str, str]) -> None:
    with _whole(target, 0o600, "RUNBOOK_HOME") as part:
        for name, value in values.items():
            set_key(part, name, value, quote_mode="always")
        part.chmod(0o600)


@contextmanager
def _whole(path: Path, mode: int, setting: str) -> Iterator[Path]:
    """A file that becomes ``path`` once it is all written; ``BadSetting`` names ``setting`` where it cannot."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode))
        yield part
        part.replace(path)
    except OSError as error:
        raise BadSetting(setting, f"cannot write {path}: {error.strerror}", "name a folder you may write") from None
    finally:
        with suppress(OSError):
            part.unlink()


async def _names() -> Named:
    url = settings().secret(settings().monitor_setting())
    schema = dict(parse_qsl(urlsplit(url).query)).get("schema", "")
    return match(await read_catalog(), schema)


def _profile(found: Named) -> str:
    named = settings().runbook_profile
    path = named or home() / "runbook.toml"
    if path.exists():
        return f"{path} is there and stays as it is."
    with _whole(path, 0o666, "RUNBOOK_PROFILE" if named else "RUNBOOK_HOME") as part:
        part.write_text(_toml(found), "utf-8")
    lacks = f"; not found: {', '.join(found.missing)}" if found.missing else ""
    return f"{path} written: {len(found.names)} names of tables and columns{lacks}."


def _toml(found: Named) -> str:
    known = Tables()
    lines = [f"# Written by runbook init on {datetime.now(UTC):%Y-%m-%d}, from the database's own catalog.", "[tables]"]
    lines += [f"{key} = {_string(name)}" for key, name in found.names.items()]
    lines += [f'# {key} = "{getattr(known, key)}"  # not found: name it, or leave it' for key in found.missing]
    return "\n".join(lines) + "\n"


def _string(name: str) -> str:
    """A TOML string; a name in the database may hold quotes and line breaks."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
