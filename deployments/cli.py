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
from typing import Annotated, Any

# The command must work with Prefect down, and a person reads stderr: its own log lines only get in the way.
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")

import typer
from prefect.exceptions import ParameterBindError, ParameterTypeError, SignatureMismatchError

import flows
from deployments import approving, ledger_view, show, undoing
from deployments import doctor as doctoring
from runbook.errors import BadSetting, RunbookError
from runbook.ledger import ledger as open_ledger
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


def _validated(name: str, given: dict[str, Any]) -> dict[str, Any]:
    try:
        return flows.runbook(name).validate_parameters(given)
    except (ParameterTypeError, ParameterBindError, SignatureMismatchError) as error:
        raise BadSetting("--set", " ".join(str(error).split()), f"runbook run {name} --help") from None


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
    given = _validated(name, {**_parameters(name, set_ or []), "mode": mode})
    report: Report = asyncio.run(flow.fn(**given))
    _say(report.as_json(), show.report_text(report), as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def sweep(mode: AnyMode = Mode.auto, as_json: AsJson = False) -> None:
    """Run every runbook, side by side."""
    # A flow reads its defaults from the profile at import: what is wrong there must meet main(), not the interpreter.
    from flows.health_sweep import sweep as run_all

    reports = asyncio.run(run_all(flows.names(), mode, 900))
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
def audit(as_json: AsJson = False) -> None:
    """The performance checklist: nine items with what was seen of each. It changes nothing."""
    from flows.performance_audit import NAME
    from flows.performance_audit import audit as look_at_all
    from tasks.audit import Bounds

    report, items = asyncio.run(look_at_all(Bounds(**_validated(NAME, _parameters(NAME, [])))))
    document = report.as_json() | {"items": [one.model_dump(mode="json") for one in items]}
    _say(document, show.audit_text(report, items), as_json)
    raise typer.Exit(report.exit_code)


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
