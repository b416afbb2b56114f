"""``runbook`` on a systemd host: the user, settings, ledger and Prefect of the units, whoever calls it from wherever.

The units' file of settings is read by their rules: a shell would cut an unquoted URL at its ``&``.
Beside every command of ours: ``runbook prefect …`` and ``runbook sh FILE``, with the same settings.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from runbook.errors import BadSetting, RunbookError

ETC, STATE, USER = Path("/etc/runbook"), Path("/var/lib/runbook"), "runbook"
ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = ("TERM", "COLUMNS", "LINES", "NO_COLOR", "LANG", "LC_ALL", "RUNBOOK_DEBUG")
"""What a terminal says of itself; nothing else of the caller's environment reaches the command."""

LINE = re.compile(
    r"""\s*(?:[#;][^\n]*
    |(?P<name>[^=\n]+)=[ \t]*(?P<quoted>(?:(?:'[^']*'|"(?:\\.|[^"\\])*")[ \t]*)*)(?P<bare>(?:\\.|[^\n\\])*)
    |[^\n]+)""",
    re.DOTALL | re.VERBOSE,
)
QUOTED = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)


def parse(text: str) -> dict[str, str]:
    """The pairs in an ``EnvironmentFile``, as systemd.exec(5) says: nothing is expanded, the last of a name wins."""
    found = {}
    for line in LINE.finditer(text.replace("\r", "\n")):
        name = (line["name"] or "").strip()
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            quoted = [single + _double(double) for single, double in QUOTED.findall(line["quoted"])]
            bare = re.sub(r"\\(.)", lambda one: one[1].strip("\n"), line["bare"].rstrip(), flags=re.DOTALL)
            found[name] = "".join(quoted) + bare
    return found


def _double(text: str) -> str:
    return re.sub(r'\\([\n"\\`$])', lambda one: one[1].strip("\n"), text)


def environment(etc: Path, state: Path, user: str, caller: Mapping[str, str]) -> dict[str, str]:
    """The environment the units give their programs; raises ``BadSetting`` where their settings cannot be read."""
    file = etc / "env"
    try:
        given = parse(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        step = "sudo runbook …, and see docs/operations.md for what the file holds"
        raise BadSetting(str(file), f"cannot be read ({type(error).__name__})", step) from None
    kept = {name: caller[name] for name in KEPT if name in caller}
    units = {
        "PATH": f"{BIN}:{SYSTEM_PATH}",
        "HOME": str(state),
        "USER": user,
        "LOGNAME": caller.get("SUDO_USER") or user,  # who did it, in the ledger
        "RUNBOOK_HOME": str(etc),
        "PREFECT_HOME": str(state / "prefect"),
        "TMPDIR": str(state),
    }
    return kept | units | given


def become(user: str) -> None:
    """Go on as ``user``, which root may and the user itself needs not; raises ``BadSetting`` for anybody else."""
    try:
        wanted = pwd.getpwnam(user)
    except KeyError:
        raise BadSetting("runbook", f"this host has no user {user}", "see docs/operations.md, One machine") from None
    if os.geteuid() == wanted.pw_uid:
        return
    if os.geteuid() != 0:
        raise BadSetting("runbook", f"runs as root or {user} here", "sudo runbook …")
    os.initgroups(user, wanted.pw_gid)
    os.setgid(wanted.pw_gid)
    os.setuid(wanted.pw_uid)


def run(words: Sequence[str], etc: Path = ETC, state: Path = STATE, user: str = USER) -> NoReturn:
    """Become the command, or end with exit code 2 and one line where it cannot be started."""
    try:
        become(user)
        env = environment(etc, state, user, os.environ)
    except RunbookError as error:
        sys.stderr.write(f"runbook: {error}\n")
        sys.exit(2)
    command = [*words] if words and words[0] in {"prefect", "sh"} else [str(BIN / "runbook"), *words]
    os.chdir(ROOT)  # as the units; the caller's folder may be closed to this user
    os.execvpe(command[0], command, env)  # noqa: S606 - the person's own command, as a list


def main() -> None:
    """The entry point, linked to as /usr/local/bin/runbook."""
    run(sys.argv[1:])
