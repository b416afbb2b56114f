"""Whether a webhook is really its sender's: each vendor's own scheme over the raw body, in constant time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from runbook.errors import BadSetting

FRESH_SECONDS = 300
"""How far a signed timestamp may lie from our clock, either way."""

Headers = Mapping[str, str]
"""Names in lower case."""


class Refused(Exception):
    """Why a webhook is not taken: ``unsigned`` (nothing to check), ``forged`` or ``stale``."""


Check = Callable[[str, Headers, bytes, float], None]
"""(secret, headers, raw body, now in Unix seconds); raises ``Refused``."""


def stripe(secret: str, headers: Headers, body: bytes, now: float) -> None:
    """``Stripe-Signature: t=…,v1=…[,v1=…]``: HMAC-SHA256 over time and body."""
    parts = [part.partition("=") for part in _header(headers, "stripe-signature").split(",")]
    stamp = next((value for key, _, value in parts if key == "t"), "")
    _fresh(stamp, now)
    _one_of(_hmac(secret, f"{stamp}.".encode() + body), [value for key, _, value in parts if key == "v1"])


def sendgrid(secret: str, headers: Headers, body: bytes, now: float) -> None:
    """ECDSA P-256 over time and body; ``secret`` is the public key SendGrid shows (base64 of its DER form)."""
    signature = _header(headers, "x-twilio-email-event-webhook-signature")
    stamp = _header(headers, "x-twilio-email-event-webhook-timestamp")
    try:
        public_key(secret).verify(base64.b64decode(signature), stamp.encode() + body, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        raise Refused("forged") from None
    _fresh(stamp, now)


def sentry(secret: str, headers: Headers, body: bytes, _now: float) -> None:
    """``Sentry-Hook-Signature``: HMAC-SHA256 of the body. Its timestamp is not signed: doubles are dropped instead."""
    _one_of(_hmac(secret, body), [_header(headers, "sentry-hook-signature")])


def pagerduty(secret: str, headers: Headers, body: bytes, _now: float) -> None:
    """``X-PagerDuty-Signature: v1=…[,v1=…]``: HMAC-SHA256 of the body, one for each secret while they are rotated."""
    given = [part.strip().removeprefix("v1=") for part in _header(headers, "x-pagerduty-signature").split(",")]
    _one_of(_hmac(secret, body), given)


def vercel(secret: str, headers: Headers, body: bytes, _now: float) -> None:
    """``x-vercel-signature``: HMAC-SHA1 of the body, Vercel's own choice."""
    _one_of(_hmac(secret, body, "sha1"), [_header(headers, "x-vercel-signature")])


def bearer(secret: str, headers: Headers, _body: bytes, _now: float) -> None:
    """``Authorization: Bearer …``, as Alertmanager and Grafana can send."""
    given = _header(headers, "authorization")
    _one_of(secret, [given[7:] if given.lower().startswith("bearer ") else ""])


def generic(secret: str, headers: Headers, body: bytes, now: float) -> None:
    """``X-Runbook-Timestamp`` and ``X-Runbook-Signature: v1=…``: HMAC-SHA256 over time, a dot and the body."""
    stamp = _header(headers, "x-runbook-timestamp")
    signature = _header(headers, "x-runbook-signature").removeprefix("v1=")
    _one_of(_hmac(secret, f"{stamp}.".encode() + body), [signature])
    _fresh(stamp, now)


def _header(headers: Headers, name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise Refused("unsigned")
    return value


def _hmac(secret: str, message: bytes, digest: str = "sha256") -> str:
    return hmac.new(secret.encode(), message, digest).hexdigest()


def _one_of(right: str, given: list[str]) -> None:
    expected = hashlib.sha256(right.encode()).digest()
    # Hashing first makes the lengths equal, so that nothing is learnt from how long the comparison takes.
    if not any(hmac.compare_digest(expected, hashlib.sha256(one.encode()).digest()) for one in given):
        raise Refused("forged")


def _fresh(stamp: str, now: float) -> None:
    try:
        age = abs(now - int(stamp))
    except (ValueError, OverflowError):  # OverflowError: of so many digits that it is no time at all
        raise Refused("forged") from None
    if age > FRESH_SECONDS:
        raise Refused("stale")


def public_key(text: str) -> EllipticCurvePublicKey:
    """SendGrid's verification key as it shows it; raises ``BadSetting`` where the setting holds something else."""
    try:
        key = load_der_public_key(base64.b64decode(text))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey):
        name = "INGRESS_SENDGRID_PUBLIC_KEY"
        raise BadSetting(name, "is no ECDSA public key", "copy it from SendGrid's Mail Settings, Event Webhook")
    return key
