"""SendGrid's door against the stand-in: the traps of the official client, and every error as one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.sendgrid_server import Fault, SendGridServer
from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.settings import forget
from tasks import addresses, sendgrid_api
from tasks.sendgrid_api import TurnedDown, ask, delete_one, listed


@pytest.fixture(scope="module")
def server() -> Iterator[SendGridServer]:
    with SendGridServer() as running:
        yield running


@pytest.fixture
def sendgrid(server: SendGridServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SendGridServer]:
    """An account in which nothing is wrong."""
    server.reset()
    for name, value in {**server.env(), "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db"}.items():
        monkeypatch.setenv(name, value)
    forget()
    yield server
    forget()


def fault(sendgrid: SendGridServer, match: str, kind: str, **more: float) -> None:
    sendgrid.faults.append(Fault(match, kind, **more))  # type: ignore[arg-type]


def deletes(sendgrid: SendGridServer) -> int:
    return sum(count for (method, _), count in sendgrid.requests.items() if method == "DELETE")


ODD = "a/b+c%?#é@example.org"


async def test_an_address_is_escaped_so_that_it_stays_one_part_of_the_path(sendgrid: SendGridServer) -> None:
    sendgrid.suppress("bounces", ODD)
    sendgrid.suppress("bounces", "a")
    assert [row["email"] for row in await ask("get", "suppression", "bounces", ODD)] == [ODD]
    await delete_one("bounces", ODD)
    assert set(sendgrid.lists["bounces"]) == {"a"}


@pytest.mark.parametrize("address", ["", " ", "nobody", "@example.org", "a@b", "a@example.org/..", "a@b.c d@e.f"])
async def test_what_is_no_address_never_reaches_a_delete(sendgrid: SendGridServer, address: str) -> None:
    sendgrid.suppress("blocks", "kept@example.org")
    with pytest.raises(ValueError, match="not one row"):
        await delete_one("blocks", address)
    assert len(sendgrid.lists["blocks"]) == 1 and deletes(sendgrid) == 0


@pytest.mark.parametrize("kind", ["spam_reports", "unsubscribes", "groups", ""])
async def test_no_row_of_a_list_that_people_chose_is_ever_deleted(sendgrid: SendGridServer, kind: str) -> None:
    with pytest.raises(ValueError, match="not one row"):
        await delete_one(kind, "somebody@example.org")
    assert deletes(sendgrid) == 0


async def test_an_empty_part_of_a_path_is_refused_and_delete_has_one_door(sendgrid: SendGridServer) -> None:
    with pytest.raises(ValueError, match="empty part"):
        await ask("get", "suppression", "blocks", "")
    with pytest.raises(ValueError, match="door of its own"):
        await ask("delete", "suppression", "blocks")
    assert sendgrid.requests == {}


async def test_a_redirect_is_not_followed(sendgrid: SendGridServer) -> None:
    fault(sendgrid, "GET /v3/scopes", "redirect")
    with pytest.raises(BadSetting, match="SENDGRID_API_BASE: answers with a redirect"):
        await ask("get", "scopes")


@pytest.mark.parametrize(
    ("kind", "seconds", "said", "transient"),
    [
        ("401", 0, "SENDGRID_API_KEY: SendGrid does not accept this key", False),
        ("403", 0, "SENDGRID_API_KEY: this key may not get /v3/scopes", False),
        ("404", 0, "SendGrid: refused get /v3/scopes (404): injected", False),
        ("429", 2, "limits our rate (429)", True),
        ("429", 600, "limits our rate (429)", False),
        ("500", 0, "failed (500)", True),
        ("503", 0, "failed (503)", True),
        ("slow", 0.8, "did not answer (TimeoutError)", True),
        ("drop", 0, "did not answer (ConnectionResetError)", True),
        ("half", 0, "did not answer (IncompleteRead)", True),
        ("garbage", 0, "no JSON", True),
    ],
)
async def test_every_answer_is_one_line(
    sendgrid: SendGridServer, kind: str, seconds: float, said: str, transient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "slow":
        monkeypatch.setattr(sendgrid_api, "TIMEOUT_SECONDS", 0.3)
    fault(sendgrid, "GET /v3/scopes", kind, seconds=seconds)
    with pytest.raises(RunbookError) as caught:
        await ask("get", "scopes")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert getattr(caught.value, "transient", False) is transient


async def test_what_is_no_key_is_never_sent(sendgrid: SendGridServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "sk_test_somebody_elses")
    forget()
    with pytest.raises(BadSetting, match="is not a SendGrid API key") as caught:
        await ask("get", "scopes")
    assert "somebody" not in str(caught.value) and sendgrid.requests == {}


async def test_the_client_writes_no_key_into_any_log(
    sendgrid: SendGridServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await ask("get", "scopes")
    assert "SG.demo" not in caplog.text


async def test_a_long_list_is_read_page_by_page_and_each_row_once(
    sendgrid: SendGridServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendgrid_api, "PAGE", 10)
    for i in range(25):
        sendgrid.suppress("bounces", f"user{i}@example.org")
    rows = await listed("bounces", 0, 1 << 40)
    assert len(rows) == 25 and sendgrid.requests["GET", "suppression/bounces"] == 3
    monkeypatch.setattr(sendgrid_api, "PAGES", 2)
    assert len(await listed("bounces", 0, 1 << 40)) == 20


async def test_a_malformed_page_is_refused_whole(sendgrid: SendGridServer) -> None:
    fault(sendgrid, "GET /v3/suppression/bounces", "nameless")
    with pytest.raises(OutsideError, match="malformed"):
        await listed("bounces", 0, 1 << 40)


async def test_an_unknown_row_is_turned_down(sendgrid: SendGridServer) -> None:
    with pytest.raises(TurnedDown) as caught:
        await delete_one("blocks", "nobody@example.org")
    assert caught.value.status == 404


@pytest.mark.usefixtures("sendgrid")
def test_an_address_is_shown_and_marked_without_being_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert addresses.shown("jörg.maier@exämple.org") == "j***@exämple.org"
    here = addresses.mark("Jane@example.org")
    assert here == addresses.mark("jane@EXAMPLE.org") and len(here) == 10
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/other.db")
    forget()
    assert addresses.mark("jane@example.org") != here  # salted: nobody can guess an address and check it
