"""A real SMTP server on a loopback port, whose replies can be replaced, command by command."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "app", "smtp-demo-password"
logging.getLogger("mail.log").setLevel(logging.ERROR)  # it warns of its own way to keep a login

SENDER = "no-reply@app.example"


class SmtpServer:
    """``with SmtpServer() as smtp``: at ``smtp.port`` until the block ends; ``mails`` are the recipients of each mail.

    ``replies`` puts a reply in place of the usual one: ``{"RCPT": "550 5.1.1 no such user"}``; ``AUTH``, ``MAIL``,
    ``RCPT`` and ``DATA`` can be replaced.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.reset()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=self._log_in,
            auth_required=tls is not None,
            auth_require_tls=tls is not None,
            tls_context=tls,
        )

    def reset(self) -> None:
        """A server that has seen nothing and takes everything."""
        self.replies: dict[str, str] = {}
        self.mails: list[tuple[str, ...]] = []
        self.seen: list[str] = []

    def __enter__(self) -> SmtpServer:
        self._controller.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    def env(self) -> Mapping[str, str]:
        """The settings that send a runbook here."""
        where = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(self.port)}
        return where | {"SMTP_USER": USER, "SMTP_PASS": PASSWORD, "SMTP_FROM": f"App <{SENDER}>"}

    def _log_in(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        self.seen.append("AUTH")
        if "AUTH" in self.replies:
            return AuthResult(success=False, handled=False, message=self.replies["AUTH"])
        known = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=known, handled=False)

    # The names and spelling of these four are aiosmtpd's.

    async def handle_MAIL(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take the sender."""
        self.seen.append("MAIL")
        if "MAIL" in self.replies:
            return self.replies["MAIL"]
        envelope.mail_from, envelope.mail_options = address, options
        return "250 OK"

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Take one recipient."""
        self.seen.append("RCPT")
        if "RCPT" in self.replies:
            return self.replies["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Take the mail."""
        self.seen.append("DATA")
        if "DATA" in self.replies:
            return self.replies["DATA"]
        self.mails.append(tuple(address.lower() for address in envelope.rcpt_tos))
        return "250 OK"
