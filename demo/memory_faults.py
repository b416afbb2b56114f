"""A real Node process that leaks, one that only warms up, and one that leaks as well and is not the app's."""

from __future__ import annotations

from demo.memory_fleet import Fleet
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack


def break_memory(stack: Stack) -> Scene:
    """Set off the leak and its look-alikes; nothing where there is no Node on this machine."""
    fleet = stack.standin(Fleet)
    if not fleet.there:
        stack.say("  - node is not on this machine: no leak is shown")
        return Scene(faults=(), lookalikes=())
    leaky, warm = fleet.instances
    sick, warming, stranger = leaky.pid, warm.pid, fleet.stranger.pid
    leaky.ask("/leak")
    warm.ask("/warm")
    fleet.stranger.ask("/leak")
    return Scene(
        faults=[
            Fault(
                "a Node process that leaks a MB a second",
                "memory-pressure",
                ("restart_instance",),
                lambda: leaky.pid != sick and leaky.answers(),
            )
        ],
        lookalikes=[
            Lookalike("a Node process that only warms up", lambda: warm.pid == warming and warm.answers()),
            Lookalike("a leaking process that is not the app's", lambda: fleet.stranger.pid == stranger),
        ],
    )
