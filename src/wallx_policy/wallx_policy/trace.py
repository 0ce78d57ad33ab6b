"""What the arm is about to do and has done, as lines of the tip in the base frame."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from so101_driver.kinematics import Kinematics

Array = NDArray[np.float64]

NEAR_COLOUR = np.array([1.0, 0.85, 0.1, 1.0])
FAR_COLOUR = np.array([0.2, 0.25, 0.9, 0.4])
CHUNK_SHOWN_S = 1.0
"""A chunk older than this is not what the arm follows any more."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the tip: points [n, 3] in metres, one colour (red, green, blue, alpha) each."""

    points_m: Array
    colours: Array


class ActionTrace:
    """Collects chunks and commands; times are arguments, in seconds of any one clock.

    Args:
        kinematics: Of the arm.
        executed_s: How much of the executed path to keep.
    """

    def __init__(self, kinematics: Kinematics, executed_s: float) -> None:
        self._kinematics = kinematics
        self._executed_s = executed_s
        self._executed: deque[tuple[float, Array]] = deque()
        self._chunk: tuple[float, Line] | None = None

    def chunk(self, now_s: float, positions_rad: ArrayLike) -> None:
        """Note a chunk's positions [horizon, 6]; one that is empty or not finite shows nothing."""
        positions = np.asarray(positions_rad, float)
        if positions.ndim != 2 or len(positions) == 0 or not np.all(np.isfinite(positions)):
            self._chunk = None
            return
        share = np.linspace(0.0, 1.0, len(positions))[:, None]
        colours = (1 - share) * NEAR_COLOUR + share * FAR_COLOUR
        self._chunk = now_s, Line(self._tip(positions), colours)

    def command(self, now_s: float, position_rad: ArrayLike) -> None:
        """Note one command [6]."""
        position = np.asarray(position_rad, float)
        if np.all(np.isfinite(position)):
            self._executed.append((now_s, self._tip(position)))

    def lines(self, now_s: float) -> tuple[Line | None, Line]:
        """Return the newest chunk's line, None if it is old, and the executed path."""
        while self._executed and now_s - self._executed[0][0] > self._executed_s:
            self._executed.popleft()
        points = np.array([point for _, point in self._executed]).reshape(-1, 3)
        ages = np.array([now_s - time_s for time_s, _ in self._executed])
        colours = np.tile([0.1, 0.9, 0.3, 1.0], (len(points), 1))
        colours[:, 3] = 1.0 - 0.9 * ages / self._executed_s
        fresh = self._chunk is not None and now_s - self._chunk[0] <= CHUNK_SHOWN_S
        return (self._chunk[1] if fresh and self._chunk else None), Line(points, colours)

    def _tip(self, positions_rad: Array) -> Array:
        return self._kinematics.forward(positions_rad)[..., :3, 3]
