"""A stand-in for the part of Vercel that a rollback needs, and the app's two emergency switches as files."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demo.serving import Served

TOKEN, PROJECT, TEAM = "vercel_demo_0123456789abcdef", "prj_demo", "team_demo"
GOOD, BAD = "dpl_good", "dpl_bad"


class Vercel:
    """``deployments`` newest last, ``live`` is where production points; ``bad`` are those whose pages fail.

    ``fault`` is a status to answer everything with; ``refuse`` one for moves only; ``lag`` the seconds an alias takes
    to move; ``stuck``: it is taken and never moves. ``moves`` are those asked for, as (kind, id). With fewer than
    ``needed`` instances only the proxy answers. ``turned`` has a line for each time a switch was turned.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="runbook-deploy-", ignore_cleanup_errors=True)
        self.maintenance, self.instances = (Path(self._folder.name) / name for name in ("maintenance", "instances"))
        self.turned = Path(self._folder.name) / "turned"
        routes = [
            Route("/v9/projects/{project}", self._project),
            Route("/v6/deployments", self._list),
            Route("/v1/projects/{project}/rollback/{id}", self._move, methods=["POST"]),
            Route("/v10/projects/{project}/promote/{id}", self._move, methods=["POST"]),
        ]
        self._served = Served(Starlette(routes=routes))
        self.url = self._served.url
        self.reset()

    def reset(self) -> None:
        """One good deployment of yesterday is live, maintenance is off, two instances run."""
        self.deployments: list[dict[str, Any]] = []
        self.bad: set[str] = set()
        self.live = ""
        self.moves: list[tuple[str, str]] = []
        self.alias: dict[str, Any] | None = None
        self.fault = self.refuse = self.needed = 0
        self.lag, self.stuck, self.shuts_webhook = 0.2, False, False
        self.maintenance.write_text("off")
        self.instances.write_text("2")
        self.turned.write_text("")
        self.deploy(GOOD, minutes_ago=24 * 60)

    def deploy(
        self,
        name: str,
        minutes_ago: float,
        *,
        bad: bool = False,
        state: str = "READY",
        about: str = "",
        live: bool = True,
    ) -> None:
        """A production deployment that was ready so long ago, and goes live unless it is not ready or not to be."""
        ready = round((time.time() - minutes_ago * 60) * 1000)
        row: dict[str, Any] = {
            "uid": name,
            "name": "demo",
            "target": "production",
            "created": ready - 60_000,
            "state": state,
            "readyState": state,
            "meta": {"githubCommitMessage": about} if about else {},
        }
        live = live and state == "READY"
        row |= {"ready": ready, "readySubstate": "PROMOTED" if live else "STAGED"} if state == "READY" else {}
        self.deployments.append(row)
        self.live = name if live else self.live
        if bad:
            self.bad.add(name)

    def __enter__(self) -> Vercel:
        self._served.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.stop()
        self._folder.cleanup()

    def env(self) -> Mapping[str, str]:
        """The settings that ask here, and the commands that turn and read the two switches."""

        def write(path: Path) -> str:
            return f"""sh -c 'printf %s "$0" > {path}; echo "{path.name} $0" >> {self.turned}' {{state}}"""

        return {
            "VERCEL_TOKEN": TOKEN,
            "VERCEL_PROJECT_ID": PROJECT,
            "VERCEL_TEAM_ID": TEAM,
            "VERCEL_API_BASE": self.url,
            "RUNBOOK_MAINTENANCE_COMMAND": write(self.maintenance),
            "RUNBOOK_MAINTENANCE_STATE_COMMAND": f"cat {self.maintenance}",
            "RUNBOOK_SCALE_COMMAND": write(self.instances),
            "RUNBOOK_SCALE_STATE_COMMAND": f"cat {self.instances}",
        }

    def page_status(self) -> int:
        """What the app's pages answer by what is live and switched."""
        if self.maintenance.read_text() == "on":
            return 503
        if int(self.instances.read_text()) < self.needed:
            return 502
        return 500 if self.live in self.bad else 200

    # -- the API ------------------------------------------------------------------------------------------------

    def _refused(self, request: Request) -> Response | None:
        if self.fault:
            return _error(self.fault, "internal_server_error")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _error(403, "forbidden")
        if request.query_params.get("teamId") != TEAM:
            return _error(404, "not_found")
        project = request.path_params.get("project") or request.query_params.get("projectId")
        return None if project == PROJECT else _error(404, "not_found")

    async def _project(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        targets = {"production": {"id": self.live, "readyState": "READY"}}
        return JSONResponse({"id": PROJECT, "name": "demo", "targets": targets, "lastAliasRequest": self.alias})

    async def _list(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        limit = int(request.query_params.get("limit", "20"))
        newest = sorted(self.deployments, key=lambda row: -int(row["created"]))[:limit]
        return JSONResponse({"deployments": newest, "pagination": {"count": len(newest), "next": None, "prev": None}})

    async def _move(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        wanted, kind = request.path_params["id"], "rollback" if "rollback" in request.url.path else "promote"
        self.moves.append((kind, wanted))
        if self.refuse:
            return _error(self.refuse, "bad_request")
        if wanted not in {row["uid"] for row in self.deployments}:
            return _error(404, "not_found")
        self.alias = {
            "fromDeploymentId": self.live,
            "toDeploymentId": wanted,
            "jobStatus": "in-progress",
            "requestedAt": round(time.time() * 1000),
            "type": kind,
        }
        if not self.stuck:
            threading.Timer(self.lag, self._point, [wanted]).start()
        return JSONResponse(None, 201)

    def _point(self, wanted: str) -> None:
        self.live = wanted
        self.alias = (self.alias or {}) | {"jobStatus": "succeeded"}


def _error(status: int, code: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": "no"}}, status)
