"""What became of every line of the operations runbooks this all began with: docs/seed/*.toml, held against the copy.

Each ``[[step]]`` says in ``lines`` which lines of docs/seed/operations-runbooks.md it stands for. A line that says
something (no heading, no label, no fence) and is in no step is reported.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

SEED = Path(__file__).resolve().parent / "seed"
ORIGIN = SEED / "operations-runbooks.md"
LABEL = re.compile(r"\*\*[^*]+:\*\*|\|[-| ]+\||\| Alert \| Threshold \| Action \|")
WHO = {"automatic": "automatic", "person": "a person", "wrong": "wrong today"}


class Step(BaseModel):
    """One step of the seed, what does it now, and whether a machine does, a person must, or nobody should."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: str = Field(min_length=1)
    lines: tuple[int, ...] = Field(min_length=1)
    does: str = Field(min_length=1)
    who: str = Field(pattern="^(automatic|person|wrong)$")


def sections() -> dict[str, list[Step]]:
    """The steps by the name of their file."""
    found = {path.stem: tomllib.loads(path.read_text("utf-8"))["step"] for path in sorted(SEED.glob("*.toml"))}
    return {name: [Step.model_validate(one) for one in steps] for name, steps in found.items()}


def table(steps: list[Step]) -> list[str]:
    """The lines of a Markdown table of them."""
    rows = [f"| {_cell(one.seed)} | {_cell(one.does)} | {WHO[one.who]} |" for one in steps]
    return ["| the seed says | what does it now | who |", "|---|---|---|", *rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def uncovered() -> list[str]:
    """What is wrong with the steps: lines of the seed that none stands for, and lines that are not there."""
    every = list(enumerate(ORIGIN.read_text("utf-8").splitlines(), 1))
    named = {number for steps in sections().values() for one in steps for number in one.lines}
    wrong = [f"line {number} is in a step and not in {ORIGIN.name}" for number in sorted(named) if number > len(every)]
    left = [(number, text.strip()) for number, text in _said(every) if number not in named]
    return wrong + [f"line {number} of {ORIGIN.name} is in no step: {text}" for number, text in left]


def _said(every: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines that say something; what looks like a heading within a fence is code."""
    fenced = False
    for number, text in every:
        bare = text.strip()
        if bare.startswith("```"):
            fenced = not fenced
        elif bare and (fenced or not (bare.startswith("#") or LABEL.fullmatch(bare))):
            yield number, text
