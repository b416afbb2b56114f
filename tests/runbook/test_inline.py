"""Secrets inside settings that are none: found where they stand, and ordinary words left alone."""

from __future__ import annotations

import pytest

from runbook import settings
from runbook.inline import inline
from runbook.mask import mask


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vercel rollback {deployment} --token abc123xyz --yes", {"abc123xyz"}),
        ("deploy --api-key='abc123xyz'", {"abc123xyz"}),
        ("env DEPLOY_TOKEN=abc123xyz sh /opt/restart.sh {pid}", {"abc123xyz"}),
        ("curl -H 'Authorization: Bearer abc123xyz' https://api.example/v1/off", {"abc123xyz"}),
        ("curl -H 'X-Api-Key: abc123xyz' https://api.example/v1/off", {"abc123xyz"}),
        ("curl https://api.example/v1/off?user=me&api_key=abc123xyz", {"abc123xyz"}),
        ("https://me:abc123%2Fxyz@api.example/up", {"abc123%2Fxyz", "abc123/xyz"}),
        ("systemctl restart monkey service-of-app", set()),
        ("ssh -i /etc/keys/deploy_key host restart --key-file /etc/keys/deploy_key", set()),
        ("psql --password-file=/run/secrets/db", set()),
        ("https://api.example/deployments/gpt-4o-mini-2024-07-18/up?format=verbose", set()),
        ("http://[not-a-url/?x=1", set()),
    ],
)
def test_a_secret_is_known_by_what_names_it(text: str, found: set[str]) -> None:
    assert inline(text) == found


def test_a_token_in_a_path_is_one_where_paths_hold_tokens() -> None:
    url = "https://hc.example/ping/0b7f3a2c9d1e4f5a8b6c/start"
    assert inline(url, path=True) == {"0b7f3a2c9d1e4f5a8b6c"}
    assert inline(url) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNBOOK_RESTART_COMMAND", "restart --token abc123xyz {pid}"),
        ("RUNBOOK_HEALTH_URL", "https://app.example/health?token=abc123xyz"),
        ("RUNBOOK_HEALTH_URL", "https://app.example/health/abc123xyz0123456789/up"),
        ("RUNBOOK_WAR_ROOM_URL", "https://meet.example/room?pwd=abc123xyz"),
    ],
)
def test_it_is_blotted_out_wherever_it_comes_back(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    settings.forget()
    secret = "abc123xyz0123456789" if "0123456789" in value else "abc123xyz"
    assert mask(f"no access for {secret} here") == "no access for *** here"


def test_a_link_for_people_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    link = "https://meet.example/j/0abc123xyz4567890"
    monkeypatch.setenv("RUNBOOK_WAR_ROOM_URL", link)
    settings.forget()
    assert mask(f"War room: {link}") == f"War room: {link}"
