"""A person in a real browser: starts a runbook from its form, reads what it asks, and lets it do all, some or nothing.

With ``RUNBOOK_SCREENSHOTS=docs`` (``make screenshots``) the pages on the way are written to that folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, sync_playwright
from sqlalchemy import select

from demo import stripe_faults
from demo.faults import Broken
from demo.prefect_api import Api
from demo.stack import Stack
from runbook.ledger import Ledger
from runbook.schema import entry
from tests.e2e.test_prefect import ended, question, resumed, until

CHROMIUM = os.environ.get("RUNBOOK_CHROMIUM") or shutil.which("chromium") or ""
SHOTS = os.environ.get("RUNBOOK_SCREENSHOTS", "")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
pytestmark = [
    pytest.mark.prefect,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium here: install it, or name one in RUNBOOK_CHROMIUM"),
]
NAME = "failed-payments"
BLANK = "about:blank"
"""A page that shows a run draws it all the time: none is left open while a run goes on."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(lambda _text: None, tmp_path_factory.mktemp("browser"), users=2_000, subscriptions=1_000) as running:
        Api(running.prefect.url).pause_schedules()
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.prefect.url)


@pytest.fixture(autouse=True)
def no_open_invoices(stack: Stack) -> Iterator[None]:
    """What one test left open is nothing the next is asked about."""
    yield
    stack.stripe.store.invoices.clear()
    stack.stripe.store.pays.clear()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        opened = browser.new_page(viewport={"width": 1400, "height": 1300}, reduced_motion="reduce")
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def shot(page: Page, name: str) -> None:
    """Keep this page for docs/, when that was asked for."""
    if SHOTS:
        page.wait_for_timeout(1500)  # what moves comes to rest
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def choose(page: Page, inside: Page | Locator, field: str, word: str) -> None:
    """Pick one word of an enum."""
    property_of(inside, field).locator(".p-select-button__control").focus()
    page.keyboard.press("ArrowDown")  # a click opens the list and, in a headless browser, closes it again
    page.get_by_role("option", name=word, exact=True).click()


def property_of(inside: Page | Locator, field: str) -> Locator:
    """One field of a form, with its label and help."""
    return inside.locator(f".schema-form-property:has(label:has-text('{field}'))")


def answer(page: Page, dialog: Locator, decision: str, by: str, reason: str = "") -> None:
    """Fill in the dialog and send it."""
    choose(page, dialog, "Decision", decision)
    for field, text in (("By", by), ("Reason", reason)):
        property_of(dialog, field).locator("textarea").fill(text)
    dialog.get_by_role("button", name="Submit").click()
    dialog.wait_for(state="hidden")
    page.goto(BLANK)


def open_form(page: Page, api: Api) -> None:
    deployment = api.call("GET", f"/deployments/name/{NAME}/{NAME}")
    page.goto(f"{api.url}/deployments/deployment/{deployment['id']}/run")
    page.get_by_text("hold_seconds (Optional)").wait_for()


def by_form(page: Page, api: Api) -> str:
    """Start a run from the form with mode approve; the id of the run, which waits for a person."""

    def every() -> set[str]:
        return {one["id"] for one in api.call("POST", "/flow_runs/filter", {})}

    before = every()
    open_form(page, api)
    choose(page, page, "mode", "approve")
    page.locator("input[type=number]").last.fill("0")
    shot(page, "form")
    page.get_by_role("button", name="Submit").click()
    (run_id,) = until(lambda: every() - before, "the run the form has started")
    page.goto(BLANK)
    run = ended(api, run_id)
    assert run["state"]["name"] == "Suspended", run["state"]["message"]
    question(api, run)
    return str(run_id)


def asked(page: Page, api: Api, run_id: str) -> Locator:
    """The dialog that asks a person."""
    page.goto(f"{api.url}/runs/flow-run/{run_id}")
    page.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Nothing is done unless you approve.").wait_for()
    return dialog


def answers(stack: Stack) -> list[dict[str, Any]]:
    """What the ledger holds of persons' answers, the newest last."""
    book = Ledger(stack.env()["RUNBOOK_LEDGER_URL"])
    with book.read() as connection:
        rows = connection.execute(select(entry).where(entry.c.kind == "approval").order_by(entry.c.seq)).mappings()
        return [row["body"] | {"at_ms": row["at_ms"]} for row in rows]


