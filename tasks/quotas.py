"""The app's admin endpoints for its limits: the list of trusted addresses, and the lifting of one-hour blocks."""

from __future__ import annotations

from sqlalchemy import select

from runbook import memory
from runbook.errors import OutsideError
from runbook.ledger import ledger, now_ms
from runbook.model import Fix, FixState, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.schema import entry
from runbook.settings import settings
from runbook.step import hand, reader
from tasks.logs import read_log
from tasks.networks import never, read
from tasks.trusts import let_go, standing
from tasks.web import Answer, call

TRUSTED, UNBLOCK = "/api/admin/trusted-ips", "/api/admin/unblock"
LOOKS = 3
"""The list is one process's own. Each look is a new connection, so that several processes are likely to show."""

BLOCK_MS = 3_600_000
NAMES = ("ip", "ipAddress", "ip_address", "address")


class Trusted(Frozen):
    """The app's list: what every look showed, and what any did; they differ where it runs as several processes."""

    everywhere: frozenset[str]
    somewhere: frozenset[str]


async def _ask(method: str, path: str, ip: str | None = None) -> Answer:
    address, secret = settings().secret("APP_URL"), settings().secret("ADMIN_SECRET")
    body = None if ip is None else {"ip": ip}
    return await call("APP_URL", method, f"{address}{path}", headers={"x-admin-secret": secret}, json=body)


def _no(answer: Answer, path: str) -> OutsideError | None:
    """What an answer other than success means, in one line."""
    match answer.status:
        case code if code < 300:
            return None
        case 401 | 403 as code:
            return OutsideError("ADMIN_SECRET", f"the app turned it down ({code})", "copy ADMIN_SECRET of the app")
        case 404 | 405 as code:
            return OutsideError("APP_URL", f"the app has no {path} ({code})", "see whether APP_URL is the app's own")
        case code if code < 400:
            return OutsideError("APP_URL", f"{path} is redirected ({code})", "set APP_URL to where it leads")
        case code:
            busy = code == 429 or code >= 500
            return OutsideError("APP_URL", f"{path} failed ({code})", "see the app's log", transient=busy)


def _entries(found: Json) -> frozenset[str]:
    """The addresses of a list, or of the one list in an object; each is a text or an object that names one."""
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    words = [_word(one) for one in found] if isinstance(found, list) else [None]
    texts = [str(read(word) or word) for word in words if word is not None]
    if len(texts) < len(words):
        raise OutsideError(
            "APP_URL", f"{TRUSTED} answered no list of addresses", "see whether APP_URL is the app's own"
        )
    return frozenset(texts)


def _word(one: Json) -> str | None:
    word = next((one[name] for name in NAMES if name in one), None) if isinstance(one, dict) else one
    return word if isinstance(word, str) else None


async def _listed() -> Trusted:
    looks = []
    for _ in range(LOOKS):
        answer = await _ask("GET", TRUSTED)
        if problem := _no(answer, TRUSTED):
            raise problem
        looks.append(_entries(answer.parsed("APP_URL")))
    return Trusted(everywhere=frozenset.intersection(*looks), somewhere=frozenset.union(*looks))


@reader("read the app's trusted addresses")
async def read_trusted() -> Trusted:
    """The list as the app has it now; every answer that is none comes out as ``OutsideError`` in one line."""
    return await _listed()


def _ip(fix: Fix) -> str:
    return str(fix.want["ip"])


def _canonical(fix: Fix) -> str:
    return str(read(_ip(fix)) or _ip(fix))


@hand("trust {fix.target}")
async def trust_ip(fix: Fix, permit: Permit) -> None:
    """Put one address on the app's list, if it is not there and may be."""
    with permit.attempt(fix) as attempt:
        if why := never(_ip(fix), settings().runbook_trusted_proxies):
            attempt.failed(f"never trusted: {why}")
            return
        try:
            listed = await _listed()
        except OutsideError as error:
            attempt.failed(f"not tried, since the list could not be read: {error}")
            return
        if _canonical(fix) in listed.everywhere:
            attempt.moved_on("somebody had the app trust it meanwhile")
            return
        answer = await _ask("POST", TRUSTED, _ip(fix))
        problem = _no(answer, TRUSTED)
        if problem and answer.status >= 500:
            raise problem
        if problem:
            attempt.failed(str(problem))
            return
        attempt.did(status=answer.status)


