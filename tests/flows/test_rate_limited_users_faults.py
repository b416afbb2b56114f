"""Every way in which the app, its log, its database or a setting can be wrong, and what a dead process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import select
from starlette.responses import JSONResponse, Response

from demo.limits_faults import HOUR_OFFICE, OFFICE, reach_limit, sign_in
from demo.prefect_server import ROOT
from runbook.ledger import ledger
from runbook.model import Fix, FixState, Mode, Outcome, Risk
from runbook.permit import Permit
from runbook.schema import entry
from runbook.settings import forget
from tasks import quotas
from tests.flows import limits_parts as parts
from tests.flows.limits_parts import PEOPLE, World, of

accounts, world = parts.accounts, parts.world  # fixtures

LIST = "GET /api/admin/trusted-ips"
BAD_LISTS = [
    ("401", "ADMIN_SECRET: the app turned it down (401)"),
    ("404", "the app has no /api/admin/trusted-ips (404)"),
    ("429", "failed (429)"),
    ("500", "failed (500)"),
    ("503", "failed (503)"),
    ("302", "is redirected (302)"),
    ("html", "no JSON"),
    ("half", "no JSON"),
    ("numbers", "answered no list of addresses"),
    ("object", "answered no list of addresses"),
    ("null", "answered no list of addresses"),
]


@pytest.mark.parametrize(("kind", "words"), BAD_LISTS, ids=[one[0] for one in BAD_LISTS])
async def test_a_bad_list_is_one_clear_line_and_nothing_is_done(world: World, kind: str, words: str) -> None:
    world.busy_office()
    world.answer(LIST, kind)
    report = await world.run()
    assert words in report.reason and "Next: " in report.reason and "\n" not in report.reason
    assert (report.outcome, report.fixes, world.asked) == (Outcome.refused, [], [])
    assert "share it and it is blocked" in report.findings[0].detail


async def test_a_list_of_objects_is_a_list_too(world: World) -> None:
    world.busy_office()

    def objects(call: str) -> Response | None:
        listed = [{"ip": ip, "addedAt": "2026-01-01"} for ip in world.limits.trusted]
        return JSONResponse(listed) if call == LIST else None

    world.limits.answers.append(objects)
    assert (await world.run()).outcome is Outcome.fixed and world.limits.trusted == {OFFICE}


@pytest.mark.parametrize(
    ("kind", "state"), [("401", "failed"), ("404", "failed"), ("500", "failed"), ("html", "failed")]
)
async def test_trust_that_did_not_come_about_is_seen_to_have_failed(world: World, kind: str, state: str) -> None:
    world.busy_office()
    world.answer("POST", kind)
    report = await world.run()
    assert [one.state for one in report.fixes] == [FixState(state)] and report.outcome is Outcome.unsolved
    assert world.limits.trusted == set()


async def test_an_answer_that_got_lost_is_settled_by_the_list(world: World) -> None:
    world.busy_office()

    def lost(call: str) -> Response | None:
        if not call.startswith("POST"):
            return None
        world.limits.trusted.add(OFFICE)
        return parts.BAD["500"]()

    world.limits.answers.append(lost)
    report = await world.run()
    assert [one.state for one in report.fixes] == [FixState.proven] and report.outcome is Outcome.fixed


async def test_a_list_that_is_not_the_same_in_every_process_is_no_proof(world: World) -> None:
    world.busy_office()
    looks = iter(range(1_000))

    def of_two(call: str) -> Response | None:
        shows = next(looks) % 2 if call == LIST else 1
        return None if shows else JSONResponse({"trustedIPs": []})

    world.limits.answers.append(of_two)
    report = await world.run()
    assert [one.state for one in report.fixes] == [FixState.applied] and report.outcome is Outcome.unsolved
    world.age(100)  # what only one process forgot still ends
    ended = await world.run()
    assert of(ended, "untrust_ip")[0].state is FixState.proven and world.limits.trusted == set()


async def test_a_limits_own_block_is_none_to_lift(world: World) -> None:
    sign_in(world.app, HOUR_OFFICE, range(30, 37))
    world.app.audit("warning", "ip_blocked", ip=HOUR_OFFICE)  # and the app restarted since
    report = await world.run()
    assert [(one.action, one.state) for one in report.fixes] == [("unblock_ip", FixState.refused)]
    assert "the app has no one-hour block of it" in report.fixes[0].why


# -- what is not configured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ADMIN_SECRET", "APP_URL"])
async def test_without_the_secret_it_only_observes(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world.busy_office()
    monkeypatch.delenv(name)
    report = await world.run()
    assert report.fixes == [] and world.limits.asked == [] and len(report.findings) == 1
    assert any(name in one and "only observes" in one for one in report.notices)


async def test_without_anything_it_is_not_configured(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADMIN_SECRET", "APP_LOG"):
        monkeypatch.delenv(name)
    report = await world.run()
    assert report.not_configured and "APP_LOG, ADMIN_SECRET" in report.reason


async def test_a_log_that_cannot_be_read_hides_no_trust_that_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.busy_office()
    await world.run(trust_hours=1)
    world.age(2)
    monkeypatch.setenv("APP_LOG", str(world.folder / "nowhere.log"))
    report = await world.run()
    assert "APP_LOG" in report.reason and report.exit_code != 0
    assert world.limits.trusted == {OFFICE}  # whether a person added it since only the log tells


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", None, "not configured: DATABASE_URL"),
        ("DATABASE_URL", "postgresql://runbook@127.0.0.1:1/app", "DATABASE_URL: "),
        ("RUNBOOK_TRUSTED_PROXIES", None, "RUNBOOK_TRUSTED_PROXIES is not set"),
    ],
)
async def test_what_cannot_be_seen_is_left_to_a_person(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, words: str
) -> None:
    monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    world.busy_office()
    report = await world.run()
    told = " ".join([*report.notices, *(one.detail for one in report.findings)])
    assert "cannot tell" in report.findings[0].detail and words in told
    assert [(one.action, one.risk, one.state) for one in report.fixes] == [
        ("trust_ip", Risk.person, FixState.refused)
    ] and world.asked == []


async def test_a_role_that_may_not_read_accounts_is_told(world: World) -> None:
    world.busy_office()
    world.sql('REVOKE SELECT ON "User" FROM runbook')
    try:
        report = await world.run()
    finally:
        world.sql('GRANT SELECT ON "User" TO runbook')
    assert any("may not" in one and "GRANT" in one for one in report.notices) and world.asked == []


async def test_a_log_without_sign_ins_says_that_nothing_can_be_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_LOG", str(world.folder / "other.log"))
    world.app.log_path = world.folder / "other.log"
    reach_limit(world.limits, OFFICE, range(0))
    report = await world.run()
    (finding,) = report.findings
    assert "cannot tell who is behind 1 blocked addresses" in finding.detail and report.fixes == []


async def test_all_offices_at_once_is_a_broken_limit(world: World) -> None:
    for i in range(40):
        world.busy_office(f"192.88.98.{i}", range(10, 16))
    report = await world.run()
    assert all("mass failure" in one.why for one in report.fixes) and len(report.fixes) == 40
    assert world.asked == []


async def test_no_secret_reaches_report_or_ledger(world: World) -> None:
    world.busy_office()
    report = await world.run()
    everything = report.model_dump_json() + (world.folder / "ledger.db").read_bytes().decode("latin-1")
    assert "demo-admin-secret" not in everything


# -- crashes, and hands by themselves ---------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal
from starlette.responses import Response
from flows.rate_limited_users import rate_limited_users
from tasks import quotas
ask = quotas._ask
async def die(method, path, ip=None):
    if method == "POST" and os.environ["DIES"] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = await ask(method, path, ip)
    if method == "POST":
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
quotas._ask = die
asyncio.run(rate_limited_users.fn(hold_seconds=0))
"""


