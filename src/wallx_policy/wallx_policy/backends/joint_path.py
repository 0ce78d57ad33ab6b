"""A joint path through time that can be extended but not changed in hindsight.

Chunks from successive observations overlap. Because the path before a new segment's start stays as
it is, what they say about the same moment agrees, whatever the latency.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

PEAK_VELOCITY = 1.875
PEAK_ACCELERATION = 5.7735
PEAK_JERK = 60.0
"""Of the minimum-jerk profile from 0 to 1 in unit time."""
SEGMENTS_KEPT = 8
SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no joint exceeds while it moves along a segment."""

    velocity_rad_s: float
    acceleration_rad_s2: float
    jerk_rad_s3: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Motion through knots with a minimum-jerk profile, at rest at both ends."""

    start_ns: int
    duration_s: float
    curve: CubicSpline

    @classmethod
    def through(
        cls, knots_rad: Sequence[NDArray[np.float64]], start_ns: int, bounds: Bounds
    ) -> Segment:
        """Return such a motion that keeps the bounds; jerk only as far as the line is straight."""
        knots = np.array(knots_rad)
        curve = CubicSpline(np.linspace(0.0, 1.0, len(knots)), knots, bc_type="natural")
        share = np.linspace(0.0, 1.0, 33)
        slope = float(np.abs(curve(share, 1)).max())
        bend = float(np.abs(curve(share, 2)).max())
        # The two parts of the acceleration peak at different moments; their sum is a bound.
        acceleration = PEAK_ACCELERATION * slope + PEAK_VELOCITY**2 * bend
        duration_s = max(
            PEAK_VELOCITY * slope / bounds.velocity_rad_s,
            math.sqrt(acceleration / bounds.acceleration_rad_s2),
            math.cbrt(PEAK_JERK * slope / bounds.jerk_rad_s3),
            SHORTEST_S,
        )
        return cls(start_ns, duration_s, curve)

    @property
    def end_ns(self) -> int:
        """Time at which the motion comes to rest."""
        return self.start_ns + round(self.duration_s * 1e9)

    def at(self, time_ns: int) -> NDArray[np.float64]:
        """Return the position at a time; before and after, the first or last knot."""
        share = min(max((time_ns - self.start_ns) * 1e-9 / self.duration_s, 0.0), 1.0)
        return self.curve(share**3 * (10.0 - 15.0 * share + 6.0 * share**2))


class JointPath:
    """Segments one after the other; holds where the last one ends."""

    def __init__(self, pose_rad: NDArray[np.float64]) -> None:
        self._rest = np.array(pose_rad, dtype=np.float64)
        self._segments: deque[Segment] = deque(maxlen=SEGMENTS_KEPT)

    @property
    def end_ns(self) -> int | None:
        """When the path comes to rest; None while it has no segment."""
        return self._segments[-1].end_ns if self._segments else None

    @property
    def end_rad(self) -> NDArray[np.float64]:
        """Where the path comes to rest."""
        return self._segments[-1].curve(1.0) if self._segments else self._rest

    def append(self, segment: Segment) -> None:
        """Add a segment that starts where and not before the path comes to rest."""
        if self.end_ns is not None and segment.start_ns < self.end_ns:
            raise ValueError("a segment may not start before the one ahead of it has ended")
        self._segments.append(segment)

    def at(self, time_ns: int) -> NDArray[np.float64]:
        """Return the position at a time."""
        for segment in reversed(self._segments):
            if segment.start_ns <= time_ns:
                return segment.at(time_ns)
        return self._segments[0].at(time_ns) if self._segments else self._rest
