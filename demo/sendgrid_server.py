"""A stand-in for SendGrid's API over HTTP, faithful enough for the official SDK, with faults that can be injected."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from demo.serving import Served
from demo.stripe_delivery import Breakable, Fault, Half, Hangup, pick

__all__ = ["Fault", "SendGridServer"]

KEY = "SG.demo0123456789.demo0123456789abcdef"
SENDER = "no-reply@app.example"
LISTS = ("blocks", "bounces", "invalid_emails", "spam_reports", "unsubscribes")
SCOPES = (
    "mail.send",
    "stats.read",
    "suppression.blocks.delete",
    "suppression.bounces.delete",
    "suppression.invalid_emails.delete",
    "suppression.read",
    "whitelabel.read",
    "whitelabel.update",
)
Row = dict[str, Any]


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SendGridServer:
    """``with SendGridServer() as sendgrid``: at ``sendgrid.url`` until the block ends.

    ``lists`` holds the suppression lists, ``groups`` who left which group, ``sent`` the recipients of real
    mails and ``mails`` those as they came.
    ``published`` are the ids of domains whose DNS records are right: asking to validate one makes it valid.
    ``requests`` counts calls by method and path without what varies.
    """

    def __init__(self, port: int = 0) -> None:
        self.reset()
        self._lock = threading.Lock()
        routes = [Route("/{path:path}", self._serve, methods=["GET", "POST", "DELETE"])]
        self._served = Served(Breakable(Starlette(routes=routes)), port)
        self.url = self._served.url

    def reset(self) -> None:
        """An account in which nothing is wrong."""
        self.keys: dict[str, tuple[str, ...]] = {KEY: SCOPES}
        self.lists: dict[str, dict[str, Row]] = {name: {} for name in LISTS}
        self.groups: dict[str, str] = {}
        self.senders: list[Row] = [{"id": 1, "from_email": SENDER, "verified": True, "locked": False}]
        self.domains: list[Row] = [_domain(1, "app.example", valid=True)]
        self.published: set[int] = set()
        self.metrics = {"requests": 2_000, "delivered": 1_960, "bounces": 12, "blocks": 9, "spam_reports": 1}
        self.sent: list[str] = []
        self.mails: list[Row] = []
        self.sandboxed = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        self.faults: list[Fault] = []

    def __enter__(self) -> SendGridServer:
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()

    def env(self) -> Mapping[str, str]:
        """The settings that send a runbook here."""
        return {"SENDGRID_API_KEY": KEY, "SENDGRID_API_BASE": self.url, "SENDGRID_SENDER_EMAIL": SENDER}

    def suppress(self, kind: str, address: str, hours: float = 48, reason: str = "", status: str = "") -> Row:
        """Put ``address`` on a list, so many hours ago."""
        row: Row = {"email": address, "created": int(time.time() - hours * 3600)}
        if kind in {"blocks", "bounces", "invalid_emails"}:
            row["reason"] = reason
        if kind in {"blocks", "bounces"}:
            row["status"] = status
        with self._lock:
            self.lists[kind][address.lower()] = row
        return row

    # -- serving --------------------------------------------------------------------------------------------------

    async def _serve(self, request: Request) -> Response:
        path, body = _parts(request), await request.body()
        self.requests[request.method, "/".join(path[:2])] += 1
        fault = pick(self.faults, f"{request.method} {request.url.path}")
        if fault is not None and (instead := await _instead(fault)) is not None:
            return instead
        try:
            self._authorise(request)
            with self._lock:
                said = self._route(request.method, path, request.query_params, json.loads(body) if body else None)
            status, text = (200, json.dumps(said)) if said is not None else (202 if path[0] == "mail" else 204, "")
        except Refused as refused:
            status, text = refused.status, json.dumps({"errors": [{"message": str(refused), "field": None}]})
        match fault.kind if fault is not None else "":
            case "half":
                return Half(text, status, media_type="application/json")
            case "garbage":
                return _json(text[: len(text) // 2], status)
            case "killed":
                return Hangup()
            case "nameless":
                return _json(json.dumps([{"created": 1, "reason": "no address"}]), status)
        return _json(text, status)

    def _authorise(self, request: Request) -> None:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key not in self.keys:
            raise Refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if request.url.path == "/v3/mail/send" and "mail.send" not in self.keys[key]:
            raise Refused(403, "access forbidden")

    def _route(self, method: str, path: list[str], query: Mapping[str, str], body: Any) -> Any:
        match method, *path:
            case "GET", "scopes":
                return {"scopes": list(next(iter(self.keys.values())))}
            case "GET", "verified_senders":
                return {"results": self.senders}
            case "GET", "stats":
                return self._stats(query)
            case "GET", "whitelabel", "domains":
                return self.domains
            case "GET", "whitelabel", "domains", id_:
                return self._domain(id_)
            case "POST", "whitelabel", "domains", id_, "validate":
                return self._validate(self._domain(id_))
            case "POST", "mail", "send":
                return self._send(body)
            case "GET", "suppression", kind if kind in LISTS:
                return self._page(kind, query)
            case "GET", "suppression", kind, address if kind in LISTS:
                return [row for name, row in self.lists[kind].items() if name == address.lower()]
            case "DELETE", "suppression", kind, address if kind in LISTS:
                if self.lists[kind].pop(address.lower(), None) is None:
                    raise Refused(404, "not found")
                return None
            case "DELETE", "suppression", kind if kind in LISTS:
                self.lists[kind].clear()  # as the real one: an address that got lost on the way names the whole list
                return None
            case "GET", "asm", "suppressions", "global", address:
                return {"recipient_email": address} if address.lower() in self.lists["unsubscribes"] else {}
            case "GET", "asm", "suppressions", address:
                left = self.groups.get(address.lower())
                return {"suppressions": [{"id": 7, "name": left or "news", "suppressed": left is not None}]}
        raise Refused(404, "not found")

    # -- what it answers ------------------------------------------------------------------------------------------

    def _stats(self, query: Mapping[str, str]) -> list[Any]:
        day = datetime.fromisoformat(query["start_date"]).replace(tzinfo=UTC)
        last = datetime.fromisoformat(query["end_date"]).replace(tzinfo=UTC)
        days = []
        while day <= last:
            drops = dict.fromkeys(("bounce_drops", "spam_report_drops", "unsubscribe_drops", "invalid_emails"), 1)
            days.append({"date": f"{day:%Y-%m-%d}", "stats": [{"metrics": drops | self.metrics}]})
            day += timedelta(days=1)
        return days

    def _domain(self, id_: str) -> Row:
        for one in self.domains:
            if str(one["id"]) == id_:
                return one
        raise Refused(404, "domain not found")

    def _validate(self, domain: Row) -> Row:
        well = domain["valid"] = domain["id"] in self.published
        reason = None if well else "Expected CNAME to match, found nothing."
        for record in domain["dns"].values():
            record["valid"] = well
        return {
            "id": domain["id"],
            "valid": well,
            "validation_results": {name: {"valid": well, "reason": reason} for name in domain["dns"]},
        }

    def _send(self, mail: Any) -> Any:
        sender = mail["from"]["email"].lower()
        host = sender.rpartition("@")[2]
        known = any(one["verified"] and one["from_email"].lower() == sender for one in self.senders)
        if not known and not any(one["valid"] and one["domain"] == host for one in self.domains):
            raise Refused(403, "The from address does not match a verified Sender Identity.")
        if mail.get("mail_settings", {}).get("sandbox_mode", {}).get("enable"):
            self.sandboxed += 1
            return {}
        self.mails.append(mail)
        for personal in mail["personalizations"]:
            for to in personal["to"]:
                if not any(to["email"].lower() in self.lists[kind] for kind in LISTS[1:]):
                    self.sent.append(to["email"].lower())
        return None

    def _page(self, kind: str, query: Mapping[str, str]) -> list[Row]:
        since, until = int(query.get("start_time", 0)), int(query.get("end_time", 1 << 40))
        rows = [row for row in self.lists[kind].values() if since <= row["created"] <= until]
        rows.sort(key=lambda row: -row["created"])
        at, limit = int(query.get("offset", 0)), min(500, int(query.get("limit", 500)))
        return rows[at : at + limit]


def _domain(id_: int, name: str, *, valid: bool) -> Row:
    records = {"mail_cname": "em1", "dkim1": "s1._domainkey", "dkim2": "s2._domainkey"}
    dns = {
        key: {"type": "cname", "host": f"{host}.{name}", "data": f"{key}.u1.wl.sendgrid.net", "valid": valid}
        for key, host in records.items()
    }
    return {"id": id_, "domain": name, "subdomain": "em1", "default": True, "valid": valid, "dns": dns}


def _parts(request: Request) -> list[str]:
    raw = request.scope["raw_path"].decode().partition("?")[0]  # a slash inside an address stays inside it
    return [unquote(part) for part in raw.strip("/").split("/")][1:] or [""]


def _json(text: str, status: int) -> Response:
    return Response(text, status, media_type="application/json")


async def _instead(fault: Fault) -> Response | None:
    """The answer of a fault that keeps the request from being acted on."""
    if fault.kind.isdigit():
        headers = {"X-RateLimit-Reset": str(int(time.time() + fault.seconds))} if fault.kind == "429" else {}
        said = json.dumps({"errors": [{"message": "injected", "field": None}]})
        return Response(said, int(fault.kind), headers, "application/json")
    if fault.kind == "drop":
        return Hangup()
    if fault.kind == "redirect":
        return RedirectResponse("http://127.0.0.1:1/elsewhere")
    if fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
    return None
