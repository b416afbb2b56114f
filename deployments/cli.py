"""The ``runbook`` command: every runbook from a terminal or a script, with or without Prefect.

With ``--json`` stdout holds one JSON document and nothing else; everything a person reads goes to stderr then.
Exit codes: 0 healthy, or fixed and proven; 1 crash; 2 bad usage or setting; 3 findings left; 4 acted, not proven.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

# The command must work with Prefect down, and a person reads stderr: its own log lines only get in the way.
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")

import typer
from prefect.exceptions import ParameterBindError, ParameterTypeError, SignatureMismatchError

import flows
from deployments import approving, backtest, drilling, ledger_view, paging_view, show, undoing
from deployments import doctor as doctoring
from runbook import chain
from runbook.errors import BadSetting, RunbookError
from runbook.ledger import ledger as open_ledger
from runbook.ledger import now_ms
from runbook.mask import mask
from runbook.model import Json, Mode, Outcome, Report
from runbook.settings import profile, settings

app = typer.Typer(
    name="runbook", help=__doc__, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False
)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
AnyMode = Annotated[Mode, typer.Option("--mode", help="How far to go; RUNBOOK_MODE is the ceiling.")]


def _say(document: Json, text: str, as_json: bool) -> None:
    sys.stdout.write((json.dumps(mask(document), default=str) if as_json else str(mask(text))) + "\n")


def _known(name: str) -> str:
    if name not in flows.names():
        raise BadSetting(name, "no such runbook in this version", f"one of: {', '.join(flows.names())}")
    return name


def _parameters(name: str, pairs: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = dict(profile().parameters.get(name, {}))
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep:
            raise BadSetting(f"--set {pair}", "is not param=value", "write --set idle_seconds=60")
        given[key] = value
    known = flows.runbook(name).parameters.properties
    for key in given:
        if key not in known:
            raise BadSetting(f"--set {key}", f"{name} has no such parameter", f"one of: {', '.join(known)}")
    return given


@app.command()
def init(
    env: Annotated[Path | None, typer.Option("--env", help="The app's own .env, which is only read.")] = None,
    as_json: AsJson = False,
) -> None:
    """The first start: take over the app's settings, find its tables, check everything, look once. Changes nothing."""
    from deployments import first_start

    def say(text: str) -> None:
        sys.stderr.write(f"{mask(text)}\n")

    def ask(question: str) -> str:
        return str(typer.prompt(question, default="", show_default=False, err=True))

    started = asyncio.run(first_start.begin(env, ask if sys.stdin.isatty() and not as_json else None, say))
    _say(started.as_json(), show.started_text(started), as_json)
    raise typer.Exit(2 if any(one.state == "bad" for one in started.checks) else 0)


@app.command("list")
def list_runbooks(as_json: AsJson = False) -> None:
    """The runbooks that exist, with their symptom."""
    found = [{"name": name, "symptom": symptom(name)} for name in flows.names()]
    _say({"runbooks": found}, "\n".join(f"{one['name']:<20} {one['symptom']}" for one in found), as_json)


def symptom(name: str) -> str:
    """The symptom of one runbook, out of its docstring."""
    text = re.search(r"^Symptom: *(.*?)(?:\n\w|\n\n|\Z)", flows.module(name).__doc__ or "", re.DOTALL | re.MULTILINE)
    return " ".join(text[1].split()) if text else ""


