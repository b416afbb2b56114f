"""A small world for the generations runbook: a provider, an app that writes by it and logs, a flag and a queue."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.app import App
from demo.generation_app import Generator
from demo.openai_server import OpenAIServer
from flows.failed_generations import failed_generations
from runbook.ledger import Ledger, ledger
from runbook.model import Fix, Report
from runbook.settings import Settings, forget


@dataclass
class World:
    """What one test looks after."""

    ai: OpenAIServer
    app: App
    generator: Generator
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    async def run(self, **parameters: Any) -> Report:
        """The runbook, without Prefect and with hardly a pause."""
        quick = {"samples": 2, "pause_seconds": 0.01, "timeout_seconds": 1.5, "hold_seconds": 0, "least_minutes": 0}
        report: Report = await failed_generations.fn(**(quick | parameters))
        return report

    def set(self, **env: str) -> None:
        """Change settings; an empty one is unset."""
        for name, value in env.items():
            self.monkeypatch.setenv(name, value)
        forget()

    @property
    def flag(self) -> str:
        return self.ai.flag.read_text()

    @property
    def queued(self) -> list[str]:
        return self.ai.queue.read_text().split()

    @property
    def ledger(self) -> Ledger:
        return ledger()


def env(world: World) -> dict[str, str]:
    """The settings of a process that looks after ``world``."""
    return world.ai.env() | {
        "APP_LOG": str(world.app.log_path),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{world.folder}/ledger.db",
        "RUNBOOK_HOME": str(world.folder),
        "RUNBOOK_MODE": "auto",
        "RUNBOOK_LICENCE_DAYS": "0",
    }


def of(report: Report, action: str) -> list[Fix]:
    return [fix for fix in report.fixes if fix.action == action]


def text(report: Report) -> str:
    """All a person is told."""
    return "\n".join([f"{one.subject}: {one.detail}" for one in report.findings] + list(report.notices))


Servers = tuple[OpenAIServer, App]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    log = tmp_path_factory.mktemp("app") / "app.log"
    with OpenAIServer() as ai, App("postgresql://nobody@127.0.0.1:9/none", "whsec_unused", log_path=log) as app:
        yield ai, app


@pytest.fixture
def world(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in which nothing is wrong, with this process's settings pointing at it."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    ai, app = servers
    ai.reset()
    app.log_path = tmp_path / "app.log"
    app.log_path.touch()
    with Generator(app, ai, seconds=0.2) as generator:
        made = World(ai, app, generator, tmp_path, monkeypatch)
        monkeypatch.chdir(tmp_path)
        made.set(**env(made))
        yield made
    forget()


def clean_environment() -> dict[str, str]:
    """This process's environment without a setting of ours."""
    return {key: value for key, value in os.environ.items() if key.lower() not in Settings.model_fields}
