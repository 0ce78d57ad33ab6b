"""Models and datasets are in LeRobot's units: ours must be the same numbers, to the last bit.

The table was worked out from the formulas in ``lerobot_units`` and holds LeRobot's quirks: what is
truncated, clamped or turned, and what is not. Where LeRobot is importable, it is asked as well.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from so101_driver.calibration import Calibration, JointCalibration
from so101_driver.joints import data_path
from so101_driver.lerobot_units import UnitMode, normalize, unnormalize

DEGREES, RANGE_100, PERCENT = UnitMode
PLAIN = JointCalibration(1, 0, -1480, 792, 3338)
TURNED = JointCalibration(1, 1, -1480, 792, 3338)
ODD = JointCalibration(3, 0, 1214, 866, 3067)
TURN = JointCalibration(5, 0, 62, 0, 4095)
GRIPPER = JointCalibration(6, 0, 1375, 1998, 3483)
BACKWARDS = JointCalibration(6, 1, 1375, 1998, 3483)

TO_VALUE = (
    # Degrees: 0 at mid-range (2065), 4095 ticks to a turn, no clamp, drive_mode ignored.
    (DEGREES, PLAIN, 2065, 0.0),
    (DEGREES, PLAIN, 2066, 0.08791208791208792),
    (DEGREES, PLAIN, 792, -111.91208791208791),
    (DEGREES, PLAIN, 3338, 111.91208791208791),
    (DEGREES, PLAIN, 0, -181.53846153846155),
    (DEGREES, PLAIN, 4095, 178.46153846153845),
    (DEGREES, TURNED, 2066, 0.08791208791208792),
    (DEGREES, TURNED, 792, -111.91208791208791),
    # A range of odd length has its zero between two ticks (1966.5).
    (DEGREES, ODD, 1966, -0.04395604395604396),
    (DEGREES, ODD, 1967, 0.04395604395604396),
    (DEGREES, TURN, 2047, -0.04395604395604396),
    (DEGREES, TURN, 0, -180.0),
    (DEGREES, TURN, 4095, 180.0),
    # ±100: clamped, turned by drive_mode.
    (RANGE_100, PLAIN, 2065, 0.0),
    (RANGE_100, PLAIN, 792, -100.0),
    (RANGE_100, PLAIN, 3338, 100.0),
    (RANGE_100, PLAIN, 791, -100.0),
    (RANGE_100, PLAIN, 4095, 100.0),
    (RANGE_100, TURNED, 792, 100.0),
    (RANGE_100, TURNED, 3338, -100.0),
    (RANGE_100, TURNED, 0, 100.0),
    # 0..100: clamped, 100 − value by drive_mode.
    (PERCENT, GRIPPER, 1998, 0.0),
    (PERCENT, GRIPPER, 3483, 100.0),
    (PERCENT, GRIPPER, 0, 0.0),
    (PERCENT, GRIPPER, 4095, 100.0),
    (PERCENT, BACKWARDS, 1998, 100.0),
    (PERCENT, BACKWARDS, 3483, 0.0),
    (PERCENT, BACKWARDS, 4095, 0.0),
    (PERCENT, GRIPPER, 2295, 20.0),
    (PERCENT, BACKWARDS, 2295, 80.0),
)

TO_TICKS = (
    # Degrees: truncated towards tick 0, not clamped, drive_mode ignored.
    (DEGREES, PLAIN, 0.0, 2065),
    (DEGREES, PLAIN, 0.0879, 2065),
    (DEGREES, PLAIN, 0.088, 2066),
    (DEGREES, PLAIN, -0.001, 2064),
    (DEGREES, PLAIN, 90.0, 3088),
    (DEGREES, PLAIN, -90.0, 1041),
    (DEGREES, PLAIN, 180.0, 4112),
    (DEGREES, PLAIN, -180.0, 17),
    (DEGREES, PLAIN, -181.6, 0),
    (DEGREES, PLAIN, -182.0, -5),
    (DEGREES, PLAIN, 1000.0, 13440),
    (DEGREES, TURNED, 90.0, 3088),
    (DEGREES, ODD, 0.0, 1966),
    # ±100: turned first, then clamped, then truncated.
    (RANGE_100, PLAIN, 0.0, 2065),
    (RANGE_100, PLAIN, 100.0, 3338),
    (RANGE_100, PLAIN, 101.0, 3338),
    (RANGE_100, PLAIN, -1000.0, 792),
    (RANGE_100, PLAIN, 50.0, 2701),
    (RANGE_100, PLAIN, -50.0, 1428),
    (RANGE_100, TURNED, 50.0, 1428),
    (RANGE_100, TURNED, 1000.0, 792),
    (RANGE_100, PLAIN, math.inf, 3338),
    # 0..100.
    (PERCENT, GRIPPER, 0.0, 1998),
    (PERCENT, GRIPPER, 50.0, 2740),
    (PERCENT, GRIPPER, 100.0, 3483),
    (PERCENT, GRIPPER, -5.0, 1998),
    (PERCENT, GRIPPER, 105.0, 3483),
    (PERCENT, GRIPPER, 99.99, 3482),
    (PERCENT, BACKWARDS, 0.0, 3483),
    (PERCENT, BACKWARDS, 105.0, 1998),
    (PERCENT, BACKWARDS, 25.0, 3111),
)


def exact_value(mode, joint, ticks):
    """The formula in fractions, with no rounding at all."""
    low, high = joint.range_min, joint.range_max
    if mode is DEGREES:
        return (Fraction(ticks) - Fraction(low + high, 2)) * 360 / 4095
    share = Fraction(min(high, max(low, ticks)) - low, high - low)
    if mode is RANGE_100:
        return (share * 200 - 100) * (-1 if joint.drive_mode else 1)
    return 100 - share * 100 if joint.drive_mode else share * 100


@pytest.mark.parametrize(("mode", "joint", "ticks", "value"), TO_VALUE)
def test_values_are_the_tables(mode, joint, ticks, value):
    assert normalize(mode, joint, ticks) == value
    assert value == pytest.approx(float(exact_value(mode, joint, ticks)), abs=1e-12)


@pytest.mark.parametrize(("mode", "joint", "value", "ticks"), TO_TICKS)
def test_ticks_are_the_tables(mode, joint, value, ticks):
    got = unnormalize(mode, joint, value)
    assert got == ticks
    assert type(got) is int


def test_what_is_no_number_is_refused_as_there():
    for mode, joint in ((DEGREES, PLAIN), (RANGE_100, PLAIN), (PERCENT, GRIPPER)):
        if mode is DEGREES:
            with pytest.raises(ValueError, match="NaN"):
                unnormalize(mode, joint, math.nan)
            with pytest.raises(OverflowError):
                unnormalize(mode, joint, math.inf)
        else:
            assert joint.range_min <= unnormalize(mode, joint, math.inf) <= joint.range_max


def test_our_ticks_are_nearest_and_in_range_where_lerobots_are_truncated():
    ours = {
        DEGREES: JointCalibration.degrees_to_ticks,
        RANGE_100: JointCalibration.range100_to_ticks,
        PERCENT: JointCalibration.percent_to_ticks,
    }
    rng = random.Random(1)
    for joint in (PLAIN, TURNED, ODD, TURN, GRIPPER, BACKWARDS):
        for mode in UnitMode:
            below = 0
            for _ in range(300):
                tick = rng.randint(joint.range_min, joint.range_max)
                # A value a little off a tick, as a model gives.
                value = normalize(mode, joint, tick) + rng.uniform(-0.01, 0.01)
                mine, theirs = ours[mode](joint, value), unnormalize(mode, joint, value)
                assert joint.range_min <= mine <= joint.range_max
                if joint.range_min < tick < joint.range_max:
                    assert mine == tick
                assert tick - 1 <= theirs <= tick
                below += theirs < tick
            # This is the bias that rounding avoids.
            assert 90 < below < 240, (mode, joint)


def test_lerobot_itself_says_the_same():
    motors = pytest.importorskip("lerobot.motors")
    feetech = pytest.importorskip("lerobot.motors.feetech")
    joints = [*Calibration.load(data_path("sim_calibration.json")).joints.values()]
    joints += [PLAIN, TURNED, ODD, TURN, GRIPPER, BACKWARDS]
    rng = random.Random(3)
    for mode in UnitMode:
        norm_mode = motors.MotorNormMode(mode.value)
        for joint in joints:
            bus = feetech.FeetechMotorsBus(
                port="/dev/null",
                motors={"joint": motors.Motor(joint.servo_id, "sts3215", norm_mode)},
                calibration={
                    "joint": motors.MotorCalibration(
                        joint.servo_id,
                        joint.drive_mode,
                        joint.homing_offset,
                        joint.range_min,
                        joint.range_max,
                    )
                },
            )
            for ticks in range(0, 4096, 5):
                theirs = bus._normalize({joint.servo_id: ticks})[joint.servo_id]
                assert normalize(mode, joint, ticks).hex() == float(theirs).hex()
            for value in [rng.uniform(-250, 250) for _ in range(500)]:
                theirs = bus._unnormalize({joint.servo_id: value})[joint.servo_id]
                assert unnormalize(mode, joint, value) == theirs
