"""``runbook`` on a systemd host: the ledger, settings and Prefect of the units, from any shell of any user."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments import host
from deployments.ledger_view import place
from runbook.errors import BadSetting
from runbook.ledger import Ledger
from tests.deployments.test_hosts import UNITS, unit

SYSTEMD = Path("/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator")
WRITTEN = r"""
# the app's own names
DATABASE_URL=postgresql://app:p#w@db.internal/shop?schema=public&connection_limit=5
 ; an old habit
APP_LOG = "/var/log/app one.log"
RUNBOOK_SLOW_ROUTES='stream|/sse\b'
RUNBOOK_RESTART_COMMAND=systemctl restart "my app.service"
OPENAI_MODEL="a \"b\" \\ \n c"
SENTRY_PROJECT=a\ b\\c   
SMTP_FROM='Shop' "Team"
SENTRY_ORG=first
SENTRY_ORG=second
EMPTY=
RUNBOOK_CONTACTS=one,\
two
no pair at all
2BAD=x
"""  # noqa: W291


def laid_out(folder: Path) -> tuple[Path, Path, Path]:
    etc, state, elsewhere = folder / "etc", folder / "state", folder / "elsewhere"
    for one in (etc, state, elsewhere):
        one.mkdir()
    own = f"RUNBOOK_LEDGER_URL=sqlite:///{state}/units.db\nPYTHONPATH={host.ROOT}\n"
    (etc / "env").write_text(own + WRITTEN)
    (etc / "runbook.toml").write_text("[parameters.pool-exhaustion]\nidle_seconds = 4321\n")
    return etc, state, elsewhere


def as_installed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What /usr/local/bin/runbook does, for this user, in a shell that names another ledger."""
    etc, state, elsewhere = folder / "etc", folder / "state", folder / "elsewhere"
    call = (
        "import sys; from pathlib import Path; from deployments.host import run; "
        "run(sys.argv[4:], Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", call, str(etc), str(state), getpass.getuser(), *words]
    shell = {"HOME": str(elsewhere), "RUNBOOK_LEDGER_URL": f"sqlite:///{elsewhere}/shell.db", "SUDO_USER": "ada"}
    env = os.environ | shell | {"PYTHONPATH": str(host.ROOT)}
    return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=120)


def test_the_red_button_is_pressed_in_the_ledger_of_the_units(tmp_path: Path) -> None:
    _, state, elsewhere = laid_out(tmp_path)
    done = as_installed(tmp_path, "stop", "upgrade")
    assert done.returncode == 0, done.stderr
    assert f"Ledger: SQLite {state}/units.db, WHERE NO RUN EVER WAS" in done.stdout
    book = Ledger(f"sqlite:///{state}/units.db")
    with book.read() as connection:
        assert book.stopped(connection) == "upgrade"
    assert list(elsewhere.iterdir()) == []
    book.open_run("pool-exhaustion", "observe")
    assert "last run 2" in place(book)


def test_every_command_sees_what_the_units_see(tmp_path: Path) -> None:
    etc, state, _ = laid_out(tmp_path)
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    (tmp_path / "show.sh").write_text(f"exec python -c '{show}'\n")
    done = as_installed(tmp_path, "sh", str(tmp_path / "show.sh"))
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["DATABASE_URL"].endswith("?schema=public&connection_limit=5"), "a shell would cut it at &"
    assert (seen["RUNBOOK_HOME"], seen["PREFECT_HOME"]) == (str(etc), f"{state}/prefect")
    assert (seen["HOME"], seen["LOGNAME"]) == (str(state), "ada")
    assert as_installed(tmp_path, "prefect", "version").returncode == 0
    form = "from flows.pool_exhaustion import pool_exhaustion as flow; print(flow.parameters.properties)"
    (tmp_path / "form.sh").write_text(f"exec python -c '{form}'\n")
    assert "4321" in as_installed(tmp_path, "sh", str(tmp_path / "form.sh")).stdout, "runbook.toml is read"


@pytest.mark.skipif(not SYSTEMD.exists(), reason="no systemd on this machine")
def test_the_file_is_read_as_systemd_reads_it(tmp_path: Path) -> None:
    (tmp_path / "environment.d").mkdir()
    (tmp_path / "environment.d" / "one.conf").write_text(WRITTEN)
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    said = subprocess.run([str(SYSTEMD)], env=env, capture_output=True, text=True, timeout=60).stdout
    theirs = {pair for pair in shlex.split(said) if pair.partition("=")[0] in host.parse(WRITTEN)}
    ours = {f"{name}={value}" for name, value in host.parse(WRITTEN).items()}
    assert theirs == ours - {"EMPTY="}, "this part of systemd says nothing of what is empty"


def test_the_file_in_the_docs_is_one_that_systemd_reads() -> None:
    blocks = (host.ROOT / "docs" / "operations.md").read_text("utf-8").split("```sh\n")
    (shown,) = (block.partition("```")[0] for block in blocks if block.startswith("PREFECT_API_URL="))
    assert host.parse(shown)["RUNBOOK_MODE"] == "observe"
    assert not [value for value in host.parse(shown).values() if "#" in value], "systemd has no comment behind a value"


def test_a_file_it_may_not_read_is_named(tmp_path: Path) -> None:
    etc, _, _ = laid_out(tmp_path)
    (etc / "env").unlink()
    done = as_installed(tmp_path, "stop")
    assert done.returncode == 2
    assert f"{etc}/env" in done.stderr and "Next: sudo runbook" in done.stderr
    with pytest.raises(BadSetting, match="no user"):
        host.become("nobody-of-that-name")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_the_units_and_the_command_agree(path: Path) -> None:
    service = unit(path)["Service"]
    assert service["User"] == host.USER
    assert service["EnvironmentFile"] == str(host.ETC / "env")
    line = next(one for one in path.read_text().splitlines() if one.startswith("Environment=RUNBOOK_HOME"))
    theirs = dict(pair.split("=") for pair in line.removeprefix("Environment=").split())
    (etc, state) = host.ETC, host.STATE
    assert theirs == {"RUNBOOK_HOME": str(etc), "PREFECT_HOME": f"{state}/prefect", "TMPDIR": str(state)}
