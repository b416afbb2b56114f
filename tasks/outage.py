"""What is wrong with the whole, out of what was seen of each part: one verdict with what speaks for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import Field

from runbook.model import Frozen
from tasks.deploys import Deploys
from tasks.maintenance import Switch
from tasks.rollback import Migrations
from tasks.site import Site
from tasks.vendors import PublicIncident, Standing, Vendor

MINUTE_MS = 60_000
CLOCKS_MS = 60_000
"""How far two clocks may differ: a deployment this much after the first error may still be its cause."""

GAP_MINUTES = 3
GRAVE = frozenset({"major", "critical"})
RUNBOOKS: Mapping[str, tuple[str, ...]] = {
    "stripe": ("failed-payments",),
    "openai": ("failed-generations",),
    "sendgrid": ("undelivered-email",),
    "smtp": ("undelivered-email",),
}
"""The runbooks that may mend what a vendor's trouble has done to us."""


class Cause(StrEnum):
    """The one word a person is told first."""

    well = "well"
    deployment = "deployment"
    database = "database"
    vendor = "vendor"
    infrastructure = "infrastructure"
    unknown = "unknown"


class Lately(Frozen):
    """A runbook whose last run, of late, left something: its first finding."""

    runbook: str
    outcome: str
    said: str


class Assessment(Frozen):
    """Everything that was seen at ``at_ms``; ``unseen`` is what could not be, a line each.

    ``onset_ms`` is when the errors began (Unix ms), by what ``onset_by`` says; None where nothing tells it.
    """

    at_ms: int
    site: Site
    vendors: tuple[Vendor, ...] = ()
    deploys: Deploys | None = None
    migrations: Migrations = Migrations()
    onset_ms: int | None = None
    onset_by: str = ""
    alerts: Mapping[str, str] = Field(default_factory=dict)
    lately: tuple[Lately, ...] = ()
    maintenance: Switch | None = None
    unseen: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def closed(self) -> bool:
        """The app is in maintenance: what its pages answer says nothing."""
        return self.maintenance is not None and self.maintenance.state == "on"


class Suspect(Frozen):
    """One part that may be the cause, what speaks for it, and the runbooks that look after it."""

    cause: Cause
    because: tuple[str, ...]
    runbooks: tuple[str, ...] = ()


class Verdict(Frozen):
    """The cause, every suspect with the likeliest first, and what else a person should know.

    ``down``: users notice. ``roll_back``: the deployment alone explains it. ``every``: no runbook in particular.
    """

    cause: Cause
    down: bool
    suspects: tuple[Suspect, ...] = ()
    besides: tuple[str, ...] = ()
    roll_back: bool = False

    @property
    def well(self) -> bool:
        return self.cause is Cause.well

    @property
    def every(self) -> bool:
        return self.cause is Cause.unknown

    @property
    def runbooks(self) -> tuple[str, ...]:
        """Those that look after any suspect, the likeliest first."""
        return tuple(dict.fromkeys(name for one in self.suspects for name in one.runbooks))

    @property
    def because(self) -> str:
        return self.suspects[0].because[0] if self.suspects else "every page, the database and every vendor answer"


