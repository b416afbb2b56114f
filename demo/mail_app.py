"""The app's forgot-password endpoint: it mails by SMTP where that is set, else by SendGrid, and always answers 200;
only its log tells what came of it."""

from __future__ import annotations

import smtplib
import time
from email.message import EmailMessage
from typing import TYPE_CHECKING

import psycopg
from python_http_client.exceptions import HTTPError
from sendgrid import SendGridAPIClient
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo import sendgrid_server, smtp_server
from demo.sendgrid_server import SendGridServer
from demo.smtp_server import SmtpServer

if TYPE_CHECKING:
    from demo.app import App

PER_MINUTE = 5


class Mailer:
    """The two ways out, as the app's environment names them."""

    def __init__(self, smtp: SmtpServer | None = None, sendgrid: SendGridServer | None = None) -> None:
        self.smtp, self.sendgrid = smtp, sendgrid
        self.asked: list[float] = []

    def send(self, to: str) -> None:
        """Mail a link to ``to``; raises what the library raises."""
        if self.smtp is not None:
            mail = EmailMessage()
            mail["From"], mail["To"], mail["Subject"] = smtp_server.SENDER, to, "Reset your password"
            mail.set_content("https://app.example/reset")
            with smtplib.SMTP("127.0.0.1", self.smtp.port, timeout=5) as server:
                server.login(smtp_server.USER, smtp_server.PASSWORD)
                server.send_message(mail)
        elif self.sendgrid is not None:
            client = SendGridAPIClient(sendgrid_server.KEY, host=self.sendgrid.url)
            content = [{"type": "text/plain", "value": "https://app.example/reset"}]
            client.send(
                {
                    "personalizations": [{"to": [{"email": to}]}],
                    "from": {"email": sendgrid_server.SENDER},
                    "subject": "Reset your password",
                    "content": content,
                }
            )


def forgot_password(app: App) -> list[Route]:
    """The endpoint, with the app's own limit of five a minute."""

    def reset(address: str) -> Response:
        now, mailer = time.monotonic(), app.mailer or Mailer()
        mailer.asked = [at for at in mailer.asked if at > now - 60]
        if len(mailer.asked) >= PER_MINUTE:
            app.log("warn", "password_reset_rate_limited_ip")
            return JSONResponse({"error": "too many requests"}, 429)
        mailer.asked.append(now)
        try:
            with psycopg.connect(app.database_url, connect_timeout=5) as database:
                known = database.execute('SELECT 1 FROM "User" WHERE "email" = %s', [address]).fetchone()
        except psycopg.Error as error:
            app.log("error", "database_error", error=str(error).splitlines()[0])
            return JSONResponse({"error": "internal"}, 500)
        if known:
            _mail(app, mailer, address)
        return JSONResponse({"ok": True})

    async def serve(request: Request) -> Response:
        return await run_in_threadpool(reset, str((await request.json())["email"]).lower())

    return [Route("/api/auth/forgot-password", serve, methods=["POST"])]


def _mail(app: App, mailer: Mailer, address: str) -> None:
    try:
        mailer.send(address)
    except (OSError, smtplib.SMTPException, HTTPError) as error:
        app.log("error", "password_reset_email_failed", email=address, error=str(error))
        app.audit("error", "password_reset_email_failed", email=address)
    else:
        app.log("info", "password_reset_email_sent", email=address)
