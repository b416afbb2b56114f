"""Every way in which Stripe, the database or a setting can be wrong: one clear line, nothing changed."""

from __future__ import annotations

import pytest

from demo import stripe_faults
from runbook.model import FixState, Mode, Outcome
from runbook.settings import forget
from tests.flows import payments_parts as parts
from tests.flows.payments_parts import DRIFTED, LIST, PROVEN, SMALL, World, settled

seeded, world, sick, hasty = parts.seeded, parts.world, parts.sick, parts.hasty  # fixtures


# -- faults: one clear line, nothing changed --------------------------------------------------------------------------

FOR_EVER = 10_000
FAULTS = [
    ("GET /v1/balance", "401", "STRIPE_SECRET_KEY"),
    ("GET /v1/balance", "403", "STRIPE_SECRET_KEY"),
    ("GET /v1/balance", "429", "limits our rate"),
    ("GET /v1/balance", "500", "failed (500)"),
    ("GET /v1/balance", "slow", "did not answer (ReadTimeout)"),
    ("GET /v1/balance", "garbage", "no JSON"),
    ("GET /v1/balance", "livemode", "live mode"),
    ("GET /v1/subscriptions$", "401", "STRIPE_SECRET_KEY"),
    ("GET /v1/subscriptions$", "429", "limits our rate"),
    ("GET /v1/subscriptions$", "503", "failed (503)"),
    ("GET /v1/subscriptions$", "slow", "did not answer (ReadTimeout)"),
    ("GET /v1/subscriptions$", "half", "did not answer (ChunkedEncodingError)"),
    ("GET /v1/subscriptions$", "garbage", "no JSON"),
    ("GET /v1/subscriptions$", "empty", "lists no subscription while Subscription has 2000 rows"),
    ("GET /v1/subscriptions$", "partial", "partial: 50 of 100"),
    ("GET /v1/subscriptions$", "livemode", "live mode"),
    ("GET /v1/events", "500", "failed (500)"),
    ("GET /v1/webhook_endpoints", "403", "STRIPE_SECRET_KEY"),
]


@pytest.mark.parametrize(("match", "kind", "words"), FAULTS)
async def test_a_sick_stripe_is_one_clear_line(
    sick: World, match: str, kind: str, words: str, request: pytest.FixtureRequest
) -> None:
    if kind == "slow":
        request.getfixturevalue("hasty")
    sick.fault(match, kind, times=FOR_EVER, seconds=2, skip=0 if "$" not in match else 3 * (kind != "empty"))
    before = sick.statuses()
    report = await sick.run()
    assert words in report.reason and "Next: " in report.reason and "\n" not in report.reason
    assert report.outcome is Outcome.refused and report.exit_code == 2
    assert report.fixes == [] and sick.statuses() == before


@pytest.mark.parametrize("kind", ["429", "500", "503", "slow", "half", "garbage"])
async def test_one_bad_page_is_asked_for_again(sick: World, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "slow":
        request.getfixturevalue("hasty")
    sick.fault("GET /v1/subscriptions$", kind, times=1, skip=5, seconds=2)
    report = await sick.run()
    assert report.outcome is Outcome.fixed
    assert sick.stripe.requests[LIST] == SMALL // 100 + 1


async def test_a_list_cut_short_in_silence_changes_no_row_wrongly(sick: World) -> None:
    sick.fault("GET /v1/subscriptions$", "empty", times=1, skip=2)
    report = await sick.run()
    assert "does not know 1800 of the 2000" in report.reason and report.fixes == []


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (
            'ALTER TABLE "Subscription" RENAME TO "Subscriptions"',
            'tables.subscription: the database has no table "public"',
        ),
        ('ALTER TABLE "Subscription" RENAME status TO state', "tables.subscription_status"),
        ('ALTER TABLE "Subscription" RENAME "stripeSubscriptionId" TO stripe_id', "tables.subscription_stripe_id"),
        ('ALTER TABLE "Subscription" RENAME "createdAt" TO created', "tables.subscription_created"),
        (
            'REVOKE UPDATE (status) ON "Subscription" FROM runbook',
            'GRANT UPDATE ("status") ON "Subscription" TO "runbook"',
        ),
        ('REVOKE SELECT ON "Subscription" FROM runbook', "may not SELECT"),
    ],
)
async def test_a_strange_database_is_one_clear_line(sick: World, breakage: str, words: str) -> None:
    stripe_faults.disable_endpoints(sick.stripe.store)
    sick.sql(breakage)
    report = await sick.run()
    assert words in report.reason and "\n" not in report.reason
    assert report.outcome is Outcome.refused and report.exit_code == 2 and report.fixes == []
    assert {one["status"] for one in sick.stripe.store.endpoints.values()} == {"disabled"}


