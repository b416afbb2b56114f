"""The draft of a postmortem, in Markdown, from what the ledger holds; a person completes it.

Every line of evidence names an id that ``runbook show`` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from runbook import plot
from runbook.ledger import Ledger
from runbook.mask import mask
from runbook.model import FixState
from runbook.story import Said, Story, Tried, gather, over_ms

ROWS = 120
SLOW_MS = 5 * 60_000
"""Slower than this to be found, or to be answered, is something to act on."""

DONE = frozenset({FixState.intended, FixState.applied, FixState.proven, FixState.failed, FixState.undone})
ENDS = ("proven", "failed", "undone", "applied", "intended")
VERDICTS = {
    FixState.proven: "helped: proven by a second reading",
    FixState.applied: "done, never proven",
    FixState.intended: "begun, outcome unknown",
    FixState.failed: "did not help",
    FixState.undone: "was taken back",
}


def draft(ledger: Ledger, id_: str) -> str:
    """The draft for one incident; raises ``BadSetting`` for an unknown id."""
    return page(gather(ledger, id_))


def page(story: Story, *, drawn: bool = True) -> str:
    """A story as a page; ``drawn`` adds the plot, which a terminal cannot show."""
    parts = [_head(story), "## Impact", *_impact(story), "", "## Timeline (UTC)", "", *timeline(story)]
    parts += ["", "## Detection", "", *detection(story), "", "## What was tried, and what helped", "", *tried(story)]
    parts += ["", "## Contributing causes", "", *causes(story)]
    if drawn and story.series:
        drawing = plot.trends(story.series, _marks(story))
        parts += ["", "## Readings", "", plot.as_image(drawing)]
    parts += ["", "## Actions", "", *(f"- [ ] **Owner: ____** {text}" for text in actions(story))]
    where = story.incident.postmortem
    parts += ["", f"Completed: {where}" if where else _unfinished(story)]
    return str(mask("\n".join(parts))) + "\n"


def _unfinished(story: Story) -> str:
    return (
        f"Draft, from the ledger. When it is complete: `runbook incident close {story.incident.id} --postmortem WHERE`"
    )


def _head(story: Story) -> str:
    one = story.incident
    end = over_ms(one)
    state = f"over {_full(end)}, after {span(end - one.opened_at_ms)}" if end else "not over"
    closed = f", closed by {one.closed_by}" if one.closed_by else ""
    return f"# Postmortem: {one.title}\n\nIncident `{one.id}` · opened {_full(one.opened_at_ms)} · {state}{closed}\n"


def _impact(story: Story) -> list[str]:
    seen, total = story.impact, sum(story.impact.errors.values())
    most = sorted(seen.errors.items(), key=lambda each: (-each[1], each[0]))[:5]
    lines = (
        [f"- Errors in the app's log: {total} ({', '.join(f'{name} {count}' for name, count in most)})"]
        if total
        else []
    )
    lines += [f"- Payments that failed, in the app's log: {seen.failed_payments}"] if seen.failed_payments else []
    lines += [f"- People in those lines: at least {seen.users}"] if seen.users else []
    targets = {one.target for one in story.tried if one.state in DONE}
    lines += [f"- Targets that were acted on: {len(targets)}"] if targets else []
    return ["", *(lines or ["No reading shows it: write down what people saw."])]


# -- the timeline -----------------------------------------------------------------------------------------------------


def timeline(story: Story) -> list[str]:
    """What happened, in order, each with the id that shows it; acts of one kind in one run are one line."""
    said = sorted(_said(story), key=lambda one: one.at_ms)
    rows = [f"| {_clock(one.at_ms)} | {_cell(one.text)} | {f'`{one.ref}`' if one.ref else ''} |" for one in said]
    if len(rows) > ROWS:
        left = f"| … | {len(rows) - ROWS} more: `runbook incident show {story.incident.id} --json` | |"
        rows = [*rows[: ROWS // 2], left, *rows[-ROWS // 2 :]]
    return ["| at | what | evidence |", "|---|---|---|", *rows]


def _said(story: Story) -> Iterable[Said]:
    yield from filter(None, [story.before and _told(story.before, "the last look that saw nothing wrong")])
    yield from filter(None, [story.first_sign and _told(story.first_sign, "the first sign")])
    for one in story.deployed:
        yield _told(one, "deployment")
    for found in story.found:
        yield Said(at_ms=found.at_ms, text=f"found: {found.runbook}: {found.subject}: {found.detail}", ref=found.run_id)
    yield from _acts(story.tried)
    yield from story.answers
    for note in story.notes:
        yield _told(note, "note")
    for page in story.pages:
        yield Said(at_ms=page.opened_at_ms, text=f"paged: {page.title}", ref=page.key)
        if page.first_told_ms:
            yield Said(at_ms=page.first_told_ms, text="the first channel had the page", ref=page.key)
        if page.acked_at_ms:
            yield Said(at_ms=page.acked_at_ms, text=f"acknowledged by {page.acked_by}", ref=page.key)
        if page.resolved_at_ms:
            yield Said(at_ms=page.resolved_at_ms, text="the page is over", ref=page.key)
    for key, symptom in story.incident.symptoms.items():
        if symptom.well_ms:
            yield Said(at_ms=symptom.well_ms, text=f"gone: {key}")
    if story.incident.closed_at_ms:
        yield Said(
            at_ms=story.incident.closed_at_ms, text=f"closed by {story.incident.closed_by}", ref=story.incident.id
        )


def _told(one: Said, what: str) -> Said:
    return one.model_copy(update={"text": f"{what}: {one.text}"})


def _acts(fixes: Sequence[Tried]) -> Iterable[Said]:
    groups: dict[tuple[str, str, str], list[Tried]] = {}
    for one in fixes:
        if one.state in DONE:
            groups.setdefault((one.run_id, one.action, one.state.value), []).append(one)
    for (_run, action, state), these in groups.items():
        first = these[0]
        more = f" and {len(these) - 1} more" if len(these) > 1 else ""
        begun, end = first.at.get("intended"), max(one.at.get(state, 0) for one in these)
        if begun:
            yield Said(at_ms=begun, text=f"begun: {action} {first.target}{more} ({first.why})", ref=first.id)
        if end and state != "intended":
            seen = f", seen: {first.seen}" if first.seen else ""
            yield Said(at_ms=end, text=f"{state}: {action} {first.target}{more}{seen}", ref=first.id)


# -- the sections -----------------------------------------------------------------------------------------------------


def detection(story: Story) -> list[str]:
    """How long it took to be seen, and then to be answered."""
    opened = story.incident.opened_at_ms
    lines = []
    if story.first_sign:
        sign = story.first_sign
        lines.append(
            f"- First sign: {sign.text} at {_clock(sign.at_ms)}, {span(opened - sign.at_ms)} before it was found."
        )
    if story.before:
        gap, ref = span(opened - story.before.at_ms), story.before.ref
        lines.append(f"- The last look that saw nothing wrong was {gap} before it (`{ref}`): it began in between.")
    else:
        lines.append("- No earlier look saw it well: when it began is not known.")
    acted = [one.at["intended"] for one in story.tried if "intended" in one.at]
    if acted:
        lines.append(f"- First act: {span(min(acted) - opened)} after it was found.")
    told = [one.first_told_ms for one in story.pages if one.first_told_ms]
    if told:
        lines.append(f"- First person told: {span(min(told) - opened)} after it was found.")
    elif story.pages:
        lines.append("- Paged, and no channel has taken the page.")
    acked = [one.acked_at_ms for one in story.pages if one.acked_at_ms]
    if acked:
        lines.append(f"- First answer by a person: {span(min(acked) - opened)} after it was found.")
    return lines


def tried(story: Story) -> list[str]:
    """Every kind of act with how it ended, what helped first; then what was refused and why."""
    order = [FixState(state) for state in ENDS]
    done = sorted((one for one in story.tried if one.state in DONE), key=lambda one: order.index(one.state))
    lines = [
        f"| {action} | {count} | {VERDICTS[FixState(state)]} | {_cell(seen)} | `{id_}` |"
        for (action, state), count, seen, id_ in _counted(
            [((one.action, one.state.value), one.seen, one.id) for one in done]
        )
    ]
    table = (
        ["| act | count | verdict | seen | evidence |", "|---|---|---|---|---|", *lines]
        if lines
        else ["Nothing was done."]
    )
    refused = [((one.action, one.why), "", one.id) for one in story.tried if one.state is FixState.refused]
    not_done = [
        f"- Not done: {action} × {count}: {why} (`{id_}`)" for (action, why), count, _, id_ in _counted(refused)
    ]
    return [*table, *([""] if not_done else []), *not_done]


def _counted(rows: Sequence[tuple[tuple[str, str], str, str]]) -> list[tuple[tuple[str, str], int, str, str]]:
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for what, seen, id_ in rows:
        groups.setdefault(what, []).append((seen, id_))
    return [(what, len(these), *these[0]) for what, these in groups.items()]


def causes(story: Story) -> list[str]:
    """What the evidence speaks for, in the order it was found; the why behind it is a person's to say."""
    lines = [f"- {one.text} at {_clock(one.at_ms)} (`{one.ref}`), shortly before or in it." for one in story.deployed]
    by_runbook: dict[str, list[str]] = {}
    for one in story.found:
        by_runbook.setdefault(one.runbook, []).append(f"{one.subject}: {one.detail} (`{one.run_id}`)")
    for name, told in by_runbook.items():
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        lines.append(f"- {name}: {'; '.join(told[:3])}{more}")
    return [*lines, "- Why it was possible at all: not in the ledger."]


