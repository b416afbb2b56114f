"""People are logged out for no reason, cannot log in, or stay locked out; or somebody tries other people's passwords.

Symptom: sign-in fails or loops, sessions end at random, JWT_SESSION_ERROR in the app's log, "account locked" although
    the lock has passed, a burst of failed logins.
Cause: NEXTAUTH_URL names another scheme or host than people use; the secret is missing, weak, or differs between
    instances; clocks differ; the app clears neither the lock nor its counter when the lock passes, so that one wrong
    password locks again; or an attack: one address tries many accounts (stuffing), many addresses try one (targeted).
Fix: clear counter and lock of accounts whose lock has passed; delete sessions that expired over 7 days ago, in batches.
    An account an attack names keeps its lock and counter: they hold the attack off. While an attack may mean anybody
    (stuffing, many targets, many accounts locked at once), while the log cannot be read and while clocks differ by over
    60 s, no account is touched. With a person's approval: unlock the one account named in unlock_email early.
Verify: every account and batch is looked up; after hold_seconds everything is read and judged again.
Undo: runbook undo puts lock and counter back, if the account has not changed since, and deleted sessions, whose rows
    are kept for 7 days. What a person took back is not done again for 24 hours.
By hand: compare NEXTAUTH_URL with the address people use, and the secret's fingerprint on all instances, never its
    value. UPDATE "User" SET "failedLoginAttempts" = 0, "lockedUntil" = NULL WHERE id = '<id>'. Block an attacker's
    address at the edge. Changing the secret logs everybody out with NextAuth v4; Auth.js v5 takes [new, old]: the
    steps are in the evidence of the finding. Nothing here ever changes a secret.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate, memory
from runbook.errors import BadSetting, OutsideError
from runbook.mask import mask
from runbook.model import Finding, Fix, Json, Judged, Mode, Report, Risk, Share
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import auth_probe, auth_secrets, expired_sessions, logins
from tasks.expired_sessions import Batch
from tasks.login_log import Attack, Logins, masked, read_logins
from tasks.logins import Account
from tasks.sign_in import Bounds, Seen
from tasks.sign_in_kept import concealed

NAME = "broken-sessions"
SHOWN = 20
PER_RUN = 200

HANDS = {
    "reset_lockout": Hand(logins.reset_lockout, logins.look_up_account, logins.undo_reset),
    "unlock_account": Hand(logins.unlock_account, logins.look_up_account, logins.undo_reset),
    "restore_lockout": Hand(logins.restore_lockout, logins.look_up_account, logins.undo_reset),
    "purge_sessions": Hand(
        expired_sessions.purge_sessions, expired_sessions.look_up_sessions, expired_sessions.undo_purge
    ),
    "restore_sessions": Hand(
        expired_sessions.restore_sessions, expired_sessions.look_up_sessions, expired_sessions.undo_restore
    ),
}

Email = Annotated[str, Field(max_length=254)]
Minutes = Annotated[int, Field(ge=15, le=1440)]
Several = Annotated[int, Field(ge=2, le=1000)]
Errors = Annotated[int, Field(ge=1, le=100_000)]
Hold = Annotated[int, Field(ge=0, le=60)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def broken_sessions(
    mode: Mode = Mode.auto,
    unlock_email: Email = "",
    window_minutes: Minutes = parameter(NAME, "window_minutes", 60),
    users_per_ip: Several = parameter(NAME, "users_per_ip", 10),
    ips_per_user: Several = parameter(NAME, "ips_per_user", 5),
    jwt_errors: Errors = parameter(NAME, "jwt_errors", 20),
    hold_seconds: Hold = parameter(NAME, "hold_seconds", 2),
) -> Report:
    """See that people can log in and stay logged in, let out whom a passed lock still holds, and name attacks.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        unlock_email: The mail address of one account to unlock early; asks a person, so use mode approve.
        window_minutes: How far back failed logins and session errors count, in minutes, 15 to 1440.
        users_per_ip: So many accounts tried from one address in the window are stuffing; as many locked at once, too.
        ips_per_user: So many addresses trying one account in the window are an attack on it.
        jwt_errors: So many sessions the app could not read in the window are too many.
        hold_seconds: How long to wait before everything is read again to prove the fixes, in seconds.
    """
    at = Bounds(users_per_ip, ips_per_user, jwt_errors, unlock_email.strip())
    async with Run(NAME, mode) as run:
        if not (settings().app_url or settings().has_app_log or settings().nextauth_secret):
            settings().need(settings().monitor_setting())
        memory.drop_old(run.ledger, expired_sessions.KEPT, expired_sessions.KEEP_DAYS)
        await run.settle(HANDS)
        seen = await look_outside(run, window_minutes)
        try:
            seen = await look_inside(seen, at)
        except (OutsideError, BadSetting):
            run.found(detect(seen, at))
            raise
        memory.measure(run.ledger, readings(seen))
        tell(run, seen, at)
        findings = detect(seen, at)
        kept, given = concealed(seen, at, run.ledger)
        run.saw("sign-in", kept, sick=bool(findings), **dataclasses.asdict(given))
        if findings:
            run.found(findings)
            await _fix(run, seen, at, window_minutes, hold_seconds)
    return run.result()


async def _fix(run: Run, seen: Seen, at: Bounds, window_minutes: int, hold_seconds: int) -> None:
    async def again() -> list[Fix]:
        return plan(await look(run, at, window_minutes), at)

    permit = await gate.ask(run, plan(seen, at), share=share(seen, at), again=again)
    if not permit.fixes:
        return
    await permit.apply(HANDS)
    await asyncio.sleep(hold_seconds)
    after = await look(run, at, window_minutes)
    tell(run, after, at)
    run.remains(detect(after, at))


async def look(run: Run, at: Bounds, window_minutes: int) -> Seen:
    """Every side that is configured."""
    return await look_inside(await look_outside(run, window_minutes), at)


async def look_outside(run: Run, window_minutes: int) -> Seen:
    """Settings, endpoints and log; a log that cannot be read is told."""
    return Seen(
        app_url=settings().app_url,
        has_log=settings().has_app_log,
        instances=await auth_secrets.read_instances(),
        probes=await auth_probe.read_probes() if settings().app_url else (),
        logins=await _logins(run, window_minutes),
    )


async def look_inside(seen: Seen, at: Bounds) -> Seen:
    """The same with what the database says; a database that cannot be read stops the run."""
    if not (settings().database_url or settings().runbook_database_url):
        return seen
    names = (seen.logins.names if seen.logins else set()) | (
        {at.unlock_email, at.unlock_email.lower()} if at.unlock_email else set()
    )
    accounts = await logins.read_accounts(names)
    return seen.model_copy(update={"accounts": accounts, "sessions": await expired_sessions.read_expired()})


async def _logins(run: Run, window_minutes: int) -> Logins | None:
    if not settings().has_app_log:
        return None
    try:
        return await read_logins(window_minutes)
    except (OutsideError, BadSetting) as error:
        if str(error) not in run.notices:
            run.notice(str(error))
        return None


def replay(_stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of logging in as it was read then."""
    read, at = Seen.model_validate(seen), Bounds(**given)
    return Judged(detect(read, at), plan(read, at), share(read, at))


