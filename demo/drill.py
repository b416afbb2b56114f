"""One runbook against its own faults and look-alikes on a throw-away stack: the drill behind a licence."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

from demo.faults import Broken
from demo.prefect_server import BIN, ROOT
from demo.stack import Stack

SECONDS = 300


def drill(name: str) -> dict[str, Any]:
    """What became of every fault and look-alike of ``name``.

    ``passed``: all are mended, none is touched, and the run itself ended well (exit code 0).
    """
    began = time.monotonic()
    with Stack(lambda _text: None, prefect=False) as stack:
        broken = Broken(stack, only=name)
        try:
            broken.ripen()
            done = subprocess.run(
                [str(BIN / "runbook"), "run", name, "--mode", "auto", "--json"],
                env={**os.environ, **stack.env()},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            faults = {one.name: one.mended() for one in broken.faults}
            lookalikes = {one.name: one.untouched() for one in broken.lookalikes}
        finally:
            broken.close()
    report = _report(done)
    return {
        "runbook": name,
        "passed": done.returncode == 0 and bool(faults) and all(faults.values()) and all(lookalikes.values()),
        "faults_mended": f"{sum(faults.values())} of {len(faults)}",
        "lookalikes_touched": f"{sum(not one for one in lookalikes.values())} of {len(lookalikes)}",
        "not_mended": [one for one, mended in faults.items() if not mended],
        "touched": [one for one, untouched in lookalikes.items() if not untouched],
        "outcome": report["outcome"],
        "reason": report["reason"],
        "seconds": round(time.monotonic() - began, 1),
    }


def _report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the run said of itself; one that said nothing has crashed, and its last words are the reason."""
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        return {"outcome": "crashed", "reason": last or f"exit code {done.returncode}"}
    return report
