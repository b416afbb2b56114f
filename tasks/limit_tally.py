"""Counts what the app's log says of every party that was limited or blocked. Pure: events in, evidence out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from runbook.memory import LogEvent
from runbook.model import Frozen
from tasks.limit_score import Evidence, Witness
from tasks.networks import Hop, Network, group, never, origin, read, within

SIGNED_IN = frozenset(
    {"login_success", "login_succeeded", "login_successful", "user_login", "user_logged_in", "signin_success"}
)
FAILED = re.compile(
    r"(?:login|log_in|signin|sign_in|auth|authentication|credentials)(?:_attempt)?_(?:failed|failure|denied|invalid)|"
    r"failed_(?:login|signin|sign_in)|invalid_(?:credentials|password)|wrong_password|login_error"
)
LIMITED = re.compile(r"rate_limit_exceeded|\w+_rate_limited(?:_ip)?")
"""What blocks an address. ``*_rate_limited_user`` blocks an account and ``soft_throttle`` nobody: evidence only."""

LIMITER = re.compile(r"rate_limit_exceeded|\w+_rate_limited(?:_ip|_user)?|soft_throttle")
DOOR = re.compile(r"(?i)log_?-?in|sign_?-?(?:in|up)|register|reset|forgot|password|/auth\b")
"""Limits of sign-in, registration and reset: nobody is ever exempted from them."""

ADMIN = frozenset({"trusted_ip_added", "trusted_ip_removed", "ip_unblocked"})
NOBODY = frozenset({None, "", "anonymous", "unknown", "guest", "null", "undefined"})
MANY = 5_000
"""Accounts and pages remembered of one party: ten times what any judgement needs, and a bound on memory."""


class Limits(Frozen):
    """Everybody who is limited or watched, what the log can show, and how many parties had a signed-in person."""

    parties: tuple[Evidence, ...] = ()
    witness: Witness = Witness()
    populated: int = 0
    own: int = 0
    nameless: int = 0


class Tally:
    """What was counted of one party so far."""

    def __init__(self) -> None:
        self.key, self.limited, self.at_door, self.blocked, self.last = "", 0, 0, 0, 0
        self.events = self.signed_in = self.successes = self.failures = self.denied = self.forged = 0
        self.users: set[str] = set()
        self.tried: set[str] = set()
        self.numbered: defaultdict[str, set[str]] = defaultdict(set)

    def take(self, event: LogEvent, hop: Hop) -> None:
        """Count one line."""
        fields, name = event.fields, event.name
        who = [str(fields[key]) for key in ("userId", "email", "identifier", "to") if fields.get(key) not in NOBODY]
        path = str(fields.get("endpoint") or fields.get("route") or fields.get("path") or "")
        self.events, self.last = self.events + 1, event.at_ms
        self.forged += hop.forged
        if FAILED.fullmatch(name):
            self.failures, self.denied = self.failures + 1, self.denied + 1
            _add(self.tried, who[:1])
        elif name.startswith("password_reset"):
            _add(self.tried, who[:1])
        else:
            self.successes += name in SIGNED_IN
            self.signed_in += bool(who)
            _add(self.users, who[:1])
            self.denied += status(event) in {401, 404}
        if re.search(r"/\d+(?:/|$)", path):
            _add(self.numbered[re.sub(r"/\d+(?=/|$)", "/#", path)], [path])
        if LIMITED.fullmatch(name) or name == "ip_blocked":
            self._stopped(event, hop.key, path)

    def _stopped(self, event: LogEvent, key: str, path: str) -> None:
        self.key = key
        if event.name == "ip_blocked":
            self.blocked = event.at_ms
        elif DOOR.search(f"{event.name} {path}") or (not path and event.name == "rate_limit_exceeded"):
            self.at_door = event.at_ms  # a limit that names no page may be that of sign-in
        else:
            self.limited = event.at_ms


def _add(known: set[str], words: Iterable[str]) -> None:
    if len(known) < MANY:
        known.update(words)


def status(event: LogEvent) -> int:
    """The HTTP status a line names, 0 where it names none."""
    for key in ("status", "statusCode"):
        value = event.fields.get(key)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return 0


def weigh(
    events: Iterable[LogEvent],
    live_since_ms: int,
    proxies: Sequence[Network],
    offices: Sequence[Network],
    watch: Collection[str] = (),
) -> Limits:
    """One pass over the log. Returned are the parties stopped since ``live_since_ms``, and those of ``watch``."""
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    witness = {"sign_ins": False, "limiter_names_users": False, "statuses": False, "proxies": bool(proxies)}
    own = nameless = 0
    for event in events:
        if "ip" not in event.fields:
            continue
        hop = origin(str(event.fields["ip"]), proxies)
        if hop is None or hop.client is None:
            stopped = LIMITED.fullmatch(event.name) is not None or event.name == "ip_blocked"
            own, nameless = own + (hop is not None and stopped), nameless + (hop is None and stopped)
            continue
        tally = tallies[group(hop.client)]
        if event.name in ADMIN:
            tally.blocked = 0 if event.name == "ip_unblocked" else tally.blocked
            continue
        tally.take(event, hop)
        if hop.forged and (said := read(hop.key)) is not None:
            tallies[group(said)].forged += 1  # whoever may write this address would share its trust
        named = event.fields.get("userId") not in NOBODY
        witness["sign_ins"] |= event.name in SIGNED_IN
        witness["limiter_names_users"] |= named and LIMITER.fullmatch(event.name) is not None
        witness["statuses"] |= status(event) in {401, 404}
    people = sum(len(one.users) for one in tallies.values())
    watched = {group(found) for one in watch if (found := read(one)) is not None}
    parties = [
        _evidence(name, tally, live_since_ms, people, proxies, offices)
        for name, tally in tallies.items()
        if max(tally.limited, tally.at_door, tally.blocked) >= live_since_ms or name in watched
    ]
    populated = sum(bool(one.users) for one in tallies.values())
    return Limits(parties=tuple(parties), witness=Witness(**witness), populated=populated, own=own, nameless=nameless)


def _evidence(
    name: str, tally: Tally, since_ms: int, people: int, proxies: Sequence[Network], offices: Sequence[Network]
) -> Evidence:
    address = read(name.partition("/")[0])
    return Evidence(
        group=name,
        key=tally.key,
        limited_at_ms=tally.limited if tally.limited >= since_ms else 0,
        signin_limited_at_ms=tally.at_door if tally.at_door >= since_ms else 0,
        blocked_at_ms=tally.blocked if tally.blocked >= since_ms else 0,
        last_ms=tally.last,
        events=tally.events,
        signed_in=tally.signed_in,
        users=tuple(sorted(tally.users)),
        tried=tuple(sorted(tally.tried)),
        successes=tally.successes,
        failures=tally.failures,
        numbered=max(map(len, tally.numbered.values()), default=0),
        denied=tally.denied,
        forged=tally.forged,
        forbidden=never(tally.key, proxies) if tally.key else "",
        known=address is not None and within(address, offices),
        crowd=len(tally.users) / people if people else 0.0,
    )
