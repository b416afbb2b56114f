"""Three compound incidents: things that break together, as they do, and what a machine must leave alone meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from demo.faults import Broken
from demo.generation_app import Generator
from demo.mail_app import Mailer
from demo.mail_faults import outlived_blocks, suppression_lookalikes
from demo.memory_faults import break_memory
from demo.openai_server import OWN, SPARE, OpenAIServer
from demo.scene import Fault, Lookalike, Scene
from demo.sendgrid_server import SendGridServer
from demo.site_faults import break_site
from demo.slow_faults import break_slow
from demo.smtp_server import SmtpServer
from demo.stack import Stack

SPARE_KEY = "sk-demo-spare-0123456789abcdef"
LOST = 6


class Exercise(NamedTuple):
    """One incident: what breaks, and ``later`` what gets well by itself once the app can do without."""

    name: str
    title: str
    runbooks: Sequence[str]
    breaks: Callable[[Stack], Scene]
    later: Callable[[Stack], None] = lambda _stack: None


def together(scenes: Sequence[Scene]) -> Scene:
    """Several scenes as one; what was opened last is closed first."""

    def close() -> None:
        for scene in reversed(scenes):
            scene.close()

    faults = [fault for scene in scenes for fault in scene.faults]
    return Scene(faults, [one for scene in scenes for one in scene.lookalikes], close)


def _broken(stack: Stack, only: str) -> Scene:
    made = Broken(stack, only=only)
    return Scene(made.faults, made.lookalikes, made.close)


def bad_deployment(stack: Stack) -> Scene:
    """A deployment whose pages fail, whose new statement has no index, and whose sessions forget to commit."""
    slow = break_slow(stack)
    site = break_site(stack)
    return together([slow, site, _broken(stack, "pool-exhaustion")])  # last: then nobody gets a connection any more


def stripe_outage(stack: Stack) -> Scene:
    """Stripe has switched the webhook off, events are lost, rows drift; receivers still block mail of two days ago."""
    sendgrid = stack.standin(SendGridServer)
    stack.app.mailer = Mailer(stack.standin(SmtpServer), sendgrid)
    mail = Scene([outlived_blocks(sendgrid)], suppression_lookalikes(sendgrid))
    return together([mail, _broken(stack, "failed-payments")])


def ai_quota(stack: Stack) -> Scene:
    """The provider's quota is used up, users get templates; and a Node process leaks towards its limit."""
    ai = stack.standin(OpenAIServer)
    ai.keys.add(SPARE_KEY)
    generator = Generator(stack.app, ai).__enter__()
    ai.fault("quota", OWN)
    lost = [f"gen_quota_{i}" for i in range(LOST)]
    for name in lost:
        generator.generate(name)
    free = generator.generate("gen_quota_free", credits=False)
    assert free == "template" and not generator.written
    faults = [
        Fault(
            f"{LOST} users got a template: the quota is used up",
            "failed-generations",
            ("use_fallback_model", "requeue_generation"),
            lambda: sorted(generator.written) == lost,
        )
    ]
    design = Lookalike("a template by design", lambda: "gen_quota_free" not in ai.queue.read_text())
    return together([Scene(faults, [design], generator.close), break_memory(stack)])


def quota_comes_back(stack: Stack) -> None:
    """The provider's day begins anew; until then the app has to do with the other account."""
    ai = stack.standin(OpenAIServer)
    if ai.flag.read_text() == SPARE:
        ai.faults.clear()


EXERCISES = (
    Exercise(
        "bad-deployment",
        "a bad deployment with a missing index and pool exhaustion",
        ("site-down", "pool-exhaustion", "slow-queries"),
        bad_deployment,
    ),
    Exercise(
        "stripe-outage",
        "a Stripe webhook outage with drift and mail blocks",
        ("site-down", "failed-payments", "undelivered-email"),
        stripe_outage,
    ),
    Exercise(
        "ai-quota",
        "an AI quota used up plus a memory leak",
        ("site-down", "failed-generations", "memory-pressure"),
        ai_quota,
        quota_comes_back,
    ),
)
