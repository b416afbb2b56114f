"""What every command shares: its options, how it speaks, and how parameters are read."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

import flows
from runbook.errors import BadSetting
from runbook.mask import mask
from runbook.model import Json, Mode
from runbook.settings import profile

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
AnyMode = Annotated[Mode, typer.Option("--mode", help="How far to go; RUNBOOK_MODE is the ceiling.")]


def say(document: Json, text: str, as_json: bool) -> None:
    """One answer, masked: the document for a script, the text for a person."""
    sys.stdout.write((json.dumps(mask(document), default=str) if as_json else str(mask(text))) + "\n")


def known(name: str) -> str:
    """The name, where a runbook or the emergency has it; raises ``BadSetting`` with those that exist."""
    if name not in flows.acting():
        raise BadSetting(name, "no such runbook in this version", f"one of: {', '.join(flows.acting())}")
    return name


def parameters(name: str, pairs: list[str]) -> dict[str, Any]:
    """A runbook's parameters that are not its defaults: the profile's, then those given as ``param=value``, checked.

    Raises ``BadSetting`` for one it does not have, or out of its bounds.
    """
    given: dict[str, Any] = dict(profile().parameters.get(name, {}))
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep:
            raise BadSetting(f"--set {pair}", "is not param=value", "write --set idle_seconds=60")
        given[key] = value
    takes = flows.runbook(name).parameters.properties
    for key in given:
        if key not in takes:
            raise BadSetting(f"--set {key}", f"{name} has no such parameter", f"one of: {', '.join(takes)}")
    checked = validated(name, given)
    return {key: checked[key] for key in given}


def validated(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of a flow, the given ones checked against their types and bounds."""
    from prefect.exceptions import ParameterBindError, ParameterTypeError, SignatureMismatchError

    try:
        return flows.runbook(name).validate_parameters(given)
    except (ParameterTypeError, ParameterBindError, SignatureMismatchError) as error:
        raise BadSetting("--set", " ".join(str(error).split()), f"runbook run {name} --help") from None
