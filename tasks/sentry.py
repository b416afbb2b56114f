"""Sentry, read only: how many errors a minute it has seen, and the issues they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from runbook.errors import BadSetting, OutsideError
from runbook.model import Frozen, Json
from runbook.settings import settings
from runbook.step import reader
from tasks.web import call

NEEDED = ("SENTRY_AUTH_TOKEN", "SENTRY_ORG", "SENTRY_PROJECT")
SECONDS = 8.0


class Issue(Frozen):
    """One issue as Sentry groups it: its short id, what it says, how often it was seen, and where to look."""

    id: str
    title: str
    count: int
    link: str


def has_sentry() -> bool:
    """True when there is a token and a project to ask about."""
    return all(getattr(settings(), name.lower()) for name in NEEDED)


@reader("read Sentry's error counts")
async def read_error_counts(minutes: int) -> dict[int, int]:
    """Errors of the project by minute (Unix time / 60), for the last ``minutes``.

    Source: GET /api/0/organizations/{org}/events-stats/ with yAxis=count(), interval 1m.
    """
    query = f"event.type:error level:[error,fatal] project:{settings().sentry_project}"
    asked = {"statsPeriod": f"{minutes}m", "interval": "1m", "yAxis": "count()", "query": query}
    body = await _asked(f"organizations/{_org()}/events-stats/", asked)
    try:
        return {int(at) // 60: int(buckets[0]["count"]) for at, buckets in body["data"]}
    except (KeyError, TypeError, ValueError, IndexError):
        raise _strange() from None


@reader("read Sentry's issues")
async def read_issues(most: int = 5) -> list[Issue]:
    """The unresolved issues seen most in the last hour. Source: GET /api/0/projects/{org}/{project}/issues/."""
    project = quote(settings().secret("SENTRY_PROJECT"), safe="")
    asked = {"query": "is:unresolved lastSeen:-1h", "statsPeriod": "24h", "sort": "freq", "limit": str(most)}
    body = await _asked(f"projects/{_org()}/{project}/issues/", asked)
    if not isinstance(body, Sequence):
        raise _strange()
    try:
        return [
            Issue(
                id=str(one["shortId"]),
                title=str(one["title"])[:200],
                count=int(one["count"]),
                link=str(one["permalink"]),
            )
            for one in body[:most]
        ]
    except (KeyError, TypeError, ValueError):
        raise _strange() from None


def _org() -> str:
    return quote(settings().secret("SENTRY_ORG"), safe="")


def _strange() -> OutsideError:
    return OutsideError("SENTRY_API_BASE", "Sentry's answer has another form", "see whether SENTRY_API_BASE is right")


async def _asked(path: str, query: Mapping[str, str]) -> Json:
    settings().need(*NEEDED)
    url = f"{settings().sentry_api_base}/api/0/{path}?{urlencode(query)}"
    headers = {"Authorization": f"Bearer {settings().secret('SENTRY_AUTH_TOKEN')}"}
    answer = await call("SENTRY_API_BASE", "GET", url, headers=headers, seconds=SECONDS)
    match answer.status:
        case 200:
            return answer.parsed("SENTRY_API_BASE")
        case 401:
            raise BadSetting("SENTRY_AUTH_TOKEN", "Sentry does not accept it", "make a token with org:read")
        case 403:
            raise BadSetting("SENTRY_AUTH_TOKEN", "lacks a scope", "give it org:read, project:read and event:read")
        case 404:
            raise BadSetting("SENTRY_PROJECT", "Sentry knows no such organisation or project", "use their slugs")
        case status:
            raise OutsideError(
                "SENTRY_API_BASE", f"answered {status}", "see https://status.sentry.io", transient=status >= 429
            )
