"""Deployments by Vercel's API and by a configured command, and every way either can be sick."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.deploy_server import BAD, GOOD, Vercel
from runbook.errors import BadSetting, NotConfigured, OutsideError, RunbookError
from runbook.model import Fix
from runbook.settings import Settings, forget
from tasks import rollback
from tasks.deploys import configured, read_deploys
from tasks.rollback import Migrations, roll_back_fix, why_not


@pytest.fixture(scope="module")
def server() -> Iterator[Vercel]:
    with Vercel() as vercel:
        yield vercel


@pytest.fixture
def vercel(server: Vercel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vercel]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    server.reset()
    for name, value in (dict(server.env()) | {"RUNBOOK_HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("runbook.step.READ_TRIES", 1)
    forget()
    yield server
    forget()


def by_command(monkeypatch: pytest.MonkeyPatch, folder: Path, said: object, code: int = 0) -> None:
    """``RUNBOOK_DEPLOYS_COMMAND`` prints ``said``."""
    text = said if isinstance(said, str) else json.dumps(said)
    (folder / "said").write_text(text)
    monkeypatch.setenv("VERCEL_TOKEN", "")
    monkeypatch.setenv("RUNBOOK_DEPLOYS_COMMAND", f"sh -c 'cat {folder}/said; exit {code}'")
    forget()


async def test_what_is_live_and_what_was_before(vercel: Vercel) -> None:
    vercel.deploy(BAD, minutes_ago=5, about="faster start page\n\nlong story")
    vercel.deploy("dpl_staged", minutes_ago=2, live=False)
    found = await read_deploys()
    assert (found.live.id, found.live.about, found.pending) == (BAD, "faster start page", "")
    assert found.before is not None and found.before.id == GOOD
    assert not found.rolled_back and found.since_ms == found.live.at_ms


async def test_what_was_pointed_to_is_live_since_then(vercel: Vercel) -> None:
    vercel.deploy(BAD, minutes_ago=5)
    vercel.alias = {"toDeploymentId": GOOD, "type": "rollback", "requestedAt": 4_000_000_000_000}
    vercel.live = GOOD
    found = await read_deploys()
    assert found.rolled_back and found.since_ms == 4_000_000_000_000
    assert "already" in why_not(found, Migrations())


@pytest.mark.parametrize(
    ("env", "error", "word"),
    [
        ({"VERCEL_TOKEN": "wrong_0123456789"}, BadSetting, "VERCEL_TOKEN"),
        ({"VERCEL_TEAM_ID": "team_other"}, BadSetting, "VERCEL_PROJECT_ID"),
        ({"VERCEL_PROJECT_ID": ""}, NotConfigured, "VERCEL_PROJECT_ID"),
        ({"VERCEL_API_BASE": "http://127.0.0.1:9"}, OutsideError, "VERCEL_API_BASE"),
    ],
)
async def test_what_is_set_wrong_is_named(
    vercel: Vercel, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], error: type[RunbookError], word: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    forget()
    with pytest.raises(error, match=word):
        await read_deploys.fn()


@pytest.mark.parametrize("fault", [429, 500, 503])
async def test_a_sick_vercel_may_be_asked_again(vercel: Vercel, fault: int) -> None:
    vercel.fault = fault
    with pytest.raises(OutsideError) as caught:
        await read_deploys.fn()
    assert caught.value.transient


async def test_a_live_deployment_nobody_lists_is_no_guess(vercel: Vercel) -> None:
    vercel.live = "dpl_elsewhere"
    with pytest.raises(OutsideError, match="dpl_elsewhere"):
        await read_deploys.fn()


async def test_a_command_tells_as_well(vercel: Vercel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"id": "v42", "at": "2026-01-02T03:04:05Z", "live": True, "about": "faster"},
        {"id": "v41", "at": 1_767_000_000, "live": False},
        {"id": "v40", "at": "2025-12-01 00:00:00", "live": False, "state": "error"},
    ]
    by_command(monkeypatch, tmp_path, rows)
    found = await read_deploys()
    assert found.before is not None and (found.live.id, found.before.id) == ("v42", "v41")
    assert found.live.at_ms == 1_767_323_045_000
    assert "RUNBOOK_ROLLBACK_COMMAND" in why_not(found, Migrations())
    monkeypatch.setenv("RUNBOOK_ROLLBACK_COMMAND", f"sh -c 'echo \"$0\" > {tmp_path}/pointed' {{deployment}}")
    forget()
    assert roll_back_fix(found, Migrations(names=("m",)), "why") is None
    fix = roll_back_fix(found, Migrations(), "why")
    assert isinstance(fix, Fix)
    await rollback._point(fix.action, str(fix.want["deployment"]))
    assert (tmp_path / "pointed").read_text() == "v41\n"


@pytest.mark.parametrize(
    ("said", "code"),
    [("", 0), ("{}", 0), ("[]", 0), ('[{"id": "a"}]', 0), ('[{"id": "a", "at": "soon", "live": true}]', 0), ("[]", 3)],
)
async def test_a_command_that_says_something_else_is_named(
    vercel: Vercel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, code: int
) -> None:
    by_command(monkeypatch, tmp_path, said, code)
    with pytest.raises(OutsideError, match="RUNBOOK_DEPLOYS_COMMAND"):
        await read_deploys.fn()


async def test_without_either_nothing_is_configured(vercel: Vercel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERCEL_TOKEN", "")
    forget()
    assert not configured()
    with pytest.raises(NotConfigured, match="RUNBOOK_DEPLOYS_COMMAND"):
        await read_deploys.fn()