def actions(story: Story) -> list[str]:
    """What is left to do, out of what did not go well; every owner is open."""
    opened, found = story.incident.opened_at_ms, list[str]()
    found += [f"Mend {key}: it is still there." for key in story.incident.sick]
    bad = {(one.action, VERDICTS[one.state]): one.id for one in story.tried if one.state in DONE - {FixState.proven}}
    found += [f"Find out why {action} {said} (`{id_}`)." for (action, said), id_ in bad.items()]
    waits = {one.action: one for one in story.tried if one.state is FixState.refused}
    found += [f"Decide on {action}, which was refused: {one.why} (`{one.id}`)." for action, one in waits.items()]
    late = opened - story.first_sign.at_ms if story.first_sign else 0
    if late > SLOW_MS:
        found.append(f"Find it sooner: it showed {span(late)} before it was found.")
    slow = [one for one in story.pages if (one.acked_at_ms or story.until_ms) - one.opened_at_ms > SLOW_MS]
    if slow:
        found.append(
            f"Look at who is paged how: {len(slow)} of {len(story.pages)} pages waited longer than {span(SLOW_MS)}."
        )
    return [*found, "Write down why it was possible, and what keeps it from coming back."]


def _marks(story: Story) -> dict[str, int]:
    acted = [one.at["intended"] for one in story.tried if "intended" in one.at]
    marks = {"found": story.incident.opened_at_ms}
    marks |= {"acted": min(acted)} if acted else {}
    end = over_ms(story.incident)
    return marks | ({"over": end} if end else {})


def span(ms: int) -> str:
    """A span of time as a person says it."""
    seconds = round(ms / 1000)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%m-%d %H:%M:%S")


def _full(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]
