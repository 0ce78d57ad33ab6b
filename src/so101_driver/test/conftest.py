"""Fixtures that several test files share."""

import pytest
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim import IdealArm, VirtualBus
from so101_driver.sim.virtual_servo import IdealServo, TickScale

from so101_driver import registers as reg


@pytest.fixture
def calibrated_servos():
    """Virtual servos that hold the calibration of ``sim_calibration.json``, fresh otherwise."""
    joints = Calibration.load(data_path("sim_calibration.json")).joints
    arm = IdealArm()
    for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True):
        joint = joints[name]
        arm.servos[servo_id] = IdealServo(
            servo_id,
            scale=TickScale(zero_tick=joint.mid_tick, homing_offset=joint.homing_offset),
            registers={
                reg.HOMING_OFFSET: joint.homing_offset,
                reg.MIN_POSITION: joint.range_min,
                reg.MAX_POSITION: joint.range_max,
            },
        )
    with VirtualBus(arm) as bus:
        yield bus
