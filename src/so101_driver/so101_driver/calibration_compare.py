"""What a calibration file and the servos say about each joint, and why they differ.

The encoder's own reading at a stop (range plus offset, modulo a turn) belongs to the arm: it stays
the same however often, and in whatever middle pose, the arm is calibrated. Equal stops with other
numbers are therefore another calibration of the same arm; other stops are another arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from so101_driver.calibration import JointCalibration
from so101_driver.calibration_servos import FACTORY, ServoCalibration
from so101_driver.calibration_sweep import FULL_TURN_JOINT, MID_TICK, SWEPT_JOINTS, turned
from so101_driver.joints import JOINT_NAMES
from so101_driver.registers import MAX_TICK

DEGREES_PER_TICK = 360 / MAX_TICK
"""LeRobot's."""

SAME_STOP_TICKS = 80
"""Two sweeps of one arm end within this (7 degrees) of each other."""

_OLD_LIFT_SHARE = 0.8
_OLD_ELBOW_SHARE = 0.2
"""Share of the range below the pose that was held: stretched out, lift and elbow are near an end
(-3.316..0.175 and -0.175..3.142 rad of travel around it)."""


class Convention(Enum):
    """Which pose was held as the middle when an arm was calibrated."""

    NEW = "new"
    OLD = "old"
    UNCLEAR = "unclear"


class Verdict(Enum):
    """How file and servos relate."""

    EQUAL = "equal"
    UNCALIBRATED = "uncalibrated"
    OTHER_CALIBRATION = "other calibration"
    OTHER_ARM = "other arm"
    SOME_JOINTS = "some joints"


@dataclass(frozen=True, slots=True)
class JointComparison:
    """One joint in file and servo.

    Attributes:
        name: The joint.
        file: What the file says.
        servo: What the servo holds.
    """

    name: str
    file: JointCalibration
    servo: ServoCalibration

    @property
    def differences(self) -> tuple[int, int, int]:
        """File less servo, in ticks: homing offset, range_min, range_max."""
        return (
            self.file.homing_offset - self.servo.homing_offset,
            self.file.range_min - self.servo.range_min,
            self.file.range_max - self.servo.range_max,
        )

    @property
    def equal(self) -> bool:
        """Whether the servo holds what the file says."""
        return not any(self.differences)

    @property
    def zero_shift_ticks(self) -> float:
        """How far apart the two zeros are on the arm; may end in .5."""
        file = self.file.mid_tick + self.file.homing_offset
        servo = (self.servo.range_min + self.servo.range_max) / 2 + self.servo.homing_offset
        half = (MAX_TICK + 1) / 2
        return (file - servo + half) % (MAX_TICK + 1) - half

    @property
    def same_stops(self) -> bool:
        """Whether both were swept between the same stops.

        A joint without stops tells nothing, except that a servo with factory values was put in, or
        reset, after the file was written.
        """
        if self.name == FULL_TURN_JOINT:
            return self.equal or self.servo != FACTORY
        ends = (
            (self.file.range_min, self.servo.range_min),
            (self.file.range_max, self.servo.range_max),
        )
        return all(
            abs(turned(low + self.file.homing_offset, high + self.servo.homing_offset))
            <= SAME_STOP_TICKS
            for low, high in ends
        )

    @property
    def range_deg(self) -> tuple[float, float]:
        """The calibrated range, from its middle."""
        half = self.file.travel_ticks * DEGREES_PER_TICK / 2
        return -half, half


def compare(
    file: Mapping[str, JointCalibration], servos: Mapping[str, ServoCalibration]
) -> tuple[JointComparison, ...]:
    """Put the two side by side."""
    return tuple(JointComparison(name, file[name], servos[name]) for name in JOINT_NAMES)


def verdict(joints: tuple[JointComparison, ...]) -> Verdict:
    """Say how file and servos relate."""
    if all(joint.equal for joint in joints):
        return Verdict.EQUAL
    if all(joint.servo == FACTORY for joint in joints):
        return Verdict.UNCALIBRATED
    elsewhere = other_stops(joints)
    if not elsewhere:
        return Verdict.OTHER_CALIBRATION
    if len(set(elsewhere) & set(SWEPT_JOINTS)) >= len(SWEPT_JOINTS) - 1:
        return Verdict.OTHER_ARM
    return Verdict.SOME_JOINTS


def other_stops(joints: tuple[JointComparison, ...]) -> list[str]:
    """Return the joints whose stops are elsewhere in the file and in the servo."""
    return [joint.name for joint in joints if not joint.same_stops]


def replaced(joints: tuple[JointComparison, ...]) -> list[str]:
    """Return the joints whose servos alone hold factory values: new ones, or reset."""
    fresh = [joint.name for joint in joints if joint.servo == FACTORY and not joint.equal]
    return fresh if any(joint.servo != FACTORY for joint in joints) else []


def convention(ranges: Mapping[str, JointCalibration | ServoCalibration]) -> Convention:
    """Say which pose was held, from where 2047 (what it was made to read) lies in the ranges.

    In the middle of its travel a joint has about half of it on either side. In the old zero pose,
    the arm stretched out level, the lift is near its upper end and the elbow near its lower one.
    """
    lift, elbow = (_share_below(ranges[name]) for name in ("shoulder_lift", "elbow_flex"))
    if lift is None or elbow is None:
        return Convention.UNCLEAR
    if lift >= _OLD_LIFT_SHARE and elbow <= _OLD_ELBOW_SHARE:
        return Convention.OLD
    if all(_OLD_ELBOW_SHARE < share < _OLD_LIFT_SHARE for share in (lift, elbow)):
        return Convention.NEW
    return Convention.UNCLEAR


def _share_below(joint: JointCalibration | ServoCalibration) -> float | None:
    travel = joint.range_max - joint.range_min
    # The whole turn is what stands where nothing was swept, or where the sweep wrapped.
    if travel <= 0 or travel >= MAX_TICK - 1:
        return None
    return (MID_TICK - joint.range_min) / travel
