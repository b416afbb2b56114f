"""The receiver as a process meets it: over HTTP, with its ledger on disk, and a Prefect API that can be down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from demo.serving import Served
from ingress.app import create
from runbook import settings
from runbook.ledger import ledger
from tests.ingress.parts import PUBLIC, SECRET, Events, Receiver


@pytest.fixture
def prefect_events() -> Iterator[Events]:
    made = Events()
    yield made
    made.stop()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    for name in ("STRIPE_SECRET", "SENTRY_SECRET", "PAGERDUTY_SECRET", "ALERTMANAGER_TOKEN", "VERCEL_SECRET"):
        monkeypatch.setenv(f"INGRESS_{name}", SECRET)
    monkeypatch.setenv("INGRESS_APP_TOKEN", SECRET)
    monkeypatch.setenv("INGRESS_GENERIC_SECRET", SECRET)
    monkeypatch.setenv("INGRESS_SENDGRID_PUBLIC_KEY", PUBLIC.decode())
    settings.forget()
    yield
    settings.forget()


@pytest.fixture
def receiver(environment: None, prefect_events: Events) -> Iterator[Receiver]:
    with temporary_settings({PREFECT_API_URL: prefect_events.url}):
        served = Served(create(), 0)
        served.start()
        yield Receiver(served.url, ledger())
        served.stop()
