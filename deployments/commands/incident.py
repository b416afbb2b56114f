"""Incidents: what belongs together, what it came to, and what was learnt."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from deployments import ledger_view
from deployments.completing import incident_ids
from deployments.terminal import AsJson, say
from runbook import incidents, postmortem, story
from runbook.ledger import ledger as open_ledger
from runbook.ledger import now_ms
from runbook.mask import mask

app = typer.Typer()
words = typer.Typer(help="Incidents: what was found in one burst, with what was done about it.", no_args_is_help=True)
app.add_typer(words, name="incident")

Id = Annotated[str, typer.Argument(metavar="ID", autocompletion=incident_ids)]


@words.command("list")
def list_command(
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "7d", as_json: AsJson = False
) -> None:
    """The incidents that are open, or were closed in that time, newest first."""
    found = incidents.every(open_ledger(), now_ms() - ledger_view.span_ms(since))
    lines = [f"{ledger_view.when(one.opened_at_ms)}  {one.id}  {one.state:<6}  {one.title[:90]}" for one in found]
    document = [one.model_dump(mode="json") | {"state": one.state} for one in found]
    say({"incidents": document}, "\n".join(lines) or "No incidents in that time.", as_json)


@words.command()
def show(
    id_: Id,
    markdown: Annotated[bool, typer.Option("--markdown", help="The draft with its plot, for a file.")] = False,
    as_json: AsJson = False,
) -> None:
    """One incident as the draft of its postmortem."""
    if markdown and not as_json:
        sys.stdout.write(str(mask(postmortem.draft(open_ledger(), id_))))
        return
    told = story.gather(open_ledger(), id_)
    say(ledger_view.incident(open_ledger(), id_), postmortem.page(told, drawn=False).rstrip(), as_json)


@words.command()
def close(
    id_: Id,
    where: Annotated[str, typer.Option("--postmortem", help="Where the finished one is: a URL, a page.")] = "",
    as_json: AsJson = False,
) -> None:
    """Close an incident, or say where its finished postmortem is; what is still wrong opens another one."""
    found = incidents.close(open_ledger(), id_, getpass.getuser(), where)
    left = "" if found.postmortem else f" Next: runbook incident close {id_} --postmortem WHERE, once it is written."
    say(found.model_dump(mode="json"), f"Closed: {found.title}.{left}", as_json)
