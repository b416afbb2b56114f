"""Every vendor's probe on real parts: up, down, turned down by our own account, silent, not ours."""

from __future__ import annotations

import pytest

from demo.openai_server import SPARE
from tasks import vendors
from tasks.vendors import Standing, Vendor, read_vendors
from tests.flows import site_parts
from tests.flows.site_parts import World

parts, world = site_parts.parts, site_parts.world  # fixtures


async def found(name: str) -> Vendor:
    return {one.name: one for one in await read_vendors()}[name]


async def test_all_that_is_configured_is_up(world: World) -> None:
    assert {one.name: one.standing for one in await read_vendors() if one.standing is not Standing.unset} == {
        "stripe": Standing.up,
        "openai": Standing.up,
        "sentry": Standing.up,
    }


@pytest.mark.parametrize(
    ("kind", "standing", "word"),
    [
        ("503", Standing.down, "server errors"),
        ("drop", Standing.down, "cannot be reached"),
        ("garbage", Standing.down, "no completion"),
        ("quota", Standing.refused, "credit"),
        ("key", Standing.refused, "new key"),
    ],
)
async def test_how_a_provider_of_models_fails(world: World, kind: str, standing: Standing, word: str) -> None:
    world.ai.fault(kind)
    one = await found("openai")
    assert one.standing is standing and word in one.said


async def test_a_model_that_is_gone_is_ours_to_change(world: World) -> None:
    world.ai.models.remove("gpt-4o-mini")
    assert (await found("openai")).standing is Standing.refused


async def test_the_model_the_app_uses_now_is_the_one_that_counts(world: World) -> None:
    world.ai.fault("quota")
    world.ai.flag.write_text(SPARE)
    assert (await found("openai")).standing is Standing.up


async def test_an_endpoint_that_is_off_and_a_key_that_is_wrong(world: World) -> None:
    for endpoint in world.stripe.store.endpoints.values():
        endpoint["status"] = "disabled"
    one = await found("stripe")
    assert one.standing is Standing.refused and "switched the webhook endpoint" in one.said
    world.set(STRIPE_SECRET_KEY="sk_test_another_0123456789")
    one = await found("stripe")
    assert one.standing is Standing.refused and "sk_test_another" not in one.said


async def test_a_vendor_that_hangs_is_down_and_holds_up_no_other(world: World) -> None:
    world.monkeypatch.setattr(vendors, "VENDOR_SECONDS", 2.0)
    world.sentry.slow = 8.0
    one = await found("sentry")
    assert one.standing is Standing.down and "2 s" in one.said
    assert (await found("openai")).standing is Standing.up