@pytest.mark.parametrize(
    ("action", "when", "state"),
    [
        ("trust_ip", "before", FixState.failed),
        ("trust_ip", "after", FixState.proven),
        ("unblock_ip", "after", FixState.proven),
    ],
)
async def test_a_process_that_died_is_settled_by_looking(world: World, action: str, when: str, state: FixState) -> None:
    if action == "trust_ip":
        world.busy_office()
    else:
        sign_in(world.app, OFFICE, PEOPLE)
        world.limits.block(OFFICE, "too many requests")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DIES": when}
    died = subprocess.run([sys.executable, "-c", DIES], env=env, cwd=world.folder, timeout=120)
    assert died.returncode == -signal.SIGKILL
    before = list(world.asked)
    report = await world.run(mode=Mode.observe)
    assert world.asked == before  # by looking, not by acting again
    assert any(f"by looking: {state}" in one for one in report.notices), report
    if (action, when) == ("trust_ip", "after"):
        world.age(100)
        assert (await world.run()).fixes[0].action == "untrust_ip" and world.limits.trusted == set()


Change = Callable[[World], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda world: world.limits.trusted.add(OFFICE), "somebody had the app trust it meanwhile"),
        (lambda world: os.environ.__setitem__("RUNBOOK_TRUSTED_PROXIES", OFFICE), "one of your own proxies"),
        (lambda world: world.answer(LIST, "500"), "not tried, since the list could not be read"),
    ],
)
async def test_the_hand_looks_once_more_before_it_trusts(world: World, change: Change, words: str) -> None:
    fix = Fix(
        action="trust_ip",
        target=f"TrustedIp/{OFFICE}",
        risk=Risk.auto,
        why="planned from what was read",
        undo="take it off",
        want={"ip": OFFICE, "trusted": True, "hours": 1},
    )
    run_id = ledger().open_run("rate-limited-users", "auto")
    with ledger().write() as connection:
        granted = fix.model_copy(update={"state": FixState.granted})
        recorded = ledger().record(connection, run_id, "rate-limited-users", granted, "plan", 60_000)
    assert recorded is not None
    change(world)
    forget()
    await quotas.trust_ip(recorded, Permit(ledger(), [recorded]))
    assert world.asked == [] and ledger().state(recorded.id) in {FixState.refused, FixState.failed}
    with ledger().read() as connection:
        bodies = connection.execute(select(entry.c.body).where(entry.c.fix_id == recorded.id)).scalars().all()
    assert words in str(bodies[-1])