async def test_other_names_come_from_the_profile(sick: World) -> None:
    sick.sql('ALTER TABLE "Subscription" RENAME status TO "billing state"')
    sick.sql('ALTER TABLE "Subscription" RENAME TO subs')
    profile = '[tables]\nsubscription = "subs"\nsubscription_status = "billing state"\n'
    (sick.folder / "runbook.toml").write_text(profile, "utf-8")
    forget()
    report = await sick.run()
    assert report.outcome is Outcome.fixed
    assert dict(sick.sql("SELECT id, \"billing state\" FROM subs WHERE id = 'row_00000023'")) == {
        "row_00000023": "past_due"
    }


async def test_observing_needs_no_right_to_write(sick: World) -> None:
    sick.sql('REVOKE UPDATE (status) ON "Subscription" FROM runbook')
    report = await sick.run(mode=Mode.observe)
    assert report.outcome is Outcome.observed and len(report.fixes) == len(DRIFTED)


async def test_a_constraint_that_forbids_the_word_is_a_certain_no(sick: World) -> None:
    sick.sql("ALTER TABLE \"Subscription\" ADD CHECK (status <> 'unpaid')  NOT VALID")
    report = await sick.run()
    assert settled(report, "copy_status") == {PROVEN: 2, FixState.failed: 1}
    assert report.outcome is Outcome.unsolved


async def test_a_database_that_is_gone_is_one_clear_line(sick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://runbook@127.0.0.1:1/app")
    forget()
    report = await sick.run()
    assert report.reason.startswith("DATABASE_URL: ") and report.outcome is Outcome.refused


async def test_a_key_of_the_other_mode_touches_nothing(sick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    live = "sk_live_payments0123456789"
    sick.stripe.keys.add(live)
    monkeypatch.setenv("STRIPE_SECRET_KEY", live)
    forget()
    report = await sick.run()
    assert "is a live key but Stripe answers in test mode" in report.reason and report.fixes == []
    assert list(sick.stripe.requests) == [("GET", "/v1/balance")]


@pytest.mark.parametrize("name", ["STRIPE_SECRET_KEY", "DATABASE_URL"])
async def test_what_is_not_configured_is_named(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    forget()
    report = await world.run()
    assert report.not_configured and name in report.reason and not world.stripe.requests


async def test_without_the_apps_address_the_rows_are_mended_all_the_same(
    sick: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APP_URL")
    forget()
    report = await sick.run()
    assert report.outcome is Outcome.fixed and "not configured: APP_URL" in report.notices[0]


async def test_a_log_that_cannot_be_read_is_told(sick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG", str(sick.folder / "nowhere.log"))
    forget()
    report = await sick.run()
    assert report.outcome is Outcome.fixed and any("APP_LOG" in text for text in report.notices)


async def test_no_secret_reaches_report_or_ledger(sick: World) -> None:
    sick.stripe.keys.clear()
    report = await sick.run()
    assert "STRIPE_SECRET_KEY" in report.reason
    everything = report.model_dump_json() + (sick.folder / "ledger.db").read_bytes().decode("latin-1")
    assert "payments0123456789" not in everything and "whsec_payments" not in everything
