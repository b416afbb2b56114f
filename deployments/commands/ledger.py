"""What the ledger holds, and whether it is whole."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from deployments import ledger_view, show
from deployments.completing import ids
from deployments.live import progress
from deployments.terminal import AsJson, say
from runbook import chain
from runbook import seal as sealing
from runbook.errors import BadSetting
from runbook.ledger import ledger as open_ledger
from runbook.ledger import now_ms

app = typer.Typer()


@app.command("ledger")
def ledger_command(
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "24h", as_json: AsJson = False
) -> None:
    """The runs of late, newest first, with what they did."""
    runs = ledger_view.runs(open_ledger(), since)
    say({"runs": runs}, ledger_view.as_text(runs), as_json)


@app.command("show")
def show_command(
    id_: Annotated[str, typer.Argument(metavar="ID", autocompletion=ids)], as_json: AsJson = False
) -> None:
    """All the ledger holds of one id that any command printed: a run, fix, incident, page or webhook."""
    found = ledger_view.one(open_ledger(), id_)
    say(found, show.tree(found), as_json)


@app.command()
def verify(
    noted: Annotated[str, typer.Argument(metavar="[HASH]", help="A hash noted earlier, from any report.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check that nothing in the ledger was altered, taken out or slipped in, nor cut off since HASH was noted."""
    if noted and len(noted) < 8:
        raise BadSetting("HASH", "is too short to mean anything", "give at least 8 digits of it")
    with progress("verify"), open_ledger().read(steady=True) as connection:
        found = chain.verify(connection, noted)
    said = f"BROKEN at {found.broken}: it is not as it was written" if found.broken else _missed(found, noted)
    older = f", after {found.older} from before there was a chain" if found.older else ""
    say(found.as_json(), said or f"Whole: {found.entries} entries, the last is {found.head}{older}", as_json)
    raise typer.Exit(4 if said else 0)


def _missed(found: chain.Checked, noted: str) -> str:
    if found.noted:
        return ""
    if found.sealed_before_ms is None:
        return f"{noted} is not in the chain: what came with it was cut off"
    day = ledger_view.when(found.sealed_before_ms)
    return (
        f"{noted} is not in the chain: if it is older than {day} it was sealed, otherwise what came with it was cut off"
    )


@app.command()
def export(since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "36500d") -> None:
    """Every entry of the ledger as JSON lines on stdout, each with its place in the chain."""
    for one in ledger_view.export(open_ledger(), since):
        sys.stdout.write(json.dumps(one) + "\n")


@app.command()
def seal(
    older: Annotated[str, typer.Option(help="What is older than this goes: 400d; 31d is the least.")],
    as_json: AsJson = False,
) -> None:
    """Let one entry sum up what is old, and delete it; the chain goes on, and verify still holds."""
    with progress("seal"):
        summed = sealing.seal(open_ledger(), now_ms() - ledger_view.span_ms(older))
    say(dict(summed), show.tree(dict(summed)) if summed else "Nothing is that old.", as_json)