def verdict(seen: Assessment, deploy_minutes: int = 30) -> Verdict:
    """What is the matter. Where two parts may explain it, nothing is rolled back: a person decides."""
    if seen.closed:
        seen = seen.model_copy(update={"site": seen.site.model_copy(update={"pages": ()})})
    site, deployment = seen.site, _deployment(seen, deploy_minutes)
    besides = tuple(_besides(seen, deployment is not None))
    if not (site.down or site.full or any(one.sick for one in seen.vendors)):
        cause = Cause.well if site.seen else Cause.unknown
        blind = Suspect(cause=cause, because=("nothing of the site or its database could be seen",))
        return Verdict(cause=cause, down=False, suspects=() if site.seen else (blind,), besides=besides)
    if cut_off := _cut_off(seen):
        return Verdict(cause=Cause.infrastructure, down=site.down, suspects=(cut_off,), besides=besides)
    database, vendor, host = _database(seen), _vendor(seen), _host(seen)
    order = [deployment, vendor, database, host]
    if any(one.standing is Standing.down or _grave_now(one) for one in seen.vendors):
        order = [vendor, deployment, database, host]
    if site.directly.ok is False:
        order = [database, vendor, deployment, host]
    suspects = [one for one in order if one is not None]
    if not suspects:
        broken = tuple(f"{page.path} {page.problem}" for page in site.broken)
        suspects = [Suspect(cause=Cause.unknown, because=broken)]
    left = Suspect(cause=suspects[0].cause, because=(), runbooks=tuple(one.runbook for one in seen.lately))
    return Verdict(
        cause=suspects[0].cause,
        down=site.down,
        suspects=(*suspects, *([left] if seen.lately else [])),
        besides=besides,
        roll_back=suspects[0].cause is Cause.deployment,
    )


def _cut_off(seen: Assessment) -> Suspect | None:
    """Nothing at all answers: it is likelier that we are cut off than that everybody is down at once."""
    asked = [one for one in seen.vendors if one.standing is not Standing.unset]
    silent = len(asked) >= 2 and all(one.standing is Standing.down for one in asked)
    reached = any(page.status is not None for page in seen.site.pages) or seen.site.directly.ok
    if not silent or reached:
        return None
    names = ", ".join(one.name for one in asked)
    said = f"neither the site nor {names} can be reached from here: look at this machine's own network first"
    return Suspect(cause=Cause.infrastructure, because=(said,))


def _deployment(seen: Assessment, minutes: int) -> Suspect | None:
    found, site = seen.deploys, seen.site
    if found is None or found.rolled_back or not (site.broken or site.through_app.ok is False):
        return None
    onset = seen.at_ms if seen.onset_ms is None else seen.onset_ms
    early = onset - found.since_ms
    if not -CLOCKS_MS <= early <= minutes * MINUTE_MS:
        return None
    when = f"{max(0, early) // 1000} s before the errors began ({seen.onset_by or 'first seen now'})"
    broken = ", ".join(f"{page.path} {page.problem}" for page in site.broken) or site.through_app.said
    about = f" ({found.live.about})" if found.live.about else ""
    lines = [f"{found.live.id}{about} went live {when}", broken]
    return Suspect(cause=Cause.deployment, because=tuple(lines))


def _database(seen: Assessment) -> Suspect | None:
    site, lines = seen.site, []
    if site.directly.ok is False:
        lines.append(f"the database does not take our connection: {site.directly.said}")
    if site.full:
        lines.append(f"{site.directly.said}: nobody else gets one")
    if site.waiting:
        lines.append(f"{site.waiting} sessions of the app wait for another's lock")
    if site.through_app.ok is False and site.directly.ok is not False:
        lines.append(site.through_app.said)
    return _suspect(Cause.database, lines, ("pool-exhaustion", "slow-queries"))


def _vendor(seen: Assessment) -> Suspect | None:
    lines, runbooks = [], list[str]()
    for one in seen.vendors:
        grave = [f"{found.name} ({found.impact}) since {found.started_at}" for found in one.incidents if _grave(found)]
        if not one.sick and not (seen.site.down and _grave_now(one)):
            continue
        said = one.said or "its status page says so"
        lines.append(f"{one.name} {one.standing if one.sick else 'in trouble'}: {said}{_public(grave)}")
        runbooks += RUNBOOKS.get(one.name, ())
    return _suspect(Cause.vendor, lines, runbooks)


def _grave(found: PublicIncident) -> bool:
    return found.impact in GRAVE


def _grave_now(one: Vendor) -> bool:
    return one.standing is not Standing.up and any(map(_grave, one.incidents))


def _public(grave: Sequence[str]) -> str:
    return f"; its status page: {'; '.join(grave)}" if grave else ""