def tell(run: Run, seen: Seen, at: Bounds) -> None:
    """Say each thing once, however often everything is looked at."""
    for text in map(str, map(mask, notices(seen, at))):
        if text not in run.notices:
            run.notice(text)


def readings(seen: Seen) -> dict[str, float]:
    """What is kept for the plots, of what could be read."""
    kept: dict[str, float] = {}
    if seen.logins:
        kept |= {"login_failures": len(seen.logins.recent), "jwt_session_errors": sum(seen.logins.jwt_errors.values())}
    if seen.accounts and not seen.accounts.lacks:
        kept["accounts_held_by_a_passed_lock"] = len(seen.shut)
    return kept


# -- detect ---------------------------------------------------------------------------------------------------------


def detect(seen: Seen, at: Bounds) -> list[Finding]:
    """What is wrong; what only a person can mend says so, with what to do."""
    app, database = auth_probe.ahead(seen.probes), seen.accounts.ahead_seconds if seen.accounts else None
    found = auth_secrets.detect_secrets(seen.instances.seen)
    found += auth_secrets.detect_urls(seen.instances.seen, seen.app_url)
    found += auth_probe.detect_probes(seen.probes)
    found += auth_probe.detect_skew(app, database)
    found += _unreadable(seen, at)
    found += [_attack(one) for one in seen.attacks(at) if not seen.held(one)]
    if reset := seen.to_reset(at):
        detail = f"{len(reset)} whose lock has passed lock again at one wrong password: nobody reset their counter"
        found.append(Finding(subject="accounts", detail=detail, evidence={"ids": [one.id for one in reset[:SHOWN]]}))
    if old := sum(one.rows for one in seen.to_purge):
        detail = f"{old} sessions expired over {expired_sessions.OLD_DAYS} days ago and are still kept"
        found.append(Finding(subject="expired sessions", detail=detail))
    if (one := seen.to_unlock(at)) is not None:
        found.append(Finding(subject=at.unlock_email, detail=one.lock))
    return found


