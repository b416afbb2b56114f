"""The rules of the house, held against the tree: a ninth runbook is one flow, one test, one entry in prefect.yaml."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.cache_policies import NO_CACHE

import flows
from docs.generate import WORDS
from ingress.providers import PROVIDERS
from runbook.permit import Hand
from runbook.step import Step
from tests.ingress.test_ingress import NAMES

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("runbook", "tasks", "flows", "ingress", "deployments")
EVERY = flows.every()

DEPLOYMENT = {
    "definitions": {
        "wanted": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "expect", "match", "parameters"],
            "properties": {
                "type": {"const": "event"},
                "expect": {"const": ["runbook.wanted"]},
                "match": {"type": "object", "required": ["prefect.resource.id"]},
                "parameters": {"type": "object"},
            },
        },
        "hint": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "expect", "within", "parameters"],
            "properties": {
                "type": {"const": "event"},
                "expect": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "within": {"type": "integer", "minimum": 60},
                "parameters": {"type": "object"},
            },
        },
    },
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "entrypoint", "tags", "parameters", "schedules", "concurrency_limit", "work_pool"],
    "properties": {
        "name": {"type": "string"},
        "entrypoint": {"type": "string", "pattern": r"^flows\.\w+\.\w+$"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "parameters": {"type": "object"},
        "schedules": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["timezone", "slug", "active"],
                "oneOf": [{"required": ["cron"]}, {"required": ["interval"]}],
                "properties": {
                    "cron": {"type": "string"},
                    "interval": {"type": "integer", "minimum": 5},
                    "timezone": {"type": "string"},
                    "slug": {"type": "string"},
                    "parameters": {"type": "object"},
                    "active": {"type": "boolean"},
                },
            },
        },
        "concurrency_limit": {
            "type": "object",
            "additionalProperties": False,
            "required": ["limit", "collision_strategy"],
            "properties": {"limit": {"const": 1}, "collision_strategy": {"enum": ["CANCEL_NEW", "ENQUEUE"]}},
        },
        "work_pool": {
            "const": {"name": "runbook", "job_variables": {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}}
        },
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {"oneOf": [{"$ref": "#/definitions/wanted"}, {"$ref": "#/definitions/hint"}]},
        },
    },
}
"""The keys prefect.yaml may have here: Prefect ignores a misspelled one in silence."""


def deployments() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    assert set(document) == {"name", "prefect-version", "definitions", "deployments"}
    return {one["name"]: one for one in document["deployments"]}


def test_prefect_yaml_has_an_entry_for_every_flow_and_no_other() -> None:
    assert sorted(deployments()) == sorted(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_prefect_yaml_is_spelled_right(name: str) -> None:
    entry = deployments()[name]
    jsonschema.validate(entry, DEPLOYMENT)
    own = name.replace("-", "_")
    assert entry["entrypoint"] == f"flows.{own}.{own}"
    flows.runbook(name).validate_parameters(entry["parameters"])


@pytest.mark.parametrize("name", flows.acting())
def test_every_runbook_is_started_by_the_event_that_names_it(name: str) -> None:
    (trigger,) = [one for one in deployments()[name]["triggers"] if one["expect"] == ["runbook.wanted"]]
    assert trigger["match"] == {"prefect.resource.id": f"runbook.{name}"}
    flows.runbook(name).validate_parameters(trigger["parameters"])


def hints() -> list[tuple[str, str]]:
    """(event, the flow it starts) for all that senders say."""
    found = []
    for name, entry in deployments().items():
        for trigger in entry.get("triggers", []):
            flows.runbook(name).validate_parameters(trigger["parameters"])
            found += [(event, name) for event in trigger["expect"] if event != "runbook.wanted"]
    return found


STARTS_NOTHING = {"generic.deploy.failed"}
"""What the senders of our tests say and no flow is started by: generic names are each user's own."""


def test_every_sender_starts_a_flow_by_what_it_really_says() -> None:
    said = {event for events in NAMES.values() for event, _resource in events} - {"runbook.wanted"}
    assert said - {event for event, _flow in hints()} == STARTS_NOTHING
    assert {event.partition(".")[0] for event, _flow in hints()} == PROVIDERS.keys() - {"generic"}


def test_operations_names_what_each_sender_starts() -> None:
    rows = [line for line in (ROOT / "docs" / "operations.md").read_text("utf-8").splitlines() if "`/hooks/" in line]
    for event, flow in hints():
        sender, _, rest = event.partition(".")
        (row,) = [one for one in rows if f"`/hooks/{sender}" in one]
        assert f"`{rest}`" in row, event
        assert flow in row, event


@pytest.mark.parametrize("name", EVERY)
def test_a_runbook_is_its_docstring(name: str) -> None:
    text = flows.module(name).__doc__ or ""
    for word in WORDS:
        assert f"\n{word}:" in text, f"{name} does not say its {word}"
    assert flows.runbook(name).description == text


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_has_a_default_and_help(name: str) -> None:
    for key, schema in flows.runbook(name).parameters.properties.items():
        assert "default" in schema, f"{name} cannot be started without {key}"
        assert schema.get("description"), f"{name} does not explain {key}: write it under Args"


@pytest.mark.parametrize("name", flows.acting())
def test_every_runbook_has_its_test(name: str) -> None:
    assert (ROOT / "tests" / "flows" / f"test_{name.replace('-', '_')}.py").exists()


@pytest.mark.parametrize("name", flows.names())
def test_every_runbook_has_its_look_alikes(name: str) -> None:
    own = name.replace("-", "_")
    cases = tomllib.loads((ROOT / "tests" / "corpus" / f"{own}.toml").read_text("utf-8"))
    assert sum(len(found) for found in cases.values() if isinstance(found, list)) >= 5
    assert (ROOT / "tests" / "flows" / f"test_{own}_corpus.py").exists()


@pytest.mark.parametrize("name", flows.names())
def test_every_runbook_keeps_its_readings_and_judges_them_again(name: str) -> None:
    module = flows.module(name)
    assert len(inspect.signature(module.replay).parameters) == 3, "replay(stage, seen, given) -> Judged"
    assert "run.saw(" in inspect.getsource(module), "a runbook that keeps no reading cannot be tried on history"


@pytest.mark.parametrize("name", flows.acting())
def test_every_hand_takes_a_permit_and_is_looked_up(name: str) -> None:
    hands: dict[str, Hand] = flows.module(name).HANDS
    for action, hand in hands.items():
        assert isinstance(hand.act, Step), action
        assert isinstance(hand.look_up, Step), action
        assert list(inspect.signature(hand.act.fn).parameters)[:2] == ["fix", "permit"], action
        assert hand.act.tries == 1, f"{action} acts, so it may not be retried"


def test_no_task_caches() -> None:
    steps = [value for name in flows.acting() for value in vars(flows.module(name)).values() if isinstance(value, Step)]
    assert steps
    for step in steps:
        assert step.task.cache_policy == NO_CACHE
        assert not step.task.persist_result


@pytest.mark.parametrize("path", [path for top in PRODUCT for path in (ROOT / top).rglob("*.py")], ids=str)
def test_every_file_is_one_room(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 300, "split it"


def test_nothing_needs_the_demo() -> None:
    for top in PRODUCT:
        for path in (ROOT / top).rglob("*.py"):
            assert "import demo" not in path.read_text("utf-8")
            assert "from demo" not in path.read_text("utf-8")


def test_the_red_button_waits_for_no_import_of_prefect() -> None:
    seen = (
        "import sys, deployments.cli; sys.exit(sorted({'prefect', 'stripe', 'openai', 'sendgrid'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", seen], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() in {"", "[]"}
