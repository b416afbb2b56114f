"""The app's memory drawn: each process over the last windows, and where a leak goes on from here. Pure."""

from __future__ import annotations

from runbook import plot
from tasks.pressure import MB, Marks, Reading


def trend_page(seen: Reading, at: Marks, now_ms: int) -> str:
    """One page of Markdown: each process in a line, each series in a panel, each leak up to its limit."""
    lines, panels, leaks = ["# Memory of the app", ""], dict[str, plot.Samples](), seen.leaks(at)
    for one in seen.processes:
        samples = seen.grown.get(one.id, ())
        if samples:
            panels[f"pid {one.pid}, MB"] = [(moment, value / MB) for moment, value in samples]
        if one.id not in leaks:
            lines.append(f"- pid {one.pid} holds {one.rss // MB} MB; no leak shows in {len(samples)} samples")
            continue
        left, bound = seen.minutes_left(one, leaks)
        ahead = (now_ms, bound.used / MB), (now_ms + round(left * 60_000), bound.limit / MB)
        panels[f"{bound.name}, to its limit"] = ahead
        lines.append(f"- {seen.said(one, at)}")
    drawn = ["", plot.as_image(plot.trends(panels))] if panels else []
    return "\n".join([*lines, *drawn])
