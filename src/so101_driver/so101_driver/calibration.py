"""LeRobot's calibration file of an arm, and the conversions from and to servo ticks.

Zero of an arm joint is the middle of its calibrated range. ``homing_offset`` and the range are also
in each servo's EEPROM, so a tick read from a servo already contains the offset: it is never applied
here. The maths equals LeRobot's, except that writing rounds where LeRobot truncates, and always
clamps to the calibrated range.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from so101_driver.errors import UserError
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS
from so101_driver.registers import HOMING_OFFSET, MAX_TICK

GRIPPER_CLOSED_RAD = -0.174533
GRIPPER_OPEN_RAD = 1.74533
"""Gripper angles of 0 and 100 percent: the limits of the published URDF."""

SMALLEST_RANGE_TICKS = 200
"""A joint swept by less than this (18 degrees) was not calibrated."""

_OLD_FORMAT = {"homing_offset", "calib_mode", "motor_names"}
"""What LeRobot's files had before they were lists of joints."""

_RAD_PER_TICK = 2.0 * math.pi / MAX_TICK
"""LeRobot counts 4095 ticks to a turn, so we do."""


@dataclass(frozen=True, slots=True)
class JointCalibration:
    """One joint's entry in the file; ticks are as the servo reports them.

    Attributes:
        servo_id: Bus id.
        drive_mode: 1 turns the direction of the ±100 and 0..100 units, and only of those.
        homing_offset: Ticks subtracted inside the servo.
        range_min: Smallest tick.
        range_max: Largest tick.
    """

    servo_id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int

    @property
    def mid_tick(self) -> float:
        """Middle of the range, where degrees are zero; may end in .5."""
        return (self.range_min + self.range_max) / 2

    @property
    def travel_ticks(self) -> int:
        """Length of the range."""
        return self.range_max - self.range_min

    def ticks_to_degrees(self, ticks: float) -> float:
        """Degrees from mid-range; not clamped."""
        return (ticks - self.mid_tick) * 360 / MAX_TICK

    def degrees_to_ticks(self, degrees: float) -> int:
        """Nearest tick within the range."""
        return self._tick(degrees * MAX_TICK / 360 + self.mid_tick)

    def ticks_to_range100(self, ticks: float) -> float:
        """-100..100 over the range."""
        value = (self._clip(ticks) - self.range_min) / self.travel_ticks * 200 - 100
        return -value if self.drive_mode else value

    def range100_to_ticks(self, value: float) -> int:
        """Nearest tick of -100..100, clamped."""
        value = -value if self.drive_mode else value
        return self._tick((value + 100) / 200 * self.travel_ticks + self.range_min)

    def ticks_to_percent(self, ticks: float) -> float:
        """0..100 over the range."""
        value = (self._clip(ticks) - self.range_min) / self.travel_ticks * 100
        return 100 - value if self.drive_mode else value

    def percent_to_ticks(self, value: float) -> int:
        """Nearest tick of 0..100, clamped."""
        value = 100 - value if self.drive_mode else value
        return self._tick(value / 100 * self.travel_ticks + self.range_min)

    def _clip(self, ticks: float) -> float:
        return min(max(ticks, self.range_min), self.range_max)

    def _tick(self, ticks: float) -> int:
        if not math.isfinite(ticks):
            raise ValueError(f"{ticks} is not a position")
        return round(self._clip(ticks))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Calibration of all joints; arrays are in the order of ``JOINT_NAMES``.

    Attributes:
        joints: By joint name.
        source: Where it came from, for messages.
    """

    joints: Mapping[str, JointCalibration]
    source: str
    _zero_tick: NDArray[np.float64]
    _rad_per_tick: NDArray[np.float64]
    _zero_rad: NDArray[np.float64]
    _ranges: NDArray[np.float64]

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read LeRobot's JSON.

        Raises:
            UserError: Missing or unreadable file, other joints, impossible ranges.
        """
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UserError(
                f"cannot read the calibration {path} ({reason}): give the JSON file that LeRobot "
                "wrote when the arm was calibrated."
            ) from error
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the calibration {path} is not JSON: {error}.") from error
        return cls.from_mapping(content, str(path))

    @classmethod
    def from_mapping(cls, content: Any, source: str = "calibration") -> Calibration:
        """Check and take the content of a calibration file."""
        if not isinstance(content, dict):
            raise UserError(f"the calibration {source} is not a list of joints by name.")
        if set(content) >= _OLD_FORMAT:
            raise UserError(
                f"the calibration {source} is of LeRobot before May 2025, counted from the old "
                "zero (the arm stretched out), without the ranges that are needed now: calibrate "
                "the arm again."
            )
        missing = [name for name in JOINT_NAMES if name not in content]
        others = [name for name in content if name not in JOINT_NAMES]
        if missing or others:
            differences = []
            if missing:
                differences.append(f"has no {', '.join(missing)}")
            if others:
                differences.append(f"has {', '.join(others)}")
            raise UserError(
                f"the calibration {source} is not of an SO-101: it {' and '.join(differences)}; "
                f"expected exactly {', '.join(JOINT_NAMES)}."
            )
        joints = {
            name: _joint(name, servo_id, content[name], source)
            for name, servo_id in zip(JOINT_NAMES, SERVO_IDS, strict=True)
        }
        return cls(joints, source, *_lines(joints))

    @property
    def position_limits_rad(self) -> NDArray[np.float64]:
        """[6, 2], the calibrated range in radians, lower limit first."""
        return np.sort(
            np.stack([self.ticks_to_rad(self._ranges[:, side]) for side in (0, 1)], axis=-1),
            axis=-1,
        )

    def ticks_to_rad(self, ticks: ArrayLike) -> NDArray[np.float64]:
        """[..., 6] ticks to radians; not clamped, NaN stays NaN."""
        ticks = np.asarray(ticks, dtype=np.float64)
        return (ticks - self._zero_tick) * self._rad_per_tick + self._zero_rad

    def rad_to_ticks(self, positions_rad: ArrayLike) -> NDArray[np.int64]:
        """[..., 6] radians to the nearest ticks within the calibrated range."""
        positions = np.asarray(positions_rad, dtype=np.float64)
        if not np.isfinite(positions).all():
            raise ValueError("a position is not finite")
        ticks = (positions - self._zero_rad) / self._rad_per_tick + self._zero_tick
        return np.rint(np.clip(ticks, self._ranges[:, 0], self._ranges[:, 1])).astype(np.int64)

    def tick_rate_to_rad_s(self, ticks_per_s: ArrayLike) -> NDArray[np.float64]:
        """[..., 6] ticks per second to rad/s."""
        return np.asarray(ticks_per_s, dtype=np.float64) * self._rad_per_tick


