"""What goes wrong with generations in the demo, and what only looks as if it had."""

from __future__ import annotations

from demo.generation_app import Generator
from demo.openai_server import OWN, SPARE, OpenAIServer
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack

LOST = 6


def break_generation(stack: Stack) -> Scene:
    """The provider retires the app's model: users get templates with a 200, and nobody hears of it."""
    ai = stack.standin(OpenAIServer)
    generator = Generator(stack.app, ai).__enter__()
    burst = ai.fault("rate", times=2)
    rated = generator.generate("gen_rate_limited", tries=3)  # a short burst the app itself got over
    ai.faults.remove(burst)
    free = [generator.generate(f"gen_free_{i}", credits=False) for i in range(LOST)]
    ai.models.remove(OWN)
    lost = [f"gen_{i:06d}" for i in range(LOST)]
    given = [generator.generate(name) for name in lost]
    assert rated == "written" and set(free) == set(given) == {"template"}
    return Scene(
        faults=[
            Fault(
                "the AI model was retired", "failed-generations", ("use_fallback_model",), lambda: _writes(generator)
            ),
            Fault(
                f"{LOST} users got a template for an answer",
                "failed-generations",
                ("requeue_generation",),
                lambda: sorted(generator.written[1:]) == lost,
            ),
        ],
        lookalikes=[
            Lookalike("a generation that got over a burst of rate limits", lambda: _once(ai, "gen_rate_limited")),
            Lookalike(f"{LOST} templates by design, without credits", lambda: not _queued(ai, "gen_free")),
        ],
        close=generator.close,
    )


def _writes(generator: Generator) -> bool:
    return generator.ai.flag.read_text() == SPARE


def _once(ai: OpenAIServer, name: str) -> bool:
    return not _queued(ai, name)


def _queued(ai: OpenAIServer, name: str) -> bool:
    return name in ai.queue.read_text()
