"""Unique false secrets, and how they get wherever real ones are: settings, logs, vendors' answers, the database."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from demo import limits_app, paging_servers, sentry_server, smtp_server
from demo import stack as stacks
from demo.openai_server import OpenAIServer
from demo.sendgrid_server import SCOPES, SendGridServer
from demo.serving import Served
from demo.stack import Stack
from runbook.settings import Settings

SHAPE = re.compile(rb"canary(\d{3})x[0-9a-f]*")
SETTINGS = tuple(name for name, one in Settings.model_fields.items() if "SecretStr" in str(one.annotation))
FORMS: Mapping[str, str] = {
    "database_url": "postgresql://runbook:{}@127.0.0.1:{port}/app?connection_limit=5&schema=public",
    "runbook_database_url": "postgresql://runbook:{}@127.0.0.1:{port}/app",
    "pgbouncer_url": "postgresql://pgbouncer:{}@127.0.0.1:9/pgbouncer",
    "stripe_secret_key": "sk_test_{}",
    "stripe_webhook_secret": "whsec_{}",
    "sendgrid_api_key": "SG.{}",
    "openai_api_key": "sk-{}",
    "sentry_dsn": "https://{}@o1.ingest.sentry.io/7",
    "slack_webhook_url": "{slack}/services/T1/B1/{}",
    "runbook_ledger_url": "sqlite:///{folder}/{}/ledger.db",
}
"""How a setting is written; all others are the bare canary. ``{}`` is the canary."""

COMMAND = """sh -c 'echo no access with $2 >&2; exit 3' run --api-token {c}"""
"""A command that fails and says its token, which it was given as an argument."""

LOGGED = (
    "401 Incorrect API key provided: sk-proj-{c}",
    "No signatures found matching the expected signature for secret whsec_{c}",
    "connect postgresql://app:{c}@db:5432/app failed",
    "auth failed, password={c}",
    'refused: {{"password":"{c}"}}',
    "GET /api/reset?token={c} answered 500",
    "headers: Authorization: Bearer {c}",
    "headers: Authorization: Basic {c}",
    "headers: Cookie: next-auth.session-token={c}; a=b",
    "jwt eyJhbGciOiJIUzI1NiJ9.{c}.{c}",
    "sent https://a.example/reset-password/{c}",
    "SMTP_PASSWORD={c} STRIPE_SECRET_KEY=sk_live_{c}",
    "spawn tool --api-key {c}",
)
"""What an app says in its log when it should not: each as a JSON line and as an audit block."""

RAW = (
    "prisma:error \nInvalid `prisma.user.update()` invocation:\n\n\nToo many database connections: postgresql://x:{c}@h/d",
    "[next-auth][error][JWT_SESSION_ERROR] \nsecret: '{c}' decryption failed",
    "Error: connect ECONNREFUSED redis://:{c}@cache:6379",
    "550 5.7.1 rejected, X-Api-Key: SG.{c}",
)
SAID = (
    "Invalid API Key provided: sk_live_{c}",
    "token={c} expired",
    "Bearer {c} is not valid",
    "see https://u:{c}@internal/login?api_key={c}",
    '{{"client_secret": "{c}"}}',
)
HOOK = {
    "alertname": "leak, password={c}",
    "runbook": "pool-exhaustion",
    "summary": "curl -H 'Authorization: Bearer {c}' https://x/?token={c}",
}
TRIGGERS = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF current_user <> 'runbook' THEN RETURN coalesce(NEW, OLD); END IF;
  RAISE EXCEPTION 'new row violates a check: password={message} at postgresql://u:{message}@h/d'
    USING ERRCODE = 'check_violation', DETAIL = 'Failing row contains ({detail}).', HINT = 'ask {detail}'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON "User" FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE DELETE ON "Session" FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE UPDATE ON "Subscription" FOR EACH ROW EXECUTE FUNCTION refuse();
"""


CONTROLS = ("a check: password=***", "Bearer *** is not valid", "Incorrect API key provided: sk-***")


@dataclass
class Canaries:
    """Each planted once: ``places`` says where, by number; ``seen`` is what came out, by where it was seen.

    ``met`` are the words of ``CONTROLS`` that were seen: proof that a text with a canary in it did get that far.
    """

    places: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    searched: dict[str, int] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)

    def new(self, place: str) -> str:
        """A canary for this place, the same one when asked again."""
        if place not in self.values:
            self.values[place] = f"canary{len(self.places):03d}x{secrets.token_hex(8)}"
            self.places.append(place)
        return self.values[place]

    def search(self, where: str, data: bytes | str) -> None:
        """Look for any canary, or the beginning of one."""
        raw = data.encode() if isinstance(data, str) else data
        self.searched[where] = self.searched.get(where, 0) + len(raw)
        self.met |= {words for words in CONTROLS if words.encode() in raw}
        for hit in SHAPE.finditer(raw):
            shown = raw[max(0, hit.start() - 80) : hit.end() + 10].decode("utf-8", "replace")
            self.seen.setdefault(f"{where}: {self.places[int(hit[1])]}", set()).add(shown)