@hand("end the trust in {fix.target}")
async def untrust_ip(fix: Fix, permit: Permit) -> None:
    """Take one address off the app's list, if it stands there because of us and no person changed it since."""
    with permit.attempt(fix) as attempt:
        try:
            if settings().has_app_log:
                await read_log()
            listed = await _listed()
        except OutsideError as error:
            attempt.failed(f"not tried, since it could not be looked at: {error}")
            return
        list(let_go(ledger()))
        if _ip(fix) not in {one.ip for one in standing(ledger())}:
            attempt.moved_on("a person added or removed it since: it is theirs now")
            return
        if _canonical(fix) not in listed.somewhere:
            attempt.moved_on("it is not on the app's list any more")
            return
        answer = await _ask("DELETE", TRUSTED, _ip(fix))
        problem = _no(answer, TRUSTED)
        if problem and answer.status >= 500:
            raise problem
        if problem:
            attempt.failed(str(problem))


@reader("look for {fix.target}")
async def is_trusted(fix: Fix) -> Proof:
    """Proof from the list itself: there in every look, or in none, as the fix wanted it."""
    listed, ip = await _listed(), _canonical(fix)
    if ip in listed.somewhere and ip not in listed.everywhere:
        seen = "some looks at the list show it, others do not: the app runs as several processes, each with its own"
        return Proof(held=None, seen=seen)
    there = ip in listed.everywhere
    return Proof(held=there == fix.want["trusted"], seen=f"the app's list {'has' if there else 'does not have'} it")


def undo_trust(fix: Fix) -> Fix:
    """Take that very entry off the list again."""
    image = {"ip": fix.want["ip"]}
    return fix.model_copy(
        update={
            "action": "untrust_ip",
            "risk": Risk.auto,
            "expect": image | {"trusted": True},
            "want": image | {"trusted": False},
            "why": f"undo of {fix.id}",
        }
    )


@hand("unblock {fix.target}")
async def unblock_ip(fix: Fix, permit: Permit) -> None:
    """Lift a one-hour block, if it is still the one that was read."""
    with permit.attempt(fix) as attempt:
        try:
            await read_log()
        except OutsideError as error:
            attempt.failed(f"not tried, since the log could not be read: {error}")
            return
        later = {name for name, at_ms in _since_block(fix) if at_ms > int(fix.expect["blocked_at_ms"])}
        if later:
            attempt.moved_on(f"{', '.join(sorted(later))} was logged meanwhile")
            return
        answer = await _ask("POST", UNBLOCK, _ip(fix))
        if answer.status == 404:
            attempt.moved_on("the app has no one-hour block of it (a limit's own block ends by itself, or by trust)")
            return
        problem = _no(answer, UNBLOCK)
        if problem and answer.status >= 500:
            raise problem
        if problem:
            attempt.failed(str(problem))
            return
        attempt.did(status=answer.status)


def _since_block(fix: Fix) -> list[tuple[str, int]]:
    events = memory.events(ledger(), {"ip_blocked", "ip_unblocked"}, int(fix.expect["blocked_at_ms"]))
    return [(one.name, one.at_ms) for one in events if str(read(str(one.fields.get("ip", "")))) == _canonical(fix)]


@reader("look whether {fix.target} was unblocked")
async def is_unblocked(fix: Fix) -> Proof:
    """Proof by the app's own word: what it answered, or what it logged; no endpoint lists its blocks."""
    rule = select(entry.c.body).where(entry.c.fix_id == fix.id, entry.c.kind == FixState.applied.value)
    with ledger().read() as connection:
        if connection.execute(rule).first() is not None:
            return Proof(held=True, seen="the app answered that it lifted the block")
    await read_log()
    if any(name == "ip_unblocked" for name, _ in _since_block(fix)):
        return Proof(held=True, seen="the app logged ip_unblocked")
    over = now_ms() > int(fix.expect["blocked_at_ms"]) + BLOCK_MS
    return Proof(held=False if over else None, seen="the app logged no ip_unblocked; a block ends after an hour")