def _host(seen: Assessment) -> Suspect | None:
    lines = [f"{page.path} {page.problem}: no app behind it" for page in seen.site.broken if page.no_app]
    if not seen.site.down:
        return None
    lines += [f"alert {name} fires: {said}" for name, said in seen.alerts.items() if name in {"memory", "disk"}]
    return _suspect(Cause.infrastructure, lines, ("memory-pressure", "full-disk"))


def _suspect(cause: Cause, lines: Sequence[str], runbooks: Sequence[str]) -> Suspect | None:
    return Suspect(cause=cause, because=tuple(lines), runbooks=tuple(runbooks)) if lines else None


def _besides(seen: Assessment, suspected: bool) -> list[str]:
    """What is no reason by itself."""
    lines = [f"alert {name} fires: {said}" for name, said in seen.alerts.items()]
    lines += [f"{one.runbook} left something ({one.outcome}): {one.said}" for one in seen.lately]
    if seen.maintenance is not None and seen.closed:
        whose = "a runbook" if seen.maintenance.ours else "somebody else"
        lines.append(f"the app is in maintenance, switched on by {whose}")
    for one in seen.vendors:
        if not one.sick:
            lines += [f"{one.name}'s status page: {found.name} ({found.impact})" for found in one.incidents]
    if (found := seen.deploys) is None:
        return lines
    if found.rolled_back:
        lines.append(f"production was pointed back to {found.live.id} already")
    elif not suspected and seen.onset_ms is not None and found.since_ms > seen.onset_ms + CLOCKS_MS:
        lines.append(f"{found.live.id} went live after the errors began, so it is not their cause")
    if suspected and seen.migrations.names:
        lines.append(f"migrations lie between it and the one before: {', '.join(seen.migrations.names)}")
    if found.pending:
        lines.append(f"deployment {found.pending} is on its way")
    return lines


def onset(counts: Mapping[int, int], now_minute: int, per_minute: int) -> int | None:
    """The minute (Unix time / 60) in which the errors of now began; None where there are none now.

    Minutes below ``per_minute`` belong to it while no more than ``GAP_MINUTES`` of them follow each other.
    """
    first, quiet = None, 0
    for minute in range(now_minute, min(counts, default=now_minute) - 1, -1):
        if counts.get(minute, 0) >= per_minute:
            first, quiet = minute, 0
        elif (quiet := quiet + 1) > GAP_MINUTES:
            break
    return first


def screen(seen: Assessment, found: Verdict) -> str:
    """The verdict on one screen, in Markdown: what it is, why, what else, what nobody can see."""
    moment = datetime.fromtimestamp(seen.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    state = "the site is down for users" if found.down else "users reach the site"
    lines = [
        f"**{found.cause.value}**: {found.because}",
        "",
        f"{moment}, {state}, looked for {seen.seconds:.1f} s.",
        "",
    ]
    for one in found.suspects:
        lines += [f"- {one.cause.value}: {line}" for line in one.because]
    site = seen.site
    pages = ", ".join(f"{page.path} {page.problem or f'{page.status} in {page.seconds:.2f} s'}" for page in site.pages)
    lines += ["", f"- pages: {pages or 'not configured: APP_URL'}"]
    lines += [f"- database through the app: {site.through_app.said}", f"- database directly: {site.directly.said}"]
    lines.append(f"- vendors: {', '.join(f'{one.name} {one.standing.value}' for one in seen.vendors) or 'none'}")
    if seen.deploys is not None:
        lines.append(f"- live: {seen.deploys.live.id}, ready {seen.deploys.live.at}; before it {_before(seen.deploys)}")
    lines += [f"- besides: {line}" for line in found.besides[:8]]
    lines += [f"- cannot see: {line}" for line in seen.unseen]
    return "\n".join(lines)


def _before(found: Deploys) -> str:
    return f"{found.before.id}, ready {found.before.at}" if found.before else "none"
