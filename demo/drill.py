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
    """What became of every fault and look-alike of ``name``; ``passed``: all are mended and none is touched."""
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
    report: dict[str, Any] = json.loads(done.stdout or "{}")
    return {
        "runbook": name,
        "passed": bool(faults) and all(faults.values()) and all(lookalikes.values()),
        "faults_mended": f"{sum(faults.values())} of {len(faults)}",
        "lookalikes_touched": f"{sum(not one for one in lookalikes.values())} of {len(lookalikes)}",
        "not_mended": [one for one, mended in faults.items() if not mended],
        "touched": [one for one, untouched in lookalikes.items() if not untouched],
        "outcome": report.get("outcome", ""),
        "reason": report.get("reason", ""),
        "seconds": round(time.monotonic() - began, 1),
    }
