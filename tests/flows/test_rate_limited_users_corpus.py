"""Every look-alike of the corpus is left where it is; an honest office in its place is let in."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from demo.limits_app import limiter
from demo.limits_faults import ago
from demo.population import user_id
from runbook.model import FixState, Outcome
from tests.flows import limits_parts as parts
from tests.flows.limits_parts import World, of

CORPUS = Path(__file__).resolve().parents[1] / "corpus" / "rate_limited_users.toml"
LOOKALIKES: list[dict[str, Any]] = tomllib.loads(CORPUS.read_text("utf-8"))["lookalike"]
accounts, world = parts.accounts, parts.world  # fixtures

NAMES = {
    "sign_in": "login_success",
    "fail": "login_failed",
    "reset": "password_reset_email_sent",
    "block": "ip_blocked",
}
NAMES |= {"missing": "not_found", "slow": "soft_throttle", "unblock": "ip_unblocked"}
INFO = {"sign_in", "reset", "slow", "unblock"}


def write(world: World, ip: str, step: Mapping[str, Any]) -> None:
    """The lines of one step, as the app writes them: a limit in both its forms."""
    do, users = step["do"], step.get("users")
    name = step.get("name") or NAMES.get(do, "rate_limit_exceeded")
    people = range(step["from"], step["to"]) if "from" in step else range(1)
    for n in range(step.get("times", 1)):
        for i in people:
            said: dict[str, Any] = {"ip": step.get("ip", ip).format(n=f"{n + i:x}")}
            both = do == "limit" and "minutes" not in step
            if not both:
                said["time"] = ago(step.get("minutes", 10) - n / 100)
            if do == "sign_in":
                said["userId"] = user_id(i)
            elif do in {"fail", "reset"}:
                said |= {"email": f"person{i}@example.com", **({"status": 401} if do == "fail" else {})}
            elif do == "missing":
                said |= {"path": f"/wp-{n}.php", "status": 404}
            elif do == "numbered":
                said["endpoint"] = f"/api/people/{n}/cv"
            elif "path" in step:
                said["endpoint"] = step["path"]
            if users:
                said["userId"] = user_id(range(*users)[n % len(range(*users))])
            world.app.log("info" if do in INFO else "warn", name, **said)
            if both:
                world.app.audit("warning", name, **said)


@pytest.mark.parametrize("one", LOOKALIKES, ids=lambda one: one["name"])
async def test_it_is_left_where_it_is(world: World, one: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in one.get("settings", {}).items():
        monkeypatch.setenv(name, value)
    for step in one["steps"]:
        write(world, one["ip"], step)
    report = await world.run()
    assert world.asked == [] and limiter(world.app).trusted == set(), report
    # Not even a person is asked, but where the log cannot tell.
    assert [fix.why for fix in report.fixes] == ["needs a person: run it with mode approve"] * one.get("asks", 0)
    told = " ".join([*report.notices, *(found.detail for found in report.findings)])
    assert one["says"] in told if one["says"] else report.outcome is Outcome.healthy and not told


HONEST = [
    ("192.88.99.41", "192.88.99.41"),
    ("::ffff:192.88.99.41", "::ffff:192.88.99.41"),
    ("192.88.99.41, 10.20.0.1", "192.88.99.41"),
    ("192.88.99.41, 10.20.7.7, 10.20.0.1", "192.88.99.41"),
    ("2620:4f:8000:1::5", "2620:4f:8000:1::5"),
]


@pytest.mark.parametrize(("logged", "trusted"), HONEST, ids=[one[0] for one in HONEST])
async def test_an_honest_office_in_its_place_is_let_in(world: World, logged: str, trusted: str) -> None:
    write(world, logged, {"do": "sign_in", "from": 10, "to": 18})
    write(world, logged, {"do": "fail", "from": 10, "to": 11})  # the slip of one who is in a moment later, by mail
    write(world, logged, {"do": "limit", "path": "/api/content", "users": [10, 18], "times": 40})
    report = await world.run(least_success=0.8)
    assert report.outcome is Outcome.fixed, report
    assert [fix.state for fix in of(report, "trust_ip")] == [FixState.proven]
    assert limiter(world.app).trusted == {trusted}
