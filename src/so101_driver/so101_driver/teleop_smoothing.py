"""Takes the encoders' grain out of a hand's motion without making it late."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from so101_driver.teleop_types import Array

FLICKER_TICKS = 1.0
"""A tenth of a degree of play, within which a joint of the leader counts as still."""

MEMORY_S = 0.046
"""How quickly older readings lose their weight; 0.65 from one to the next at 50 Hz."""

LONGEST_GAP_S = 0.2
"""After a longer one the motion before tells nothing."""


class Play:
    """Follows ticks only as far as they leave a play of one tick.

    Encoders flicker by a tick, which a follower would hum with: a still hand gives still targets.
    """

    def __init__(self) -> None:
        self._ticks: NDArray[np.float64] | None = None

    def update(self, ticks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take a reading."""
        if self._ticks is not None:
            ticks = np.clip(self._ticks, ticks - FLICKER_TICKS, ticks + FLICKER_TICKS)
        self._ticks = ticks
        return ticks


class HandFilter:
    """Fits a straight motion to the past, older readings counting less and less.

    A hand at constant speed is followed without lag; behind one that accelerates it is, at
    50 Hz, 1.3 mrad per rad/s².
    """

    def __init__(self) -> None:
        self._position_rad: Array | None = None
        self._velocity_rad_s: Array = np.zeros(0)
        self._stamp_ns = 0

    def update(self, position_rad: Array, stamp_ns: int) -> Array:
        """Take a reading; returns where the hand is."""
        step_s = (stamp_ns - self._stamp_ns) * 1e-9
        self._stamp_ns = stamp_ns
        last = self._position_rad
        if last is None or not 0.0 < step_s <= LONGEST_GAP_S:
            self._position_rad, self._velocity_rad_s = position_rad, np.zeros_like(position_rad)
            return position_rad
        kept = math.exp(-step_s / MEMORY_S)
        expected = last + self._velocity_rad_s * step_s
        surprise = position_rad - expected
        self._position_rad = expected + (1.0 - kept**2) * surprise
        self._velocity_rad_s = self._velocity_rad_s + (1.0 - kept) ** 2 / step_s * surprise
        return self._position_rad
