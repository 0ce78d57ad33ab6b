"""What the arm may do: limits per joint, read from a file and narrowed to one particular arm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES
from so101_driver.kinematics import Kinematics
from so101_driver.yaml_fields import mapping, number, read_yaml

Array = NDArray[np.float64]

SMALLEST_RANGE_RAD = 0.05
"""A joint that the combined limits leave less than this cannot be used: some limit is wrong."""

_TOP_KEYS = (
    "position_rad",
    "recoverable_violation_rad",
    "servos",
    "profiles",
    "following_error_rad",
    "parking",
)
_SERVO_KEYS = ("supply_v", "velocity_rad_s")
_MOTION_KEYS = ("velocity_rad_s", "acceleration_rad_s2", "jerk_rad_s3")
_PROFILE_KEYS = (*_MOTION_KEYS, "tip_speed_m_s")
_FOLLOWING_KEYS = ("slow", "stop")
_POSE_KEYS = ("via_rad", "rest_rad", "ready_rad")


@dataclass(frozen=True, slots=True)
class ServoPart:
    """A servo that the arm may be built from, told apart by its supply.

    Attributes:
        name: For messages.
        lowest_v: Smallest supply voltage at which it is taken to be fitted.
        highest_v: Largest.
        velocity_rad_s: What it reaches under the arm's load.
    """

    name: str
    lowest_v: float
    highest_v: float
    velocity_rad_s: float


class CalibratedRange(Protocol):
    """The part of a calibration that limits need."""

    @property
    def position_limits_rad(self) -> Array:
        """[joints, 2], lower and upper."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Limits of one arm; arrays are in the order of ``joint_names``.

    Attributes:
        joint_names: Order of every joint array.
        lower_rad: Smallest commanded position.
        upper_rad: Largest commanded position.
        velocity_rad_s: Largest speed.
        acceleration_rad_s2: Largest acceleration.
        jerk_rad_s3: Largest jerk.
        tip_speed_m_s: Largest speed of the tip; infinite where the file gives none.
        following_slow_rad: How far a joint may hang behind before the chunk is followed more
            slowly; NaN for a joint that may hang behind as far as it likes (a gripper that grips).
        following_stop_rad: How far before it counts as blocked.
        recoverable_violation_rad: How far outside its position limits a joint may stand when armed.
        via_rad: First pose of parking; NaN keeps a joint where it is.
        rest_rad: Last pose of parking; NaN keeps a joint where it is.
        ready_rad: Pose to which safety/return goes; NaN keeps a joint where it is.
        servos: Parts that the arm may be built from; empty where the supply does not matter.
        source: Where the numbers came from, for messages.
    """

    joint_names: tuple[str, ...]
    lower_rad: Array
    upper_rad: Array
    velocity_rad_s: Array
    acceleration_rad_s2: Array
    jerk_rad_s3: Array
    tip_speed_m_s: float
    following_slow_rad: Array
    following_stop_rad: Array
    recoverable_violation_rad: float
    via_rad: Array
    rest_rad: Array
    ready_rad: Array
    servos: tuple[ServoPart, ...]
    source: str

    @classmethod
    def from_file(cls, path: str | Path, profile: str) -> Limits:
        """Read one profile of a limits file.

        Raises:
            UserError: The file, the profile, a key or a joint is missing, unknown or impossible.
        """
        content = read_yaml(path, "limits file", "so101_limits.yaml")
        return cls._from_content(content, profile, str(path))

    @classmethod
    def _from_content(cls, content: Any, profile: str, source: str) -> Limits:
        top = mapping(content, _TOP_KEYS, "", source)
        profiles = top["profiles"]
        if not isinstance(profiles, dict) or profile not in profiles:
            known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) else "none"
            raise UserError(
                f"the limits file {source} has no profile '{profile}'; it has: {known}."
            )
        if not isinstance(top["position_rad"], dict) or not top["position_rad"]:
            raise UserError(f"position_rad in {source} must list joints with [lower, upper].")
        names = tuple(str(name) for name in top["position_rad"])
        ranges = [
            _range(top["position_rad"][name], f"position_rad: {name}", source) for name in names
        ]
        motion = mapping(profiles[profile], _PROFILE_KEYS, f"profiles: {profile}", source)
        velocity, acceleration, jerk = (
            _per_joint(motion[key], names, f"profiles: {profile}: {key}", source)
            for key in _MOTION_KEYS
        )
        tip_speed = motion["tip_speed_m_s"]
        if tip_speed is None:
            tip_speed = math.inf
        else:
            tip_speed = _positive(tip_speed, f"profiles: {profile}: tip_speed_m_s", source)
        following = mapping(
            top["following_error_rad"], _FOLLOWING_KEYS, "following_error_rad", source
        )
        slow, stop = (
            _per_joint(following[key], names, f"following_error_rad: {key}", source, optional=True)
            for key in _FOLLOWING_KEYS
        )
        for name, begins, ends in zip(names, slow.tolist(), stop.tolist(), strict=True):
            if math.isnan(begins) != math.isnan(ends) or begins >= ends:
                raise UserError(
                    f"following_error_rad in {source}: {name} needs slow below stop, or null for "
                    "both."
                )
        poses = mapping(top["parking"], _POSE_KEYS, "parking", source)
        via, rest, ready = (
            _per_joint(poses[key], names, f"parking: {key}", source, optional=True, signed=True)
            for key in _POSE_KEYS
        )
        violation = number(
            top["recoverable_violation_rad"], "recoverable_violation_rad", source, minimum=0.0
        )
        limits = cls(
            joint_names=names,
            lower_rad=np.array([low for low, _ in ranges]),
            upper_rad=np.array([high for _, high in ranges]),
            velocity_rad_s=velocity,
            acceleration_rad_s2=acceleration,
            jerk_rad_s3=jerk,
            tip_speed_m_s=tip_speed,
            following_slow_rad=slow,
            following_stop_rad=stop,
            recoverable_violation_rad=violation,
            via_rad=via,
            rest_rad=rest,
            ready_rad=ready,
            servos=_servos(top["servos"], source),
            source=f"{source} ({profile})",
        )
        for pose, key in zip((via, rest, ready), _POSE_KEYS, strict=True):
            for index, name in enumerate(names):
                if pose[index] < limits.lower_rad[index] or pose[index] > limits.upper_rad[index]:
                    raise UserError(
                        f"parking: {key} in {source} has {name} at {pose[index]}, outside its "
                        f"limits {limits.lower_rad[index]} to {limits.upper_rad[index]}."
                    )
        return limits

    def intersected(
        self, urdf_limits_rad: ArrayLike, calibration_limits_rad: ArrayLike | None = None
    ) -> Limits:
        """Narrow the position limits to those of the URDF and of one arm's calibration.

        Args:
            urdf_limits_rad: [joints, 2], lower and upper.
            calibration_limits_rad: [joints, 2], or None where no calibration is known.

        Raises:
            UserError: A joint is left without a usable range, or the shapes differ.
        """
        lower, upper = self.lower_rad, self.upper_rad
        for origin, bounds in (("URDF", urdf_limits_rad), ("calibration", calibration_limits_rad)):
            if bounds is None:
                continue
            array = np.asarray(bounds, dtype=np.float64)
            # A joint that turns for ever has infinite limits in a URDF.
            if array.shape != (len(self.joint_names), 2) or np.isnan(array).any():
                raise UserError(
                    f"the {origin}'s limits are not {len(self.joint_names)} ranges, one for each "
                    f"joint of {self.source}."
                )
            lower, upper = np.maximum(lower, array[:, 0]), np.minimum(upper, array[:, 1])
        for index, name in enumerate(self.joint_names):
            if upper[index] - lower[index] < SMALLEST_RANGE_RAD:
                raise UserError(
                    f"limits file, URDF and calibration leave {name} the range "
                    f"{lower[index]:.3f} to {upper[index]:.3f} rad: check the calibration and "
                    f"position_rad in {self.source}."
                )
        return replace(
            self,
            lower_rad=lower,
            upper_rad=upper,
            # One arm's stops may be closer than the file's: park as near as they allow.
            via_rad=np.clip(self.via_rad, lower, upper),
            rest_rad=np.clip(self.rest_rad, lower, upper),
            ready_rad=np.clip(self.ready_rad, lower, upper),
        )

    def servo_part(self, supply_v: float) -> ServoPart | None:
        """The part that a supply voltage tells; the slowest one while it is unknown (NaN).

        Returns None where the supply does not matter.

        Raises:
            UserError: No part of the limits file runs on this voltage.
        """
        if not self.servos:
            return None
        if math.isnan(supply_v):
            return min(self.servos, key=lambda part: part.velocity_rad_s)
        for part in self.servos:
            if part.lowest_v <= supply_v < part.highest_v:
                return part
        ranges = " or ".join(
            f"{part.lowest_v:g} to {part.highest_v:g} V ({part.name})" for part in self.servos
        )
        raise UserError(
            f"the servos' supply is {supply_v:.1f} V instead of {ranges}: check the power supply, "
            f"or servos in {self.source}"
        )

    def for_part(self, part: ServoPart | None) -> Limits:
        """Narrow the speeds to what a servo part reaches."""
        if part is None:
            return self
        return replace(self, velocity_rad_s=np.minimum(self.velocity_rad_s, part.velocity_rad_s))


def effective_limits(
    limits_file: str | Path,
    profile: str,
    urdf_path: str | Path,
    calibration: CalibratedRange | None,
) -> Limits:
    """Limits of one SO-101: file, URDF and calibration, whichever is tighter.

    The safety and the driver node both call this, so that they agree.

    Raises:
        UserError: An input is unusable, or the file lists other joints.
    """
    limits = Limits.from_file(limits_file, profile)
    if limits.joint_names != JOINT_NAMES:
        raise UserError(
            f"position_rad in {limits_file} lists {', '.join(limits.joint_names)}; an SO-101 has "
            f"{', '.join(JOINT_NAMES)}, in this order."
        )
    return limits.intersected(
        Kinematics.from_urdf(urdf_path).position_limits_rad,
        None if calibration is None else calibration.position_limits_rad,
    )


def _range(value: Any, where: str, source: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{where} in {source} must be [lower, upper], not {value!r}.")
    low, high = (number(part, where, source) for part in value)
    if high - low < SMALLEST_RANGE_RAD:
        raise UserError(f"{where} in {source}: {low} to {high} is no usable range.")
    return low, high


def _positive(value: Any, where: str, source: str) -> float:
    positive = number(value, where, source)
    if positive <= 0.0:
        raise UserError(f"{where} in {source} must be positive, not {value!r}.")
    return positive


def _per_joint(
    value: Any,
    names: tuple[str, ...],
    where: str,
    source: str,
    *,
    optional: bool = False,
    signed: bool = False,
) -> Array:
    """One number per joint: positive unless ``signed``; if ``optional``, null is NaN."""
    entries = mapping(value, names, where, source)
    read = number if signed else _positive
    numbers = []
    for name in names:
        if optional and entries[name] is None:
            numbers.append(math.nan)
        else:
            numbers.append(read(entries[name], f"{where}: {name}", source))
    return np.array(numbers)


def _servos(value: Any, source: str) -> tuple[ServoPart, ...]:
    """The parts of the section ``servos``; null where the supply does not matter."""
    if value is None:
        return ()
    if not isinstance(value, dict) or not value:
        raise UserError(f"servos in {source} must list parts by name, or be null.")
    parts = []
    for name, entry in value.items():
        where = f"servos: {name}"
        part = mapping(entry, _SERVO_KEYS, where, source)
        low, high = _range(part["supply_v"], f"{where}: supply_v", source)
        velocity = _positive(part["velocity_rad_s"], f"{where}: velocity_rad_s", source)
        parts.append(ServoPart(str(name), low, high, velocity))
    return tuple(parts)
