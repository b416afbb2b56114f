"""What a person decides: the red button, the answer to a question, a fix taken back, a page that is mine.

What needs Prefect is imported by the command that needs it: the red button waits for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from deployments import ledger_view, paging_view, show
from deployments.completing import fix_ids, page_keys
from deployments.live import progress
from deployments.terminal import AsJson, say
from runbook.errors import BadSetting
from runbook.ledger import ledger as open_ledger
from runbook.mask import mask
from runbook.settings import settings

app = typer.Typer()


@app.command()
def stop(reason: Annotated[str, typer.Argument()] = "by hand", as_json: AsJson = False) -> None:
    """The red button: from now on nothing acts, whoever started it."""
    _press("stop", reason, "Stopped. Nothing acts until: runbook start", as_json)


@app.command()
def start(reason: Annotated[str, typer.Argument()] = "by hand", as_json: AsJson = False) -> None:
    """Let runs act again."""
    _press("start", reason, "Started. Runs may act again, up to RUNBOOK_MODE.", as_json)


def _press(button: Literal["stop", "start"], reason: str, done: str, as_json: bool) -> None:
    book = open_ledger()
    book.press(button, str(mask(reason)))
    place = ledger_view.place(book)
    say({"stopped": button == "stop", "reason": reason, "ledger": place}, f"{done}\nLedger: {place}", as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Whether anything may act, up to which mode, and what is open."""
    found = ledger_view.button(open_ledger())
    try:
        found |= {"may_act_alone": ledger_view.may_act_alone(open_ledger()), "ceiling": settings().runbook_mode.value}
    except BadSetting as error:
        found |= {"settings": str(error)}
    say(found, show.tree(found), as_json)
    raise typer.Exit(2 if "settings" in found else 0)


@app.command()
def approve(
    id_: Annotated[str, typer.Argument(metavar="[ID]")] = "",
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Approve only fixes of this whole target, action or key.")
    ] = None,
    reason: Annotated[str, typer.Option(help="For whoever reads the ledger later.")] = "",
    as_json: AsJson = False,
) -> None:
    """Let a run that waits for a person do its plan, or part of it; without ID say what waits."""
    from deployments import approving

    if not id_:
        asked = approving.questions()
        texts = [f"{one.name}  runbook approve {one.id}\n\n{one.text}" for one in asked]
        say({"waiting": [one.as_json() for one in asked]}, "\n\n".join(texts) or "Nothing waits.", as_json)
        return
    said = approving.answer(id_, approve=True, only=only or [], reason=reason)
    say({"approved": str(said.id)}, f"Approved: {said.name} goes on. Next: runbook ledger", as_json)


@app.command()
def refuse(id_: Annotated[str, typer.Argument(metavar="ID")], reason: str = "", as_json: AsJson = False) -> None:
    """Let a run that waits for a person do nothing."""
    from deployments import approving

    said = approving.answer(id_, approve=False, only=[], reason=reason)
    say({"refused": str(said.id)}, f"Refused: {said.name} ends without an act.", as_json)


@app.command()
def undo(fix_id: Annotated[str, typer.Argument(autocompletion=fix_ids)], as_json: AsJson = False) -> None:
    """Take one fix back, if its target is still as the fix left it."""
    from deployments import undoing

    with progress(f"undo of {fix_id}"):
        report = asyncio.run(undoing.undo(open_ledger(), fix_id))
    say(report.as_json(), show.report_text(report), as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def pages(as_json: AsJson = False) -> None:
    """The pages that are open, or were resolved within a day, and whether they were delivered."""
    found = paging_view.pages(open_ledger())
    say(found, paging_view.pages_text(found), as_json)


@app.command()
def ack(key: Annotated[str, typer.Argument(autocompletion=page_keys)], as_json: AsJson = False) -> None:
    """Say that you are at it: the page of that key, or those of that incident, are no longer escalated."""
    page = paging_view.acknowledge(open_ledger(), key)
    say({"acknowledged": page.key, "by": page.acked_by}, f"Acknowledged: {page.title}", as_json)
