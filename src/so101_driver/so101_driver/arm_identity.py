"""Whether an arm is a follower or a leader, as far as its servos can tell.

The two differ in gear ratio, which no register holds. What does tell: the numbers of a calibration
file that stand in the servos, settings that only a follower is given, and a supply or servos of
12 V, which a leader never has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from so101_driver import registers as reg
from so101_driver.arm_inspection import ArmReport
from so101_driver.arm_setup import GRIPPER_SETTINGS
from so101_driver.calibration import Calibration
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_servos import FACTORY, ServoCalibration
from so101_driver.errors import UserError
from so101_driver.joints import GRIPPER, SERVO_IDS

TWELVE_VOLT_PART_V = 10.0
"""A servo that accepts more than this is the 12 V part: the 7.4 V part's own limit is 8 V."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an arm is.

    Attributes:
        kind: Follower or leader; None if nothing tells.
        certain: Whether a calibration file of this arm says so.
        because: Why, to be read after "because" or after a colon.
        file: The calibration file whose numbers stand in the servos.
    """

    kind: ArmKind | None
    certain: bool
    because: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """A file that LeRobot or this project wrote, and what it is for."""

    kind: ArmKind
    path: Path
    servos: dict[str, ServoCalibration]


def read_files(paths: Iterable[tuple[ArmKind, Path]]) -> tuple[CalibrationFile, ...]:
    """Return the calibrations among some files; damaged ones and other robots' are left out."""
    files = []
    for kind, path in paths:
        try:
            joints = Calibration.load(path).joints
        except UserError:
            continue
        servos = {name: ServoCalibration.of(joint) for name, joint in joints.items()}
        files.append(CalibrationFile(kind, path, servos))
    return tuple(files)


def judge(arm: ArmReport, files: Iterable[CalibrationFile]) -> Identity:
    """Say what an arm is and how that is known.

    Args:
        arm: What its servos say.
        files: Every calibration file there is, of followers and leaders.
    """
    held = arm.calibrations
    uncalibrated = all(servo == FACTORY for servo in held.values())
    if held and not uncalibrated and not arm.silent:
        same = [file for file in files if file.servos == held]
        kinds = {file.kind for file in same}
        if len(kinds) == 1:
            file = same[0]
            return Identity(
                file.kind, True, f"its servos hold the numbers of {file.path}", file.path
            )
    if not arm.servos:
        return Identity(None, False, "no servo answers")
    supply_v = max(servo.voltage_v for servo in arm.servos)
    if supply_v > TWELVE_VOLT_PART_V:
        return Identity(
            ArmKind.FOLLOWER, False, f"its supply is {supply_v:.1f} V, and a leader never has 12 V"
        )
    if any(servo.max_voltage_v > TWELVE_VOLT_PART_V for servo in arm.servos):
        return Identity(
            ArmKind.FOLLOWER, False, "it has 12 V servos, which a leader is not built with"
        )
    if _set_up_as_follower(arm):
        return Identity(
            ArmKind.FOLLOWER, False, "its gripper was limited in force, as followers' are"
        )
    return Identity(
        None,
        False,
        "the gear ratios that tell leader from follower stand in no register, and nothing else "
        "tells here",
    )


def _set_up_as_follower(arm: ArmReport) -> bool:
    wanted = dict(GRIPPER_SETTINGS)
    return any(
        servo.servo_id == SERVO_IDS[GRIPPER]
        and servo.max_torque == wanted[reg.MAX_TORQUE]
        and servo.overload_torque == wanted[reg.OVERLOAD_TORQUE]
        for servo in arm.servos
    )
