"""A bad deployment in the demo, and what only looks like a reason to do more than point production back."""

from __future__ import annotations

import urllib.error
import urllib.request

from demo.deploy_server import BAD, GOOD, Vercel
from demo.scene import Fault, Lookalike, Scene
from demo.stack import Stack
from demo.status_page_server import StatusPages


def break_site(stack: Stack) -> Scene:
    """Right before the first error a deployment went live whose pages fail; a vendor's status page is red elsewhere."""
    vercel, pages = stack.standin(Vercel), stack.standin(StatusPages)
    stack.app.hosting = vercel
    vercel.deploy(BAD, minutes_ago=6, bad=True, about="faster start page")
    pages.vendor_incident("stripe", "minor", "Delayed payouts in Norway")
    for _ in range(6):
        status(stack.app.url)
    return Scene(
        faults=[
            Fault(
                "a deployment whose pages answer 500",
                "site-down",
                ("roll_back",),
                lambda: vercel.live == GOOD and status(stack.app.url) == 200,
            )
        ],
        lookalikes=[
            Lookalike("production, pointed once and no further", lambda: vercel.moves == [("rollback", GOOD)]),
            Lookalike("the public status page, without a person", lambda: pages.shown["statuspage"] == []),
            Lookalike("the maintenance switch", lambda: vercel.maintenance.read_text() == "off"),
            Lookalike("the number of instances", lambda: vercel.instances.read_text() == "2"),
        ],
    )


def break_app(stack: Stack) -> Scene:
    """The app has too few instances, so that its proxy answers 502; no deployment and no vendor explains it."""
    vercel = stack.standin(Vercel)
    stack.app.hosting, vercel.needed = vercel, 3
    named = Fault(
        "an instance too few",
        "site-down",
        ("scale_app", "start_maintenance", "post_status"),
        lambda: vercel.instances.read_text() == "3",
    )
    return Scene([named], [Lookalike("production, which is not to blame", lambda: vercel.moves == [])])


def break_shut(stack: Stack) -> Scene:
    """As ``break_app``, to be looked at once it was mended: the app is still in maintenance and said to be down."""
    vercel, pages = stack.standin(Vercel), stack.standin(StatusPages)
    left = Fault(
        "maintenance and an open incident",
        "site-down",
        ("end_maintenance", "close_status"),
        lambda: status(stack.app.url) == 200 and pages.open_names() == [],
    )
    first = break_app(stack)
    return Scene([left], [*first.lookalikes, Lookalike("the instances", lambda: vercel.instances.read_text() == "3")])


def status(url: str) -> int:
    """What the page answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
