"""Nothing of the old operations runbooks is forgotten, and what stands for it is really there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from docs import origin

NAMED = re.compile(r"\b(tasks|flows|runbook|deployments)\.([a-z_]+)(?:\.([A-Za-z_]+))?")


def test_every_line_of_the_old_runbooks_is_in_a_step() -> None:
    assert origin.uncovered() == []


@pytest.mark.parametrize("name", origin.sections())
def test_what_a_step_names_exists(name: str) -> None:
    for step in origin.sections()[name]:
        for room, file, word in NAMED.findall(step.does):
            if (file, word) not in {("toml", ""), ("wanted", "")}:  # a file, an event
                module = importlib.import_module(f"{room}.{file}")
                assert not word or hasattr(module, word), f"{name}: {room}.{file}.{word} ({step.seed})"


def test_a_line_that_no_step_names_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# Title\n\n**Steps:**\n1. Look\n   ```sql\n   # a comment of code\n\n   ```\n| a | b |\n|---|---|\n"
    (tmp_path / "origin.md").write_text(text)
    (tmp_path / "one.toml").write_text('[[step]]\nseed = "look"\nlines = [4, 99]\ndoes = "x"\nwho = "person"\n')
    monkeypatch.setattr(origin, "SEED", tmp_path)
    monkeypatch.setattr(origin, "ORIGIN", tmp_path / "origin.md")
    assert origin.uncovered() == [
        "line 99 is in a step and not in origin.md",
        "line 6 of origin.md is in no step: # a comment of code",
        "line 9 of origin.md is in no step: | a | b |",
    ]
