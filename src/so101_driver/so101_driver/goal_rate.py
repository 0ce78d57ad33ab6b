"""How far goals may move at once: by the time since the last one, and no further."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PERIOD_S = 0.01
"""Nominal time between commands."""
CREDIT_S = 0.03
"""How much late commands may catch up at once, as seconds of motion at full speed."""
SPEED_HEADROOM = 1.05
"""So that a trajectory at exactly the speed limit is not cut by jitter and rounding."""


class GoalRate:
    """Bounds the steps from goal to goal; refusing them would freeze the arm after a lost message.

    Args:
        max_speed_rad_s: Per joint.
    """

    def __init__(self, max_speed_rad_s: Array) -> None:
        self._speed = max_speed_rad_s * SPEED_HEADROOM
        self._credit_s = np.zeros(len(max_speed_rad_s))

    def step(self, goal_rad: Array, wanted_rad: Array, elapsed_s: float | None) -> Array:
        """Return the reachable goal: ``wanted_rad`` itself where it is.

        ``elapsed_s`` is the time since the last one, None after a pause.
        """
        if elapsed_s is None:
            self._credit_s[:] = PERIOD_S
        else:
            np.minimum(self._credit_s + elapsed_s, CREDIT_S, out=self._credit_s)
        step = wanted_rad - goal_rad
        largest = self._speed * self._credit_s
        reachable = wanted_rad
        if (np.abs(step) > largest).any():
            step = np.clip(step, -largest, largest)
            reachable = goal_rad + step
        self._credit_s -= np.abs(step) / self._speed
        return reachable