def as_json(joints: Mapping[str, JointCalibration]) -> str:
    """Return the text of LeRobot's file."""
    content = {
        name: {
            "id": joints[name].servo_id,
            "drive_mode": joints[name].drive_mode,
            "homing_offset": joints[name].homing_offset,
            "range_min": joints[name].range_min,
            "range_max": joints[name].range_max,
        }
        for name in JOINT_NAMES
    }
    return json.dumps(content, indent=4)


def _joint(name: str, servo_id: int, entry: Any, source: str) -> JointCalibration:
    def refuse(problem: str) -> UserError:
        return UserError(
            f"the calibration {source} is unusable: {name} {problem}; calibrate the arm again."
        )

    if not isinstance(entry, dict):
        raise refuse("is not a mapping")
    values = {}
    for key in ("id", "drive_mode", "homing_offset", "range_min", "range_max"):
        value = entry.get(key)
        if type(value) is not int:
            raise refuse(f"has no whole number '{key}'")
        values[key] = value
    joint = JointCalibration(
        values["id"],
        values["drive_mode"],
        values["homing_offset"],
        values["range_min"],
        values["range_max"],
    )
    if joint.servo_id != servo_id:
        raise refuse(f"has servo id {joint.servo_id} instead of {servo_id}")
    if joint.drive_mode not in (0, 1):
        raise refuse(f"has drive_mode {joint.drive_mode}, neither 0 nor 1")
    if abs(joint.homing_offset) > HOMING_OFFSET.maximum:
        raise refuse(f"has homing_offset {joint.homing_offset}, beyond ±{HOMING_OFFSET.maximum}")
    if not 0 <= joint.range_min < joint.range_max <= MAX_TICK:
        raise refuse(
            f"has the range {joint.range_min}..{joint.range_max}, which is not within 0..{MAX_TICK}"
        )
    if joint.travel_ticks < SMALLEST_RANGE_TICKS:
        raise refuse(f"was swept over {joint.travel_ticks} ticks only")
    return joint


def _lines(joints: Mapping[str, JointCalibration]) -> tuple[NDArray[np.float64], ...]:
    """Return zero tick, rad per tick, rad at the zero tick and ranges of ``rad(tick)``."""
    ordered = [joints[name] for name in JOINT_NAMES]
    zero_tick = np.array([joint.mid_tick for joint in ordered])
    rad_per_tick = np.full(len(ordered), _RAD_PER_TICK)
    zero_rad = np.zeros(len(ordered))
    gripper = ordered[GRIPPER]
    opening = (GRIPPER_OPEN_RAD - GRIPPER_CLOSED_RAD) / gripper.travel_ticks
    zero_tick[GRIPPER] = gripper.range_max if gripper.drive_mode else gripper.range_min
    rad_per_tick[GRIPPER] = -opening if gripper.drive_mode else opening
    zero_rad[GRIPPER] = GRIPPER_CLOSED_RAD
    ranges = np.array([(joint.range_min, joint.range_max) for joint in ordered], dtype=np.float64)
    return zero_tick, rad_per_tick, zero_rad, ranges
