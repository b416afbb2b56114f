"""``make gameday``: three compound incidents on one stack, unattended, in auto mode under licence.

Nobody approves anything and nobody answers a page. What is looked at afterwards is the world, the ledger, and what
PagerDuty and Slack were told; docs/gameday.md and the drafts of the postmortems beside it are written.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from demo.gameday_faults import EXERCISES, SPARE_KEY, Exercise
from demo.paging_servers import PagerDuty, Slack
from demo.prefect_api import Api
from demo.prefect_server import ROOT
from demo.scene import Scene
from demo.stack import HOOKS_TOKEN, Say, Stack
from deployments import drilling
from runbook import incidents, licence, outbox, postmortem, story
from runbook.burst import Incident
from runbook.ledger import Ledger, now_ms

LICENCES = ROOT / ".demo" / "licences.db"
SHOWN = ROOT / "docs" / "gameday"
ROUNDS = 8
ROUND_SECONDS = 420
PHASES = ("found", "told", "judged", "acted", "mended", "resolved", "closed")
SECTIONS = ("## Impact", "## Timeline", "## Detection", "## What was tried", "## Contributing causes", "## Actions")
ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})


class Night(Stack):
    """The demo's stack, on which nothing acts alone without a licence; the spare model has an account of its own."""

    def env(self) -> dict[str, str]:
        """As the demo's."""
        return super().env() | {"RUNBOOK_LICENCE_DAYS": "30", "RUNBOOK_AI_FALLBACK_API_KEY": SPARE_KEY}


@dataclass(frozen=True)
class Played:
    """What became of one exercise: seconds from the break by phase, what is wrong with it, and the draft."""

    exercise: Exercise
    phases: dict[str, float]
    problems: Sequence[str]
    pages: int
    fixes: int
    draft: str


def licensed(say: Say, folder: Path) -> None:
    """Licences for every runbook that is needed, by a drill of each where this code was never drilled."""
    LICENCES.parent.mkdir(exist_ok=True)
    book = Ledger(f"sqlite:///{LICENCES}")
    for name in dict.fromkeys(name for one in EXERCISES for name in one.runbooks):
        if not licence.standing(book, name).valid:
            say(f"  {drilling.as_text(drilling.drill(book, name))}")
    book.engine.dispose()
    with sqlite3.connect(LICENCES) as kept, sqlite3.connect(folder / "ledger.db") as copy:
        kept.backup(copy)


