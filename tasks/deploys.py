"""Deployments of the app: which one is live and since when, and which was live before.

Vercel's API where ``VERCEL_TOKEN`` is set, else the commands a person configured.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from runbook.errors import BadSetting, OutsideError
from runbook.model import Frozen, Json
from runbook.settings import settings
from runbook.step import reader
from tasks import commands
from tasks.web import Answer, call

LIST = "RUNBOOK_DEPLOYS_COMMAND"
SECONDS = 15.0
KEEP = 20
PENDING = frozenset({"QUEUED", "INITIALIZING", "BUILDING"})


class Deployment(Frozen):
    """One production deployment; ``at_ms`` is when it was ready (Unix ms), ``once_live`` that it served production."""

    id: str
    at_ms: int
    state: str = "READY"
    once_live: bool = True
    about: str = ""

    @property
    def at(self) -> str:
        return datetime.fromtimestamp(self.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


class Deploys(Frozen):
    """What is live since when (Unix ms), what was live before it, and whether another is on its way.

    ``rolled_back``: what is live is not the newest that was: somebody has pointed production back already.
    """

    live: Deployment
    since_ms: int
    before: Deployment | None = None
    pending: str = ""
    rolled_back: bool = False


def configured() -> bool:
    """True where deployments can be read at all."""
    return bool(settings().vercel_token or settings().runbook_deploys_command)


@reader("read the deployments")
async def read_deploys() -> Deploys:
    """What is live and what was before. Raises ``NotConfigured``, ``BadSetting``, ``OutsideError``."""
    return await current()


async def current() -> Deploys:
    """``read_deploys`` inside a hand, which is no task of its own."""
    if settings().vercel_token:
        return await _from_vercel()
    settings().need(LIST)
    return await _from_command()


def judge(found: Sequence[Deployment], live_id: str, since_ms: int | None = None) -> Deploys:
    """The history as a whole, out of production deployments in any order."""
    ordered = sorted(found, key=lambda one: one.at_ms, reverse=True)
    live = next((one for one in ordered if one.id == live_id), None)
    if live is None:
        said = f"the live deployment {live_id or '?'} is not among the last {KEEP}"
        raise OutsideError("deployments", said, "look at the deployments by hand")
    served = [one for one in ordered if one.once_live and one.state == "READY"]
    before = next((one for one in served if one.at_ms < live.at_ms), None)
    pending = next((one.id for one in ordered if one.state in PENDING), "")
    newer = any(one.at_ms > live.at_ms for one in served)
    since = max(live.at_ms, since_ms or 0)
    return Deploys(live=live, since_ms=since, before=before, pending=pending, rolled_back=newer)


# -- Vercel -----------------------------------------------------------------------------------------------------------


async def _from_vercel() -> Deploys:
    """Source: GET /v9/projects/{id} (targets, lastAliasRequest) and GET /v6/deployments."""
    project = settings().vercel_project_id
    settings().need("VERCEL_TOKEN", "VERCEL_PROJECT_ID")
    state, listed = await asyncio.gather(
        vercel("GET", f"/v9/projects/{quote(str(project), safe='')}"),
        vercel("GET", "/v6/deployments", projectId=project, target="production", limit=str(KEEP)),
    )
    try:
        live = str(state.parsed("VERCEL_API_BASE")["targets"]["production"]["id"])
        alias = state.parsed("VERCEL_API_BASE").get("lastAliasRequest") or {}
        found = [_deployment(row) for row in listed.parsed("VERCEL_API_BASE")["deployments"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise OutsideError("VERCEL_API_BASE", "Vercel's answer has another form", "see whether it is right") from None
    moved = alias.get("requestedAt") if alias.get("toDeploymentId") == live else None
    return judge(found, live, int(moved) if moved else None)


def _deployment(row: Mapping[str, Json]) -> Deployment:
    meta = row.get("meta") or {}
    return Deployment(
        id=str(row["uid"]),
        at_ms=int(row.get("ready") or row["created"]),
        state=str(row.get("readyState") or row.get("state")),
        once_live=row.get("readySubstate") in {None, "PROMOTED"},
        about=str(meta.get("githubCommitMessage") or meta.get("githubCommitSha") or "").split("\n")[0][:100],
    )


async def vercel(method: str, path: str, **query: str | None) -> Answer:
    """One call to Vercel's API as the team; raises ``BadSetting`` for a certain no, ``OutsideError`` otherwise."""
    team = {"teamId": settings().vercel_team_id} if settings().vercel_team_id else {}
    words = urlencode({name: value for name, value in (query | team).items() if value})
    url = f"{settings().vercel_api_base}{path}{f'?{words}' if words else ''}"
    headers = {"Authorization": f"Bearer {settings().secret('VERCEL_TOKEN')}"}
    answer = await call("VERCEL_API_BASE", method, url, headers=headers, seconds=SECONDS)
    match answer.status:
        case status if status < 300:
            return answer
        case 401 | 403:
            raise BadSetting("VERCEL_TOKEN", f"Vercel does not let it in ({answer.status})", "make a token of the team")
        case 404:
            raise BadSetting("VERCEL_PROJECT_ID", "Vercel knows no such project or deployment", "copy its id")
        case 402 | 409 | 422 | 400:
            said = answer.body[:200].decode("utf-8", "replace")
            raise BadSetting("Vercel", f"refused ({answer.status}): {said}", "see its dashboard")
        case status:
            later = "see https://www.vercel-status.com"
            raise OutsideError("VERCEL_API_BASE", f"answered {status}", later, transient=True)


# -- commands ---------------------------------------------------------------------------------------------------------


async def _from_command() -> Deploys:
    """The command prints JSON: a list of ``{"id", "at" (ISO 8601 or Unix s), "live", "state"?, "about"?}``."""
    code, said = await commands.execute(LIST, commands.words(LIST), seconds=SECONDS)
    shape = 'a JSON list of {"id", "at", "live"}'
    if code:
        raise OutsideError(LIST, f"ended with {code}", f"run it by hand: it must print {shape}")
    try:
        rows = json.loads(said)
        found = [
            Deployment(
                id=str(row["id"]),
                at_ms=_ms(row["at"]),
                state=str(row.get("state", "READY")).upper(),
                about=str(row.get("about", ""))[:100],
            )
            for row in rows[:KEEP]
        ]
        live = next(str(row["id"]) for row in rows if row.get("live"))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise OutsideError(LIST, f"does not print {shape} with one live", f"run {LIST} by hand") from None
    return judge(found, live)


def _ms(at: Json) -> int:
    if isinstance(at, (int, float)):
        return round(at * 1000)
    moment = datetime.fromisoformat(str(at))
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
