"""Stand-ins for status pages: our own on Statuspage and on Instatus, and the public summaries of vendors."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.serving import Served

KEY, PAGE = "statuspage_demo_0123456789", "page_demo"
INSTATUS_KEY, INSTATUS_PAGE = "instatus_demo_0123456789", "instatus_demo"
STATES = frozenset({"investigating", "identified", "monitoring", "resolved"})


class StatusPages:
    """``shown`` is what each provider shows, the newest first; ``vendors`` the open incidents of each vendor.

    ``fault`` is a status to answer everything with. ``mails`` counts those that subscribers got.
    """

    def __init__(self) -> None:
        self.reset()
        one = "/v1/pages/{page}/incidents/{id}"
        routes = [
            Route("/v1/pages/{page}/incidents/unresolved", self._unresolved),
            Route("/v1/pages/{page}/incidents", self._open, methods=["POST"]),
            Route(one, self._change, methods=["PATCH"]),
            Route("/v1/{page}/incidents", self._instatus, methods=["GET", "POST"]),
            Route("/v1/{page}/incidents/{id}/incident-updates", self._instatus_update, methods=["POST"]),
            Route("/{vendor}/api/v2/summary.json", self._summary),
        ]
        self._served = Served(Starlette(routes=routes))
        self.url = self._served.url

    def reset(self) -> None:
        """Nothing is shown."""
        self.shown: dict[str, list[dict[str, Any]]] = {"statuspage": [], "instatus": []}
        self.vendors: dict[str, list[dict[str, Any]]] = {"stripe": [], "openai": [], "vercel": []}
        self.fault, self.mails = 0, 0

    def __enter__(self) -> StatusPages:
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()

    def env(self) -> Mapping[str, str]:
        """The settings that write and read here."""
        return {
            "STATUSPAGE_API_KEY": KEY,
            "STATUSPAGE_PAGE_ID": PAGE,
            "STATUSPAGE_API_BASE": self.url,
            "RUNBOOK_STATUS_PAGES": ",".join(f"{name}={self.url}/{name}" for name in self.vendors),
        }

    def instatus_env(self) -> Mapping[str, str]:
        """The same for Instatus."""
        return {"INSTATUS_API_KEY": INSTATUS_KEY, "INSTATUS_PAGE_ID": INSTATUS_PAGE, "INSTATUS_API_BASE": self.url}

    def vendor_incident(self, vendor: str, impact: str = "major", name: str = "Elevated errors") -> None:
        """One open incident on a vendor's page, as Statuspage spells it."""
        row = {"id": "inc1", "name": name, "status": "investigating", "impact": impact}
        row |= {"created_at": "2026-01-02T03:04:05.000Z", "started_at": "2026-01-02T03:00:00.000Z"}
        self.vendors[vendor].append(row | {"shortlink": f"https://stspg.io/{vendor}"})

    def open_names(self, provider: str = "statuspage") -> list[str]:
        """What the public sees as not resolved."""
        return [row["name"] for row in self.shown[provider] if row["status"].lower() != "resolved"]

    def _refused(self, request: Request, key: str, page: str) -> Response | None:
        if self.fault:
            return JSONResponse({"error": "no"}, self.fault)
        if request.headers.get("authorization") != key:
            return JSONResponse({"error": "Could not authenticate"}, 401)
        return None if request.path_params["page"] == page else JSONResponse({"error": "not found"}, 404)

    async def _unresolved(self, request: Request) -> Response:
        refused = self._refused(request, f"OAuth {KEY}", PAGE)
        return refused or JSONResponse([row for row in self.shown["statuspage"] if row["status"] != "resolved"])

    async def _open(self, request: Request) -> Response:
        if refused := self._refused(request, f"OAuth {KEY}", PAGE):
            return refused
        body = (await request.json()).get("incident") or {}
        if not body.get("name") or body.get("status") not in STATES or not body.get("body"):
            return JSONResponse({"error": ["name can't be blank"]}, 422)
        self.mails += bool(body.get("deliver_notifications"))
        return JSONResponse(self._show("statuspage", body["name"], body["status"], body["body"]), 201)

    async def _change(self, request: Request) -> Response:
        if refused := self._refused(request, f"OAuth {KEY}", PAGE):
            return refused
        row = self._row("statuspage", request.path_params["id"])
        body = (await request.json()).get("incident") or {}
        if row is None or body.get("status") not in STATES:
            return JSONResponse({"error": "not found"}, 404)
        row |= {"status": body["status"], "message": body["body"]}
        return JSONResponse(row)

    async def _instatus(self, request: Request) -> Response:
        if refused := self._refused(request, f"Bearer {INSTATUS_KEY}", INSTATUS_PAGE):
            return refused
        if request.method == "GET":
            return JSONResponse(self.shown["instatus"])
        body = await request.json()
        if not body.get("name") or body.get("status", "").lower() not in STATES or "components" not in body:
            return JSONResponse({"error": {"message": "invalid"}}, 422)
        self.mails += bool(body.get("notify"))
        return JSONResponse(self._show("instatus", body["name"], body["status"], body["message"]))

    async def _instatus_update(self, request: Request) -> Response:
        if refused := self._refused(request, f"Bearer {INSTATUS_KEY}", INSTATUS_PAGE):
            return refused
        row, body = self._row("instatus", request.path_params["id"]), await request.json()
        if row is None:
            return JSONResponse({"error": {"message": "not found"}}, 404)
        row |= {"status": body["status"], "message": body["message"]}
        return JSONResponse(row)

    async def _summary(self, request: Request) -> Response:
        vendor = request.path_params["vendor"]
        if self.fault or vendor not in self.vendors:
            return JSONResponse({}, self.fault or 404)
        status = {"indicator": "major" if self.vendors[vendor] else "none", "description": "…"}
        return JSONResponse({"page": {}, "status": status, "components": [], "incidents": self.vendors[vendor]})

    def _show(self, provider: str, name: str, status: str, message: str) -> dict[str, Any]:
        row = {"id": f"inc_{len(self.shown[provider]) + 1}", "name": name, "status": status, "message": message}
        self.shown[provider].insert(0, row)
        return row

    def _row(self, provider: str, wanted: str) -> dict[str, Any] | None:
        return next((row for row in self.shown[provider] if row["id"] == wanted), None)
