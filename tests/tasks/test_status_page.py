"""Public words on Statuspage and on Instatus: one incident at most, ours alone resolved, every no in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.status_page_server import StatusPages
from runbook import gate
from runbook.errors import BadSetting
from runbook.model import Fix, FixState, Mode
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import Settings, forget
from tasks import status_page, vendors
from tasks.status_page import CALM

HANDS = {name: Hand(status_page.write_status, status_page.look_up_status) for name in ("post_status", "close_status")}
BOTH = ("statuspage", "instatus")


@pytest.fixture(scope="module")
def server() -> Iterator[StatusPages]:
    with StatusPages() as pages:
        yield pages


@pytest.fixture
def pages(server: StatusPages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StatusPages]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    server.reset()
    ours = {"RUNBOOK_HOME": str(tmp_path), "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/l.db", "RUNBOOK_MODE": "auto"}
    for name, value in (dict(server.env()) | dict(server.instatus_env()) | ours).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RUNBOOK_LICENCE_DAYS", "0")
    forget()
    yield server
    forget()


async def do(fix: Fix, *, person: bool = True) -> FixState:
    """One fix through the gate, by a person unless said otherwise."""
    async with Run("site-down", Mode.auto, pages=False) as run:
        permit = await gate.ask(run, [fix], by_hand=person, share=None)
        await permit.apply(HANDS)
        (done,) = run.ledger.fixes(run.id)
    return done.state


@pytest.mark.parametrize("provider", BOTH)
async def test_words_go_up_once_and_come_down(pages: StatusPages, provider: str) -> None:
    assert await do(status_page.post(provider)) is FixState.proven
    assert pages.open_names(provider) == [CALM.name] and pages.mails == 1
    shown, unseen = await status_page.read_shown()
    assert [one.name for one in shown[provider]] == [CALM.name] and unseen == []
    assert await do(status_page.close(provider, shown[provider][0])) is FixState.proven
    assert pages.open_names(provider) == []


@pytest.mark.parametrize("provider", BOTH)
async def test_what_is_shown_already_is_not_doubled(pages: StatusPages, provider: str) -> None:
    pages._show(provider, "We are investigating", "INVESTIGATING", "…")
    assert await do(status_page.post(provider)) is FixState.refused
    assert pages.open_names(provider) == ["We are investigating"] and pages.mails == 0


@pytest.mark.parametrize("provider", BOTH)
async def test_no_machine_writes_alone(pages: StatusPages, provider: str) -> None:
    assert await do(status_page.post(provider), person=False) is FixState.refused
    assert pages.shown[provider] == []


@pytest.mark.parametrize("provider", BOTH)
async def test_what_a_person_resolved_meanwhile_is_left_alone(pages: StatusPages, provider: str) -> None:
    await do(status_page.post(provider))
    (one,) = (await status_page.read_shown())[0][provider]
    pages.shown[provider][0]["status"] = "resolved"
    assert await do(status_page.close(provider, one)) is FixState.refused


@pytest.mark.parametrize("provider", BOTH)
async def test_a_refused_key_is_a_failed_fix(
    pages: StatusPages, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv(status_page.FORMS[provider].key, "another_0123456789")
    forget()
    shown, unseen = await status_page.read_shown()
    assert provider not in shown and status_page.FORMS[provider].key in unseen[0]
    with pytest.raises(BadSetting):
        await status_page.read_open.fn(provider)


async def test_a_sick_provider_hides_no_other(pages: StatusPages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATUSPAGE_API_BASE", "http://127.0.0.1:9")
    forget()
    shown, unseen = await status_page.read_shown()
    assert list(shown) == ["instatus"] and "STATUSPAGE_API_BASE" in unseen[0]


async def test_a_vendors_own_page(pages: StatusPages, monkeypatch: pytest.MonkeyPatch) -> None:
    pages.vendor_incident("openai", "critical")
    monkeypatch.setenv("RUNBOOK_STATUS_PAGES", f"openai={pages.url}/openai,nobody={pages.url}/nobody")
    forget()
    found = {one.name: one for one in await vendors.read_vendors()}
    assert found["openai"].incidents[0].impact == "critical" and not found["openai"].sick
    assert "404" in found["nobody"].page_unseen
    monkeypatch.setenv("RUNBOOK_STATUS_PAGES", "openai")
    forget()
    with pytest.raises(BadSetting, match="name=url"):
        await vendors.read_vendors()
