"""The first start, and the check of everything."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from deployments import show
from deployments.live import progress
from deployments.terminal import AsJson, say
from runbook.mask import mask

app = typer.Typer()


@app.command()
def init(
    env: Annotated[Path | None, typer.Option("--env", help="The app's own .env, which is only read.")] = None,
    as_json: AsJson = False,
) -> None:
    """The first start: take over the app's settings, find its tables, check everything, look once. Changes nothing."""
    from deployments import first_start

    def told(text: str) -> None:
        sys.stderr.write(f"{mask(text)}\n")

    def ask(question: str) -> str:
        return str(typer.prompt(question, default="", show_default=False, err=True))

    started = asyncio.run(first_start.begin(env, ask if sys.stdin.isatty() and not as_json else None, told))
    say(started.as_json(), show.started_text(started), as_json)
    raise typer.Exit(2 if any(one.state == "bad" for one in started.checks) else 0)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check every setting, connection, privilege and scope, and say what to do."""
    from deployments.doctor import examine

    with progress("doctor"):
        checks = asyncio.run(examine())
    say({"checks": [one.as_json() for one in checks]}, show.checks_text(checks), as_json)
    raise typer.Exit(2 if any(one.state == "bad" for one in checks) else 0)


@app.command()
def role(as_json: AsJson = False) -> None:
    """The database role runbooks need and nothing more, as SQL for the database's owner."""
    from deployments.role import of_settings

    text = asyncio.run(of_settings())
    say({"role": text}, text, as_json)
