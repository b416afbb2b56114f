"""No secret of any setting, log, vendor or statement comes out anywhere, Prefect's database and logs included."""

from __future__ import annotations

import pytest

from tests.security.canaries import hunt, report
from tests.security.planting import CONTROLS

pytestmark = pytest.mark.prefect


def test_no_planted_secret_comes_out_or_is_kept() -> None:
    canaries = hunt(statuses=(400,), modes=("auto",), prefect=True)
    print(report(canaries))
    assert canaries.seen == {}, report(canaries)
    # What was planted did get there, and was blotted out on its way.
    assert canaries.met == set(CONTROLS)
