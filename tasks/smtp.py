"""The app's SMTP server, spoken to up to the moment before a mail would be sent."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from ipaddress import ip_address

from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.mask import mask
from runbook.settings import settings
from runbook.step import reader
from tasks.mail_causes import BY_HAND, cause

TIMEOUT_SECONDS = 5.0
IMPLICIT_TLS = 465


@reader("speak with the SMTP server")
async def read_smtp(sender: str) -> None:
    """Return when the server would take a mail from ``sender``: EHLO, STARTTLS, AUTH, MAIL FROM, RCPT TO, RSET.

    Nothing is sent: no DATA is given. Raises ``BadSetting`` naming the setting that the server refuses, and
    ``OutsideError``, transient where the server says so or cannot be reached.
    """
    await asyncio.to_thread(_speak, sender)


def _speak(sender: str) -> None:
    host = str(settings().smtp_host)
    port = settings().smtp_port or 587
    try:
        with _connected(host, port) as server:
            _greet(server)
            if port != IMPLICIT_TLS and server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
                _greet(server)
            _log_in(server, host, encrypted=port == IMPLICIT_TLS or isinstance(server.sock, ssl.SSLSocket))
            if sender:
                _envelope(server, sender)
    except smtplib.SMTPResponseException as error:
        raise _refused("SMTP_HOST", "the connection", error.smtp_code, error.smtp_error) from None
    except ssl.SSLCertVerificationError as error:
        raise BadSetting("SMTP_HOST", f"its certificate is not valid: {error.verify_message}", "renew it") from None
    except (OSError, smtplib.SMTPException) as error:
        problem = f"{host}:{port} cannot be reached ({type(error).__name__})"
        step = "see whether it is up, and whether SMTP_HOST and SMTP_PORT are right"
        raise OutsideError("SMTP_HOST", problem, step, transient=True) from None


def _connected(host: str, port: int) -> smtplib.SMTP:
    if port == IMPLICIT_TLS:
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context())
    return smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)


def _greet(server: smtplib.SMTP) -> None:
    code, said = server.ehlo()
    if code != 250:
        raise _refused("SMTP_HOST", "EHLO", code, said)


def _log_in(server: smtplib.SMTP, host: str, *, encrypted: bool) -> None:
    if not settings().smtp_user:
        return
    if not settings().smtp_pass:
        raise BadSetting("SMTP_PASS", "is empty while SMTP_USER is set", "set SMTP_PASS")
    if not encrypted and not _is_this_machine(host):
        problem, step = "offers no STARTTLS, so the password was not sent", "use a port with TLS: 587 or 465"
        raise BadSetting("SMTP_PORT", problem, step)
    try:
        server.login(str(settings().smtp_user), settings().secret("SMTP_PASS"))
    except smtplib.SMTPAuthenticationError as error:
        raise _refused("SMTP_PASS", "the login", error.smtp_code, error.smtp_error) from None
    except smtplib.SMTPNotSupportedError:
        raise BadSetting("SMTP_USER", "the server offers no login", "unset SMTP_USER, or correct SMTP_PORT") from None


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _envelope(server: smtplib.SMTP, sender: str) -> None:
    # To the sender itself: an address that surely exists, and no customer's.
    for what, (code, said) in (("MAIL FROM", server.mail(sender)), ("RCPT TO", server.rcpt(sender))):
        if code not in {250, 251}:
            raise _refused("SMTP_FROM", what, code, said)
    server.rset()


def _refused(setting: str, what: str, code: int, said: bytes | str) -> RunbookError:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    text = " ".join(str(mask(text)).split())[:200]
    problem = f"the server refuses {what}: {code} {text}"
    if 400 <= code < 500:
        return OutsideError(setting, problem, BY_HAND[cause("", f"{code} {text}")], transient=True)
    return BadSetting(setting, problem, f"correct {setting}, or ask who runs the server")
