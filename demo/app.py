"""The app under care, as far as a runbook meets it: takes signed webhooks, writes its database, and logs."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import stripe
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.app_assets import Assets
from demo.auth_server import auth_routes
from demo.deploy_server import Vercel
from demo.limits_app import limit_routes
from demo.mail_app import Mailer, forgot_password
from demo.serving import Served

TOLERANCE_SECONDS = 300

PARTS: tuple[Callable[[App], list[Route]], ...] = (auth_routes, forgot_password, limit_routes)
"""Further endpoints, one file of the demo each."""


class App:
    """``with App(database_url, secret, log_path=…) as app``: at ``app.url`` until the block ends."""

    def __init__(self, database_url: str, webhook_secret: str, *, log_path: Path, port: int = 0) -> None:
        self.database_url, self.secret, self.log_path = database_url, webhook_secret, log_path
        self.received: list[str] = []
        self.assets = Assets()
        self.mailer: Mailer | None = None
        self.hosting: Vercel | None = None
        self._lock = threading.Lock()
        routes = [
            *(Route(path, self._page) for path in ("/", "/_next/{path:path}", "/images/{path:path}")),
            Route("/api/classes", self._classes, methods=["POST"]),
            Route("/api/subscription/webhook", self._webhook, methods=["POST"]),
        ]
        routes += [route for make in PARTS for route in make(self)]
        self._served = Served(Starlette(routes=routes), port)
        self.url = self._served.url

    def __enter__(self) -> App:
        self.log_path.touch()
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()

    # The app's two log forms, in one stream: a failure is often written in both.

    def log(self, level: str, message: str, **more: Any) -> None:
        """One JSON line."""
        line = {"level": level, "time": _now(), "msg": message, **more}
        self._write(json.dumps(line) + "\n")

    def audit(self, severity: str, action: str, **details: Any) -> None:
        """One audit block, as Node's inspector prints it."""
        inner = ", ".join(f"{key}: {value!r}" for key, value in details.items())
        prefix = "[AUDIT]" if severity == "info" else f"[AUDIT-{severity.upper()}]"
        self._write(
            f"{prefix} {action} {{\n  timestamp: '{_now()}',\n  action: '{action}',\n  userId: 'anonymous',\n"
            f"  details: {{ {inner} }},\n  severity: '{severity}'\n}}\n"
        )

    def _write(self, text: str) -> None:
        with self._lock, self.log_path.open("a", encoding="utf-8") as log:
            log.write(text)

    async def _page(self, request: Request) -> Response:
        status = self.hosting.page_status() if self.hosting is not None else 200
        if status != 200:
            if status == 500:
                self.log(
                    "error", "page_render_failed", path=request.url.path, error="Cannot read properties of undefined"
                )
            return Response("sorry", status)
        return self.assets.answer(request)  # answers with the database down, as the real one does

    async def _classes(self, request: Request) -> Response:
        body = await request.json()
        return await run_in_threadpool(self._rename_class, str(body["id"]), str(body["color"]))

    def _rename_class(self, class_id: str, color: str) -> Response:
        try:
            with self._database() as database:
                database.execute('UPDATE "Class" SET "color" = %s WHERE "id" = %s', (color, class_id))
        except psycopg.Error as error:
            return self._database_failed(error)
        return JSONResponse({"id": class_id})

    async def _webhook(self, request: Request) -> Response:
        if self.hosting is not None and self.hosting.shuts_webhook and self.hosting.page_status() == 503:
            return Response("sorry", 503)
        payload, signature = await request.body(), request.headers.get("stripe-signature", "")
        return await run_in_threadpool(self._take, payload, signature)

    def _take(self, payload: bytes, signature: str) -> Response:
        try:
            text = payload.decode()
            stripe.WebhookSignature.verify_header(text, signature, self.secret, TOLERANCE_SECONDS)
            event = json.loads(text)
        except (stripe.SignatureVerificationError, UnicodeDecodeError, json.JSONDecodeError) as error:
            self.log("error", "webhook_verification_failed", error=str(error))
            self.audit("error", "webhook_verification_failed", error=type(error).__name__)
            return JSONResponse({"error": "invalid signature"}, 400)
        try:
            status = self._handle(event["type"], event["data"]["object"])
        except psycopg.Error as error:
            self.log("error", "webhook_handler_error", type=event["type"], error=str(error).splitlines()[0])
            return self._database_failed(error)
        self.received.append(event["id"])
        return JSONResponse({"received": True}, status)

    def _handle(self, kind: str, thing: dict[str, Any]) -> int:
        """As the real handler: by customer, ignoring the subscription's id and the order of events."""
        if not kind.startswith("customer.subscription."):
            self.log("info", kind.replace(".", "_"))
            return 200
        status = "canceled" if kind.endswith("deleted") else thing["status"]
        with self._database() as database:
            done = database.execute(
                'UPDATE "Subscription" SET "status" = %s WHERE "stripeCustomerId" = %s', (status, thing["customer"])
            )
            if done.rowcount:
                return 200
        self.log("warn", "subscription_not_found_for_update", customer=thing["customer"])
        self.audit("warning", "subscription_not_found_for_update", customer=thing["customer"])
        return 500 if kind.endswith("deleted") else 200

    @contextlib.contextmanager
    def _database(self) -> Any:
        with psycopg.connect(
            self.database_url, application_name="app", connect_timeout=5, options="-c statement_timeout=5s"
        ) as connection:
            yield connection

    def _database_failed(self, error: psycopg.Error) -> Response:
        text = str(error).strip().splitlines()[-1]
        if "slots are reserved" in text or "too many clients" in text:
            self._write(
                "prisma:error \nInvalid `prisma.class.update()` invocation:\n\n\n"
                f"Too many database connections opened: {text}\n"
            )
            self.audit("error", "database_error", message="Too many database connections")
        self.log("error", "database_error", error=text)
        return JSONResponse({"error": "internal"}, 500)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
