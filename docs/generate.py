"""Writes docs/runbooks/*.md and docs/settings.md from the code; with ``--check`` only says whether they are current,
and which line of the old operations runbooks nothing stands for."""

from __future__ import annotations

import sys
from pathlib import Path

import flows
from docs import origin
from runbook.policy import DEFAULT_CAPS
from runbook.settings import Settings, Tables

DOCS = Path(__file__).resolve().parent
ORIGINS = origin.sections()
WORDS = ("Symptom", "Cause", "Fix", "Verify", "Undo", "By hand")


def runbook_page(name: str) -> str:
    """One runbook's page: its docstring with a heading for each word, then its parameters."""
    lines = [f"# {name}", "", "Generated from the flow's docstring by `make docs`.", ""]
    for line in (flows.module(name).__doc__ or "").strip().splitlines():
        word, sep, rest = line.partition(":")
        if sep and word in WORDS:
            lines += ["", f"## {word}", "", rest.strip()]
        else:
            lines.append(line.strip())
    lines += ["", "## Parameters", "", "| name | default | bounds | meaning |", "|---|---|---|---|"]
    for key, schema in flows.runbook(name).parameters.properties.items():
        low, high = schema.get("minimum", ""), schema.get("maximum", "")
        bounds = f"{low} to {high}" if low != "" or high != "" else ""
        about = " ".join(str(schema.get("description", "")).split())
        lines.append(f"| {key} | {schema.get('default', '')} | {bounds} | {about} |")
    if name in ORIGINS:
        lines += ["", "## Where each step of the old runbook went", "", *origin.table(ORIGINS[name])]
    return "\n".join(lines) + "\n"


def origin_page(name: str) -> str:
    """A page for what of the old runbooks is no runbook of its own."""
    lines = [f"# {name}", "", f"Generated from docs/seed/{name}.toml by `make docs`.", ""]
    return "\n".join([*lines, *origin.table(ORIGINS[name])]) + "\n"


def settings_page() -> str:
    """Every environment variable, every key of runbook.toml, every default cap."""
    lines = ["# Settings", "", "Generated from the code by `make docs`.", "", "## Environment", ""]
    lines += ["| variable | default |", "|---|---|"]
    for name, field in Settings.model_fields.items():
        shown = "" if field.default in (None, ()) or "SecretStr" in repr(field.default) else str(field.default)
        lines.append(f"| `{name.upper()}` | {shown} |")
    lines += ["", "`RUNBOOK_HOME` is the folder that holds `.env` and `runbook.toml` (default: the current one)."]
    lines += ["", "## runbook.toml", "", "`[tables]` names the app's tables and columns:", ""]
    lines += ["| key | default |", "|---|---|"]
    lines += [f"| `{field.alias or name}` | {field.default} |" for name, field in Tables.model_fields.items()]
    lines += ["", "`[parameters.NAME]` sets the defaults of a flow's parameters; see docs/runbooks/."]
    lines += [
        "",
        "`[caps.SCOPE]` bounds attempts; a scope is `global`, `target`, `runbook`, a runbook or an action:",
        "",
    ]
    keys = ("per_run", "per_15min", "per_24h", "failures_15min", "sick_share", "rest_seconds")
    lines += [f"| scope | {' | '.join(keys)} |", f"|---|{'---|' * len(keys)}"]
    for scope, cap in DEFAULT_CAPS.items():
        cells = ("" if getattr(cap, key) is None else str(getattr(cap, key)) for key in keys)
        lines.append(f"| `{scope}` | {' | '.join(cells)} |")
    lines += [
        "",
        "`[cooldown.NAME]` bounds how often events start a runbook (NAME), or are told by what happened (NAME",
    ]
    lines += ["is then the event, such as `stripe.invoice.payment_failed`), for each target by itself; in seconds:", ""]
    lines += ["| key | meaning |", "|---|---|"]
    lines += ["| `once_within` | the first is told at once, those that follow for so long are dropped |"]
    lines += ["| `once_after` | they are gathered for so long, then one is told |"]
    lines += ["| `threshold`, `within` | one is told for so many that came in so long |"]
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Every generated page and what it must hold."""
    told = {*flows.acting(), *(ORIGINS.keys() & set(flows.every()))}
    made = {DOCS / "runbooks" / f"{name}.md": runbook_page(name) for name in told}
    made |= {DOCS / "runbooks" / f"{name}.md": origin_page(name) for name in ORIGINS.keys() - told}
    return made | {DOCS / "settings.md": settings_page()}


def main() -> int:
    """Write the pages, or with ``--check`` return 1 when one is not current."""
    wanted = pages()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(DOCS.parent)} is not current. Next: make docs\n")
        forgotten = origin.uncovered()
        sys.stderr.writelines(f"{text}. Next: add it to a file of docs/seed/\n" for text in forgotten)
        return 1 if stale or forgotten else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
