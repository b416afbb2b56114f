"""What each sender's body comes to: names that say what happened to whom, ids that no other hook has."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingress.providers import PROVIDERS, Hook, Malformed, hooks
from tests.ingress.test_ingress import BODIES

SENTRY: dict[str, tuple[dict[str, Any], str, str]] = {
    "issue": (
        {"action": "unresolved", "data": {"issue": {"id": "1", "title": "x", "project": {"id": "4", "slug": "web"}}}},
        "sentry.issue.unresolved",
        "runbook.sentry.web",
    ),
    "alert": (
        {"action": "triggered", "data": {"event": {"issue_id": "1", "project": 4}, "triggered_rule": "r"}},
        "sentry.event_alert.triggered",
        "runbook.sentry.4",
    ),
    "metric": (
        {"action": "critical", "data": {"metric_alert": {"id": "1", "projects": ["web"]}, "description_title": "x"}},
        "sentry.metric_alert.critical",
        "runbook.sentry.web",
    ),
    "comment": (
        {"action": "created", "data": {"comment": "hm", "project_slug": "web", "comment_id": 2, "issue_id": 1}},
        "sentry.comment.created",
        "runbook.sentry.web",
    ),
    "error": (
        {"action": "created", "data": {"error": {"issue_id": "1", "project": 4, "title": "x"}}},
        "sentry.error.created",
        "runbook.sentry.4",
    ),
    "installed": (
        {"action": "created", "data": {"installation": {"uuid": "1"}}},
        "sentry.installation.created",
        "runbook.sentry.project",
    ),
}


def read(provider: str, body: object) -> list[Hook]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(hooks(PROVIDERS[provider], raw))


@pytest.mark.parametrize("kind", SENTRY)
def test_a_sentry_hook_is_named_by_its_kind_and_project(kind: str) -> None:
    body, event, resource = SENTRY[kind]
    (hook,) = read("sentry", body)
    assert (hook.event, hook.resource) == (event, resource)


def test_a_generic_hook_may_ask_for_a_runbook() -> None:
    (hook,) = read("generic", BODIES["generic"] | {"runbook": "slow-queries"})
    assert (hook.event, hook.resource) == ("runbook.wanted", "runbook.slow-queries")


@pytest.mark.parametrize("mark", [None, "", True, [], {}])
@pytest.mark.parametrize("provider", ["stripe", "sendgrid", "pagerduty", "vercel", "generic"])
def test_a_hook_without_an_id_is_malformed_and_no_other_ones_double(provider: str, mark: object) -> None:
    body = json.loads(json.dumps(BODIES[provider]))
    place = body[0] if isinstance(body, list) else body["event"] if provider == "pagerduty" else body
    place["sg_event_id" if provider == "sendgrid" else "id"] = mark
    with pytest.raises(Malformed):
        read(provider, body)


def test_long_ids_with_one_beginning_are_two_hooks_that_fit_their_column() -> None:
    ids = {read("generic", BODIES["generic"] | {"id": "x" * 300 + end})[0].id for end in "ab"}
    assert len(ids) == 2
    assert max(map(len, ids)) <= 200


@pytest.mark.parametrize("status", ["1e999", "-1e999", "NaN", "1" + "0" * 400, '"x"', "[]"])
def test_a_status_that_is_no_number_of_http_is_no_crash(status: str) -> None:
    raw = f'[{{"id": "1", "statusCode": {status}}}]'.encode()
    with contextlib.suppress(Malformed):
        assert all(hook.payload["statusCode"] is None for hook in read("vercel", raw))


@pytest.mark.parametrize("key", ["bm8ga2V5", "?"])
def test_a_verification_key_that_is_none_keeps_the_receiver_from_starting(tmp_path: Path, key: str) -> None:
    env = os.environ | {
        "RUNBOOK_HOME": str(tmp_path),
        "RUNBOOK_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        "INGRESS_SENDGRID_PUBLIC_KEY": key,
        "INGRESS_HOST": "192.0.2.1",  # no address of ours: it ends in any case
    }
    done = subprocess.run([sys.executable, "-m", "ingress"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "INGRESS_SENDGRID_PUBLIC_KEY: is no ECDSA public key" in done.stderr
