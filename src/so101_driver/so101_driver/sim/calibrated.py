"""What a calibration means for a virtual arm: its EEPROM, and where its encoders stand."""

from __future__ import annotations

import numpy as np

from so101_driver import registers as reg
from so101_driver.calibration import Calibration, JointCalibration
from so101_driver.joints import JOINT_NAMES
from so101_driver.sim.tick_scale import TickScale


def scales(calibration: Calibration) -> tuple[TickScale, ...]:
    """Couple ticks and angles as the calibration says; both are straight lines."""
    at_zero = calibration.ticks_to_rad(np.zeros(len(JOINT_NAMES)))
    rad_per_tick = calibration.ticks_to_rad(np.ones(len(JOINT_NAMES))) - at_zero
    return tuple(
        TickScale(float(-zero / slope), float(slope), calibration.joints[name].homing_offset)
        for name, zero, slope in zip(JOINT_NAMES, at_zero, rad_per_tick, strict=True)
    )


def eeprom(joint: JointCalibration, *, is_gripper: bool) -> dict[reg.Register, int]:
    """Return what LeRobot's calibration and configuration leave in a servo."""
    return {
        reg.RETURN_DELAY: 0,
        reg.P_GAIN: 16,
        reg.I_GAIN: 0,
        reg.D_GAIN: 32,
        reg.HOMING_OFFSET: joint.homing_offset,
        reg.MIN_POSITION: joint.range_min,
        reg.MAX_POSITION: joint.range_max,
        # A gripper at full torque burns its servo on a blocked object.
        reg.MAX_TORQUE: 500 if is_gripper else 1000,
    }
