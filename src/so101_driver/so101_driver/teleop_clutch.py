"""The clutch between leader and follower: engaging never makes the target jump.

The target is the leader's pose plus an offset. At the moment of engaging the offset is what lies
between the two arms, so the target begins where the follower is commanded to be; from there the
offset fades without a step in velocity or acceleration, or stays.
"""

from __future__ import annotations

import math

import numpy as np

from so101_driver.calibration import GRIPPER_CLOSED_RAD, GRIPPER_OPEN_RAD
from so101_driver.joints import GRIPPER, JOINT_NAMES
from so101_driver.teleop_types import Array, ClutchMode

SHORTEST_FADE_S = 0.5
_FADE_SPEED = 1.875
"""Largest derivative of the fading weight over a unit of time."""

_POSITIVE = ("clockwise", "forward", "down", "down", "anticlockwise", "open")
_NEGATIVE = ("anticlockwise", "back", "up", "up", "clockwise", "closed")
"""Where positive and negative angles lead; shoulder_pan seen from above, wrist_roll from behind."""

_GRIPPER_SPAN_RAD = GRIPPER_OPEN_RAD - GRIPPER_CLOSED_RAD


class Clutch:
    """The offset of one engagement.

    Args:
        mode: What becomes of the offset.
        fade_rad_s: Fastest change of the target while it fades.
    """

    def __init__(self, mode: ClutchMode, fade_rad_s: float) -> None:
        self.mode = mode
        self._fade_rad_s = fade_rad_s
        self._offset_rad: Array = np.zeros(len(JOINT_NAMES))
        self._begin_ns = 0
        self.fade_s = 0.0

    def anchor(self, leader_rad: Array, follower_rad: Array, now_ns: int) -> None:
        """Join the two arms as they are."""
        self._offset_rad = follower_rad - leader_rad
        self._begin_ns = now_ns
        largest_rad = float(np.abs(self._offset_rad).max())
        self.fade_s = max(SHORTEST_FADE_S, _FADE_SPEED * largest_rad / self._fade_rad_s)

    def target(self, leader_rad: Array, now_ns: int) -> Array:
        """Where the follower shall be for a pose of the leader."""
        return leader_rad + self.share(now_ns) * self._offset_rad

    def share(self, now_ns: int) -> float:
        """Share of the offset that is left, 1 to 0."""
        if self.mode is ClutchMode.RELATIVE:
            return 1.0
        u = min(max((now_ns - self._begin_ns) * 1e-9 / self.fade_s, 0.0), 1.0)
        return 1.0 - u * u * u * (10.0 + u * (6.0 * u - 15.0))


def misalignment(leader_rad: Array, follower_rad: Array, tolerance_rad: float) -> str:
    """Say how the leader must be moved to come within the tolerance; empty when it is there."""
    moves = []
    for index, name in enumerate(JOINT_NAMES):
        way_rad = float(follower_rad[index] - leader_rad[index])
        if abs(way_rad) > tolerance_rad:
            direction = (_POSITIVE if way_rad > 0 else _NEGATIVE)[index]
            amount = (
                f"{abs(way_rad) / _GRIPPER_SPAN_RAD:.0%} of its travel"
                if index == GRIPPER
                else f"{math.degrees(abs(way_rad)):.0f}°"
            )
            moves.append(f"{name} {amount} {direction}")
    return ", ".join(moves)
