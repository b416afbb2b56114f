"""The ``runbook`` command: every runbook from a terminal or a script, with or without Prefect.

With ``--json`` stdout holds one JSON document and nothing else; everything a person reads goes to stderr then.
Exit codes: 0 healthy, or fixed and proven; 1 crash; 2 bad usage or setting; 3 findings left; 4 acted, not proven.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback

# The command must work with Prefect down, and a person reads stderr: its own log lines only get in the way.
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")

import typer

from deployments.commands import incident, ledger, person, runs, setup
from runbook.errors import RunbookError
from runbook.mask import mask
from runbook.model import Outcome

app = typer.Typer(
    name="runbook", help=__doc__, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False
)
for part in (setup, runs, person, incident, ledger):
    app.add_typer(part.app)


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
        context = getattr(error, "ctx", None)
        _fail(f"{error.format_message()} Next: {context.command_path if context else 'runbook'} --help", 2)
    except KeyboardInterrupt:
        _fail("interrupted; nothing is half done: the next run looks up what was under way", 1)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, no secret, no stack trace
        _fail(f"crash: {type(error).__name__}: {error}. Next: RUNBOOK_DEBUG=1 shows where", 1)


def _fail(text: str, code: int) -> None:
    if os.environ.get("RUNBOOK_DEBUG"):
        sys.stderr.write(str(mask(traceback.format_exc())))
    line = str(mask(text))
    if "--json" in sys.argv:
        sys.stdout.write(
            json.dumps({"outcome": Outcome.refused.value, "findings": [], "fixes": [], "reason": line}) + "\n"
        )
    sys.stderr.write(f"runbook: {line}\n")
    sys.exit(code)
