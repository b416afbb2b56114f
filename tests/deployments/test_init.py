"""The first start as a stranger does it: one command, the app's own .env, an app that spells its tables its own way."""

from __future__ import annotations

import errno
import json
import os
import pty
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.postgres import Postgres
from demo.prefect_server import BIN, ROOT
from deployments import first_start
from deployments.role import role_sql
from runbook.errors import BadSetting
from runbook.settings import Settings, Tables

SHOP = """
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO runbook;
CREATE TABLE shop.subscriptions (id text PRIMARY KEY, stripe_customer_id text, stripe_subscription_id text,
    status text, created_at timestamp(3) DEFAULT now());
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        with psycopg.connect(running.url(), autocommit=True) as owner:
            owner.execute("CREATE EXTENSION pg_stat_statements")
            for statement in SHOP.split(";\n"):
                owner.execute(statement)
        yield running


def env(home: Path) -> dict[str, str]:
    """Nothing of this process's settings; what is written beside the home is none of it."""
    beside = next(folder for folder in home.parents if folder.is_dir())
    clean = {key: value for key, value in os.environ.items() if key.lower() not in Settings.model_fields}
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(beside / "prefect")}
    own = {"RUNBOOK_HOME": str(home), "RUNBOOK_LEDGER_URL": f"sqlite:///{beside}/ledger.db"}
    return clean | nowhere | own


def init(home: Path, *words: str, given: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [str(BIN / "runbook"), "init", *words, "--json"],
        env=env(home) | dict(given or {}),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_one_command_from_the_apps_env_to_a_first_look(server: Postgres, tmp_path: Path) -> None:
    url = server.url(user="runbook") + "?schema=shop&connection_limit=5"
    app = tmp_path / "app.env"
    app.write_text(f'DATABASE_URL="{url}"\nNODE_ENV=production\nRUNBOOK_MODE=auto\nADMIN_SECRET=\'a $hush "quoted"\'\n')
    home = tmp_path / "home"
    home.mkdir()
    _, document, said = init(home, "--env", str(app))
    env = home / ".env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    taken = env.read_text()
    assert "connection_limit" in taken and "$hush" in taken
    assert "NODE_ENV" not in taken and "RUNBOOK_MODE" not in taken
    assert "hush" not in said + json.dumps(document)
    toml = (home / "runbook.toml").read_text()
    assert 'schema = "shop"' in toml and 'subscription_stripe_id = "stripe_subscription_id"' in toml
    assert document["told"][1].startswith(str(home)), document["told"]
    assert 'GRANT UPDATE ("status") ON "shop"."subscriptions" TO "runbook";' in document["role"]
    assert any(one["name"] == "database" and one["state"] == "ok" for one in document["checks"])
    assert {one["mode"] for one in document["runs"]} == {"observe"}
    assert next(one for one in document["runs"] if one["runbook"] == "pool-exhaustion")["outcome"] == "healthy"

    env.write_text(taken + "\n# mine\n")
    (home / "runbook.toml").write_text(toml + "# mine\n")
    _, again, _ = init(home, "--env", str(app))
    assert "stays as it is" in again["told"][0] and "stays as it is" in again["told"][1]
    assert "# mine" in env.read_text() and "# mine" in (home / "runbook.toml").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "runbook init --env"),
        (("--env", "nowhere.env"), "no file at nowhere.env"),
        (("--env", "pyproject.toml"), "no setting this product knows"),
    ],
)
def test_a_start_with_nothing_says_what_to_give(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    code, document, _ = init(tmp_path, *words)
    assert code == 2
    assert told in document["reason"]
    assert not (tmp_path / ".env").exists()


def test_a_database_that_is_down_does_not_end_it(tmp_path: Path) -> None:
    app = tmp_path / "app.env"
    app.write_text("DATABASE_URL=postgresql://runbook:hush-hush@127.0.0.1:9/app\n")
    code, document, _ = init(tmp_path, "--env", str(app))
    assert code == 2
    assert "cannot be reached" in document["told"][1]
    assert "hush-hush" not in json.dumps(document)


def unwritable(folder: Path) -> Path:
    """A home that nobody can make, root neither."""
    (folder / "file").write_text("")
    return folder / "file" / "home"


def test_a_home_that_cannot_be_written_is_named(server: Postgres, tmp_path: Path) -> None:
    home = unwritable(tmp_path)
    app = tmp_path / "app.env"
    app.write_text(f"DATABASE_URL={server.url(user='runbook')}\n")
    code, document, _ = init(home, "--env", str(app))
    assert code == 2 and document["reason"].startswith(f"RUNBOOK_HOME: cannot write {home}/.env")
    code, document, _ = init(home, given={"DATABASE_URL": server.url(user="runbook")})
    assert code == 2 and document["reason"].startswith(f"RUNBOOK_HOME: cannot write {home}/runbook.toml")
    assert "Next: name a folder you may write" in document["reason"]


def test_what_was_half_written_takes_no_place(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="No space left"), first_start._whole(tmp_path / "a.toml", 0o600, "X") as part:
        part.write_text("half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []
    with first_start._whole(tmp_path / "not" / "yet" / "a.toml", 0o600, "X") as part:
        part.write_text("all of it")
    assert [path.name for path in (tmp_path / "not" / "yet").iterdir()] == ["a.toml"]


def test_a_person_is_asked_for_what_is_missing(tmp_path: Path) -> None:
    person, terminal = pty.openpty()
    try:
        os.write(person, b"\npostgresql://runbook:hush-hush@127.0.0.1:9/app\n")  # no .env, but a URL
        done = subprocess.run(
            [str(BIN / "runbook"), "init"],
            env=env(tmp_path),
            cwd=ROOT,
            stdin=terminal,
            capture_output=True,
            timeout=120,
        )
    finally:
        os.close(person)
        os.close(terminal)
    asked = done.stderr.decode()
    assert "Path of the app's .env" in asked and "DATABASE_URL (postgresql://" in asked
    assert "hush-hush" in (tmp_path / ".env").read_text()
    assert "hush-hush" not in asked + done.stdout.decode()


def test_names_in_the_profile_cannot_leave_their_quotes() -> None:
    odd = Tables(subscription='x" TO public; DROP TABLE y; --', schema='s"s')
    text = role_sql(odd, 'd"b', 180_000, 'r"r')
    assert '"x"" TO public; DROP TABLE y; --"' in text
    assert '"s""s"' in text and '"d""b"' in text and '"r""r"' in text
