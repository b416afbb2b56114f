"""The site is down: everything is looked at once, people are told meanwhile, and what may be mended is mended.

Symptom: users say the site is down; key pages fail, the app does not reach its database, errors pour in.
Cause: a bad deployment, the database, a vendor, the infrastructure; or this machine is cut off and sees nothing.
Fix: Assess in under a minute: pages, the database through the app and directly, every vendor's key and status page, the
    last deployment against the first error, the alerts, what runbooks left of late. Communicate meanwhile: one page
    under one key to PagerDuty and Slack; words for the public status page, posted when a person agrees. Mitigate: the
    runbooks of every suspect first; then, where the deployment alone explains it, production is pointed back at the one
    before, never over a migration; then maintenance and one more instance, if a person agrees.
Verify: the site must be well for twice window_seconds; then everything is looked at once more. The page stays open
    until the public status page no longer shows the incident either.
Undo: runbook undo points production forward again, ends maintenance, takes the instance back. Mail that a status page
    has sent stays sent.
By hand: runbook run site-down; vercel rollback DEPLOYMENT after SELECT migration_name, finished_at FROM
    _prisma_migrations ORDER BY started_at DESC; LOCKDOWN=true and a restart for maintenance; then write down what
    happened: the draft is made by runbook incident show.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

import flows
from runbook import artifacts, gate, incidents, outbox, postmortem
from runbook.ledger import Ledger, ledger
from runbook.memory import measure
from runbook.model import Finding, Fix, Mode, Report
from runbook.outbox import Call, Severity
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import maintenance, restarts, rollback, status_page
from tasks.assess import assess
from tasks.outage import Assessment, Cause, Verdict, screen, verdict
from tasks.paging import channels, deliver
from tasks.reminder import remind
from tasks.site import Page, read_page, read_site

NAME = KEY = "site-down"
"""Also the key of its page: whoever raises it again, it is the same incident."""

TELL_SECONDS = 10.0
OVER = "site-down: nothing of it is left"

HANDS = {
    rollback.ROLL_BACK: Hand(rollback.point_production, rollback.look_up_live, rollback.undo_point),
    rollback.PROMOTE: Hand(rollback.point_production, rollback.look_up_live, rollback.undo_point),
    maintenance.ON: Hand(maintenance.turn_switch, maintenance.look_up_switch, maintenance.undo_turn),
    maintenance.OFF: Hand(maintenance.turn_switch, maintenance.look_up_switch, maintenance.undo_turn),
    maintenance.SCALE: Hand(maintenance.turn_switch, maintenance.look_up_switch, maintenance.undo_turn),
    status_page.POST: Hand(status_page.write_status, status_page.look_up_status),
    status_page.CLOSE: Hand(status_page.write_status, status_page.look_up_status),
}

Minutes = Annotated[int, Field(ge=1, le=1440)]
Window = Annotated[float, Field(ge=0, le=3600)]
Each = Annotated[float, Field(ge=0.05, le=60)]
Seconds = Annotated[int, Field(ge=5, le=3600)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def site_down(
    mode: Mode = Mode.auto,
    deploy_minutes: Minutes = parameter(NAME, "deploy_minutes", 30),
    window_seconds: Window = parameter(NAME, "window_seconds", 300),
    each_seconds: Each = parameter(NAME, "each_seconds", 15),
    runbook_seconds: Seconds = parameter(NAME, "runbook_seconds", 300),
    follow_up: bool = parameter(NAME, "follow_up", False),
) -> Any:
    """Assess, communicate, mitigate, resolve; the postmortem is drafted from the ledger.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        deploy_minutes: How long before the first error a deployment may have gone live to be suspected, in minutes.
        window_seconds: The alert window; the site must be well for twice as long before it is called over, in seconds.
        each_seconds: How often the site is looked at meanwhile, in seconds.
        runbook_seconds: How long one of the runbooks may take, in seconds.
        follow_up: Only look after what is open, and remind people of postmortems that nobody has completed.
    """
    book = ledger()
    if follow_up:
        await remind(book)
        if not is_open(book):
            incidents.close_over(book, KEY, OVER)
            await deliver(TELL_SECONDS)
            return None
    async with Run(NAME, mode, pages=False) as run:
        if not getattr(settings(), settings().monitor_setting().lower()):
            settings().need("APP_URL")
        await run.settle(HANDS)
        seen, _ = await asyncio.gather(assess(book, flows.names()), _first_word(run))
        found = verdict(seen, deploy_minutes)
        await _say(run, seen, found)
        was_down = found.down
        run.found(detect(seen, found))
        incidents.found(book, run.id, NAME, run.findings)
        if not found.well:
            seen, found = await _mitigate(run, Mode(mode), seen, found, deploy_minutes, runbook_seconds)
        if run.mode is not Mode.observe and (run.findings or is_open(book)):
            left = await _watch(run, seen, was_down, 2 * window_seconds, each_seconds)
            if not run.findings:  # seen by the watch only: a run that leaves something is not healthy
                run.found(left)
            run.remains(left)
            if not left:
                await _resolve(run)
    await _learn(run)
    return run.result()


def is_open(book: Ledger) -> bool:
    """True while the page of this incident is open."""
    return any(one.key == KEY and not one.resolved_at_ms for one in outbox.pages(book))


# -- assess and communicate -------------------------------------------------------------------------------------------


def detect(seen: Assessment, found: Verdict) -> list[Finding]:
    """Every suspect with what speaks for it; what keeps a machine from rolling back."""
    findings = [
        Finding(subject=one.cause.value, detail="; ".join(one.because), evidence={"runbooks": list(one.runbooks)})
        for one in found.suspects
        if one.because
    ]
    if found.roll_back and seen.deploys is not None and (why := rollback.why_not(seen.deploys, seen.migrations)):
        detail = f"{why}; a person must roll forward or back"
        findings.append(Finding(subject=seen.deploys.live.id, detail=detail, evidence=seen.migrations.model_dump()))
    return findings


async def _first_word(run: Run) -> None:
    """Tell people at the first page that fails, while everything else is still being looked at."""
    paths = settings().runbook_key_pages if settings().app_url and not await maintenance.is_on(run.ledger) else ()
    for page in asyncio.as_completed([read_page(path) for path in paths]):
        found: Page = await page
        if found.problem and not is_open(run.ledger):
            await _tell(run, f"the site is down: {found.path} {found.problem}", "It is being looked into.", [])
            return


async def _say(run: Run, seen: Assessment, found: Verdict) -> None:
    text = screen(seen, found)
    await artifacts.page(NAME, text, run.id)
    measure(run.ledger, {"pages_broken": len(seen.site.broken), "assess_seconds": seen.seconds})
    for line in (*found.besides, *(f"cannot see: {one}" for one in seen.unseen)):
        run.notice(line)
    if found.well:
        run.notice(f"every page, the database and every vendor answer ({seen.seconds:.1f} s)")
        return
    title = f"{'the site is down' if found.down else 'something is down'}: {found.cause.value}: {found.because}"
    drafts = [f"for the status page: {status_page.CALM.name}. {status_page.CALM.message}"] if found.down else []
    await _tell(run, title, text, drafts, Severity.critical if found.down or not seen.site.seen else Severity.error)
    for id_ in {one.incident for one in outbox.pages(run.ledger) if one.key == KEY and not one.resolved_at_ms}:
        incidents.note(run.ledger, id_, f"{title} (seen in {seen.seconds:.1f} s)", run.id)


async def _tell(run: Run, title: str, text: str, drafts: Sequence[str], severity: Severity = Severity.critical) -> None:
    """One page, by every channel that is left; it stays in the ledger for those that are not."""
    room = settings().runbook_war_room_url
    lines = [f"War room: {room}" if room else "", *drafts, f"Help: {'; '.join(settings().runbook_contacts)}"]
    whole = "\n".join([*filter(None, lines), text, f"runbook show {run.id}"])
    with run.ledger.write() as connection:
        outbox.raise_page(connection, Call(KEY, severity, title, whole), NAME, run.id)
    await _deliver(run)


async def _deliver(run: Run) -> None:
    if not channels():
        run.notice("not configured: PAGERDUTY_ROUTING_KEY, SLACK_WEBHOOK_URL, so nobody is told: runbook pages")
    for line in (await deliver(TELL_SECONDS)).failed:
        run.notice(f"cannot tell: {line}")


# -- mitigate ---------------------------------------------------------------------------------------------------------


async def _mitigate(
    run: Run, mode: Mode, seen: Assessment, found: Verdict, deploy_minutes: int, runbook_seconds: int
) -> tuple[Assessment, Verdict]:
    """The runbooks, the roll back, then what a person may still allow; each only while it is still needed."""
    book = run.ledger
    await _runbooks(run, mode, found, runbook_seconds)
    if run.mode is not Mode.observe:
        seen = await assess(book, flows.names())
        found = verdict(seen, deploy_minutes)
    if not found.well:
        plan = await _plan(run, seen, found)
        permit = await gate.ask(run, plan, share=None)
        await permit.apply(HANDS)
        if settings().vercel_token and any(fix.action == rollback.ROLL_BACK for fix in permit.fixes):
            run.notice("Vercel points production at no new deployment until somebody promotes one")
    if found.down and (run.mode is Mode.observe or (await read_site()).down):
        permit = await gate.ask(run, await _last_resort(run, found), share=None)
        await permit.apply(HANDS)
        if any(fix.action == maintenance.ON for fix in permit.fixes) and (out := await maintenance.read_shut_out()):
            detail = f"is shut out by the maintenance page ({out}): exempt it, or Stripe's events are lost"
            run.found([Finding(subject="Stripe's webhook", detail=detail)])
    return seen, found


async def _runbooks(run: Run, mode: Mode, found: Verdict, seconds: int) -> None:
    """Every runbook that looks after a suspect, each under its own licence, caps and mode."""
    known = flows.names()
    wanted = known if found.every else [name for name in found.runbooks if name in known]
    reports: list[Report] = await flows.module("health-sweep").sweep(wanted, mode, seconds)
    for one in reports:
        if not one.not_configured:
            run.notice(f"{one.runbook}: {one.outcome} {one.id} {one.reason}".rstrip())


async def _plan(run: Run, seen: Assessment, found: Verdict) -> list[Fix]:
    plan: list[Fix] = []
    if found.roll_back and seen.deploys is not None:
        back = rollback.roll_back_fix(seen.deploys, seen.migrations, found.because)
        plan += [back] if back else []
    posts, lines = await status_page.plan_post() if found.down else ([], [])
    for line in lines:
        run.notice(line)
    return plan + posts


async def _last_resort(run: Run, found: Verdict) -> list[Fix]:
    switches, unseen = await maintenance.read_switches(run.ledger)
    for line in unseen:
        run.notice(line)
    plan: list[Fix] = []
    if (shut := switches.get("maintenance")) and shut.state == "on":  # by somebody else: the pages say nothing now
        return plan
    if shut:
        plan.append(maintenance.start(found.because))
    if (size := switches.get("scale")) and found.cause in {Cause.infrastructure, Cause.unknown}:
        plan.append(maintenance.scale(size.state, found.because))
    return plan


# -- resolve ----------------------------------------------------------------------------------------------------------


async def _watch(run: Run, seen: Assessment, was_down: bool, seconds: float, each: float) -> list[Finding]:
    """What is still wrong: nothing, when the site was well for all that time and what was sick is well at its end."""
    if seen.closed and seen.maintenance is not None and seen.maintenance.ours:
        healthy = settings().runbook_health_url is not None and await restarts.read_health() is True
        permit = await gate.ask(run, [maintenance.end("the site behind it is well", healthy=healthy)], share=None)
        await permit.apply(HANDS)
    if await maintenance.is_on(run.ledger):
        return [Finding(subject="maintenance", detail="is still on: a person must end it")]
    held = await _holds(seconds, each)
    seen = await assess(run.ledger, flows.names())
    found = verdict(seen)
    left = detect(seen, found) if found.down or not was_down else []
    if not held and not left:
        left.append(Finding(subject="the site", detail=f"was not well for {seconds:g} s without a break"))
    return left


async def _holds(seconds: float, each: float) -> bool:
    """Whether the site is well each time it is looked at."""
    ends = time.monotonic() + seconds
    while not (await read_site()).down:
        if time.monotonic() >= ends:
            return True
        await asyncio.sleep(each)
    return False


async def _resolve(run: Run) -> None:
    """Over everywhere: the status page once a person agrees, and then the page, which until then brings runs here."""
    plan, _ = await status_page.plan_close()
    permit = await gate.ask(run, plan, share=None)
    await permit.apply(HANDS)
    left, unseen = await status_page.plan_close()
    wrong = [Finding(subject=fix.target, detail=f"still says: {fix.expect['name']}; close it there") for fix in left]
    wrong += [Finding(subject="the status page", detail=f"may still show the incident: {line}") for line in unseen]
    if wrong:
        run.found(wrong)
        run.remains(wrong)
        return
    with run.ledger.write() as connection:
        outbox.resolve(connection, KEY)
    await _deliver(run)


async def _learn(run: Run) -> None:
    """Close the incident once nothing of it is left, and leave the draft of its postmortem."""
    book, report = run.ledger, run.report
    assert report is not None
    mine = {one.incident for one in outbox.pages(book) if one.key == KEY}
    news = {one.id for one in incidents.every(book) if one.id in mine and one.state == "open"}
    news |= {*incidents.ended(book, report), *incidents.close_over(book, KEY, OVER)}
    for id_ in sorted(news):
        await artifacts.page(id_.replace("inc_", "incident-"), postmortem.draft(book, id_), run.id)
