"""Errors and failed sign-ins a minute, out of the app's log, and out of Sentry where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from runbook import memory
from runbook.alarm import MINUTE_MS, Point, Sample
from runbook.errors import OutsideError, RunbookError
from runbook.ledger import ledger, now_ms
from runbook.memory import LogEvent
from runbook.model import Json
from runbook.settings import settings
from tasks import sentry
from tasks.logs import read_log

MINUTES = 5


async def error_sample(trigger: float) -> Sample:
    """Errors by minute: of the log with doubles collapsed, or of Sentry, whichever saw more."""
    if not settings().has_app_log and not sentry.has_sentry():
        settings().need("APP_LOG")
    seen: list[Mapping[int, int]] = []
    failed: list[str] = []
    names = Counter[str]()
    if settings().has_app_log:
        try:
            found = await _from_log(None)
            seen.append(Counter(one.at_ms // MINUTE_MS for one in found))
            names = Counter(one.name for one in found)
        except OutsideError as error:
            failed.append(str(error))
    if sentry.has_sentry():
        try:
            seen.append(await sentry.read_error_counts(MINUTES + 1))
        except RunbookError as error:
            failed.append(str(error))
    if not seen:
        return Sample(unseen="; ".join(failed))
    counts = {minute: max(one.get(minute, 0) for one in seen) for minute in _minutes(now_ms())}
    points = by_minute(counts, now_ms(), trigger)
    evidence: dict[str, Json] = {"names": dict(names.most_common(5))}
    said = f"{points[-1].value:.0f} errors in the last minute{_most(names)}"
    if any(point.value > trigger for point in points) and sentry.has_sentry():
        said, evidence = await _with_issues(said, evidence)
    return Sample(points=points, said="; ".join([said, *failed]), evidence=evidence)


async def sign_in_sample(trigger: float) -> Sample:
    """Sign-ins that failed, by minute; the evidence says whether one address or one user stands out."""
    if not settings().has_app_log:
        settings().need("APP_LOG")
    found = await _from_log(settings().runbook_login_failed)
    counts = Counter(one.at_ms // MINUTE_MS for one in found)
    points = by_minute(counts, now_ms(), trigger)
    shape, evidence = attack(found)
    said = f"{points[-1].value:.0f} sign-ins failed in the last minute"
    return Sample(points=points, said=f"{said}{shape}", evidence=evidence)


async def _from_log(names: Iterable[str] | None) -> Sequence[LogEvent]:
    await read_log()
    since = (min(_minutes(now_ms()))) * MINUTE_MS
    return memory.grave(ledger(), since) if names is None else memory.events(ledger(), set(names), since)


async def _with_issues(said: str, evidence: dict[str, Json]) -> tuple[str, dict[str, Json]]:
    try:
        issues = await sentry.read_issues()
    except RunbookError as error:
        return f"{said}; {error}", evidence
    listed = "".join(f"\n{one.id} ({one.count}) {one.title} {one.link}" for one in issues)
    return f"{said}{listed}", evidence | {"issues": [one.id for one in issues]}


def _minutes(now: int) -> range:
    minute = now // MINUTE_MS
    return range(minute - MINUTES, minute + 1)


def by_minute(counts: Mapping[int, int], now: int, trigger: float) -> list[Point]:
    """The last whole minutes, and this one too once it is over already: a count only grows."""
    *whole, current = _minutes(now)
    points = [Point(minute=minute, value=counts.get(minute, 0)) for minute in whole]
    if counts.get(current, 0) > trigger:
        points.append(Point(minute=current, value=counts[current]))
    return points


def _most(names: Counter[str]) -> str:
    return f"; most of all {', '.join(f'{name} {count}' for name, count in names.most_common(3))}" if names else ""


def attack(events: Sequence[LogEvent]) -> tuple[str, dict[str, Json]]:
    """One address and many users, or many addresses and one user: in words, and as counts without naming anybody."""
    by_ip, by_user = Counter[str](), Counter[str]()
    users_of: dict[str, set[str]] = {}
    ips_of: dict[str, set[str]] = {}
    for one in events:
        ip = str(one.fields.get("ip") or "")
        user = next((str(one.fields[key]) for key in ("email", "userId", "identifier") if one.fields.get(key)), "")
        by_ip.update([ip] if ip else [])
        by_user.update([user] if user not in {"", "anonymous"} else [])
        users_of.setdefault(ip, set()).add(user)
        ips_of.setdefault(user, set()).add(ip)
    evidence: dict[str, Json] = {
        "addresses": {network(ip): count for ip, count in by_ip.most_common(5)},
        "users": len(by_user),
        "most for one user": max(by_user.values(), default=0),
    }
    half = len(events) / 2
    for ip, count in by_ip.most_common(1):
        if count > half and len(users_of[ip]) >= 5:
            return f", most from {network(ip)} for {len(users_of[ip])} users: credential stuffing", evidence
    for user, count in by_user.most_common(1):
        if count > half and len(ips_of[user]) >= 5:
            return f", most for one user from {len(ips_of[user])} addresses: a targeted account", evidence
    return "", evidence


def network(ip: str) -> str:
    """The network an address is in, which names nobody."""
    try:
        found = ip_address(ip)
    except ValueError:
        return "unknown"
    mapped = getattr(found, "ipv4_mapped", None) or found
    text = str(mapped)
    return (
        f"{text.rpartition('.')[0]}.0/24" if mapped.version == 4 else f"{':'.join(mapped.exploded.split(':')[:4])}::/64"
    )