class Hostile:
    """Every vendor at once, and none means well: it says back what it was sent, with secrets of its own."""

    def __init__(self, canaries: Canaries) -> None:
        self.status = 400
        self._canaries = canaries
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self._served = Served(Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)]), 0)
        self.url = self._served.url
        self._served.start()

    def stop(self) -> None:
        self._served.stop()

    async def _answer(self, request: Request) -> Response:
        echo = {name: value for name, value in request.headers.items() if name not in {"host", "accept"}}
        sent = (await request.body()).decode("utf-8", "replace")
        said = "; ".join(one.format(c=self._canaries.new(f"vendor says: {one}")) for one in SAID)
        text = f"{said}; you sent {json.dumps(echo)} to {request.url} with {sent}"
        # Stripe's and OpenAI's, SendGrid's, PagerDuty's and Sentry's shape in one.
        body: dict[str, Any] = {
            "error": {"message": text, "type": "invalid_request_error", "code": None, "param": None},
            "errors": [{"message": text, "field": None}],
            "message": text,
            "detail": text,
            "object": "list",
            "data": [],
            "has_more": False,
        }
        headers = {"x-token": self._canaries.new("vendor's header"), "set-cookie": f"a={self._canaries.new('cookie')}"}
        return Response(json.dumps(body), self.status, headers, "application/json")


class Planted(Stack):
    """The demo's stack, in which every secret is a canary that its stand-in knows."""

    def __init__(self, canaries: Canaries, **how: Any) -> None:
        self.canaries = canaries
        super().__init__(lambda _text: None, **how)

    def env(self) -> dict[str, str]:
        """The settings with every secret replaced."""
        slack = self.standin(paging_servers.Slack).url
        more = {"port": self.postgres.port, "slack": slack, "folder": self.folder}
        made = {name.upper(): written(self.canaries, name, **more) for name in SETTINGS}
        self.standin(OpenAIServer).keys.add(made["OPENAI_API_KEY"])
        self.standin(SendGridServer).keys[made["SENDGRID_API_KEY"]] = SCOPES
        kept = {"RUNBOOK_LEDGER_URL": f"sqlite:///{self.folder}/ledger.db"}
        plain = super().env()
        for name in [name for name in plain if name.endswith("_COMMAND")]:
            plain[name] = f"env {name}_TOKEN={self.canaries.new(name)} {plain[name]}"
        plain["RUNBOOK_HEALTH_URL"] += f"?token={self.canaries.new('RUNBOOK_HEALTH_URL')}"
        plain["RUNBOOK_WAR_ROOM_URL"] = f"https://meet.example/room?pwd={self.canaries.new('RUNBOOK_WAR_ROOM_URL')}"
        return {**plain, **limits_app.SETTINGS, **made, **kept}

    def hostile(self, url: str) -> dict[str, str]:
        """The settings that lead to ``url``, with secrets in their paths and queries, and commands that tell theirs."""
        secret = self.canaries.new
        told = {name: COMMAND.format(c=secret(f"{name} argument")) for name in self.env() if name.endswith("_COMMAND")}
        at = f"{url}/health/{secret('RUNBOOK_HEALTH_URL path')}?api_key={secret('RUNBOOK_HEALTH_URL query')}"
        return told | {
            "RUNBOOK_HEALTH_URL": at,
            "SLACK_WEBHOOK_URL": f"{url}/services/{secret('SLACK_WEBHOOK_URL')}",
        }


def written(canaries: Canaries, name: str, **more: object) -> str:
    """The value of one secret setting."""
    form = FORMS.get(name, "{}").replace("{}", "{canary}")
    return form.format(canary=canaries.new(name.upper()), **more)


@contextlib.contextmanager
def known(canaries: Canaries) -> Iterator[None]:
    """The stand-ins' own copies of the secrets, while the block lasts."""
    named = (
        (stacks, "WEBHOOK_SECRET", "stripe_webhook_secret"),
        (stacks, "STRIPE_KEY", "stripe_secret_key"),
        (paging_servers, "ROUTING_KEY", "pagerduty_routing_key"),
        (sentry_server, "TOKEN", "sentry_auth_token"),
        (smtp_server, "PASSWORD", "smtp_pass"),
        (limits_app, "ADMIN_SECRET", "admin_secret"),
    )
    was = [(module, name, getattr(module, name)) for module, name, _ in named] + [
        (paging_servers, "HOOK", paging_servers.HOOK)
    ]
    for module, name, setting in named:
        setattr(module, name, written(canaries, setting))
    paging_servers.HOOK = f"/services/T1/B1/{canaries.new('SLACK_WEBHOOK_URL')}"
    try:
        yield
    finally:
        for module, name, value in was:
            setattr(module, name, value)


def plant(stack: Stack, canaries: Canaries) -> contextlib.ExitStack:
    """Canaries in the app's log, in statements and in what the database says; closing it ends the sessions."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with stack.app.log_path.open("a", encoding="utf-8") as log:
        for one in LOGGED:
            said = one.format(c=canaries.new(f"log: {one}"))
            log.write(json.dumps({"level": "error", "time": at, "msg": "request_failed", "error": said}) + "\n")
            details = f"details: {{ error: {said!r}, token: {said!r} }}"
            log.write(f"[AUDIT-ERROR] request_failed {{\n  timestamp: '{at}',\n  {details},\n  severity: 'error'\n}}\n")
        for one in RAW:
            log.write(one.format(c=canaries.new(f"log: {one[:40]}")) + "\n")
    held = contextlib.ExitStack()
    with psycopg.connect(stack.postgres.url(), autocommit=True) as owner:
        message, detail = canaries.new("database's message"), canaries.new("database's detail")
        owner.execute(TRIGGERS.replace("{message}", message).replace("{detail}", detail).encode())
        owner.execute(f"ALTER ROLE app PASSWORD '{canaries.new('statement: ALTER ROLE')}'".encode())
    for at_, statement in enumerate(("SELECT '{c}'", """SELECT * FROM "User" WHERE "password" = $x${c}$x$""")):
        idle = psycopg.connect(stack.postgres.url(user="app"), application_name="web")
        held.callback(idle.close)  # and never committed: a runbook may have ended it meanwhile
        idle.execute(statement.replace("{c}", canaries.new(f"statement {at_}")).encode())
    return held
