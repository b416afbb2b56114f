"""The mail runbook on real parts: found, mended, proven; observed without a change; undone as far as can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import mail_faults
from deployments.undoing import undo
from runbook import gate, memory
from runbook.approval import Approval
from runbook.errors import BadSetting
from runbook.model import FixState, Json, Mode, Outcome, Report
from runbook.run import Run
from tests.flows import mail_parts as parts
from tests.flows.mail_parts import World, env, of, states

ROOT = Path(__file__).resolve().parents[2]
PROVEN, FAILED, REFUSED = FixState.proven, FixState.failed, FixState.refused
world = parts.world  # a fixture
USER, OLD = "person1@example.com", "old@busy.example"


def told(report: Report) -> str:
    """Everything the report says, as a person may see it."""
    return report.model_dump_json()


@pytest.fixture
def approving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who says yes to every plan that is shown."""

    async def yes(_run: object, plan: list[Json]) -> Approval:
        return Approval({fix.key for fix in plan}, "alice", "yes")

    monkeypatch.setattr("runbook.approval.ask", yes)


# -- found and mended -------------------------------------------------------------------------------------------------


async def test_a_healthy_world_is_left_alone(world: World) -> None:
    report = await world.run()
    assert report.outcome is Outcome.healthy, report
    assert (report.findings, report.fixes, report.notices) == ([], [], [])
    assert world.changes() == [] and world.sendgrid.sandboxed == 1
    assert world.smtp.seen == ["AUTH", "MAIL", "RCPT"] and world.smtp.mails == []


async def test_all_of_it_is_mended_and_look_alikes_are_not_touched(world: World) -> None:
    faults = [
        mail_faults.unvalidated_domain(world.sendgrid),
        mail_faults.outlived_blocks(world.sendgrid),
        mail_faults.failed_resets(world.app, world.smtp),
    ]
    quiet = [*mail_faults.suppression_lookalikes(world.sendgrid), *mail_faults.reset_lookalikes(world.app, world.smtp)]
    report = await world.run()
    assert [fault.name for fault in faults if not fault.mended()] == []
    assert [one.name for one in quiet if not one.untouched()] == []
    assert report.outcome is Outcome.fixed, report
    assert states(report, "revalidate_domain") == [PROVEN]
    assert states(report, "remove_block") == states(report, "resend_reset") == [PROVEN] * 3
    again = await world.run()
    assert again.fixes == [] and again.outcome is Outcome.healthy, again


async def test_observe_plans_the_same_and_changes_nothing(world: World) -> None:
    mail_faults.unvalidated_domain(world.sendgrid)
    mail_faults.outlived_blocks(world.sendgrid)
    mail_faults.failed_resets(world.app, world.smtp)
    before = world.rows()
    report = await world.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed and {fix.state for fix in report.fixes} == {FixState.planned}
    assert {fix.action for fix in report.fixes} == {"revalidate_domain", "remove_block", "resend_reset"}
    assert world.rows() == before and world.changes() == [] and world.smtp.mails == []


async def test_no_address_is_told_or_kept(world: World) -> None:
    world.block("secret.person@busy.example", reason="4.7.0 <secret.person@busy.example> try again later")
    world.failed(USER)
    report = await world.run()
    assert states(report, "remove_block") == states(report, "resend_reset") == [PROVEN]
    kept = (world.folder / "ledger.db").read_bytes() + (world.folder / "ledger.db-wal").read_bytes()
    assert "secret.person" not in told(report) and "person1@" not in told(report)
    assert b"secret.person" not in kept
    with world.ledger.read() as connection:  # the log's own events are where the address of a reset is read again
        for table in ("fix", "finding", "entry", "run", "memo"):
            assert "person1@" not in str(connection.exec_driver_sql(f"SELECT * FROM {table}").fetchall())


async def test_a_domain_whose_records_are_missing_is_asked_for_once_and_told(world: World) -> None:
    world.sendgrid.domains[0]["valid"] = False
    report = await world.run()
    assert states(report, "revalidate_domain") == [FAILED] and report.outcome is Outcome.unsolved
    (found,) = report.findings
    assert found.subject == "domain app.example" and "em1.app.example" in str(found.evidence["records"])
    again = await world.run()
    assert states(again, "revalidate_domain") == [REFUSED] and "cap" in again.fixes[0].why


# -- a bounce, for a user who asked -----------------------------------------------------------------------------------


def bounce(world: World, kind: str = "bounces") -> None:
    world.sendgrid.suppress(kind, USER, 100, "550 5.1.1 user unknown", "5.1.1")


