"""kill -9 of receiver, responder and server under a stream of webhooks: none lost, no double fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill_9 import run
from demo.stack import Stack

pytestmark = pytest.mark.prefect


def test_none_is_lost_and_nothing_is_fixed_twice(tmp_path: Path) -> None:
    with Stack(lambda _text: None, tmp_path, events=True) as stack:
        counted = run(stack, kills=3, seed=7, say=print)
    assert counted.well, counted
