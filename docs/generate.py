"""Writes docs/runbooks/*.md and docs/settings.md from the code; with ``--check`` only says whether they are current,
and which line of the old operations runbooks nothing stands for."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from pydantic import SecretStr

import flows
from docs import origin
from runbook.policy import DEFAULT_CAPS
from runbook.settings import Settings, Tables

DOCS = Path(__file__).resolve().parent
ORIGINS = origin.sections()
MEANINGS: dict[str, dict[str, str]] = tomllib.loads((DOCS / "settings.toml").read_text("utf-8"))
TIGHTEN = """\
Nothing, until you say so: the first start observes. Each act below is done only on the condition in its line, is
compared with its target as it is done, written down before, proven after, and counted.

To allow less:

| you want | do |
|---|---|
| nothing done at all, now | `runbook stop`; `runbook start` ends it |
| to be asked before each act | `RUNBOOK_MODE=approve` |
| one runbook only to look | set its mode to `observe` in `prefect.yaml`, `sh deployments/deploy.sh` |
| one action never done | `[caps.ACTION]` with `per_run = 0` in `runbook.toml` |
| fewer of them | `per_run`, `per_15min`, `per_24h` of the action, the runbook or `target` |
| a rest between two acts on one thing | `[caps.target]` with `rest_seconds` |
| a later judgement | its parameters, `[parameters.NAME]`; try them first: `runbook backtest NAME --set …` |
| that the database itself forbids it | a role without that right: `runbook role` says which line is for what |
| nothing alone until it was drilled here | leave `RUNBOOK_LICENCE_DAYS` as it is; `runbook status` shows who may |

What a person took back is left alone for a day. These wait for a person in every mode: a charge (unless you gave
failed-payments a `money_cap_cents`; then past `cents_24h` of a day), a bounce taken off, an account unlocked before its
time, an address trusted where its sign-ins would lose their limit, a durable timeout, an index or vacuum of a large
table, public words, maintenance, scaling, a roll-back across migrations nobody can read.
To add a runbook: [CONTRIBUTING](../../CONTRIBUTING.md)."""
CAPS = """\
Attempts count, not successes. `failures_15min` stops what nobody asked for: a fix that a person named or approved goes
on, inside the other caps. `sick_share` bounds a plan that says how many of how many are sick; a plan for one thing (a
disk, a flag, the site) has no such number, and the bound no meaning for it. `rest_seconds` is for `target` or an
action. `cents_24h` is the money that attempts of 24 hours may move before each further one needs a person, in the
smallest unit of its currency, all currencies added as numbers; charges that a person approved count too. It is set
here and nowhere else, so that nobody who can start a run can lift it."""
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
    if hasattr(flows.module(name), "HANDS"):
        lines += ["", "## What it may do to you", "", *actions(name)]
    lines += ["", "## Parameters", "", "| name | default | bounds | meaning |", "|---|---|---|---|"]
    for key, schema in flows.runbook(name).parameters.properties.items():
        low, high = schema.get("minimum", ""), schema.get("maximum", "")
        bounds = f"{low} to {high}" if low != "" or high != "" else ""
        about = " ".join(str(schema.get("description", "")).split())
        lines.append(f"| {key} | {schema.get('default', '')} | {bounds} | {about} |")
    if name in ORIGINS:
        lines += ["", "## Where each step of the old runbook went", "", *origin.table(ORIGINS[name])]
    return "\n".join(lines) + "\n"


def actions(name: str) -> list[str]:
    """Every act of one flow: what it does and on which condition, whether it can be taken back, how often it may be."""
    lines = ["| action | does | undo | at most |", "|---|---|---|---|"]
    for action, hand in flows.module(name).HANDS.items():
        cap = DEFAULT_CAPS.get(action) or DEFAULT_CAPS.get(name) or DEFAULT_CAPS["runbook"]
        does = " ".join((hand.act.fn.__doc__ or "").partition("\n\n")[0].split())
        often = f"{cap.per_run} a run, {cap.per_15min} in 15 minutes, {cap.per_24h} a day"
        lines.append(f"| `{action}` | {does} | {'`runbook undo`' if hand.undo else 'no'} | {often} |")
    return lines


def index_page() -> str:
    """All acts of all runbooks on one page, and how to allow less."""
    lines = ["# What each runbook may do to you", "", "Generated from the code by `make docs`.", "", TIGHTEN]
    for name in flows.acting():
        about = (flows.module(name).__doc__ or "").strip().partition("\n\n")[0]
        lines += ["", f"## [{name}]({name}.md)", "", " ".join(about.split()), "", *actions(name)]
    return "\n".join(lines) + "\n"


def origin_page(name: str) -> str:
    """A page for what of the old runbooks is no runbook of its own."""
    lines = [f"# {name}", "", f"Generated from docs/seed/{name}.toml by `make docs`.", ""]
    return "\n".join([*lines, *origin.table(ORIGINS[name])]) + "\n"


def _default(name: str) -> str:
    value = Settings.model_fields[name.lower()].default
    if value in (None, (), "") or isinstance(value, SecretStr):
        return ""
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`".replace("|", "\\|")


def unexplained() -> list[str]:
    """Variables of the code that docs/settings.toml does not explain, and those it explains in vain."""
    told = {name for variables in MEANINGS.values() for name in variables}
    real = {name.upper() for name in Settings.model_fields}
    return [f"{name}: in the settings or in docs/settings.toml, but not in both" for name in sorted(told ^ real)]


def settings_page() -> str:
    """Every environment variable, every key of runbook.toml, every default cap."""
    lines = ["# Settings", "", "Generated from the code by `make docs`.", "", "## Environment", ""]
    for theme, variables in MEANINGS.items():
        lines += [f"### {theme}", "", "| variable | default | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {_default(name)} | {meaning} |" for name, meaning in variables.items()]
        lines.append("")
    lines += ["`RUNBOOK_HOME` is the folder that holds `.env` and `runbook.toml` (default: the current one)."]
    lines += ["", "## runbook.toml", "", "`[tables]` names the app's tables and columns:", ""]
    lines += ["| key | default |", "|---|---|"]
    lines += [f"| `{field.alias or name}` | {field.default} |" for name, field in Tables.model_fields.items()]
    lines += ["", "`[parameters.NAME]` sets the defaults of a flow's parameters; see docs/runbooks/."]
    lines += [
        "",
        "`[caps.SCOPE]` bounds attempts; a scope is `global`, `target`, `runbook`, a runbook or an action:",
        "",
    ]
    keys = ("per_run", "per_15min", "per_24h", "failures_15min", "sick_share", "rest_seconds", "cents_24h")
    lines += [f"| scope | {' | '.join(keys)} |", f"|---|{'---|' * len(keys)}"]
    for scope, cap in DEFAULT_CAPS.items():
        cells = ("" if getattr(cap, key) is None else str(getattr(cap, key)) for key in keys)
        lines.append(f"| `{scope}` | {' | '.join(cells)} |")
    lines += ["", CAPS]
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
    return made | {DOCS / "settings.md": settings_page(), DOCS / "runbooks" / "README.md": index_page()}


def main() -> int:
    """Write the pages, or with ``--check`` return 1 when one is not current."""
    wanted = pages()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(DOCS.parent)} is not current. Next: make docs\n")
        forgotten = [f"{text}. Next: add it to a file of docs/seed/" for text in origin.uncovered()]
        forgotten += [f"{text}. Next: make them agree" for text in unexplained()]
        sys.stderr.writelines(f"{text}\n" for text in forgotten)
        return 1 if stale or forgotten else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