@pytest.mark.usefixtures("approving")
@pytest.mark.parametrize("kind", ["bounces", "invalid_emails"])
async def test_a_person_has_one_address_taken_off_once_in_a_month(world: World, kind: str) -> None:
    bounce(world, kind)
    report = await world.run(mode=Mode.approve, address=USER, mx_host="localhost")
    assert states(report, "remove_bounce") == [PROVEN] and report.outcome is Outcome.fixed, report
    assert "localhost takes mail" in report.fixes[0].why and world.rows()[kind] == set()
    bounce(world, kind)  # it bounced again: its cause is not gone
    again = await world.run(mode=Mode.approve, address=USER, mx_host="localhost")
    assert again.fixes == [] and "removed within 30 days" in again.findings[0].detail
    assert world.rows()[kind] == {USER}


async def test_without_a_person_it_stays(world: World) -> None:
    bounce(world)
    report = await world.run(address=USER, mx_host="localhost")
    assert states(report, "remove_bounce") == [REFUSED] and "person" in report.fixes[0].why
    assert world.rows()["bounces"] == {USER} and report.outcome is Outcome.refused


@pytest.mark.usefixtures("approving")
@pytest.mark.parametrize("host", ["", "no-such-host.invalid"])
async def test_without_a_mail_server_of_the_domain_it_stays(world: World, host: str) -> None:
    bounce(world)
    report = await world.run(mode=Mode.approve, address=USER, mx_host=host)
    assert report.fixes == [] and world.rows()["bounces"] == {USER}
    assert any("dig +short MX" in line for line in report.notices)


@pytest.mark.usefixtures("approving")
async def test_an_address_on_no_list_is_said_to_be_so(world: World) -> None:
    report = await world.run(mode=Mode.approve, address=USER, mx_host="localhost")
    assert report.outcome is Outcome.healthy
    assert report.notices == ["p***@example.com is on neither bounces nor invalid addresses"]


# -- resets -----------------------------------------------------------------------------------------------------------


async def test_a_reset_is_asked_for_once_though_the_app_answers_200_and_fails_again(world: World) -> None:
    for i in range(1, 4):
        world.failed(f"person{i}@example.com", 20 - i)
    world.smtp.replies["DATA"] = "451 4.3.0 disk full"  # the dialogue before the mail is fine
    report = await world.run()
    assert states(report, "resend_reset") == [FAILED, REFUSED, REFUSED], report
    assert "not proven" in report.fixes[1].why and report.outcome is Outcome.unsolved
    world.smtp.replies.clear()
    again = await world.run()  # the canary waits for an hour, whatever came of it; the others go now
    assert states(again, "resend_reset") == [PROVEN, PROVEN]
    assert world.smtp.mails == [("person2@example.com",), ("person3@example.com",)]


async def test_more_than_the_app_takes_wait_for_the_next_run(world: World) -> None:
    for i in range(1, 8):
        world.failed(f"person{i}@example.com", 20 - i)
    report = await world.run()
    assert states(report, "resend_reset") == [PROVEN] * 4 and report.outcome is Outcome.unsolved
    assert world.smtp.mails == [(f"person{i}@example.com",) for i in range(1, 5)]  # the oldest first
    again = await world.run()  # one more passes, then the app says 429: nobody is asked for after that
    assert states(again, "resend_reset") == [PROVEN, FAILED, FAILED]


async def test_nothing_is_asked_for_while_sending_does_not_work(world: World) -> None:
    world.failed(USER)
    world.smtp.replies["AUTH"] = "535 5.7.8 bad credentials"
    report = await world.run()
    assert of(report, "resend_reset") == [] and world.smtp.mails == []
    assert any(found.page and found.subject == "SMTP_PASS" for found in report.findings)
    assert "no reset mail is asked for again: sending does not work yet" in report.notices


async def test_the_app_that_mails_by_sendgrid_is_mended_the_same_way(world: World) -> None:
    world.without_smtp()
    world.failed(USER)
    report = await world.run()
    assert report.outcome is Outcome.fixed and world.sendgrid.sent == [USER], report


