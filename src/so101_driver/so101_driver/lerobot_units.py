"""LeRobot's units of a joint, bit for bit as its bus class computes them.

With t a raw tick, m and M the calibrated range and ``clip`` to it:

===========  ==============================  ======================================
mode         ticks to value                  value to ticks
===========  ==============================  ======================================
DEGREES      (t − (m+M)/2) · 360 / 4095      int(v · 4095 / 360 + (m+M)/2)
RANGE_100    (clip(t)−m) / (M−m) · 200 − 100 int((clip(v)+100) / 200 · (M−m) + m)
PERCENT      (clip(t)−m) / (M−m) · 100       int(clip(v) / 100 · (M−m) + m)
===========  ==============================  ======================================

Its quirks are part of it: ``int`` truncates towards zero, degrees are neither clamped nor turned by
``drive_mode``, and the other two are turned before they are clamped. ``calibration`` gives the same
values, but writes other ticks: it rounds to the nearest and never leaves the range.
"""

from __future__ import annotations

from enum import Enum

from so101_driver.calibration import JointCalibration
from so101_driver.registers import MAX_TICK


class UnitMode(Enum):
    """LeRobot's ``MotorNormMode``; the values are its own."""

    DEGREES = "degrees"
    RANGE_100 = "range_m100_100"
    PERCENT = "range_0_100"


def normalize(mode: UnitMode, joint: JointCalibration, ticks: int) -> float:
    """Return a raw tick in LeRobot's unit."""
    match mode:
        case UnitMode.DEGREES:
            return joint.ticks_to_degrees(ticks)
        case UnitMode.RANGE_100:
            return joint.ticks_to_range100(ticks)
        case UnitMode.PERCENT:
            return joint.ticks_to_percent(ticks)


def unnormalize(mode: UnitMode, joint: JointCalibration, value: float) -> int:
    """Return the tick that LeRobot would write for a value.

    Raises:
        ValueError: The value is NaN; OverflowError in degrees that are infinite.
    """
    low, high = joint.range_min, joint.range_max
    if mode is UnitMode.DEGREES:
        return int(value * MAX_TICK / 360 + joint.mid_tick)
    if mode is UnitMode.RANGE_100:
        value = -value if joint.drive_mode else value
        return int((min(100.0, max(-100.0, value)) + 100) / 200 * (high - low) + low)
    value = 100 - value if joint.drive_mode else value
    return int(min(100.0, max(0.0, value)) / 100 * (high - low) + low)
