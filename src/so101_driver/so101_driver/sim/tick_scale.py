"""Ticks of a servo's encoder and angles of its joint."""

from __future__ import annotations

import math
from dataclasses import dataclass

from so101_driver import registers as reg

RAD_PER_TICK = 2.0 * math.pi / reg.TICKS_PER_TURN


@dataclass(frozen=True, slots=True)
class TickScale:
    """How a joint's angle and its servo's encoder are coupled.

    Attributes:
        zero_tick: Present_Position at 0 rad, with ``homing_offset`` in the servo.
        rad_per_tick: Joint angle per tick.
        homing_offset: Of the calibration; ticks are ``encoder - homing_offset``.
    """

    zero_tick: float = 2048.0
    rad_per_tick: float = RAD_PER_TICK
    homing_offset: int = 0

    def encoder_ticks(self, angle_rad: float) -> float:
        """Encoder reading, before any homing offset."""
        return self.zero_tick + angle_rad / self.rad_per_tick + self.homing_offset

    def angle_rad(self, encoder_ticks: float) -> float:
        """Joint angle at an encoder reading."""
        return (encoder_ticks - self.homing_offset - self.zero_tick) * self.rad_per_tick
