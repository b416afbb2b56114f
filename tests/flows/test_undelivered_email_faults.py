"""Every way in which SendGrid, the SMTP server, the log or a setting can be wrong: said in one line, nothing harmed."""

from __future__ import annotations

import pytest

from demo import mail_faults
from runbook.model import FixState, Outcome
from tests.flows import mail_parts as parts
from tests.flows.mail_parts import FOR_EVER, World, of, states

world, hasty = parts.world, parts.hasty  # fixtures
USER, OLD = "person1@example.com", "old@busy.example"


@pytest.mark.parametrize(
    ("kind", "said", "pages"),
    [
        ("401", "SendGrid does not accept this key", True),
        ("429", "limits our rate (429)", False),
        ("500", "failed (500)", False),
        ("slow", "did not answer (TimeoutError)", False),
        ("drop", "did not answer (ConnectionResetError)", False),
        ("garbage", "no JSON", False),
        ("redirect", "answers with a redirect", True),
    ],
)
async def test_a_sick_sendgrid_is_one_finding_and_nothing_is_done(
    world: World, kind: str, said: str, pages: bool, request: pytest.FixtureRequest
) -> None:
    if kind == "slow":
        request.getfixturevalue("hasty")
    world.without_smtp()
    world.block(OLD)
    world.failed(USER)
    world.fault("GET /v3/scopes", kind, times=FOR_EVER, seconds=2 if kind == "slow" else 600)
    report = await world.run()
    (found, resets) = report.findings
    assert said in found.detail and found.page is pages and resets.subject == "password resets"
    assert report.outcome is Outcome.refused and report.fixes == [] and world.changes() == []


async def test_where_the_app_mails_by_smtp_a_dead_key_wakes_nobody(world: World) -> None:
    world.fault("GET /v3/scopes", "401", times=FOR_EVER)
    (found,) = (await world.run()).findings
    assert found.subject == "SENDGRID_API_KEY" and not found.page


@pytest.mark.parametrize("kind", ["500", "drop", "half", "garbage", "nameless"])
async def test_one_bad_answer_is_asked_for_again(world: World, kind: str) -> None:
    mail_faults.outlived_blocks(world.sendgrid)
    world.fault("GET /v3/suppression/blocks$", kind)
    report = await world.run()
    assert states(report, "remove_block") == [FixState.proven] * 3 and report.outcome is Outcome.fixed, report
    assert len(report.findings) == 1 + (kind == "nameless")  # what is malformed is said, and read again at the end


@pytest.mark.parametrize(
    ("match", "named", "done"),
    [
        ("GET /v3/whitelabel", "get /v3/whitelabel/domains", {"remove_block", "resend_reset"}),
        ("GET /v3/stats", "get /v3/stats", {"revalidate_domain", "remove_block", "resend_reset"}),
        ("GET /v3/verified_senders", "get /v3/verified_senders", {"revalidate_domain", "remove_block", "resend_reset"}),
        ("GET /v3/suppression/blocks", "get /v3/suppression/blocks", {"revalidate_domain", "resend_reset"}),
        ("GET /v3/asm", "get /v3/asm/suppressions", {"revalidate_domain"}),
    ],
)
async def test_a_scope_that_is_missing_is_named_and_the_rest_goes_on(
    world: World, match: str, named: str, done: set[str]
) -> None:
    mail_faults.unvalidated_domain(world.sendgrid)
    world.block(OLD)
    world.failed(USER)
    world.fault(match, "403", times=FOR_EVER)
    report = await world.run()
    assert {fix.action for fix in report.fixes if fix.state is FixState.proven} == done, report
    assert any(f"this key may not {named}" in line for line in report.notices)


async def test_a_key_that_may_not_remove_is_told_and_not_tried(world: World) -> None:
    world.sendgrid.keys = dict.fromkeys(world.sendgrid.keys, ("mail.send",))
    world.block(OLD)
    report = await world.run()
    assert report.fixes == [] and report.findings[0].subject == "suppressions: blocks"
    assert any("lacks suppression.blocks.delete" in line for line in report.notices)


async def test_a_key_that_may_not_send_pages(world: World) -> None:
    world.without_smtp()
    world.failed(USER)
    world.sendgrid.keys = dict.fromkeys(world.sendgrid.keys, ("stats.read",))
    report = await world.run()
    assert report.findings[0].page and "the key may not send" in report.findings[0].detail
    assert report.fixes == []


