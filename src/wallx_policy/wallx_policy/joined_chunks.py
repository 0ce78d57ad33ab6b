"""Where the arm will be told to be: the chunks that were sent, joined as safety joins them.

A new chunk does not take over at once: it fades in over the ones before, the longer the further
they are apart. So what comes after a chunk was sent is for some tenths of a second neither the one
nor the other. This repeats what ``so101_driver.safety.blending`` does with its default settings,
without the smoothing of chunks and without the limits on the result.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline

Array = NDArray[np.float64]
Times = NDArray[np.int64]

CHUNKS_KEPT = 8
"""More than ever fade into each other."""
JOIN_SHARE = 0.2
"""Of the limits on acceleration and jerk, for fading."""
LONGEST_JOIN_S = 0.5
FADE_ACCELERATION, FADE_JERK = 5.78, 60.0
"""Largest second and third derivative of the fading weight over a unit of time."""
SETTLED = 0.12
"""How far a chunk must have faded in before the next may begin."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedChunk:
    """A chunk with the time at which its points are executed.

    Attributes:
        due_ns: When row 0 is executed, ROS time.
        period_s: Time between two rows.
        positions_rad: [rows, 6].
    """

    due_ns: int
    period_s: float
    positions_rad: Array

    @property
    def end_ns(self) -> int:
        """When the last row is executed."""
        return self.row_ns(len(self.positions_rad) - 1)

    def row_ns(self, row: int) -> int:
        """When a row is executed."""
        return self.due_ns + round(row * self.period_s * 1e9)

    def covers(self, times_ns: Times) -> NDArray[np.bool_]:
        """Whether times lie between the first row and the last."""
        return (times_ns >= self.due_ns) & (times_ns <= self.end_ns)

    def at(self, times_ns: Times) -> Array:
        """Return positions [times, 6], before and after the chunk its ends.

        A cubic through all rows, with the mean of the neighbouring slopes in each.
        """
        rows = len(self.positions_rad)
        if rows == 1:
            return np.repeat(self.positions_rad, len(times_ns), axis=0)
        steps = np.arange(rows, dtype=np.float64)
        wanted = np.clip((times_ns - self.due_ns) * 1e-9 / self.period_s, 0.0, steps[-1])
        slopes = np.gradient(self.positions_rad, axis=0)
        return CubicHermiteSpline(steps, self.positions_rad, slopes)(wanted)


@dataclass(frozen=True, slots=True)
class JoinSettings:
    """Of the safety node; the defaults are those of its parameters and its ``cautious`` profile.

    Attributes:
        join_s: Shortest time over which a chunk fades in.
        acceleration_rad_s2: Limit of the slowest joint.
        jerk_rad_s3: Limit of the slowest joint.
    """

    join_s: float = 0.1
    acceleration_rad_s2: float = 8.0
    jerk_rad_s3: float = 100.0

    def duration_s(self, gap_rad: float) -> float:
        """Return how long a chunk fades in that is so far from what it replaces."""
        by_acceleration = math.sqrt(
            FADE_ACCELERATION * gap_rad / (JOIN_SHARE * self.acceleration_rad_s2)
        )
        by_jerk = math.cbrt(FADE_JERK * gap_rad / (JOIN_SHARE * self.jerk_rad_s3))
        return max(self.join_s, min(max(by_acceleration, by_jerk), LONGEST_JOIN_S))


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    chunk: TimedChunk
    takes_ns: int
    join_s: float


class JoinedChunks:
    """The newest chunks and how each fades in over those before it."""

    def __init__(self, settings: JoinSettings | None = None) -> None:
        self._settings = settings if settings is not None else JoinSettings()
        self._layers: deque[_Layer] = deque(maxlen=CHUNKS_KEPT)

    @property
    def newest(self) -> TimedChunk | None:
        """The chunk that was added last."""
        return self._layers[-1].chunk if self._layers else None

    def clear(self) -> None:
        """Forget all chunks."""
        self._layers.clear()

    def add(self, chunk: TimedChunk, arrival_ns: int, committed: int) -> None:
        """Let a chunk take over when it arrives, or at the last of its committed rows.

        One that is not newer than the last begins anew: the clock was set back.
        """
        if self._layers and chunk.due_ns <= self._layers[-1].chunk.due_ns:
            self._layers.clear()
        takes_ns, join_s = arrival_ns, self._settings.join_s
        if committed:
            takes_ns = max(takes_ns, chunk.row_ns(committed - 1))
        if self._layers:
            last = self._layers[-1]
            takes_ns = max(takes_ns, last.takes_ns + round(SETTLED * last.join_s * 1e9))
            compared_ns = np.array([takes_ns, takes_ns + round(join_s * 1e9)])
            gap_rad = np.abs(chunk.at(compared_ns) - self.at(compared_ns)).max()
            join_s = self._settings.duration_s(float(gap_rad))
        self._layers.append(_Layer(chunk, takes_ns, join_s))

    def at(self, times_ns: Times) -> Array:
        """Return positions [times, 6]; there must be a chunk."""
        positions = self._layers[0].chunk.at(times_ns)
        for layer in list(self._layers)[1:]:
            share = (times_ns - layer.takes_ns) * 1e-9 / layer.join_s
            weight = _fade(np.clip(share, 0.0, 1.0))[:, None]
            positions = positions + weight * (layer.chunk.at(times_ns) - positions)
        return positions

    def bounds(self, times_ns: Times) -> tuple[Array, Array]:
        """Return the least and the most of all chunks in force; infinite where there is none."""
        lower = np.full((len(times_ns), 6), math.inf)
        upper = np.full((len(times_ns), 6), -math.inf)
        for number, layer in enumerate(self._layers):
            inside = layer.chunk.covers(times_ns)
            if number:
                inside &= times_ns >= layer.takes_ns
            wanted = layer.chunk.at(times_ns[inside])
            lower[inside] = np.minimum(lower[inside], wanted)
            upper[inside] = np.maximum(upper[inside], wanted)
        return lower, upper


def _fade(progress: Array) -> Array:
    """Rise from 0 to 1 with zero first and second derivative at both ends."""
    return progress**3 * (10.0 + progress * (6.0 * progress - 15.0))
