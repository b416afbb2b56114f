"""The SMTP dialogue against a real server: what it proves, what each refusal becomes, and that nothing is sent."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from demo.smtp_server import PASSWORD, SmtpServer
from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.settings import forget
from tasks.smtp import read_smtp

SENDER = "no-reply@app.example"


def point(server: SmtpServer, monkeypatch: pytest.MonkeyPatch, **other: str) -> None:
    for name, value in {**server.env(), **other}.items():
        monkeypatch.setenv(name, value)
    forget()


async def test_the_dialogue_ends_before_the_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        point(server, monkeypatch)
        await read_smtp.fn(SENDER)
        assert server.seen == ["AUTH", "MAIL", "RCPT"] and server.mails == []


@pytest.mark.parametrize(
    ("command", "reply", "said", "transient"),
    [
        ("AUTH", "535 5.7.8 bad credentials", "SMTP_PASS: the server refuses the login: 535", False),
        ("AUTH", "454 4.7.0 temporary authentication failure", "SMTP_PASS: the server refuses the login: 454", True),
        ("MAIL", "550 5.7.1 sender not allowed", "SMTP_FROM: the server refuses MAIL FROM: 550", False),
        ("MAIL", "421 4.7.0 try again later", "SMTP_FROM: the server refuses MAIL FROM: 421", True),
        ("RCPT", "550 5.7.1 relaying denied", "SMTP_FROM: the server refuses RCPT TO: 550", False),
        ("RCPT", "451 4.3.0 greylisted", "SMTP_FROM: the server refuses RCPT TO: 451", True),
    ],
)
async def test_every_refusal_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, command: str, reply: str, said: str, transient: bool
) -> None:
    with SmtpServer() as server:
        server.replies[command] = reply
        point(server, monkeypatch)
        with pytest.raises(RunbookError) as caught:
            await read_smtp.fn(SENDER)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert getattr(caught.value, "transient", False) is transient
    assert server.mails == [] and PASSWORD not in str(caught.value)


async def test_a_wrong_password_and_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        point(server, monkeypatch, SMTP_PASS="another-password")
        with pytest.raises(BadSetting, match="SMTP_PASS"):
            await read_smtp.fn(SENDER)
        point(server, monkeypatch, SMTP_PASS="")
        with pytest.raises(BadSetting, match="SMTP_PASS: is empty"):
            await read_smtp.fn(SENDER)
        point(server, monkeypatch)
    with pytest.raises(OutsideError, match="cannot be reached") as caught:
        await read_smtp.fn(SENDER)
    assert caught.value.transient


async def test_a_password_is_not_sent_in_the_clear_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        point(server, monkeypatch)
        monkeypatch.setattr("tasks.smtp._is_this_machine", lambda _host: False)
        with pytest.raises(BadSetting, match="offers no STARTTLS, so the password was not sent"):
            await read_smtp.fn(SENDER)
        assert server.seen == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody signed but itself."""
    pem = tmp_path / "smtp.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{pem}.key", "-out", str(pem)]
    subprocess.run([*words, *more], check=True, capture_output=True)
    return pem


async def test_starttls_is_used_where_offered_and_its_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, f"{certificate}.key")
    with SmtpServer(tls) as server:
        point(server, monkeypatch)
        with pytest.raises(BadSetting, match="certificate is not valid"):
            await read_smtp.fn(SENDER)
        assert server.seen == []  # not even the login was tried
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await read_smtp.fn(SENDER)
        assert server.seen == ["AUTH", "MAIL", "RCPT"]