async def test_a_sender_nobody_verified_pages(world: World) -> None:
    world.without_smtp()
    world.sendgrid.senders.clear()
    world.sendgrid.domains.clear()
    report = await world.run()
    assert [(found.subject, found.page) for found in report.findings] == [
        ("sandbox send", True),
        ("n***@app.example", True),
    ]


async def test_a_removal_whose_answer_was_lost_is_looked_up(world: World) -> None:
    world.block(OLD)
    world.fault("DELETE", "killed")
    report = await world.run()
    assert states(report, "remove_block") == [FixState.proven] and report.outcome is Outcome.fixed
    assert world.sendgrid.requests["DELETE", "suppression/blocks"] == 1


async def test_a_removal_that_was_turned_down_is_not_tried_again(world: World) -> None:
    world.block(OLD)
    world.fault("DELETE", "500")
    report = await world.run()
    assert states(report, "remove_block") == [FixState.failed] and OLD in world.rows()["blocks"]
    assert world.sendgrid.requests["DELETE", "suppression/blocks"] == 1


async def test_mass_blocking_is_refused_whole(world: World) -> None:
    mail_faults.outlived_blocks(world.sendgrid)
    for i in range(500):
        world.block(f"reader{i}@mass{i}.example", hours=2)
    report = await world.run()
    assert set(states(report, "remove_block")) == {FixState.refused} and "mass failure" in report.fixes[0].why
    assert world.changes() == []


async def test_no_more_than_a_few_blocks_go_in_one_run(world: World) -> None:
    for i in range(9):
        world.block(f"reader{i}@busy{i}.example", hours=50 - i)
    report = await world.run()
    assert states(report, "remove_block") == [FixState.proven] * 5
    assert world.rows()["blocks"] == {f"reader{i}@busy{i}.example" for i in range(5, 9)}  # the oldest went


async def test_growth_is_found_against_what_was_counted_before(world: World) -> None:
    for _ in range(3):
        assert (await world.run(growth_rows=5)).outcome is Outcome.healthy
    for i in range(6):
        world.sendgrid.suppress("bounces", f"user{i}@example.org", 2)
    report = await world.run(growth_rows=5)
    (found,) = report.findings
    assert found.subject == "suppressions: bounces" and found.evidence == {"new": 6, "usual": 0.0}


async def test_bad_figures_are_told(world: World) -> None:
    world.sendgrid.metrics |= {"requests": 100, "blocks": 1, "bounces": 20, "spam_reports": 1}
    (found,) = (await world.run()).findings
    assert "20.0% bounced, 1.0% reported as spam" in found.detail


async def test_refusals_in_the_log_say_what_a_person_does(world: World) -> None:
    for _ in range(3):
        world.app.log("error", "smtp_notification_failed", error="550-5.7.26 unauthenticated, DMARC policy")
    with world.app.log_path.open("a") as log:
        log.write("Error: Message failed: 550 5.1.1 user unknown\n")
    (found,) = (await world.run()).findings
    assert found.evidence["causes"] == {"unauthenticated": 3, "no such mailbox": 1}
    assert "publish the DNS records" in found.detail


async def test_without_any_way_to_send_it_says_what_to_set(world: World) -> None:
    world.without_smtp()
    world.env(SENDGRID_API_KEY=None)
    report = await world.run()
    assert report.not_configured and report.reason.startswith("SENDGRID_API_KEY: not configured")


async def test_each_setting_that_is_missing_is_named(world: World) -> None:
    world.failed(USER)
    world.env(APP_URL=None)
    report = await world.run()
    assert "no reset mail is asked for again: APP_URL is not configured" in report.notices
    world.without_smtp()
    world.env(APP_LOG=None, SENDGRID_SENDER_EMAIL=None)
    report = await world.run()
    assert report.outcome is Outcome.healthy
    assert [line.split(",")[0] for line in report.notices] == [
        "not configured: SENDGRID_SENDER_EMAIL",
        "not configured: APP_LOG",
    ]


async def test_an_app_by_smtp_alone_is_looked_after(world: World) -> None:
    world.env(SENDGRID_API_KEY=None, SENDGRID_SENDER_EMAIL=None)
    world.failed(USER)
    report = await world.run()
    assert report.outcome is Outcome.fixed and world.smtp.mails == [(USER,)]


async def test_a_log_that_cannot_be_read_is_no_health(world: World) -> None:
    world.env(APP_LOG=str(world.folder / "nowhere.log"))
    report = await world.run()
    assert report.outcome is Outcome.refused and of(report, "resend_reset") == []
