"""Runbooks from a terminal: one, all of them, the alerts; what they would have done; and the drill."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Annotated

import typer

import flows
from deployments import ledger_view, paging_view, show
from deployments import live as watching
from deployments.completing import runbooks
from deployments.terminal import AnyMode, AsJson, known, parameters, say, validated
from runbook.errors import BadSetting
from runbook.ledger import ledger as open_ledger
from runbook.ledger import now_ms
from runbook.model import Mode, Report

app = typer.Typer()
Name = Annotated[str, typer.Argument(autocompletion=runbooks)]


@app.command("list")
def list_runbooks(as_json: AsJson = False) -> None:
    """The runbooks that exist, with their symptom."""
    found = [{"name": name, "symptom": symptom(name)} for name in flows.names()]
    say({"runbooks": found}, "\n".join(f"{one['name']:<20} {one['symptom']}" for one in found), as_json)


def symptom(name: str) -> str:
    """The symptom of one runbook, out of its docstring."""
    text = re.search(r"^Symptom: *(.*?)(?:\n\w|\n\n|\Z)", flows.module(name).__doc__ or "", re.DOTALL | re.MULTILINE)
    return " ".join(text[1].split()) if text else ""


@app.command()
def run(
    name: Name,
    mode: AnyMode = Mode.auto,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter as param=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one runbook now, here, without Prefect."""
    given = parameters(known(name), set_ or []) | {"mode": mode}
    with watching.progress(name):
        report: Report = asyncio.run(flows.runbook(name).fn(**given))
        paging_view.tell()
    say(report.as_json(), show.report_text(report), as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def sweep(
    mode: AnyMode = Mode.auto,
    live: Annotated[
        bool, typer.Option("--watch", help="Sweep again and again, as a live table, until Ctrl-C.")
    ] = False,
    every: Annotated[str, typer.Option(help="With --watch, how often: 1m, 1h.")] = "1m",
    as_json: AsJson = False,
) -> None:
    """Run every runbook, side by side."""
    # A flow reads its defaults from the profile at import: what is wrong there must meet main(), not the interpreter.
    from flows.health_sweep import sweep as run_all

    if live:
        if as_json or mode is Mode.approve:
            raise BadSetting(
                "--watch", "is for a person's eyes and asks nothing", "leave out --json and --mode approve"
            )
        reports = watching.watch(mode, ledger_view.span_ms(every) / 1000)
    else:
        with watching.progress("sweep"):
            reports = asyncio.run(run_all(flows.names(), mode, 900))
            paging_view.tell()
        say({"runs": [one.as_json() for one in reports]}, "\n\n".join(map(show.report_text, reports)), as_json)
    configured = [one.exit_code for one in reports if not one.not_configured]
    raise typer.Exit(max(configured, default=0 if live else 2))


@app.command()
def watch(as_json: AsJson = False) -> None:
    """Look at the seven alerts now, tell and start who is needed, and show them."""
    with watching.progress("the seven alerts"):
        found = paging_view.watch(parameters("alert-watch", []))
    say(found.as_json(), paging_view.watch_text(found), as_json)
    raise typer.Exit(3 if found.sick else 0)


@app.command()
def audit(as_json: AsJson = False) -> None:
    """The performance checklist: nine items with what was seen of each. It changes nothing."""
    from flows.performance_audit import NAME
    from flows.performance_audit import audit as look_at_all
    from tasks.audit import Bounds

    with watching.progress("the checklist"):
        report, items = asyncio.run(look_at_all(Bounds(**validated(NAME, parameters(NAME, [])))))
    document = report.as_json() | {"items": [one.model_dump(mode="json") for one in items]}
    say(document, show.audit_text(report, items), as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def report(since: Annotated[str, typer.Option(help="How far back: 24h, 7d.")] = "7d", as_json: AsJson = False) -> None:
    """What the runbooks did of late in figures: found, mended, how fast, how often wrongly, what was spared."""
    from flows.weekly_report import figures
    from runbook.weekly_page import page

    with watching.progress("report"):
        found = figures(open_ledger(), ledger_view.span_ms(since) / ledger_view.UNITS["d"])
    say(found.as_json(), page(found).rstrip(), as_json)


@app.command()
def drill(
    name: Annotated[str, typer.Argument(metavar="[NAME]", autocompletion=runbooks)] = "", as_json: AsJson = False
) -> None:
    """Break a throw-away stack and let runbooks mend it: who passes may act alone, for RUNBOOK_LICENCE_DAYS."""
    from deployments import drilling

    book, done = open_ledger(), []
    for one in [known(name)] if name else flows.acting():
        with watching.progress(f"drill of {one}"):
            done.append(drilling.drill(book, one))
        sys.stderr.write(f"{drilling.as_text(done[-1])}\n")
    passed = sum(bool(one["passed"]) for one in done)
    say({"drills": done}, f"{passed} of {len(done)} passed. Next: runbook status", as_json)
    raise typer.Exit(0 if passed == len(done) else 4)


@app.command("backtest")
def backtest_command(
    name: Name,
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "90d",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter as param=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """What today's rules would have done with all that was read in that time, and where that differs from history."""
    from deployments import backtest

    given = parameters(known(name), set_ or [])
    after = now_ms() - ledger_view.span_ms(since)
    with watching.progress("backtest"):
        found = backtest.backtest(open_ledger(), name, after, given)
    say(found.as_json(), backtest.as_text(found), as_json)
