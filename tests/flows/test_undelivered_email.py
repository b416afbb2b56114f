"""The mail runbook on real parts: found, mended, proven; observed without a change; undone as far as can be."""

from __future__ import annotations

from demo import mail_faults
from runbook.model import FixState, Outcome
from tests.flows import mail_parts as parts
from tests.flows.mail_parts import World, states

servers, world = parts.servers, parts.world  # fixtures
PROVEN = FixState.proven


async def test_a_healthy_world_is_left_alone(world: World) -> None:
    report = await world.run()
    assert report.outcome is Outcome.healthy, report
    assert (report.findings, report.fixes, report.notices) == ([], [], [])
    assert world.changes() == [] and world.sendgrid.sandboxed == 1
    assert "DATA" not in world.smtp.seen and {"AUTH", "MAIL", "RCPT"} <= set(world.smtp.seen)


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
