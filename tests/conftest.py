"""What every test starts from: runs may act without a drill, as the tests of the licence itself do not."""

from __future__ import annotations

import os

os.environ["RUNBOOK_LICENCE_DAYS"] = "0"
