"""Every way in which the app, its settings, its log or the database can be wrong: told, and nothing done blindly."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.serving import WSGIRequestHandler

from demo import session_faults as faults
from runbook.model import FixState, Mode, Outcome
from runbook.settings import forget
from tasks import app_tables, auth_probe
from tests.flows import sessions_parts as parts
from tests.flows.sessions_parts import PROVEN, SECRET, World, of, states

postgres, world = parts.postgres, parts.world  # fixtures
OTHER = "Zr8Wn3LqT6vKx1PbM9sYc5HdJ2fGe7Ua"
GRANTS = {
    'UPDATE ("failedLoginAttempts", "lockedUntil") ON "User"': 'GRANT UPDATE ("failedLoginAttempts", "lockedUntil")',
    'DELETE ON "Session"': 'GRANT DELETE ON "public"."Session" TO "runbook"',
    'INSERT ("sessionToken") ON "Session"': 'GRANT INSERT ("sessionToken") ON "public"."Session" TO "runbook"',
}


def say(monkeypatch: pytest.MonkeyPatch, **values: str | None) -> None:
    """Set (or unset) settings."""
    for name, value in values.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    forget()


# -- the app ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(world: World, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    """An app whose answers a test writes; ``csrf`` is well."""
    httpserver.expect_request("/api/auth/csrf").respond_with_json({"csrfToken": "a" * 64})
    url = httpserver.url_for("").rstrip("/")
    say(monkeypatch, APP_URL=url, NEXTAUTH_URL=url)
    return httpserver


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b'{"message":"There is a problem with the server configuration."}', "NEXTAUTH_SECRET or NEXTAUTH_URL"),
        (200, b"<html>sign in</html>", "answers no JSON"),
        (200, b'{"user": {"email": "leaked@example.com"}}', "a cache keeps it"),
        (404, b"", "answers 404"),
    ],
)
async def test_a_bad_answer_is_paged(world: World, web: HTTPServer, status: int, body: bytes, said: str) -> None:
    web.expect_request("/api/auth/session").respond_with_data(body, status)
    report = await world.run()
    (found,) = report.findings
    assert found.subject == "/api/auth/session" and said in found.detail and found.page
    assert report.exit_code == 3 and "leaked" not in report.model_dump_json()


async def test_an_app_that_limits_us_is_not_called_broken(world: World, web: HTTPServer) -> None:
    web.expect_request("/api/auth/session").respond_with_data(b"slow down", 429)
    report = await world.run()
    assert report.outcome is Outcome.healthy
    assert report.notices == ["/api/auth/session answered 429, so it was not judged"]


async def test_an_app_that_is_down_is_paged_and_accounts_are_mended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_probe.probe, "tries", 1)
    say(monkeypatch, APP_URL="http://127.0.0.1:9", NEXTAUTH_URL="http://127.0.0.1:9")
    world.lock(10)
    report = await world.run()
    assert [found.page for found in report.findings] == [True, True, False]
    assert "cannot be reached" in report.findings[0].detail
    assert states(report, "reset_lockout") == [PROVEN] and report.outcome is Outcome.unsolved


@pytest.mark.parametrize(("skew", "age", "wrong"), [(0, 0, False), (-600, 600, False), (600, 0, True), (-600, 0, True)])
async def test_a_clock_that_is_wrong_is_told_and_no_lock_is_lifted(
    world: World, web: HTTPServer, monkeypatch: pytest.MonkeyPatch, skew: int, age: int, wrong: bool
) -> None:
    told = formatdate(time.time() + skew, usegmt=True)
    monkeypatch.setattr(WSGIRequestHandler, "date_time_string", lambda *_: told)
    web.clear()
    for name, body in (("session", "{}"), ("csrf", '{"csrfToken": "' + "a" * 64 + '"}')):
        web.expect_request(f"/api/auth/{name}").respond_with_data(body, headers={"age": str(age)})
    before = world.lock(10)
    report = await world.run()
    assert ("clock of the app" in [found.subject for found in report.findings]) is wrong
    assert world.account(10) == (before if wrong else (0, None))


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(world: World) -> Iterator[str]:
    """A real process of the app whose secret is another; its pid."""
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": os.environ["DATABASE_URL"], "NEXTAUTH_SECRET": OTHER}
    words = ["node", "-e", "console.log(1); setInterval(() => {}, 1000)"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield str(process.pid)
        process.kill()


async def test_a_secret_that_differs_on_one_instance_is_shown_by_its_mark_only(
    world: World, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "web-2.env"
    file.write_text(f"NEXTAUTH_SECRET='{SECRET}'\nNEXTAUTH_URL={world.app.url}\n")
    say(monkeypatch, RUNBOOK_APP_ENV=f"{file},{tmp_path}/none.env")
    report = await world.run()
    (found,) = report.findings
    marks = found.evidence["marks"]
    assert found.page and "2 different ones on 3 instances" in found.detail
    assert marks["this environment"] == marks[f"file {file}"] != marks[f"process {node}"]
    assert marks[f"process {node}"].startswith("32 characters, fingerprint ")
    assert any("none.env cannot be read" in text for text in report.notices)
    assert report.fixes == []
    assert SECRET not in report.model_dump_json() and OTHER not in report.model_dump_json()


async def test_processes_of_another_app_do_not_count(world: World, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, DATABASE_URL=world.postgres.url("postgres", user="runbook"))
    assert (await world.run()).findings == []


async def test_a_url_of_the_wrong_host_and_a_placeholder_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, NEXTAUTH_URL="http://localhost:3000", NEXTAUTH_SECRET="your-nextauth-secret")
    report = await world.run()
    assert [found.subject for found in report.findings] == ["NEXTAUTH_SECRET", "NEXTAUTH_URL"]
    assert "your-nextauth-secret" not in report.model_dump_json()


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_without_a_log_no_account_is_touched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.lock(10)
    faults.add_sessions(world.postgres, "dead", 3, days=30)
    for path, said in ((None, "not configured: APP_LOG"), ("/nowhere/app.log", "/nowhere/app.log")):
        say(monkeypatch, APP_LOG=path)
        report = await world.run()
        assert any(said in text for text in report.notices), report.notices
        assert any("an attack cannot be ruled out" in text for text in report.notices)
        assert world.account(10) == before and of(report, "reset_lockout") == []
    assert world.sessions() == []


async def test_sessions_the_app_could_not_read_are_told_with_their_cause(world: World) -> None:
    text = "[next-auth][error][JWT_SESSION_ERROR] \nhttps://next-auth.js.org/errors#jwt_session_error failed {\n"
    with world.app.log_path.open("a") as log:
        log.write((text + "  message: 'decryption operation failed',\n}\n") * 25)
    (found,) = (await world.run()).findings
    assert found.subject == "app log: JWT_SESSION_ERROR" and "25 sessions" in found.detail
    assert sum(found.evidence["causes"].values()) == 25


async def test_a_name_of_the_apps_own_for_a_failed_login(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, RUNBOOK_LOGIN_FAILED="wrong_password, bad_login")
    for ip in range(6):
        world.app.log("warn", "wrong_password", identifier="a@example.com", ip=f"192.0.2.{ip}")
    (found,) = (await world.run()).findings
    assert found.subject == "login attack: targeted"


# -- the database -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grant", GRANTS)
async def test_a_missing_right_is_named_and_the_rest_is_done(world: World, grant: str) -> None:
    world.lock(10)
    faults.add_sessions(world.postgres, "dead", 3, days=30)
    world.sql(f"REVOKE {grant} FROM runbook")
    try:
        report = await world.run()
    finally:
        world.sql(f"GRANT {grant} TO runbook")
    assert any(GRANTS[grant] in text for text in report.notices), report.notices
    assert [fix.state for fix in report.fixes] == [PROVEN]


@pytest.mark.parametrize(
    ("change", "back", "said"),
    [
        (
            'ALTER TABLE "User" RENAME "lockedUntil" TO locked',
            'ALTER TABLE "User" RENAME locked TO "lockedUntil"',
            'tables.user_locked_until: table "User" has no column "lockedUntil"',
        ),
        ('ALTER TABLE "Session" RENAME TO gone', 'ALTER TABLE gone RENAME TO "Session"', ""),
        (
            'ALTER TABLE "Session" ADD "device" text NOT NULL',
            'ALTER TABLE "Session" DROP "device"',
            '"Session" must have "device", so none could be put back',
        ),
    ],
)
async def test_an_app_without_that_table_or_column(world: World, change: str, back: str, said: str) -> None:
    world.sql(change)
    try:
        report = await world.run()
    finally:
        world.sql(back)
    assert report.outcome is Outcome.healthy
    assert [said in text for text in report.notices] == ([True] if said else [])


async def test_a_database_that_is_down_stops_the_run_after_the_rest_was_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, DATABASE_URL="postgresql://runbook:pw@127.0.0.1:1/app", NEXTAUTH_SECRET="changeme")
    report = await world.run()
    assert report.outcome is Outcome.refused and report.exit_code == 2
    assert report.reason.startswith("DATABASE_URL: 127.0.0.1:1 cannot be reached")
    assert [found.subject for found in report.findings] == ["NEXTAUTH_SECRET"]


async def test_with_nothing_to_read_it_is_not_configured(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, DATABASE_URL=None, APP_URL=None, APP_LOG=None, NEXTAUTH_SECRET=None, NEXTAUTH_URL=None)
    assert (await world.run()).not_configured


def read_rows(world: World) -> int:
    """How many rows of the two tables were ever read without an index."""
    world.sql("SELECT pg_stat_force_next_flush()")
    query = "SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE relname IN ('User', 'Session')"
    return int(world.sql(query)[0][0])


async def test_a_big_table_is_never_read_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_tables, "WHOLE_ROWS", 100)
    faults.slips(world.app, 10, minutes_ago=40)
    world.lock(10)
    silent = world.lock(11)  # the log does not name it
    faults.add_sessions(world.postgres, "dead", 200, days=30)
    world.sql('ANALYZE "Session"')
    before = read_rows(world)
    report = await world.run()
    assert read_rows(world) == before
    assert states(report, "reset_lockout") == [PROVEN] and world.account(11) == silent
    assert len(world.sessions()) == 200
    told = "\n".join(report.notices)
    lock_index = (
        'CREATE INDEX CONCURRENTLY "User_lockedUntil_idx" ON "User" ("lockedUntil") WHERE "lockedUntil" IS NOT NULL'
    )
    session_index = 'CREATE INDEX CONCURRENTLY ON "Session" ("expires")'
    assert lock_index in told and session_index in told
    for index in (lock_index, session_index):
        world.sql(index)
    try:
        before = read_rows(world)
        report = await world.run()
        assert read_rows(world) == before
    finally:
        world.sql('DROP INDEX "User_lockedUntil_idx"')
        world.sql('DROP INDEX "Session_expires_idx"')
    assert world.account(11) == (0, None) and world.sessions() == []
    assert not any("CREATE INDEX" in text for text in report.notices)


async def test_too_many_at_once_are_left_to_a_person(world: World) -> None:
    faults.set_accounts(world.postgres, dict.fromkeys(range(160), (5, faults.at(minutes=20))))
    before = world.accounts()
    report = await world.run()
    assert set(states(report, "reset_lockout")) == {FixState.refused} and "mass failure" in report.fixes[0].why
    assert world.accounts() == before and report.outcome is Outcome.refused


async def test_a_prepared_plan_of_observe_names_no_mail_address(world: World) -> None:
    world.lock(10, minutes_ago=-10)
    report = await world.run(Mode.observe, unlock_email="person10@example.com")
    assert "person10@" not in report.model_dump_json()
