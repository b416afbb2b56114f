"""What goes wrong with mail in the demo, and what only looks as if it had."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from demo.app import App
from demo.mail_app import Mailer
from demo.scene import Fault, Lookalike, Scene
from demo.sendgrid_server import SendGridServer
from demo.smtp_server import SmtpServer
from demo.stack import Stack

NAME = "undelivered-email"
BUSY = "4.7.0 try again later"
WAITING = ("person41@example.com", "person42@example.com", "person43@example.com")
SENT = "person44@example.com"
EXPIRED = "person45@example.com"


def break_mail(stack: Stack) -> Scene:
    """A domain whose records were published and nobody asked SendGrid to look; old blocks; resets that failed."""
    sendgrid, smtp, app = stack.standin(SendGridServer), stack.standin(SmtpServer), stack.app
    app.mailer = Mailer(smtp, sendgrid)
    faults = [unvalidated_domain(sendgrid), outlived_blocks(sendgrid), failed_resets(app, smtp)]
    return Scene(faults, [*suppression_lookalikes(sendgrid), *reset_lookalikes(app, smtp)])


# -- faults -----------------------------------------------------------------------------------------------------------


def unvalidated_domain(sendgrid: SendGridServer) -> Fault:
    """Its DNS records are right by now, and SendGrid has not looked since."""
    domain = sendgrid.domains[0]
    domain["valid"] = False
    sendgrid.published.add(domain["id"])
    return Fault("domain authentication not valid", NAME, ("revalidate_domain",), lambda: bool(domain["valid"]))


def outlived_blocks(sendgrid: SendGridServer) -> Fault:
    """Three receivers that were busy two days ago."""
    blocked = [f"reader{i}@busy{i}.example" for i in range(3)]
    for address in blocked:
        sendgrid.suppress("blocks", address, 48, BUSY, "4.7.0")
    return Fault(
        "blocks whose cause is gone",
        NAME,
        ("remove_block",),
        lambda: not any(address in sendgrid.lists["blocks"] for address in blocked),
    )


def failed_resets(app: App, smtp: SmtpServer, addresses: Iterable[str] = WAITING, minutes: float = 10) -> Fault:
    """Users whose reset mail failed while the SMTP server was down."""
    wanted = list(addresses)
    for address in wanted:
        log_reset(app, "failed", address, minutes)
    return Fault(
        "password resets that failed",
        NAME,
        ("resend_reset",),
        lambda: all(smtp.mails.count((address,)) == 1 for address in wanted),
    )


def log_reset(app: App, what: str, address: str, minutes: float) -> None:
    """What the app wrote of a reset so many minutes ago: ``failed`` or ``sent``."""
    at = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if what == "failed":
        said = "connect ECONNREFUSED 127.0.0.1:587"
        app.log("error", "password_reset_email_failed", time=at, email=address, error=said)
    else:
        app.log("info", "password_reset_email_sent", time=at, email=address)


# -- look-alikes ------------------------------------------------------------------------------------------------------


def suppression_lookalikes(sendgrid: SendGridServer) -> list[Lookalike]:
    """Rows that must stay where they are."""
    put = sendgrid.suppress
    put("blocks", "fresh@slow.example", 1, BUSY, "4.7.0")
    put("blocks", "old@slow.example", 48, BUSY, "4.7.0")  # its receiver still blocks: see the row before it
    put("blocks", "listed@strict.example", 72, "550 5.7.1 blocked using zen.spamhaus.org", "5.7.1")
    put("blocks", "left@busy9.example", 48, BUSY, "4.7.0")
    sendgrid.groups["left@busy9.example"] = "news"
    put("blocks", "angry@busy8.example", 48, BUSY, "4.7.0")
    put("spam_reports", "angry@busy8.example", 47)
    put("spam_reports", "reporter@example.org", 30)
    put("unsubscribes", "gone@example.org", 30)
    put("bounces", "nobody@example.org", 30, "550 5.1.1 user unknown", "5.1.1")
    named = {
        "a block of this hour": ("blocks", "fresh@slow.example"),
        "an old block of a receiver that still blocks": ("blocks", "old@slow.example"),
        "a block for reputation": ("blocks", "listed@strict.example"),
        "an old block of somebody who left a group": ("blocks", "left@busy9.example"),
        "an old block of somebody who reported spam": ("blocks", "angry@busy8.example"),
        "a spam report": ("spam_reports", "reporter@example.org"),
        "an unsubscribe": ("unsubscribes", "gone@example.org"),
        "a hard bounce": ("bounces", "nobody@example.org"),
    }
    return [Lookalike(name, stays(sendgrid, kind, address)) for name, (kind, address) in named.items()]


def stays(sendgrid: SendGridServer, kind: str, address: str) -> Callable[[], bool]:
    """Whether the row is there as it is now."""
    at_first = json.dumps(sendgrid.lists[kind][address])
    return lambda: json.dumps(sendgrid.lists[kind].get(address)) == at_first


def reset_lookalikes(app: App, smtp: SmtpServer) -> list[Lookalike]:
    """Failed resets nobody waits for any more."""
    log_reset(app, "failed", EXPIRED, 130)
    log_reset(app, "failed", SENT, 9)
    log_reset(app, "sent", SENT, 5)
    named = {"a reset that was sent since": SENT, "a reset that ran out": EXPIRED}
    return [Lookalike(name, lambda to=to: (to,) not in smtp.mails) for name, to in named.items()]  # type: ignore[misc]
