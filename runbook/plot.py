"""Trends as one small SVG: a panel for each reading, drawn to be read at a glance on Prefect's dark and light pages."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType

Samples = Sequence[tuple[int, float]]
"""(Unix ms, value), oldest first."""

WIDTH, HEIGHT, COLUMNS, PAD = 300, 110, 3, 14
TOP, BOTTOM = 44, 12
POINTS = 120


def trends(panels: Mapping[str, Samples], marks: Mapping[str, int] = MappingProxyType({})) -> str:
    """An SVG with one panel a reading, titled by its name, with its last value and its range; no panel, no drawing.

    ``marks`` are moments (Unix ms) by what happened then: a dashed line in every panel that has samples around it.
    """
    rows = -(-len(panels) // COLUMNS)
    width, height = WIDTH * min(len(panels), COLUMNS), HEIGHT * rows
    drawn = [_panel(at, name, samples, marks) for at, (name, samples) in enumerate(panels.items())]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">{"".join(drawn)}</svg>'
    )


def as_image(svg: str) -> str:
    """The drawing as a Markdown image that needs no server of its own."""
    return f"![trends](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _panel(at: int, name: str, samples: Samples, marks: Mapping[str, int]) -> str:
    x, y = at % COLUMNS * WIDTH, at // COLUMNS * HEIGHT
    low, high = min(value for _at, value in samples), max(value for _at, value in samples)
    last = f'x="{WIDTH - PAD}" y="24" font-size="14" fill="#38a169" text-anchor="end"'
    return (
        f'<g transform="translate({x},{y})">'
        f'<rect x="4" y="4" width="{WIDTH - 8}" height="{HEIGHT - 8}" rx="6" fill="#8881" stroke="#8886"/>'
        f'<text x="{PAD}" y="22" font-size="12" fill="#888">{escape(name)}</text>'
        f'<text x="{PAD}" y="38" font-size="10" fill="#888">{_short(low)} to {_short(high)}</text>'
        f"<text {last}>{_short(samples[-1][1])}</text>"
        f"{''.join(_mark(samples, what, moment) for what, moment in marks.items())}"
        f'<polyline points="{_line(_thin(samples), low, high)}" fill="none" stroke="#38a169" stroke-width="2"/></g>'
    )


def _mark(samples: Samples, what: str, moment: int) -> str:
    first, last = samples[0][0], samples[-1][0]
    if not first <= moment <= last or first == last:
        return ""
    x = PAD + (moment - first) / (last - first) * (WIDTH - 2 * PAD)
    line = (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e53e3e" stroke-dasharray="3 3"/>'
    )
    return f'{line}<text x="{x + 2:.1f}" y="{HEIGHT - 6}" font-size="8" fill="#e53e3e">{escape(what)}</text>'


def _line(samples: Samples, low: float, high: float) -> str:
    first, last = samples[0][0], samples[-1][0]
    wide, tall = WIDTH - 2 * PAD, HEIGHT - TOP - BOTTOM - 4

    def point(at: int, value: float) -> str:
        right = (at - first) / (last - first) if last > first else 1.0
        up = (value - low) / (high - low) if high > low else 0.5
        return f"{PAD + right * wide:.1f},{TOP + (1 - up) * tall:.1f}"

    # One sample is a dot's worth of line, so that it is seen at all.
    return " ".join([point(*one) for one in samples] if last > first else [f"{PAD},70", point(*samples[0])])


def _thin(samples: Samples) -> Samples:
    """At most ``POINTS`` samples: the highest of each stretch, so that no spike is lost."""
    step = -(-len(samples) // POINTS)
    return [max(samples[i : i + step], key=lambda one: one[1]) for i in range(0, len(samples), step)]


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 10_000 else f"{value:,.0f}"
