"""What keeps the app running: pm2, systemd, docker. Which instance has which pid, how often each was started again.

``RUNBOOK_SUPERVISORS`` names them: ``pm2``, ``systemd:web.service``, ``docker:web``, several by commas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from runbook.errors import BadSetting, OutsideError
from runbook.settings import settings
from runbook.step import reader
from tasks.commands import execute
from tasks.pressure import Unit

SETTING = "RUNBOOK_SUPERVISORS"
SECONDS = 15.0
SHOWN = "MainPID,NRestarts,ExecMainCode,ExecMainStatus,Result"
KILLED, DUMPED = 2, 3
"""CLD_KILLED and CLD_DUMPED of waitid(2): systemd's status is then the number of a signal."""


@reader("ask the supervisors")
async def read_units() -> tuple[list[Unit], list[str]]:
    """The instances each supervisor knows, and what went wrong with those that could not be asked."""
    units, notes = list[Unit](), list[str]()
    for named in settings().runbook_supervisors:
        kind, _, name = named.partition(":")
        if kind not in COMMANDS or bool(name) is (kind == "pm2"):
            raise BadSetting(SETTING, f"{named} is no supervisor", "write pm2, systemd:UNIT or docker:NAME")
        argv, read = COMMANDS[kind]
        try:
            code, said = await execute(SETTING, [*argv, *([name] if name else [])], seconds=SECONDS)
            if code:
                raise OutsideError(SETTING, f"{argv[0]} ended with {code}", f"run by hand: {' '.join(argv)} {name}")
            units += read(name, said.decode("utf-8", "replace"))
        except OutsideError as error:
            notes.append(f"{named}: {error}")
        except (ValueError, LookupError, TypeError, AttributeError):
            notes.append(f"{named}: {SETTING}: {argv[0]} said what is no list of instances. Next: see its version")
    return units, notes


def of_pm2(_name: str, said: str) -> list[Unit]:
    """From ``pm2 jlist``: JSON, behind banners; its env, which holds every secret of the app, goes no further."""
    line = next((line for line in said.splitlines() if line.startswith(("[{", "[]"))), "")
    return [
        Unit(
            name=f"pm2 {one['name']} {one['pm_id']}",
            instance=str(one["pm_id"]),
            pid=one["pid"] or 0,
            restarts=one["pm2_env"]["restart_time"],
            exit_code=_number(one["pm2_env"].get("exit_code")),
        )
        for one in json.loads(line)
    ]


def of_systemd(name: str, said: str) -> list[Unit]:
    """From ``systemctl show``: ``key=value`` lines; a unit that does not exist has no counter of restarts."""
    seen = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    code, status = int(seen["ExecMainCode"]), int(seen["ExecMainStatus"])
    end = 128 + status if code in {KILLED, DUMPED} else status
    return [
        Unit(
            name=f"systemd {name}",
            instance=name,
            pid=int(seen["MainPID"]),
            restarts=int(seen["NRestarts"]),
            exit_code=end if code else None,
            oom=seen["Result"] == "oom-kill",
        )
    ]


def of_docker(name: str, said: str) -> list[Unit]:
    """From ``docker inspect``: what it was killed for and how often it was started again."""
    (one,) = json.loads(said)
    state: Mapping[str, Any] = one["State"]
    return [
        Unit(
            name=f"docker {name}",
            instance=name,
            pid=state["Pid"],
            restarts=one["RestartCount"],
            exit_code=None if state["Running"] and not state["ExitCode"] else state["ExitCode"],
            oom=state["OOMKilled"],
        )
    ]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


COMMANDS: Mapping[str, tuple[list[str], Callable[[str, str], list[Unit]]]] = {
    "pm2": (["pm2", "jlist", "--silent"], of_pm2),
    "systemd": (["systemctl", "show", "--property", SHOWN], of_systemd),
    "docker": (["docker", "inspect", "--type", "container"], of_docker),
}