def _unreadable(seen: Seen, at: Bounds) -> list[Finding]:
    causes = seen.logins.jwt_errors if seen.logins else {}
    if sum(causes.values()) < at.jwt_errors:
        return []
    detail = f"the app could not read {sum(causes.values())} sessions: a secret that was changed or differs between"
    detail += " instances (compare the fingerprints), or a clock that is wrong"
    return [Finding(subject="app log: JWT_SESSION_ERROR", detail=detail, evidence={"causes": dict(causes)})]


def _attack(one: Attack) -> Finding:
    who = f"{len(one.users)} accounts" if one.kind != "targeted" else ", ".join(one.users)
    where = masked(one.network) or f"{one.networks} addresses"
    detail = f"{one.failures} failed logins on {who} from {where}: block the addresses at the edge, warn who is meant"
    return Finding(subject=f"login attack: {one.kind}", detail=detail, evidence={"users": len(one.users)}, page=True)


def notices(seen: Seen, at: Bounds) -> Iterator[str]:
    """What a person should know that is no finding."""
    yield from auth_secrets.notices(seen.instances, seen.app_url)
    if not seen.app_url:
        yield "not configured: APP_URL, so the sign-in endpoints and the app's clock were not looked at"
    if not seen.has_log:
        yield "not configured: APP_LOG, so attacks were not looked for, and no account may be touched"
    yield from (f"{one.path} answered 429, so it was not judged" for one in seen.probes if one.limited)
    if seen.accounts is None or seen.sessions is None:
        yield "not configured: DATABASE_URL, so accounts and sessions were not looked at"
        return
    yield from seen.accounts.lacks
    yield from (text for text in (seen.sessions.lacks, seen.sessions.grant if seen.sessions.batches else "") if text)
    yield from (f"left alone, its own lock holds: {_attack(one).detail}" for one in seen.attacks(at) if seen.held(one))
    if left := len(seen.shut) - len(seen.to_reset(at)):
        yield f"{left} accounts keep a lock that has passed: {seen.why_not(at) or 'an attack names them'}"
    if at.unlock_email and not seen.to_unlock(at):
        yield f"{at.unlock_email} is not locked" if seen.named(at) else f"no account is called {at.unlock_email}"


# -- plan -----------------------------------------------------------------------------------------------------------


def plan(seen: Seen, at: Bounds) -> list[Fix]:
    """Accounts first, the latest locked first; then the oldest sessions; then the one account a person named."""
    fixes = [_reset(one) for one in seen.to_reset(at)[:PER_RUN]]
    fixes += [_purge(one) for one in seen.to_purge]
    if (one := seen.to_unlock(at)) is not None:
        fixes.append(_unlock(one, seen, at))
    return fixes


def _reset(one: Account) -> Fix:
    return _clear(
        one, "reset_lockout", Risk.auto, f"its lock passed at {one.locked_until} UTC, {one.failed} failures stand"
    )


def _unlock(one: Account, seen: Seen, at: Bounds) -> Fix:
    said = "no attack on it in the log" if seen.logins else "the log could not be read"
    against = [attack for attack in seen.attacks(at) if one.is_named(attack.users)]
    if against:
        said = f"UNDER ATTACK: {sum(attack.failures for attack in against)} failed logins"
    return _clear(one, "unlock_account", Risk.person, f"named by a person; {one.lock}; {said}")


def _clear(one: Account, action: str, risk: Risk, why: str) -> Fix:
    return Fix(
        action=action,
        target=f"User/{one.id}",
        risk=risk,
        why=why,
        undo="puts counter and lock back, if the account has not changed since",
        expect={"failed": one.failed, "locked_until": one.locked_until},
        want={"failed": 0, "locked_until": None},
    )


def _purge(one: Batch) -> Fix:
    return Fix(
        action="purge_sessions",
        target=f"Session/{one.first_id}",
        risk=Risk.auto,
        why=f"{one.rows} rows that expired until {one.last_at} UTC open nothing any more",
        undo=f"puts the rows back; they are kept for {expired_sessions.KEEP_DAYS} days",
        expect=one.model_dump(),
        want={"rows": 0},
    )


def share(seen: Seen, at: Bounds) -> Share | None:
    """How much of all accounts the plan would reset; None where it would reset none."""
    reset = len(seen.to_reset(at))
    return Share(sick=reset, of=seen.accounts.of) if reset and seen.accounts else None
