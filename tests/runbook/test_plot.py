"""The drawing of trends: well-formed for every series, and no spike lost."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import pytest

from runbook.plot import POINTS, Samples, as_image, trends

LONG = [(i * 60_000, 1.0) for i in range(5_000)]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "samples",
    [[(0, 1.0)], [(0, 0.0), (0, 5.0)], [(0, 3.0), (60_000, 3.0)], [(0, -1e9), (60_000, 1e12)], LONG],
    ids=["one", "one moment", "flat", "huge", "long"],
)
def test_every_series_is_a_panel_inside_its_bounds(samples: Samples) -> None:
    drawn = ElementTree.fromstring(trends({"pool_used_share": samples, "<drift & rows>": samples}))
    lines = drawn.findall(f".//{SVG}polyline")
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert 1 <= len(points) <= POINTS + 1
        assert all(0 <= x <= 300 and 0 <= y <= 110 for x, y in points)


def test_a_spike_among_thousands_is_drawn() -> None:
    spiked = [*LONG[:2_500], (LONG[2_500][0], 9.0), *LONG[2_501:]]
    drawn = ElementTree.fromstring(trends({"a": spiked}))
    line = drawn.find(f".//{SVG}polyline")
    assert line is not None
    heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
    assert min(heights) < max(heights)


def test_the_image_needs_no_server() -> None:
    text = as_image(trends({"a": [(0, 1.0)]}))
    assert text.startswith("![trends](data:image/svg+xml;base64,")
    ElementTree.fromstring(base64.b64decode(text.split(",", 1)[1].rstrip(")")))