def gameday(say: Say, show: Any) -> int:
    """Play all three; 0 when each ended resolved, told once, and with a complete draft."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="runbook-demo-", ignore_cleanup_errors=True) as made:
        say("Licences: a drill of each runbook that has none for this code")
        licensed(say, Path(made))
        say("Starting a stack of its own on free loopback ports")
        with Night(say, Path(made), events=True) as night:
            Api(night.prefect.url).pause_schedules()
            played = [play(night, one) for one in EXERCISES]
    table = as_table(played)
    show(table)
    for one in played:
        for problem in one.problems:
            say(f"{one.exercise.name}: {problem}")
    write(played)
    good = not any(one.problems for one in played)
    say(f"{'Each ended resolved, told once' if good else 'NOT all is well'} · {time.monotonic() - began:.0f} s in all")
    return 0 if good else 1


# -- one exercise -----------------------------------------------------------------------------------------------------


def play(night: Stack, exercise: Exercise) -> Played:
    """Break, let one alert come in and the sweep come round, and go on as the schedules would until it is closed."""
    api, book = Api(night.prefect.url), Ledger(night.env()["RUNBOOK_LEDGER_URL"])
    with night.step(f"breaking: {exercise.title}"):
        first, scene = now_ms(), exercise.breaks(night)
    began = now_ms()
    try:
        alert(night)
        api.start("health-sweep", mode="auto")
        for number in range(ROUNDS):
            with night.step(f"round {number + 1}, unattended"):
                idle(night, api)
            exercise.later(night)
            if not left(book, first):
                break
            for name in again(book, first):
                api.start(name, mode="auto")
            api.start("site-down", mode="auto", follow_up=True)
        api.start(
            "site-down", mode="auto", follow_up=True
        )  # its schedule comes round once more, and tells what is over
        idle(night, api)
        return judge(night, exercise, scene, book, first, began)
    finally:
        scene.close()


def alert(night: Stack) -> None:
    """What a monitor outside would send: one alert that names the emergency, as a webhook."""
    labels = {"alertname": "probe failed", "runbook": "site-down"}
    body = json.dumps({"alerts": [{"status": "firing", "labels": labels, "startsAt": str(uuid.uuid4())}]}).encode()
    headers = {"Authorization": f"Bearer {HOOKS_TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{night.hooks_url}/hooks/alertmanager", body, headers)
    urllib.request.urlopen(request, timeout=10)


def idle(night: Stack, api: Api) -> None:
    """Return when Prefect runs nothing any more; raise when something hangs."""
    ends, quiet = time.monotonic() + ROUND_SECONDS, 0
    while quiet < 3:
        night.prefect.check()
        runs = api.call("POST", "/flow_runs/filter", {"flow_runs": {"state": {"type": {"not_any_": sorted(ENDED)}}}})
        quiet = 0 if runs else quiet + 1
        if time.monotonic() > ends:
            raise RuntimeError(f"{len(runs)} runs do not end; see {night.folder}/*.log")
        time.sleep(1)


def mine(book: Ledger, since_ms: int) -> list[Incident]:
    """The incidents opened since then."""
    return [one for one in incidents.every(book, since_ms) if one.opened_at_ms >= since_ms]


def left(book: Ledger, since_ms: int) -> bool:
    """True while one of them is open, or none was opened yet."""
    found = mine(book, since_ms)
    return not found or any(one.state == "open" for one in found)


def again(book: Ledger, since_ms: int) -> list[str]:
    """The runbooks whose schedules come round while something of theirs is open."""
    sick = {key.partition(":")[0] for one in mine(book, since_ms) for key in one.sick}
    paged = {one.source for one in outbox.pages(book) if not one.resolved_at_ms}
    return sorted((sick | paged) - {"site-down"})


# -- what came of it --------------------------------------------------------------------------------------------------


def judge(night: Stack, exercise: Exercise, scene: Scene, book: Ledger, first: int, began: int) -> Played:
    """The world, the incident, its draft, and what people were told."""
    found, pages = mine(book, first), [one for one in outbox.pages(book, first) if one.opened_at_ms >= first]
    problems = [f"not mended: {one.name}" for one in scene.faults if not one.mended()]
    problems += [f"touched: {one.name}" for one in scene.lookalikes if not one.untouched()]
    problems += [f"{one.id} is open: {', '.join(one.sick) or 'its pages'}" for one in found if one.state == "open"]
    problems += paging(night, pages)
    if len(found) != 1:
        return Played(exercise, {}, [*problems, f"{len(found)} incidents and not one"], len(pages), 0, "")
    told = story.gather(book, found[0].id)
    draft = postmortem.page(told, drawn=False)
    problems += [f"the draft has no {one[3:]}" for one in SECTIONS if one not in draft]
    problems += [] if "helped: proven" in draft else ["the draft names nothing that helped"]
    fixes = sum(one.state.value == "proven" for one in told.tried)
    return Played(exercise, phases(told, began), problems, len(pages), fixes, draft)


def phases(told: story.Story, began: int) -> dict[str, float]:
    """When each phase was reached, in seconds from the moment all was broken."""
    one = told.incident
    at = {
        "found": [one.opened_at_ms],
        "told": [page.first_told_ms for page in told.pages if page.first_told_ms][:1],
        "judged": [note.at_ms for note in told.notes][:1],
        "acted": sorted(fix.at["intended"] for fix in told.tried if "intended" in fix.at)[:1],
        "mended": sorted((fix.at["proven"] for fix in told.tried if "proven" in fix.at), reverse=True)[:1],
        "resolved": sorted((page.resolved_at_ms or 0 for page in told.pages), reverse=True)[:1],
        "closed": [one.closed_at_ms] if one.closed_at_ms else [],
    }
    return {name: (moments[0] - began) / 1000 for name, moments in at.items() if moments}


def paging(night: Stack, pages: Sequence[outbox.Page]) -> list[str]:
    """Nothing paged twice, nothing unpaged, and no page left open anywhere."""
    pagerduty, slack = night.standin(PagerDuty), night.standin(Slack)
    problems = [] if pages else ["nobody was paged"]
    for one in pages:
        for channel in ("pagerduty", "slack"):
            level = one.sent.get(channel, {}).get("level", 0)
            problems += [] if level == 1 else [f"{one.key} was told {level} times to {channel}"]
    problems += [f"PagerDuty still has {key} open" for key in pagerduty.incidents]
    opened = Counter(pagerduty.opened)
    problems += [f"PagerDuty opened {key} {count} times" for key, count in opened.items() if count > 1]
    said = Counter(re.findall(r"`runbook ack (\S+)`", slack.text))
    problems += [f"Slack was told of {key} {count} times" for key, count in said.items() if count > 1]
    for standin in (pagerduty, slack):
        standin.messages.clear()
    pagerduty.opened.clear()
    return problems


def as_table(played: Sequence[Played]) -> Table:
    """The game day on one screen."""
    table = Table(title="Game day: seconds from the break", title_justify="left")
    for column in ("incident", *PHASES, "fixes", "pages", "ended"):
        table.add_column(column)
    for one in played:
        table.add_row(*cells(one))
    return table


def cells(one: Played) -> list[str]:
    """One line of it."""
    reached = [f"{one.phases[name]:.1f}" if name in one.phases else "-" for name in PHASES]
    return [one.exercise.title, *reached, str(one.fixes), str(one.pages), "NOT WELL" if one.problems else "resolved"]


def write(played: Sequence[Played]) -> None:
    """docs/gameday.md, and the draft of each postmortem beside it, without paths of this machine."""
    SHOWN.mkdir(exist_ok=True)
    lines = ["# A game day", "", "Written by `make gameday`: three compound incidents, unattended, in auto mode under"]
    lines += [
        "licence. Seconds from the moment everything was broken; `judged` is the verdict on the whole, `resolved`"
    ]
    lines += ["the end of the last page, `closed` the end of the incident.", ""]
    lines += ["| incident | " + " | ".join(PHASES) + " | fixes | pages | ended |", f"|---|{'---|' * (len(PHASES) + 3)}"]
    for one in played:
        title, *rest = cells(one)
        lines.append(f"| [{title}](gameday/{one.exercise.name}.md) | {' | '.join(rest)} |")
        draft = re.sub(rf"{re.escape(tempfile.gettempdir())}/[\w.-]+", "…", one.draft)
        (SHOWN / f"{one.exercise.name}.md").write_text(draft, "utf-8")
    lines += ["", f"On {os.cpu_count()} cores, with PostgreSQL, Prefect, every stand-in and the app on them."]
    SHOWN.with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")
