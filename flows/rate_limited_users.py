"""People who share one address (an office, a school, a mobile carrier) are taken for one abuser and blocked.

Symptom: several honest people of one place get "too many requests" or 429 while everybody else is fine; the app logs
    rate_limit_exceeded, *_rate_limited or ip_blocked for one address over and over.
Cause: the limits count by address, and behind that address stand many people. Or it is an abuser, and the block is
    right: that is what the signs are for.
Fix: weigh each blocked address: at least 5 signed-in people with accounts older than a day, their share of its lines at
    least 0.3, sign-ins that succeed at least 0.9, under one failure for each, a known office; against it enumeration,
    more than 20% of failed sign-ins, 401 or 404, a forged X-Forwarded-For. Where all is seen and well: lift the
    one-hour block, then have the app trust that one address for trust_hours, at most 7 days. The trust ends by the
    first run after its time, or at once when abuse shows; an app that restarted lost its list and is told again.
    Where the log cannot show a sign, nothing is done and a person is told what is missing. The app's trust is for
    every page, sign-in and reset too: so it needs a person, unless RUNBOOK_TRUST_KEEPS_LOGIN_LIMITS says that the app
    keeps those limits. A limit of sign-in, registration or reset is never lifted by trust. Never trusted: private and
    reserved addresses, your own proxies (RUNBOOK_TRUSTED_PROXIES), networks.
Verify: the app's list is read three times and shows the address; after hold_seconds log and list are judged again.
Undo: runbook undo takes that very entry off the list, unless a person added or removed it since. A block that was
    lifted is not put back: the app blocks again by itself.
By hand: curl -H "x-admin-secret: $ADMIN_SECRET" -H "content-type: application/json" -d '{"ip": "ADDRESS"}' with POST to
    $APP_URL/api/admin/unblock (404 is normal for a limit's own block: it ends after 5 minutes), then to
    /api/admin/trusted-ips, and DELETE there the next day: the app itself never forgets it, except by a restart.
    The list is one process's own: repeat it for each. The cure is in the app: count by user once somebody is signed in.
    Name your proxies in RUNBOOK_TRUSTED_PROXIES only when the outermost of them overwrites X-Forwarded-For.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import OutsideError
from runbook.ledger import now_ms
from runbook.memory import measure
from runbook.model import Finding, Fix, Json, Judged, Mode, Report, Share
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import quotas
from tasks.limit_cases import EXEMPTS, World, blocked, kept, left
from tasks.limit_kept import concealed
from tasks.limit_log import read_accounts, read_limits
from tasks.limit_score import Bounds
from tasks.limit_tally import Limits
from tasks.networks import hide
from tasks.trusts import let_go, standing

NAME = "rate-limited-users"
DAY_MS = 86_400_000

HANDS = {
    "unblock_ip": Hand(quotas.unblock_ip, quotas.is_unblocked),
    "trust_ip": Hand(quotas.trust_ip, quotas.is_trusted, quotas.undo_trust),
    "trust_again": Hand(quotas.trust_ip, quotas.is_trusted, quotas.undo_trust),
    "untrust_ip": Hand(quotas.untrust_ip, quotas.is_trusted),
}

Users = Annotated[int, Field(ge=2, le=1_000)]
Part = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
EvidenceHours = Annotated[int, Field(ge=1, le=48)]
Minutes = Annotated[int, Field(ge=5, le=1_440)]
TrustHours = Annotated[int, Field(ge=1, le=168)]
Hold = Annotated[int, Field(ge=0, le=60)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def rate_limited_users(
    mode: Mode = Mode.auto,
    least_users: Users = parameter(NAME, "least_users", 5),
    least_auth_share: Part = parameter(NAME, "least_auth_share", 0.3),
    least_success: Part = parameter(NAME, "least_success", 0.9),
    most_failures_per_user: Rate = parameter(NAME, "most_failures_per_user", 1.0),
    most_denied_share: Part = parameter(NAME, "most_denied_share", 0.2),
    most_strangers: Users = parameter(NAME, "most_strangers", 10),
    evidence_hours: EvidenceHours = parameter(NAME, "evidence_hours", 24),
    blocked_minutes: Minutes = parameter(NAME, "blocked_minutes", 60),
    trust_hours: TrustHours = parameter(NAME, "trust_hours", 72),
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 3),
) -> Report:
    """Let honest people behind one address in again, for a time, and leave every abuser where they are.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        least_users: How many signed-in people with accounts older than a day must share an address.
        least_auth_share: The least share of an address's log lines that are of signed-in people, 0 to 1.
        least_success: The least share of its sign-ins that succeed, 0 to 1.
        most_failures_per_user: Failed sign-ins for each signed-in person must stay below this.
        most_denied_share: The most its lines may be failed sign-ins, 401 or 404, 0 to 1.
        most_strangers: From so many accounts tried but never signed in, or pages by number, on it is enumeration.
        evidence_hours: How far back the log is weighed, in hours; it is kept for 48.
        blocked_minutes: How recently an address must have been blocked to be looked at, in minutes.
        trust_hours: How long an address is trusted, in hours; 168 (7 days) is the most.
        hold_seconds: How long to wait before everything is read again to prove the fix, in seconds.
    """
    at = Bounds(
        least_users=least_users,
        least_auth_share=least_auth_share,
        least_success=least_success,
        most_failures_per_user=most_failures_per_user,
        most_denied_share=most_denied_share,
        most_strangers=most_strangers,
    )
    span = (evidence_hours, blocked_minutes)
    async with Run(NAME, mode) as run:
        if not settings().has_app_log and not may_ask():
            settings().need("APP_LOG", "APP_URL", "ADMIN_SECRET")
        if may_ask():
            await run.settle(HANDS)
        world = await look(run, span)
        measure(run.ledger, {"trusted_addresses": len(world.trusts), "blocked_addresses": len(world.stopped)})
        tell(run, notices(world, at))
        run.found(detect(world, at))
        _keep(run, world, at, trust_hours)
        if world.listed is not None and run.findings:
            await _fix(run, world, at, span, trust_hours, hold_seconds)
        if world.problems:
            raise world.problems[0]
    return run.result()


async def _fix(run: Run, world: World, at: Bounds, span: tuple[int, int], hours: int, hold_seconds: int) -> None:
    async def keep() -> list[Fix]:
        return plan_kept(await look(run, span), at)

    async def lift() -> list[Fix]:
        return plan(await look(run, span), at, hours)

    kept = await gate.ask(run, plan_kept(world, at), share=None, again=keep)
    await kept.apply(HANDS)
    fixes = plan(world, at, hours)
    lifted = await gate.ask(run, fixes, share=share(world, fixes), again=lift)
    await lifted.apply(HANDS)
    if kept.fixes or lifted.fixes:
        await asyncio.sleep(hold_seconds)
        run.remains(detect(await look(run, span), at))


def _keep(run: Run, world: World, at: Bounds, hours: int) -> None:
    named = {str(fix.want["ip"]) for fix in plan(world, at, hours)}
    kept, given = concealed(world, run.ledger, named), at.model_dump() | {"trust_hours": hours}
    for stage in ("trusts", "limits") if world.trusts else ("limits",):
        run.saw(stage, kept, sick=bool(run.findings), **given)


def replay(stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of our trusts, or of blocked addresses, as they were read then."""
    world, at = World.model_validate(seen), Bounds(**{name: given[name] for name in Bounds.model_fields})
    if stage == "trusts":
        return Judged(detect(world, at), plan_kept(world, at), actions=("trust_again", "untrust_ip"))
    fixes = plan(world, at, int(given["trust_hours"]))
    return Judged(detect(world, at), fixes, share(world, fixes), ("trust_ip", "unblock_ip"))


