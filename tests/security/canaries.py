"""Unique false secrets, planted wherever real ones are, and a search of all that comes out and all that is kept.

``python -m tests.security.canaries`` prints the result; ``tests/security/test_canaries.py`` demands that it is nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from demo import limits_app, paging_servers, sentry_server, smtp_server
from demo import stack as stacks
from demo.faults import Broken
from demo.openai_server import OpenAIServer
from demo.sendgrid_server import SCOPES, SendGridServer
from demo.serving import Served
from demo.stack import BIN, ROOT, Stack, wait_for
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

LOG = (
    '{{"level":"error","time":"{at}","msg":"ai_error","provider":"openai","error":"401 Incorrect API key: sk-proj-{c}"}}',
    '{{"level":"error","time":"{at}","msg":"webhook_verification_failed","error":"No match for secret whsec_{c}"}}',
    '{{"level":"error","time":"{at}","msg":"database_error","error":"connect postgresql://app:{c}@db:5432/app failed"}}',
    '{{"level":"error","time":"{at}","msg":"email_error","error":"auth failed, password={c}","to":"a@example.com"}}',
    '{{"level":"warn","time":"{at}","msg":"login_failed","email":"a@example.com","ip":"192.88.1.1","reason":"token {{\\"password\\":\\"{c}\\"}}"}}',
    '{{"level":"error","time":"{at}","msg":"request_failed","error":"GET /api/reset?token={c} 500","path":"/api/reset?token={c}"}}',
    '{{"level":"error","time":"{at}","msg":"request_failed","error":"headers: Authorization: Bearer {c}"}}',
    '{{"level":"error","time":"{at}","msg":"request_failed","error":"headers: Cookie: next-auth.session-token={c}; a=b"}}',
    '{{"level":"error","time":"{at}","msg":"request_failed","error":"jwt eyJhbGciOiJIUzI1NiJ9.{c}.{c}"}}',
    '{{"level":"error","time":"{at}","msg":"Unhandled","err":{{"message":"https://a.example/reset-password/{c}"}}}}',
    '{{"level":"error","time":"{at}","msg":"config","error":"SMTP_PASSWORD={c} STRIPE_SECRET_KEY=sk_live_{c}"}}',
    "[AUDIT-ERROR] auth_failed {{\n  timestamp: '{at}',\n  userId: 'anonymous',\n  details: {{ error: 'apiKey: {c}', token: '{c}' }}\n}}",
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


@dataclass
class Canaries:
    """Each planted once: ``places`` says where, by number; ``seen`` is what came out, by where it was seen."""

    places: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    searched: dict[str, int] = field(default_factory=dict)

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
        return super().env() | limits_app.SETTINGS | made | kept


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
        for one in LOG:
            log.write(one.format(at=at, c=canaries.new(f"log: {one[:70]!r}")) + "\n")
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


def run(canaries: Canaries, env: Mapping[str, str], *words: str) -> str:
    """One ``runbook`` command to its end; all it says is searched."""
    done = subprocess.run(
        [str(BIN / "runbook"), *words],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **env},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    sys.stderr.write(f"{time.monotonic():9.1f} s  runbook {' '.join(words)}\n")
    canaries.search(f"runbook {' '.join(words)}"[:40], done.stdout + done.stderr)
    return done.stdout


def search_ledger(canaries: Canaries, folder: Path) -> None:
    """Every file of the ledger as it lies on the disk, and every row unpacked."""
    for path in sorted(folder.glob("*.db*")):
        canaries.search(f"file {path.name}", path.read_bytes())
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in file.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    canaries.search(f"ledger table {table}", unpacked(value))


def unpacked(value: object) -> bytes:
    if isinstance(value, bytes):
        with contextlib.suppress(zlib.error):
            return zlib.decompress(value)
        return value
    return str(value).encode()


@contextlib.contextmanager
def receiver(stack: Stack, env: Mapping[str, str]) -> Iterator[str]:
    """The receiver of webhooks as a process; what it says is in ``receiver.log``."""
    url = f"http://127.0.0.1:{env['INGRESS_PORT']}"
    with (stack.folder / "receiver.log").open("wb") as log:
        words = [sys.executable, "-m", "ingress"]
        process = subprocess.Popen(words, env={**os.environ, **env}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"{url}/healthz", process, "the receiver did not start")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def send_hooks(canaries: Canaries, url: str, env: Mapping[str, str]) -> None:
    """Alerts, in their places canaries, taken, refused and to a wrong address; every answer is searched."""
    labels = {name: text.format(c=canaries.new(f"webhook {name}")) for name, text in HOOK.items()}
    alerts = [
        {"status": "firing", "startsAt": str(n), "labels": some, "annotations": {"summary": labels["summary"]}}
        for n, some in enumerate((labels, {"alertname": labels["alertname"]}))
    ]
    bearer = {"Authorization": f"Bearer {env['INGRESS_ALERTMANAGER_TOKEN']}"}
    text = json.dumps({"text": labels["summary"], "blocks": []})
    for path, headers, body in (
        ("alertmanager", bearer, json.dumps({"alerts": alerts})),
        ("alertmanager", {"Authorization": f"Bearer {canaries.new('forged bearer')}"}, "{}"),
        (f"app/{env['INGRESS_APP_TOKEN']}", {}, text),
        (f"app/{canaries.new('forged app token')}", {}, text),
        ("generic", {"X-Runbook-Signature": canaries.new("forged signature"), "X-Runbook-Timestamp": "1"}, "{}"),
    ):
        answer = httpx.post(f"{url}/hooks/{path}", content=body, headers=headers)
        canaries.search("receiver's answers", answer.content + str(answer.headers).encode())
    canaries.search("receiver's metrics", httpx.get(f"{url}/metrics").content)


def ask_everything(canaries: Canaries, env: Mapping[str, str]) -> None:
    """Every command that shows anything."""
    told = json.loads(run(canaries, env, "ledger", "--json"))["runs"]
    for one in told[:3]:
        run(canaries, env, "show", str(one["id"]))
    for words in (
        ("show", str(told[-1]["id"]), "--json"),
        ("doctor",),
        ("doctor", "--json"),
        ("role",),
        ("status",),
        ("pages",),
        ("export",),
        ("audit",),
        ("stop", f"because password={canaries.new('reason')}"),
        ("start",),
    ):
        run(canaries, env, *words)
    for name in ("pool-exhaustion", "failed-payments"):
        run(canaries, env, "backtest", name)


def hostile_vendors(canaries: Canaries, env: Mapping[str, str], statuses: tuple[int, ...]) -> None:
    """Every runbook while each vendor answers with all it was sent and secrets of its own."""
    hostile = Hostile(canaries)
    names = ("STRIPE_API_BASE", "SENDGRID_API_BASE", "OPENAI_BASE_URL", "SENTRY_API_BASE", "PAGERDUTY_API_BASE")
    sick = {**env, **dict.fromkeys((*names, "APP_URL", "NEXTAUTH_URL", "RUNBOOK_HEALTH_URL"), hostile.url)}
    sick["SLACK_WEBHOOK_URL"] = f"{hostile.url}/services/{canaries.new('SLACK_WEBHOOK_URL')}"
    try:
        for status in statuses:
            hostile.status = status
            run(canaries, sick, "sweep", "--mode", "auto")
        run(canaries, sick, "watch")
        run(canaries, sick, "doctor")
    finally:
        hostile.stop()


def dead_ends(canaries: Canaries, env: Mapping[str, str], folder: Path) -> None:
    """First starts, and ledgers and databases that cannot be reached or cannot be named."""
    home = folder / "home"
    home.mkdir()
    (folder / "app.env").write_text("".join(f"{name.upper()}='{env[name.upper()]}'\n" for name in SETTINGS), "utf-8")
    clean = {name: value for name, value in env.items() if name.lower() not in Settings.model_fields}
    run(
        canaries,
        clean | {"RUNBOOK_HOME": str(home), "RUNBOOK_LEDGER_URL": f"sqlite:///{home}/ledger.db"},
        "init",
        "--env",
        str(folder / "app.env"),
    )
    canaries.search("runbook.toml of init", (home / "runbook.toml").read_bytes())
    search_ledger(canaries, home)
    secret = canaries.new("unusable URL")
    for url in (f"postgresql://u:{secret}@127.0.0.1:9/l", f"postgresql://u:{secret}@[/l", f"mysql://u:{secret}@h/l"):
        for name in ("RUNBOOK_LEDGER_URL", "RUNBOOK_DATABASE_URL"):
            run(canaries, {**env, name: url}, "run", "pool-exhaustion")
            run(canaries, {**env, name: url, "RUNBOOK_DEBUG": "1"}, "status")


def hunt(statuses: tuple[int, ...] = (400, 401, 403, 500, 200)) -> Canaries:
    """Plant, run everything, search everything."""
    canaries = Canaries()
    with known(canaries), Planted(canaries, prefect=False) as stack:
        held = plant(stack, canaries)
        broken = Broken(stack)
        env = stack.env()
        try:
            with receiver(stack, env) as url:
                send_hooks(canaries, url, env)
            for mode in ("observe", "auto"):
                run(canaries, env, "sweep", "--mode", mode)
            run(canaries, env, "sweep", "--mode", "approve", "--json")
            ask_everything(canaries, env)
            hostile_vendors(canaries, env, statuses)
            ask_everything(canaries, env)
            dead_ends(canaries, env, stack.folder)
        finally:
            held.close()
            broken.close()
        search_ledger(canaries, stack.folder)
        canaries.search("receiver's log", (stack.folder / "receiver.log").read_bytes())
    return canaries


def report(canaries: Canaries) -> str:
    """What was planted, what was searched, and what was found."""
    lines = [f"{len(canaries.places)} canaries; {sum(canaries.searched.values()):,} bytes searched in:"]
    lines += [f"  {size:>12,}  {where}" for where, size in sorted(canaries.searched.items())]
    lines += [f"LEAK {where}: {text!r}" for where, texts in sorted(canaries.seen.items()) for text in sorted(texts)[:2]]
    return "\n".join([*lines, f"{len(canaries.seen)} leaks"])


if __name__ == "__main__":
    began = time.monotonic()
    found = hunt()
    sys.stdout.write(f"{report(found)}, {time.monotonic() - began:.0f} s\n")
    sys.exit(1 if found.seen else 0)