async def test_no_log_line_is_no_proof(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.failed("nobody.here@example.com")  # the app knows no such user, so it answers 200 and logs nothing
    monkeypatch.setattr("tasks.mail_log.ARRIVES_WITHIN", (0.0, 0.1))
    report = await world.run()
    assert states(report, "resend_reset") == [FixState.applied] and report.outcome is Outcome.unsolved
    assert of(await world.run(), "resend_reset") == []


# -- races ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "who", ["taken off", "blocked anew", "for another reason", "reported spam", "unsubscribed", "held back"]
)
async def test_what_changed_since_it_was_read_is_left_alone(
    world: World, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.block(OLD)
    asked = gate.ask

    async def meanwhile(run: Run, plan: list[Json], **more: Json) -> Json:
        permit = await asked(run, plan, **more)
        for fix in permit.fixes:
            match who:
                case "taken off":
                    world.sendgrid.lists["blocks"].clear()
                case "blocked anew":
                    world.block(OLD, hours=0)
                case "for another reason":
                    world.sendgrid.lists["blocks"][OLD]["status"] = "5.7.1"
                case "reported spam":
                    world.sendgrid.suppress("spam_reports", OLD, 0)
                case "unsubscribed":
                    world.sendgrid.suppress("unsubscribes", OLD, 0)
                case "held back":
                    memory.remember(world.ledger, f"mail/do-not-send/{fix.target[-10:]}", {"on": True})
        return permit

    monkeypatch.setattr(gate, "ask", meanwhile)
    report = await world.run()
    assert states(report, "remove_block") == [REFUSED], report
    assert [line for line in world.changes() if line[0] == "DELETE"] == []


async def test_a_reset_that_was_sent_meanwhile_is_not_sent_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.failed(USER)
    asked = gate.ask

    async def meanwhile(run: Run, plan: list[Json], **more: Json) -> Json:
        permit = await asked(run, plan, **more)
        if any(fix.action == "resend_reset" for fix in permit.fixes):
            mail_faults.log_reset(world.app, "sent", USER, 0)
        return permit

    monkeypatch.setattr(gate, "ask", meanwhile)
    report = await world.run()
    assert states(report, "resend_reset") == [REFUSED] and world.smtp.mails == []


# -- undo -------------------------------------------------------------------------------------------------------------


async def test_undo_of_a_removal_holds_the_address_back_and_can_be_undone_itself(world: World) -> None:
    world.block(OLD)
    fix = of(await world.run(), "remove_block")[0]
    report = await undo(world.ledger, fix.id)
    assert report.outcome is Outcome.undone and states(report, "hold_back") == [PROVEN]
    assert world.ledger.state(fix.id) is FixState.undone and world.rows()["blocks"] == set()
    held = report.fixes[0]
    assert (await undo(world.ledger, held.id)).outcome is Outcome.undone
    with pytest.raises(BadSetting, match="nothing to undo"):
        await undo(world.ledger, held.id)


async def test_undo_is_refused_when_somebody_held_it_back_already(world: World) -> None:
    world.block(OLD)
    fix = of(await world.run(), "remove_block")[0]
    memory.remember(world.ledger, f"mail/do-not-send/{fix.target[-10:]}", {"on": True})
    report = await undo(world.ledger, fix.id)
    assert states(report, "hold_back") == [REFUSED] and world.ledger.state(fix.id) is PROVEN


async def test_what_cannot_be_undone_says_so(world: World) -> None:
    world.failed(USER)
    fix = of(await world.run(), "resend_reset")[0]
    with pytest.raises(BadSetting, match="cannot be unsent"):
        await undo(world.ledger, fix.id)


# -- a process that dies ----------------------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal, sys
from flows.undelivered_email import undelivered_email
from runbook.ledger import Ledger
from runbook.model import FixState
from tasks import mail_log, suppressions

async def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "before":
    suppressions.delete_one = mail_log.call = die
else:
    move = Ledger.move
    def dying(self, fix_id, old, new, body, **more):
        if new is FixState.applied:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(self, fix_id, old, new, body, **more)
    Ledger.move = dying
asyncio.run(undelivered_email.fn(hold_seconds=0))
"""


def kill(world: World, when: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", DIES, when],
        env={**os.environ, **env(world), "PYTHONPATH": str(ROOT)},
        cwd=world.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == -signal.SIGKILL, said.stderr.decode()[-2000:]


@pytest.mark.parametrize("when", ["after", "before"])
async def test_a_removal_cut_short_is_settled_by_looking(world: World, when: str) -> None:
    world.block(OLD)
    kill(world, when)
    assert (OLD in world.rows()["blocks"]) is (when == "before")
    report = await world.run()
    assert any(line.startswith("settled") for line in report.notices)
    assert world.rows()["blocks"] == set()
    assert states(report, "remove_block") == ([PROVEN] if when == "before" else [])


@pytest.mark.parametrize(("when", "mails"), [("after", 1), ("before", 0)])
async def test_a_reset_cut_short_is_asked_for_at_most_once(
    world: World, when: str, mails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.failed(USER)
    kill(world, when)
    assert len(world.smtp.mails) == mails
    monkeypatch.setattr("tasks.mail_log.ARRIVES_WITHIN", (0.0,))
    for _ in range(2):
        assert of(await world.run(), "resend_reset") == []
    assert len(world.smtp.mails) == mails