def may_ask() -> bool:
    """True where the app's admin endpoints can be asked at all."""
    return bool(settings().app_url and settings().admin_secret)


async def look(run: Run, span: tuple[int, int]) -> World:
    """The world from all sides that are configured; what one side cannot show is told, and the others are read."""
    limits, listed, problems = None, None, list[OutsideError]()
    trusts = standing(run.ledger)
    if settings().has_app_log:
        try:
            limits = await read_limits(*span, [one.ip for one in trusts])
            theirs = "a person changed the app's list, so this trust is theirs now"
            tell(run, [f"{hide(one.ip)}: {theirs}" for one in let_go(run.ledger)])
        except OutsideError as error:
            problems.append(error)
    else:
        tell(run, ["not configured: APP_LOG, so only the end of earlier trusts is looked after"])
    if may_ask():
        try:
            listed = await quotas.read_trusted()
        except OutsideError as error:
            problems.append(error)
    else:
        tell(run, ["not configured: ADMIN_SECRET and APP_URL, so nothing can be lifted or trusted: this only observes"])
    if limits is not None and limits.parties:
        limits = await _aged(run, limits)
    keeps = settings().runbook_trust_keeps_login_limits
    return World(
        limits=limits,
        listed=listed,
        trusts=standing(run.ledger),
        now_ms=now_ms(),
        keeps_login_limits=keeps,
        problems=problems,
    )


async def _aged(run: Run, limits: Limits) -> Limits:
    if not settings().database_url and not settings().runbook_database_url:
        tell(run, ["not configured: DATABASE_URL, so the age of accounts is unknown and a person decides"])
        return limits
    try:
        accounts = await read_accounts(sorted({name for one in limits.parties for name in (*one.users, *one.tried)}))
    except OutsideError as error:
        tell(run, [str(error)])
        return limits
    old = now_ms() - DAY_MS
    return limits.model_copy(update={"parties": tuple(one.resolved(accounts, old) for one in limits.parties)})


def tell(run: Run, texts: Iterable[str]) -> None:
    """Say each thing once, however often the world is looked at."""
    for text in texts:
        if text not in run.notices:
            run.notice(text)


# -- detect and plan ------------------------------------------------------------------------------------------------


def detect(world: World, at: Bounds) -> list[Finding]:
    """What is wrong: trusts that should have ended or were lost, honest people blocked, and what cannot be told."""
    return [case.finding for case in (*kept(world, at), *blocked(world, at, 1))]


def plan_kept(world: World, at: Bounds) -> list[Fix]:
    """End the trusts whose time is over or that are abused; put back those a restart lost."""
    return [fix for case in kept(world, at) for fix in case.fixes]


def plan(world: World, at: Bounds, hours: int) -> list[Fix]:
    """Lift the one-hour blocks and trust the addresses of honest people; nothing for anybody else."""
    if world.listed is None:
        return []
    return [fix for case in blocked(world, at, hours) for fix in case.fixes]


def share(world: World, fixes: Sequence[Fix]) -> Share:
    """How many of the places people come from would be let in: all of them at once is a broken limit, no office."""
    return Share(sick=len({fix.want["ip"] for fix in fixes}), of=world.limits.populated if world.limits else 0)


def notices(world: World, at: Bounds) -> Iterator[str]:
    """What a person should know that is no finding."""
    yield from left(world, at)
    if any(fix.action == "trust_ip" for fix in plan(world, at, 1)) and not world.keeps_login_limits:
        yield EXEMPTS
    if world.limits and world.limits.own:
        yield f"{world.limits.own} blocks hit your own proxies: the app does not see its clients behind them"
    if world.limits and world.limits.nameless:
        yield f"{world.limits.nameless} blocks name no address at all and were left out"
