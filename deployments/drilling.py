"""``runbook drill``: breaks a throw-away stack, lets the runbook mend it, and issues its licence or takes it away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from runbook import licence
from runbook.errors import BadSetting, OutsideError
from runbook.ledger import Ledger
from runbook.model import Json
from runbook.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600


def drill(ledger: Ledger, name: str) -> dict[str, Json]:
    """Drill one runbook on a stack of its own, and issue or take away its licence in ``ledger``; the figures.

    Nothing of this process's settings reaches the stack. Raises ``BadSetting`` where only the package is installed:
    the stack to break comes with the source.
    """
    if not (ROOT / "demo" / "drill.py").exists():
        raise BadSetting("runbook drill", "needs the source checkout, which holds the stack to break", "see README")
    own = {name.upper() for name in Settings.model_fields}
    env = {key: value for key, value in os.environ.items() if key not in own and key != "RUNBOOK_HOME"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "demo", "drill", name],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        figures: dict[str, Json] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        licence.revoke(ledger, name, "its drill did not end")
        said = "the stack did not start or the drill did not end"
        raise OutsideError(f"drill of {name}", said, f"python -m demo drill {name} in the checkout") from None
    if figures["passed"]:
        licence.issue(ledger, name, figures)
    else:
        ended = f"the run {figures['outcome']}" + (f" ({figures['reason']})" if figures["reason"] else "")
        counts = f"{figures['faults_mended']} faults mended, {figures['lookalikes_touched']} touched"
        why = f"its drill failed: {counts}, {ended}"
        licence.revoke(ledger, name, why)
    return figures


def as_text(figures: dict[str, Json]) -> str:
    """The drill in a line, and what went wrong below it."""
    verdict = "passed" if figures["passed"] else f"FAILED ({figures['outcome']})"
    lines = [
        f"{figures['runbook']:<20} {verdict}  faults mended {figures['faults_mended']}, look-alikes touched "
        f"{figures['lookalikes_touched']}, {figures['seconds']} s"
    ]
    lines += [f"  not mended  {one}" for one in figures["not_mended"]]
    lines += [f"  touched     {one}" for one in figures["touched"]]
    lines += [f"  reason      {figures['reason']}"] if figures["reason"] else []
    return "\n".join(lines)