def test_the_form_explains_itself_and_keeps_its_bounds(page: Page, api: Api) -> None:
    open_form(page, api)
    shown = page.locator("form").inner_text()
    for words in ("mode (Optional)", "observe changes nothing, approve asks, auto acts", "skip_minutes (Optional)"):
        assert words in shown
    choose(page, page, "mode", "observe")
    property_of(page, "mode").locator(".p-select-button__control").focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("option").all_inner_texts() == ["observe", "approve", "auto"]
    page.keyboard.press("Escape")
    page.locator("input[type=number]").first.fill("5000")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("5000 is greater than the maximum of 1440").first.wait_for()


def test_a_person_starts_it_reads_what_it_asks_and_approves(page: Page, api: Api, stack: Stack) -> None:
    bill = stripe_faults.retryable_invoice(stack.stripe.store)
    run_id = by_form(page, api)
    dialog = asked(page, api, run_id)
    shown = dialog.inner_text()
    for words in (
        "asks to do 1 fix: plan",
        f"retry_payment Invoice/{bill} (person)",
        "open invoices may be tried again",
    ):
        assert words in shown, shown
    for words in ("UTC (in 900 s) nothing is done", "retry_payment 0 of 5 in this run", "Undo: a refund"):
        assert words in shown, shown
    shot(page, "approval")
    answer(page, dialog, "approve", "Ada")
    state = resumed(api, run_id)
    assert state["name"] == "Fixed", state["message"]
    assert stack.stripe.store.pays == {bill: 1}
    said = answers(stack)[-1]
    assert (said["by"], len(said["approved"]), said["refusal"]) == ("Ada", 1, "")
    assert said["at_ms"] > 0


def test_nobody_approves_without_a_name(page: Page, api: Api, stack: Stack) -> None:
    bill = str(stack.stripe.store.add_invoice("unnamed", 30, "insufficient_funds")["id"])
    run_id = by_form(page, api)
    dialog = asked(page, api, run_id)
    choose(page, dialog, "Decision", "approve")
    dialog.get_by_role("button", name="Submit").click()
    page.get_by_text("'by' is a required property").wait_for()
    assert api.call("GET", f"/flow_runs/{run_id}")["state"]["name"] == "Suspended"
    answer(page, dialog, "refuse", "Grace", "the customer pays by bank")
    state = resumed(api, run_id)
    assert state["name"] == "Refused", state["message"]
    assert bill not in stack.stripe.store.tries
    said = answers(stack)[-1]
    assert (said["by"], said["reason"], said["approved"]) == ("Grace", "the customer pays by bank", [])


def test_a_person_approves_some(page: Page, api: Api, stack: Stack) -> None:
    bills = [stack.stripe.store.add_invoice(f"some_{n}", 40 + n, "insufficient_funds")["id"] for n in range(2)]
    run_id = by_form(page, api)
    dialog = asked(page, api, run_id)
    rows = property_of(dialog, "Approved").locator(".p-draggable-list__item")
    unwanted = rows.first.locator("textarea").input_value()
    rows.first.locator("button").first.click()
    rows.nth(1).wait_for(state="detached")
    answer(page, dialog, "approve", "Ada")
    resumed(api, run_id)
    (kept,) = [bill for bill in bills if bill not in unwanted]
    assert [bill for bill in bills if bill in stack.stripe.store.pays] == [kept]


@pytest.mark.skipif(not SHOTS, reason="only for docs/: make screenshots")
def test_pages_for_the_documentation(page: Page, api: Api, stack: Stack) -> None:
    broken = Broken(stack, with_payment=True)
    try:
        sweep = ended(api, api.start("health-sweep", mode="auto"))
        kept = api.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [sweep["id"]]}}})
        (whole,) = (one for one in kept if one["type"] == "markdown")
        page.goto(f"{api.url}/artifacts/artifact/{whole['id']}")
        page.get_by_text("pool-exhaustion").first.wait_for()
        shot(page, "sweep")
        for name in ("pool-exhaustion", NAME):
            wanted = {"flows": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
            (run,) = api.call("POST", "/flow_runs/filter", wanted)
            page.goto(f"{api.url}/runs/flow-run/{run['id']}")
            page.get_by_text("Task Runs").first.wait_for()
            if name == "pool-exhaustion":
                shot(page, "run")
        found = api.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
        (report,) = (one for one in found if one["key"] == f"{NAME}-report")
        page.goto(f"{api.url}/artifacts/artifact/{report['id']}")
        page.get_by_text("Notices").first.wait_for()
        shot(page, "artifact")
    finally:
        broken.close()
