"""Tables and sentences of the calibration program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table
from rich.text import Text

from so101_driver.calibration import JointCalibration
from so101_driver.calibration_compare import (
    DEGREES_PER_TICK,
    Convention,
    JointComparison,
    Verdict,
    convention,
    other_stops,
    replaced,
    verdict,
)
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_servos import FACTORY, ServoCalibration
from so101_driver.calibration_sweep import (
    FULL_TURN_JOINT,
    MID_TICK,
    SWEPT_JOINTS,
    Finding,
    Sweep,
    expected_travel,
    travel_finding,
)
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_ID_OF

DEGREE = DEGREES_PER_TICK
"""Degrees of a tick, short for the texts."""

MIDDLE_POSE = (
    "Upper arm upright, forearm and gripper level and pointing straight ahead, the moving jaw on "
    "top and half open (picture: docs/calibration.md)."
)

_FINDINGS = {
    Finding.GOOD: ("done", "green"),
    Finding.NOT_MOVED: ("to do", "dim"),
    Finding.WRAPPED: ("passed 0/4095", "red"),
    Finding.TOO_SHORT: ("short", "yellow"),
    Finding.TOO_LONG: ("long", "yellow"),
}


def sweep_table(sweep: Sweep, kind: ArmKind) -> Table:
    """Return what has been swept so far."""
    table = Table("joint", highlight=False)
    for heading in ("min", "now", "max", "travel", "usual"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name in JOINT_NAMES:
        if name == FULL_TURN_JOINT:
            table.add_row(name, "0", str(sweep.now[name]), "4095", "360°", "", "not swept")
            continue
        word, style = _FINDINGS[sweep.finding(name, kind)]
        table.add_row(
            name,
            str(sweep.low.get(name, MID_TICK)),
            str(sweep.now[name]),
            str(sweep.high.get(name, MID_TICK)),
            f"{sweep.travel(name) * DEGREE:.0f}°",
            _usual(name, kind),
            Text(word, style),
        )
    return table


def result_table(joints: Mapping[str, JointCalibration]) -> Table:
    """Return what is about to be written."""
    table = Table("joint", title="Calibration")
    for heading in ("homing offset", "range min", "range max", "travel"):
        table.add_column(heading, justify="right")
    for name in JOINT_NAMES:
        joint = joints[name]
        numbers = (joint.homing_offset, joint.range_min, joint.range_max)
        table.add_row(name, *map(str, numbers), f"{joint.travel_ticks * DEGREE:.1f}°")
    return table


def file_table(joints: Sequence[JointComparison]) -> Table:
    """Return file against servos, joint by joint: each number that differs."""
    table = Table("joint", "number", title="File against servos")
    for heading in ("file", "servo", "ticks", "degrees"):
        table.add_column(heading, justify="right")
    for joint in joints:
        if joint.equal:
            table.add_row(joint.name, Text("equal", "green"))
            continue
        name = joint.name
        file, servo = joint.file, joint.servo
        for number, ours, theirs in (
            ("homing offset", file.homing_offset, servo.homing_offset),
            ("range min", file.range_min, servo.range_min),
            ("range max", file.range_max, servo.range_max),
        ):
            if ours != theirs:
                table.add_row(name, number, str(ours), str(theirs), *_apart(ours - theirs))
                name = ""
        if servo != FACTORY:
            table.add_row(
                "", "zero, on the arm", "", "", *_apart(joint.zero_shift_ticks), style="yellow"
            )
    return table


def urdf_table(joints: Sequence[JointComparison], kind: ArmKind, limits_rad: ArrayLike) -> Table:
    """Return the file's ranges against the URDF's [6, 2] limits, joint by joint."""
    table = Table("joint", title="File against URDF (range from its middle; + is beyond the URDF)")
    for heading in ("file", "URDF", "low end", "high end", "travel"):
        table.add_column(heading, justify="right")
    for index, (joint, limits) in enumerate(zip(joints, np.degrees(limits_rad), strict=True)):
        finding = travel_finding(joint.name, joint.file.travel_ticks, kind)
        low, high = joint.range_deg
        file = f"{low:.1f}..{high:.1f}°"
        urdf = f"{limits[0]:.1f}..{limits[1]:.1f}°"
        beyond = (limits[0] - low, high - limits[1])
        ends = [f"{round(end / DEGREE):+d} ({end:+.1f}°)" for end in beyond]
        if index == GRIPPER:
            # Its angle is a share of the range, whatever that is: 0 is closed and 100 is open.
            file, ends = f"{high - low:.1f}° wide", ["", ""]
            urdf = f"{limits[1] - limits[0]:.1f}° wide"
        word, style = ("usual", "green") if finding is Finding.GOOD else _FINDINGS[finding]
        if joint.name == FULL_TURN_JOINT:
            word = "not swept"
        table.add_row(joint.name, file, urdf, *ends, Text(word, style))
    return table


def unusual(joints: Mapping[str, JointCalibration], kind: ArmKind) -> list[str]:
    """Return a sentence for each joint whose range no other arm has."""
    sentences = []
    for name in SWEPT_JOINTS:
        travel = joints[name].travel_ticks
        finding = travel_finding(name, travel, kind)
        if finding is Finding.GOOD:
            continue
        reason = (
            "the sweep missed a stop, and the zero is off by half of what is missing"
            if finding is Finding.TOO_SHORT
            else "the sweep passed the end of the encoder (0/4095), or the joint is modified"
        )
        sentences.append(
            f"{name} has a range of {travel * DEGREE:.0f}°, other arms {_usual(name, kind)}: "
            f"{reason}. Calibrate again, or give --accept-unusual-travel if it is meant so."
        )
    return sentences


def explain(
    joints: tuple[JointComparison, ...], path: Path, twins: Sequence[Path], command: str
) -> list[str]:
    """Return what the comparison of file and servos means and what to do.

    Args:
        joints: The comparison.
        path: The file compared.
        twins: Other files whose numbers are those in the servos.
        command: Program and options to repeat for a fix.
    """
    match verdict(joints):
        case Verdict.EQUAL:
            return ["File and servos are equal."]
        case Verdict.UNCALIBRATED:
            sentences = [
                "The servos hold factory values: they were never calibrated, or were reset. If the "
                f"file is of this arm: {command} --to-servos; else calibrate."
            ]
        case Verdict.OTHER_CALIBRATION:
            sentences = [
                "File and servos describe the same stops: it is this arm, calibrated twice. Keep "
                f"the servos' values with {command} --from-servos, or the file's with {command} "
                "--to-servos."
            ]
        case Verdict.OTHER_ARM:
            sentences = [
                f"The stops of {', '.join(other_stops(joints))} are elsewhere: the file is of "
                "another arm. Give this arm's --name or --file, or calibrate it."
            ]
        case Verdict.SOME_JOINTS:
            fresh = replaced(joints)
            moved = [name for name in other_stops(joints) if name not in fresh]
            sentences = []
            if fresh:
                sentences.append(
                    f"Factory values in {', '.join(fresh)} only: that servo was replaced or reset. "
                    "Calibrate again."
                )
            if moved:
                sentences.append(
                    f"The stops of {', '.join(moved)} are elsewhere, the others' are not: a servo "
                    "or its horn was taken off, or a sweep missed a stop. Calibrate again."
                )
    for twin in twins:
        sentences.append(f"The servos hold exactly what {twin} says{_what_it_is(path, twin)}")
    return sentences


def explain_convention(source: str, ranges: Mapping[str, JointCalibration]) -> str:
    """Return which pose was held, in a sentence."""
    match convention(ranges):
        case Convention.NEW:
            return f"{source}: new convention, the arm was held in the middle of its travel."
        case Convention.OLD:
            return (
                f"{source}: old convention, the arm was held stretched out. Angles here and in "
                "LeRobot are counted from the middle of the range all the same; what was recorded "
                "from the old zero does not fit."
            )
        case Convention.UNCLEAR:
            return (
                f"{source}: neither the new nor the old convention: shoulder_lift and elbow_flex "
                "were not held near the middle, nor stretched out."
            )


def servo_joints(held: Mapping[str, ServoCalibration]) -> dict[str, JointCalibration]:
    """Return what the servos hold as a calibration, unchecked."""
    return {
        name: JointCalibration(
            servo_id, 0, held[name].homing_offset, held[name].range_min, held[name].range_max
        )
        for name, servo_id in SERVO_ID_OF.items()
    }


def _usual(name: str, kind: ArmKind) -> str:
    expected = expected_travel(name, kind)
    if expected is None:
        return ""
    return f"{expected[0] * DEGREE:.0f}-{expected[1] * DEGREE:.0f}°"


def _apart(ticks: float) -> tuple[str, str]:
    """Return a difference in ticks and in degrees."""
    return f"{ticks:+g}", f"{ticks * DEGREE:+.1f}°"


def _what_it_is(path: Path, twin: Path) -> str:
    if twin.suffix == ".bak":
        return ", an earlier version of the file." if twin.name.startswith(path.name) else "."
    leader = "teleoperators" in twin.parts
    if leader != ("teleoperators" in path.parts):
        return f", which is a {'leader' if leader else 'follower'}'s: are the two arms swapped?"
    return ": give that --name or --file."
