"""Whether memory leaks: the trend of the low points that garbage collection leaves behind. Pure.

Theil-Sen (the median of all pairwise slopes) is not moved by spikes; see H. Theil 1950, P. K. Sen 1968.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median

from runbook.model import Frozen

Samples = Sequence[tuple[int, float]]
"""(Unix ms, bytes), oldest first."""

GROUP = 3
"""Low points are the lowest of this many samples in a row, or of a tenth of all where that is more."""

RISING = 0.8
PACE = 0.6
GROWN = 0.01


class Trend(Frozen):
    """How a series went.

    ``slope`` is its end's, in bytes a second; ``rising`` the share of all pairs of low points that rise; ``pace`` the
    later half's slope over the earlier half's (1 = straight, towards 0 = it flattens); ``grown`` in bytes.
    """

    slope: float
    rising: float
    pace: float
    grown: float
    samples: int
    seconds: float

    def leaks(self, limit: int) -> bool:
        """True for steady growth that matters beside ``limit`` and does not flatten, as a warming cache's does."""
        return self.slope > 0 and self.rising >= RISING and self.pace >= PACE and self.grown >= GROWN * limit


def low_points(samples: Samples) -> Samples:
    """The lowest of each group of samples; the oldest that fill no group are left out."""
    size = max(GROUP, len(samples) // 10)
    spare = len(samples) % size
    groups = [samples[at : at + size] for at in range(spare, len(samples), size)]
    return [min(group, key=lambda one: one[1]) for group in groups]


def theil_sen(points: Samples) -> float:
    """The median slope, in units of value a second; 0 where no two points lie apart in time."""
    slopes = [(b - a) * 1000 / (later - at) for (at, a), (later, b) in combinations(points, 2) if later > at]
    return median(slopes) if slopes else 0.0


def trend(samples: Samples, min_samples: int, min_seconds: float) -> Trend | None:
    """The trend of one process's memory; None while there are too few samples or they span too little time."""
    seconds = (samples[-1][0] - samples[0][0]) / 1000 if samples else 0.0
    if len(samples) < max(min_samples, 2 * GROUP) or seconds < min_seconds:
        return None
    points = low_points(samples)
    half = len(points) // 2
    early, late, whole = theil_sen(points[: half + 1]), theil_sen(points[-half - 1 :]), theil_sen(points)
    pairs = list(combinations((value for _at, value in points), 2))
    return Trend(
        slope=late,
        rising=sum(b > a for a, b in pairs) / len(pairs),
        pace=late / early if early > 0 else float(late > 0),
        grown=whole * seconds,
        samples=len(samples),
        seconds=seconds,
    )
