"""The command as scripts and people use it: a process of its own, a real database, one JSON document, exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo import database_faults, population
from demo.postgres import Postgres
from demo.prefect_server import BIN, ROOT
from demo.seed import seed
from demo.stripe_server import StripeServer
from deployments import ledger_view
from runbook import rowcheck
from runbook.ledger import Ledger
from runbook.settings import Settings

KEY = "sk_test_0123456789"
ROWS = 300


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        seed(running.url(), users=ROWS, subscriptions=ROWS)
        yield running


@pytest.fixture
def stripe() -> Iterator[StripeServer]:
    with StripeServer(ROWS, test_keys={KEY}) as running:
        yield running


Command = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def command(server: Postgres, stripe: StripeServer, tmp_path: Path) -> Command:
    clean = {key: value for key, value in os.environ.items() if key.lower() not in Settings.model_fields}
    base = {
        "DATABASE_URL": server.url(user="runbook") + "?connection_limit=5",
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_API_BASE": stripe.url,
        "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        "RUNBOOK_HOME": str(tmp_path),
        "RUNBOOK_MODE": "auto",
        "RUNBOOK_LICENCE_DAYS": "0",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }

    def run(*words: str, **env: str) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            [str(BIN / "runbook"), *words, "--json"],
            env=clean | base | env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def drifted(stripe: StripeServer, *numbers: int) -> None:
    for i in numbers:
        stripe.store.set_status(i, "past_due" if population.status(i) == "active" else "active")


def status_of(server: Postgres, i: int) -> str:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute('SELECT "status" FROM "Subscription" WHERE "id" = %s', [population.row_id(i)])
        return str((row.fetchone() or ("",))[0])


def test_the_list(command: Command) -> None:
    code, document, _ = command("list")
    assert code == 0
    assert {one["name"] for one in document["runbooks"]} >= {"pool-exhaustion", "failed-payments"}
    assert all(one["symptom"] for one in document["runbooks"])


def test_a_run_has_the_promised_shape_and_an_undo(command: Command, server: Postgres, stripe: StripeServer) -> None:
    drifted(stripe, 20)
    code, document, _ = command("run", "failed-payments", "--set", "hold_seconds=0")
    assert (code, document["outcome"], document["mode"]) == (0, "fixed", "auto")
    assert {"runbook", "mode", "outcome", "findings", "fixes", "duration_ms"} <= set(document)
    assert set(document["findings"][0]) == {"subject", "detail", "evidence", "page"}
    fix = document["fixes"][0]
    assert set(fix) == {"id", "action", "target", "risk", "state", "why"}
    assert (fix["action"], fix["state"]) == ("copy_status", "proven")
    assert status_of(server, 20) == "past_due"

    code, shown, _ = command("show", fix["id"])
    assert code == 0
    assert [one["kind"] for one in shown["entries"]] == ["granted", "intended", "applied", "proven"]
    assert shown["expect"]["status"] == "active"
    code, shown, _ = command("show", document["id"])
    assert shown["findings"] and shown["fixes"]
    code, listed, _ = command("ledger", "--since", "1h")
    assert [one["id"] for one in listed["runs"]] == [document["id"]]

    stripe.store.set_status(20, "active")
    code, undone, _ = command("undo", fix["id"])
    assert (code, undone["outcome"]) == (0, "undone")
    assert status_of(server, 20) == "active"
    code, again, _ = command("undo", fix["id"])
    assert code == 2 and "is undone" in again["reason"]


def test_an_undo_refuses_when_the_row_changed_since(command: Command, server: Postgres, stripe: StripeServer) -> None:
    drifted(stripe, 22)
    _, document, _ = command("run", "failed-payments", "--set", "hold_seconds=0")
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute('UPDATE "Subscription" SET "status" = %s WHERE "id" = %s', ("unpaid", population.row_id(22)))
    code, undone, _ = command("undo", document["fixes"][0]["id"])
    assert code != 0
    assert undone["outcome"] != "undone"
    assert status_of(server, 22) == "unpaid"
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute('UPDATE "Subscription" SET "status" = %s WHERE "id" = %s', ("active", population.row_id(22)))


def test_an_altered_ledger_is_named(command: Command, stripe: StripeServer, tmp_path: Path) -> None:
    drifted(stripe, 23)
    _, document, _ = command("run", "failed-payments", "--mode", "observe")
    code, whole, _ = command("verify")
    assert code == 0 and whole["whole"] and whole["entries"] >= 4
    assert command("verify", whole["head"][:16])[0] == 0
    assert command("verify", "0123456789abcdef")[0] == 4
    assert command("verify", "0123")[0] == 2
    lines = list(ledger_view.export(Ledger(f"sqlite:///{tmp_path}/ledger.db"), "1h"))
    assert [one["hash"] for one in lines][-1] == whole["head"]
    (planned,) = [one for one in lines if one["kind"] == "planned"]
    assert rowcheck.hash_of(planned["fix"]) == planned["body"]["image"]
    assert planned["fix"]["target"] == document["fixes"][0]["target"]
    assert command("show", document["id"])[1]["findings"]
    with sqlite3.connect(tmp_path / "ledger.db") as owner:
        owner.execute("UPDATE entry SET body = '{}' WHERE kind = 'found'")
    code, broken, _ = command("verify")
    assert code == 4 and "(found)" in broken["broken"]


def test_observing_is_the_default_and_changes_nothing(command: Command, server: Postgres, stripe: StripeServer) -> None:
    drifted(stripe, 24)
    code, document, _ = command("run", "failed-payments", RUNBOOK_MODE="")
    assert (code, document["outcome"], document["mode"]) == (3, "observed", "observe")
    assert document["fixes"][0]["state"] == "planned"
    assert status_of(server, 24) == "active"


def test_the_red_button(command: Command, server: Postgres, stripe: StripeServer) -> None:
    drifted(stripe, 25)
    assert command("stop", "not now")[0] == 0
    assert command("status")[1]["stopped"] is True
    code, document, _ = command("run", "failed-payments")
    assert (code, document["outcome"]) == (3, "refused")
    assert "not now" in document["fixes"][0]["why"]
    assert status_of(server, 25) == "active"
    assert command("start")[0] == 0
    assert command("status")[1]["stopped"] is False


def test_the_red_button_needs_no_database_and_no_prefect(command: Command) -> None:
    nothing = {"DATABASE_URL": "", "STRIPE_SECRET_KEY": ""}
    assert command("stop", **nothing)[0] == 0
    assert command("status", **nothing)[1]["stopped"] is True


def test_the_red_button_works_whatever_else_is_set_wrongly(command: Command, tmp_path: Path) -> None:
    book = f"sqlite:///{tmp_path}/of-the-file.db"
    (tmp_path / "runbook.toml").write_text("this is [no TOML\n")
    (tmp_path / ".env").write_text(f"RUNBOOK_MODE=yolo\nno line of any\nSMTP_PORT='\nRUNBOOK_LEDGER_URL={book}\n")
    wrong = {"RUNBOOK_MODE": "", "RUNBOOK_LEDGER_URL": ""}
    assert command("stop", "not now", **wrong)[0] == 0
    with Ledger(book).read() as connection:
        assert Ledger(book).stopped(connection) == "not now"
    code, said, _ = command("status", **wrong)
    assert (code, said["stopped"], said["reason"]) == (2, True, "not now")
    assert "RUNBOOK_MODE" in said["settings"]
    assert command("run", "failed-payments", **wrong)[0] == 2
    assert command("start", **wrong)[0] == 0
    assert command("status", **wrong)[1]["stopped"] is False


def test_an_env_file_that_cannot_be_read_never_leads_to_another_ledger(command: Command, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SMTP_USER=j\xfcrgen\nRUNBOOK_LEDGER_URL=sqlite:///elsewhere.db\n")
    assert command("stop")[0] == 0, "the environment names the ledger"
    code, said, _ = command("stop", RUNBOOK_LEDGER_URL="", XDG_STATE_HOME=str(tmp_path))
    assert code == 2 and "not UTF-8" in said["reason"]
    assert not (tmp_path / "runbook").exists()


def test_a_runbook_without_settings_says_which_and_the_others_go_on(command: Command) -> None:
    code, document, _ = command("run", "failed-payments", STRIPE_SECRET_KEY="")
    assert code == 2
    assert "STRIPE_SECRET_KEY: not configured" in document["reason"]
    code, document, _ = command("sweep", STRIPE_SECRET_KEY="")
    assert code == 0
    by_name = {one["runbook"]: one for one in document["runs"]}
    assert by_name["pool-exhaustion"]["outcome"] == "healthy"
    assert "not configured" in by_name["failed-payments"]["reason"]


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        (("run", "no-such"), {}, "no such runbook"),
        (("run", "pool-exhaustion", "--set", "nonsense"), {}, "param=value"),
        (("run", "pool-exhaustion", "--set", "full_att=1"), {}, "no such parameter"),
        (("run", "pool-exhaustion", "--set", "full_at=9"), {}, "full_at"),
        (("run", "pool-exhaustion", "--mode", "yolo"), {}, "yolo"),
        (("ledger", "--since", "soon"), {}, "no span of time"),
        (("seal", "--older", "1h"), {}, "nothing younger than 31 days"),
        (("show", "fix_nothing"), {}, "no such run or fix"),
        (("undo", "fix_nothing"), {}, "no such fix"),
        (("run", "pool-exhaustion"), {"DATABASE_URL": "postgresql://runbook:hush@127.0.0.1:9/app"}, "DATABASE_URL"),
        (("run", "pool-exhaustion"), {"DATABASE_URL": "mysql://hush"}, "DATABASE_URL"),
        (("run", "failed-payments"), {"STRIPE_SECRET_KEY": "sk_test_revoked"}, "STRIPE_SECRET_KEY"),
        (("run", "failed-payments"), {"STRIPE_SECRET_KEY": "hush"}, "STRIPE_SECRET_KEY"),
        (("run", "failed-payments"), {"STRIPE_API_BASE": "nonsense"}, "STRIPE_API_BASE"),
        (("run", "pool-exhaustion"), {"RUNBOOK_MODE": "yolo"}, "RUNBOOK_MODE"),
        (("run", "pool-exhaustion"), {"RUNBOOK_LEDGER_URL": "sqlite:////proc/ledger.db"}, "RUNBOOK_LEDGER_URL"),
        (("sweep",), {"RUNBOOK_LEDGER_URL": "sqlite:////proc/ledger.db"}, "RUNBOOK_LEDGER_URL"),
        (("doctor",), {"RUNBOOK_PROFILE": "/nowhere.toml"}, "RUNBOOK_PROFILE"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    command: Command, words: tuple[str, ...], env: dict[str, str], told: str
) -> None:
    code, document, shown = command(*words, **env)
    assert code == 2
    assert told in json.dumps(document) + shown
    assert "hush" not in json.dumps(document) + shown


def test_a_wrong_password_is_said_without_it(command: Command, server: Postgres) -> None:
    url = server.url(user="runbook_scram", password="wrong-hush")
    code, document, shown = command("run", "pool-exhaustion", DATABASE_URL=url)
    assert code == 2
    assert "DATABASE_URL" in document["reason"] and "password" in document["reason"]
    assert "hush" not in json.dumps(document) + shown


def test_a_profile_with_unknown_keys(command: Command, tmp_path: Path) -> None:
    (tmp_path / "runbook.toml").write_text("[parameters.pool-exhaustion]\nfull = 1\n")
    code, document, _ = command("run", "pool-exhaustion")
    assert code == 2 and "no such parameter" in document["reason"]
    code, document, _ = command("doctor")
    assert code == 2 and "unknown names: full" in json.dumps(document)
    (tmp_path / "runbook.toml").write_text("[tables]\nsubs = 'x'\n")
    code, document, _ = command("run", "failed-payments")
    assert code == 2 and "tables.subs" in document["reason"]


def test_the_doctor_is_content_here_and_says_what_a_poor_role_lacks(command: Command, server: Postgres) -> None:
    code, document, _ = command("doctor", PREFECT_API_URL="")
    states = {one["name"]: one["state"] for one in document["checks"]}
    assert (code, set(states.values())) == (0, {"ok", "unset"}), document
    code, document, _ = command("doctor", DATABASE_URL=server.url(user="app"), PREFECT_API_URL="")
    steps = {one["name"]: one["next_step"] for one in document["checks"] if one["state"] == "bad"}
    assert code == 2
    assert steps["pg_monitor"] == 'GRANT pg_monitor TO "app"'


def test_a_pool_without_one_free_slot_is_mended_from_the_command_line(command: Command, server: Postgres) -> None:
    writers = database_faults.idle_writers(server, 14)
    blocked = database_faults.blocked_app(server, 14, 14)
    full = database_faults.fill_slots(server)
    try:
        given = ("--set", "wait_seconds=1", "--set", "hold_seconds=0")
        database_faults.wait_until(lambda: database_faults.waited(server) > 2, "the app to have waited a while")
        code, document, _ = command("run", "pool-exhaustion", *given)
        assert (code, document["outcome"]) == (0, "fixed"), document
        assert writers.alive() == 0
        assert full.untouched
    finally:
        for sessions in (writers, blocked, full):
            sessions.close()
