"""Checks every setting, connection, privilege and scope before anybody needs them, and says what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

from prefect.settings import PREFECT_API_URL

import flows
from runbook.errors import NotConfigured, RunbookError
from runbook.ledger import ledger
from runbook.mask import mask, secret_mark
from runbook.model import Frozen, Json
from runbook.settings import caps, profile, settings
from tasks import endpoints, generation, generation_switch, stripe_api
from tasks.generation_errors import MEANING
from tasks.privileges import Privileges, TableRights, read_privileges
from tasks.rights import quoted

OPTIONAL = (
    "STRIPE_WEBHOOK_SECRET",
    "ADMIN_SECRET",
    "NEXTAUTH_URL",
    "NEXTAUTH_SECRET",
    "SENDGRID_API_KEY",
    "OPENAI_API_KEY",
    "PAGERDUTY_ROUTING_KEY",
    "SLACK_WEBHOOK_URL",
    "RUNBOOK_NOTIFY_URLS",
)


class Check(Frozen):
    """One thing looked at: ``ok``, ``bad`` (with what to do), or ``unset`` (nothing depends on it yet)."""

    name: str
    state: Literal["ok", "bad", "unset"]
    seen: str
    next_step: str = ""

    def as_json(self) -> dict[str, Json]:
        """The form ``--json`` prints."""
        return self.model_dump(mode="json")


async def examine() -> list[Check]:
    """Every check, in the order a person would mend them; one that fails hides no other."""
    checks: list[Check] = []
    for name, look in (
        ("settings", _settings),
        ("ledger", _ledger),
        ("database", _database),
        ("Stripe key", _stripe),
        ("Stripe webhook endpoint", _endpoint),
        ("AI model", _generation),
        ("app log", _log),
        ("Prefect API", _prefect),
    ):
        checks += await _guarded(name, look)
    return checks


async def _guarded(name: str, look: Callable[[], Awaitable[list[Check]]]) -> list[Check]:
    try:
        return await look()
    except NotConfigured as error:
        return [Check(name=name, state="unset", seen=f"not configured: {error.subject}", next_step=error.next_step)]
    except RunbookError as error:
        seen = str(mask(f"{error.subject} {error.problem}"))
        return [Check(name=name, state="bad", seen=seen, next_step=error.next_step)]


async def _settings() -> list[Check]:
    known = settings()
    caps()
    for name, given in profile().parameters.items():
        strange = set(given) - set(flows.runbook(name).parameters.properties) if name in flows.every() else {name}
        if strange:
            problem = f"[parameters.{name}] has unknown names: {', '.join(sorted(strange))}"
            return [Check(name="runbook.toml", state="bad", seen=problem, next_step="see docs/settings.md")]
    mode = Check(name="RUNBOOK_MODE", state="ok", seen=f"{known.runbook_mode} is the most any run may do")
    return [mode, *(_secret(name) for name in OPTIONAL)]


def _secret(name: str) -> Check:
    try:
        value = settings().secret(name)
    except NotConfigured:
        return Check(name=name, state="unset", seen="not set")
    return Check(name=name, state="ok", seen=secret_mark(value) if "URL" not in name else "set")


async def _ledger() -> list[Check]:
    book = ledger()
    with book.write() as connection:
        book.note(connection, "doctor", {})
        stopped = book.stopped(connection)
    button = "pressed: nothing acts" if stopped is not None else "out"
    return [
        Check(name="ledger", state="ok", seen=f"{book.engine.dialect.name}, writable"),
        Check(name="red button", state="ok", seen=button, next_step="runbook start" if stopped is not None else ""),
    ]


async def _database() -> list[Check]:
    role = await read_privileges()
    seen = f"PostgreSQL {role.version // 10_000} as {role.role}"
    tables = [_table(one) for one in role.tables]
    return [Check(name="database", state="ok", seen=seen), *_rights(role), *tables, *_optional(role)]


def _rights(role: Privileges) -> list[Check]:
    who = quoted(role.role)
    rows = [
        ("not a superuser", not role.superuser, "runbook role"),
        ("pg_monitor", role.monitor, f"GRANT pg_monitor TO {who}"),
        ("pg_signal_backend", role.signal, f"GRANT pg_signal_backend TO {who}"),
        ("pg_stat_statements", role.statements, "add it to shared_preload_libraries, then CREATE EXTENSION"),
    ]
    if role.reserved is not None:
        grant = f"GRANT pg_use_reserved_connections TO {who} and set reserved_connections = 2, then restart"
        rows.append(("a slot when all are taken", role.reserved, grant))
    return [
        Check(name=name, state="ok" if well else "bad", seen="yes" if well else "no", next_step="" if well else step)
        for name, well, step in rows
    ]


def _table(one: TableRights) -> Check:
    name = f'table "{one.name}"'
    if not one.found:
        return Check(name=name, state="bad", seen="missing", next_step="set [tables] in runbook.toml, or leave it")
    if one.missing:
        seen = f"no column {', '.join(one.missing)}"
        return Check(name=name, state="bad", seen=seen, next_step="set [tables] in runbook.toml")
    if one.grants:
        seen = f"found; {one.of} may not do all they do"
        return Check(name=name, state="bad", seen=seen, next_step=" ".join(one.grants))
    return Check(name=name, state="ok", seen=f"found, with all that {one.of} need of it")


def _optional(role: Privileges) -> list[Check]:
    """Rights only slow-queries can use, which a careful owner may withhold."""
    if not role.owner:
        return []
    rows = [("may vacuum", role.maintains), ("may build indexes", role.owns)]
    return [
        Check(name=name, state="ok", seen="yes")
        if well
        else Check(name=name, state="unset", seen="no: slow-queries tells a person instead", next_step="runbook role")
        for name, well in rows
    ]


async def _stripe() -> list[Check]:
    settings().need("STRIPE_SECRET_KEY")
    await stripe_api.probe_key()
    live = stripe_api.key_is_live()
    scopes = []
    for path in ("/v1/subscriptions", "/v1/events", "/v1/webhook_endpoints", "/v1/invoices"):
        scopes += await _guarded(f"Stripe {path}", partial(_scope, path))
    return [Check(name="Stripe key", state="ok", seen=f"accepted, {'live' if live else 'test'} mode"), *scopes]


async def _scope(path: str) -> list[Check]:
    await stripe_api.ask("get", path, {"limit": 1})
    return [Check(name=f"Stripe {path}", state="ok", seen="may be read")]


async def _endpoint() -> list[Check]:
    settings().need("STRIPE_SECRET_KEY", "APP_URL")
    ours = endpoints.of_app(await endpoints.read_endpoints(), endpoints.webhook_url())
    if not ours:
        step = "register APP_URL + RUNBOOK_WEBHOOK_PATH in the Stripe dashboard, or correct either"
        return [Check(name="Stripe webhook endpoint", state="bad", seen="none is this app's", next_step=step)]
    return [_switch(one.id, enabled=one.status == "enabled") for one in ours]


def _switch(id_: str, *, enabled: bool) -> Check:
    step = "" if enabled else "runbook run failed-payments"
    seen = f"{id_} {'enabled' if enabled else 'disabled'}"
    return Check(name="Stripe webhook endpoint", state="ok" if enabled else "bad", seen=seen, next_step=step)


async def _generation() -> list[Check]:
    settings().need("OPENAI_API_KEY", "OPENAI_MODEL")
    checks = []
    for access in filter(None, (generation.primary(), generation.fallback())):
        probe = await generation.read_probe(access, 1, 0, 15)
        meaning = MEANING.get(probe.kind)
        seen, step = (meaning.problem, meaning.next_step) if meaning else ("writes", "")
        name = f"AI model {access.model}"
        checks.append(Check(name=name, state="bad" if meaning else "ok", seen=seen, next_step=step))
    if not generation_switch.missing():
        flag = await generation_switch.read_switch(ledger())
        checks.append(Check(name="AI model in force", state="ok", seen=f"{flag.state} ({flag.said})"))
    return checks


async def _log() -> list[Check]:
    if not settings().has_app_log:
        settings().need("APP_LOG")
    checks = []
    if settings().app_log_command:
        program = settings().app_log_command.split()[0]
        found = shutil.which(program)
        step = "" if found else "correct APP_LOG_COMMAND"
        seen = "found" if found else "not found"
        checks.append(Check(name=f"app log by {program}", state="ok" if found else "bad", seen=seen, next_step=step))
    for path in settings().app_log:
        well = os.access(path, os.R_OK)
        step = "" if well else "correct APP_LOG or let this user read the file"
        seen = "readable" if well else "unreadable"
        checks.append(Check(name=f"app log {path.name}", state="ok" if well else "bad", seen=seen, next_step=step))
    return checks


async def _prefect() -> list[Check]:
    url = PREFECT_API_URL.value()
    if not url:
        step = "only schedules and the UI need it: prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        return [Check(name="Prefect API", state="unset", seen="PREFECT_API_URL is not set", next_step=step)]
    try:
        await asyncio.to_thread(urllib.request.urlopen, f"{url}/health", timeout=3)
    except (urllib.error.URLError, OSError, ValueError) as error:
        step = "prefect server start; runs from the command line go on without it"
        seen = f"{url} does not answer ({type(error).__name__})"
        return [Check(name="Prefect API", state="bad", seen=seen, next_step=step)]
    return [Check(name="Prefect API", state="ok", seen=url)]