@app.command()
def run(
    name: str,
    mode: AnyMode = Mode.auto,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter as param=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one runbook now, here, without Prefect."""
    flow = flows.runbook(_known(name))
    try:
        given = flow.validate_parameters({**_parameters(name, set_ or []), "mode": mode})
    except (ParameterTypeError, ParameterBindError, SignatureMismatchError) as error:
        raise BadSetting("--set", " ".join(str(error).split()), f"runbook run {name} --help") from None
    report: Report = asyncio.run(flow.fn(**given))
    paging_view.tell()
    _say(report.as_json(), show.report_text(report), as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def sweep(mode: AnyMode = Mode.auto, as_json: AsJson = False) -> None:
    """Run every runbook, side by side."""
    # A flow reads its defaults from the profile at import: what is wrong there must meet main(), not the interpreter.
    from flows.health_sweep import sweep as run_all

    reports = asyncio.run(run_all(flows.names(), mode, 900))
    paging_view.tell()
    _say({"runs": [one.as_json() for one in reports]}, "\n\n".join(map(show.report_text, reports)), as_json)
    configured = [one.exit_code for one in reports if not one.not_configured]
    raise typer.Exit(max(configured, default=2))


@app.command("ledger")
def ledger_command(
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "24h", as_json: AsJson = False
) -> None:
    """The runs of late, newest first, with what they did."""
    runs = ledger_view.runs(open_ledger(), since)
    _say({"runs": runs}, ledger_view.as_text(runs), as_json)


@app.command("show")
def show_command(id_: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """All the ledger holds of one run or one fix."""
    found = ledger_view.one(open_ledger(), id_)
    _say(found, show.tree(found), as_json)


@app.command()
def drill(name: Annotated[str, typer.Argument(metavar="[NAME]")] = "", as_json: AsJson = False) -> None:
    """Break a throw-away stack and let runbooks mend it: who passes may act alone, for RUNBOOK_LICENCE_DAYS."""
    book, done = open_ledger(), []
    for one in [_known(name)] if name else flows.names():
        done.append(drilling.drill(book, one))
        sys.stderr.write(f"{drilling.as_text(done[-1])}\n")
    passed = sum(bool(one["passed"]) for one in done)
    _say({"drills": done}, f"{passed} of {len(done)} passed. Next: runbook status", as_json)
    raise typer.Exit(0 if passed == len(done) else 4)


@app.command("backtest")
def backtest_command(
    name: str,
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "90d",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter as param=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """What today's rules would have done with all that was read in that time, and where that differs from history."""
    flow = flows.runbook(_known(name))
    given = _parameters(name, set_ or [])
    try:
        known = flow.validate_parameters(given)
    except (ParameterTypeError, ParameterBindError, SignatureMismatchError) as error:
        raise BadSetting("--set", " ".join(str(error).split()), f"runbook run {name} --help") from None
    after = now_ms() - ledger_view.span_ms(since)
    found = backtest.backtest(open_ledger(), name, after, {key: known[key] for key in given})
    _say(found.as_json(), backtest.as_text(found), as_json)


@app.command()
def verify(
    noted: Annotated[str, typer.Argument(metavar="[HASH]", help="A hash noted earlier, from any report.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check that nothing in the ledger was altered, taken out or slipped in, nor cut off since HASH was noted."""
    if noted and len(noted) < 8:
        raise BadSetting("HASH", "is too short to mean anything", "give at least 8 digits of it")
    with open_ledger().read() as connection:
        found = chain.verify(connection, noted)
    cut = "" if found.noted else f"{noted} is not in the chain: what came with it was cut off"
    said = f"BROKEN at {found.broken}: it is not as it was written" if found.broken else cut
    _say(found.as_json(), said or f"Whole: {found.entries} entries, the last is {found.head}", as_json)
    raise typer.Exit(4 if said else 0)


@app.command()
def export(since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d.")] = "36500d") -> None:
    """Every entry of the ledger as JSON lines on stdout, each with its place in the chain."""
    for one in ledger_view.export(open_ledger(), since):
        sys.stdout.write(json.dumps(one) + "\n")


@app.command()
def seal(
    older: Annotated[str, typer.Option(help="What is older than this goes: 400d.")], as_json: AsJson = False
) -> None:
    """Let one entry sum up what is old, and delete it; the chain goes on, and verify still holds."""
    summed = open_ledger().seal(now_ms() - ledger_view.span_ms(older))
    _say(dict(summed), show.tree(dict(summed)) if summed else "Nothing is that old.", as_json)


@app.command()
def undo(fix_id: str, as_json: AsJson = False) -> None:
    """Take one fix back, if its target is still as the fix left it."""
    report = asyncio.run(undoing.undo(open_ledger(), fix_id))
    _say(report.as_json(), show.report_text(report), as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def approve(
    id_: Annotated[str, typer.Argument(metavar="[ID]")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", help="Approve only fixes that name this.")] = None,
    reason: Annotated[str, typer.Option(help="For whoever reads the ledger later.")] = "",
    as_json: AsJson = False,
) -> None:
    """Let a run that waits for a person do its plan, or part of it; without ID say what waits."""
    if not id_:
        asked = approving.questions()
        texts = [f"{one.name}  runbook approve {one.id}\n\n{one.text}" for one in asked]
        _say({"waiting": [one.as_json() for one in asked]}, "\n\n".join(texts) or "Nothing waits.", as_json)
        return
    said = approving.answer(id_, approve=True, only=only or [], reason=reason)
    _say({"approved": str(said.id)}, f"Approved: {said.name} goes on. Next: runbook ledger", as_json)


@app.command()
def refuse(id_: Annotated[str, typer.Argument(metavar="ID")], reason: str = "", as_json: AsJson = False) -> None:
    """Let a run that waits for a person do nothing."""
    said = approving.answer(id_, approve=False, only=[], reason=reason)
    _say({"refused": str(said.id)}, f"Refused: {said.name} ends without an act.", as_json)


@app.command()
def stop(reason: Annotated[str, typer.Argument()] = "by hand", as_json: AsJson = False) -> None:
    """The red button: from now on nothing acts, whoever started it."""
    open_ledger().press("stop", str(mask(reason)))
    _say({"stopped": True, "reason": reason}, "Stopped. Nothing acts until: runbook start", as_json)


@app.command()
def start(reason: Annotated[str, typer.Argument()] = "by hand", as_json: AsJson = False) -> None:
    """Let runs act again."""
    open_ledger().press("start", str(mask(reason)))
    _say({"stopped": False, "reason": reason}, "Started. Runs may act again, up to RUNBOOK_MODE.", as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Whether anything may act, up to which mode, and what is open."""
    found = ledger_view.status(open_ledger()) | {"ceiling": settings().runbook_mode.value}
    _say(found, show.tree(found), as_json)


@app.command()
def watch(as_json: AsJson = False) -> None:
    """Look at the seven alerts now, tell and start who is needed, and show them."""
    found = paging_view.watch(_parameters("alert-watch", []))
    _say(found.as_json(), paging_view.watch_text(found), as_json)
    raise typer.Exit(3 if found.sick else 0)


@app.command()
def pages(as_json: AsJson = False) -> None:
    """The pages that are open, or were resolved within a day, and whether they were delivered."""
    found = paging_view.pages(open_ledger())
    _say(found, paging_view.pages_text(found), as_json)


@app.command()
def ack(key: str, as_json: AsJson = False) -> None:
    """Say that you are at it: the page of that key is no longer escalated."""
    page = paging_view.acknowledge(open_ledger(), key)
    _say({"acknowledged": page.key, "by": page.acked_by}, f"Acknowledged: {page.title}", as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check every setting, connection, privilege and scope, and say what to do."""
    checks = asyncio.run(doctoring.examine())
    _say({"checks": [one.as_json() for one in checks]}, show.checks_text(checks), as_json)
    raise typer.Exit(2 if any(one.state == "bad" for one in checks) else 0)


def main() -> None:
    """The entry point: typed errors are one line and exit 2, anything else is a crash and exit 1."""
    logging.getLogger("prefect").setLevel(logging.ERROR)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except RunbookError as error:
        _fail(str(error), 2)
    except (typer.Exit, typer.Abort) as error:
        sys.exit(getattr(error, "exit_code", 2))
    except typer.TyperException as error:
        _fail(error.format_message(), 2)
    except KeyboardInterrupt:
        _fail("interrupted; nothing is half done: the next run looks up what was under way", 1)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, no secret, no stack trace
        _fail(f"crash: {type(error).__name__}: {error}. Next: RUNBOOK_DEBUG=1 shows where", 1)


def _fail(text: str, code: int) -> None:
    if os.environ.get("RUNBOOK_DEBUG"):
        logging.getLogger("runbook").exception("details")
    line = str(mask(text))
    if "--json" in sys.argv:
        sys.stdout.write(
            json.dumps({"outcome": Outcome.refused.value, "findings": [], "fixes": [], "reason": line}) + "\n"
        )
    sys.stderr.write(f"runbook: {line}\n")
    sys.exit(code)
