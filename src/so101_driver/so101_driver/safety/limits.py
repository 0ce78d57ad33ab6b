"""What the arm may do: limits per joint, read from a file and narrowed to one particular arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES
from so101_driver.kinematics import Kinematics

Array = NDArray[np.float64]

SMALLEST_RANGE_RAD = 0.05
"""A joint that the combined limits leave less than this cannot be used: some limit is wrong."""

_TOP_KEYS = ("position_rad", "recoverable_violation_rad", "profiles", "parking")
_PROFILE_KEYS = ("velocity_rad_s", "acceleration_rad_s2", "jerk_rad_s3")
_POSE_KEYS = ("via_rad", "rest_rad")


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
        recoverable_violation_rad: How far outside its position limits a joint may stand when armed.
        via_rad: First pose of parking; NaN keeps a joint where it is.
        rest_rad: Last pose of parking; NaN keeps a joint where it is.
        source: Where the numbers came from, for messages.
    """

    joint_names: tuple[str, ...]
    lower_rad: Array
    upper_rad: Array
    velocity_rad_s: Array
    acceleration_rad_s2: Array
    jerk_rad_s3: Array
    recoverable_violation_rad: float
    via_rad: Array
    rest_rad: Array
    source: str

    @classmethod
    def from_file(cls, path: str | Path, profile: str) -> Limits:
        """Read one profile of a limits file.

        Raises:
            UserError: The file, the profile, a key or a joint is missing, unknown or impossible.
        """
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UserError(
                f"cannot read the limits file {path} ({reason}): give the path of a file like "
                "so101_limits.yaml."
            ) from error
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            summary = " ".join(str(error).split())
            raise UserError(f"the limits file {path} is not YAML: {summary}.") from error
        return cls._from_content(content, profile, str(path))

    @classmethod
    def _from_content(cls, content: Any, profile: str, source: str) -> Limits:
        top = _mapping(content, _TOP_KEYS, "", source)
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
        motion = _mapping(profiles[profile], _PROFILE_KEYS, f"profiles: {profile}", source)
        velocity, acceleration, jerk = (
            _per_joint(motion[key], names, f"profiles: {profile}: {key}", source)
            for key in _PROFILE_KEYS
        )
        poses = _mapping(top["parking"], _POSE_KEYS, "parking", source)
        via, rest = (
            _per_joint(poses[key], names, f"parking: {key}", source, pose=True)
            for key in _POSE_KEYS
        )
        violation = _number(
            top["recoverable_violation_rad"], "recoverable_violation_rad", source, minimum=0.0
        )
        limits = cls(
            joint_names=names,
            lower_rad=np.array([low for low, _ in ranges]),
            upper_rad=np.array([high for _, high in ranges]),
            velocity_rad_s=velocity,
            acceleration_rad_s2=acceleration,
            jerk_rad_s3=jerk,
            recoverable_violation_rad=violation,
            via_rad=via,
            rest_rad=rest,
            source=f"{source} ({profile})",
        )
        for pose, key in ((via, "via_rad"), (rest, "rest_rad")):
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
            if array.shape != (len(self.joint_names), 2) or not np.isfinite(array).all():
                raise UserError(
                    f"the {origin}'s limits are not {len(self.joint_names)} finite ranges, one for "
                    f"each joint of {self.source}."
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
        )


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


def _mapping(value: Any, keys: tuple[str, ...], where: str, source: str) -> Mapping[str, Any]:
    place = f"{where} in {source}" if where else f"the limits file {source}"
    if not isinstance(value, dict):
        raise UserError(f"{place} must have the keys {', '.join(keys)}.")
    missing = [key for key in keys if key not in value]
    unknown = [str(key) for key in value if key not in keys]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}.")
    if unknown:
        raise UserError(f"{place} has unknown keys: {', '.join(unknown)}.")
    return value


def _number(value: Any, where: str, source: str, minimum: float = -math.inf) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < minimum:
        bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise UserError(f"{where} in {source} must be a finite number{bound}, not {value!r}.")
    return float(value)


def _range(value: Any, where: str, source: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{where} in {source} must be [lower, upper], not {value!r}.")
    low, high = (_number(part, where, source) for part in value)
    if high - low < SMALLEST_RANGE_RAD:
        raise UserError(f"{where} in {source}: {low} to {high} is no usable range.")
    return low, high


def _per_joint(
    value: Any, names: tuple[str, ...], where: str, source: str, pose: bool = False
) -> Array:
    """One number per joint; positive, or any position (null is NaN) for a pose."""
    entries = _mapping(value, names, where, source)
    numbers = []
    for name in names:
        entry = entries[name]
        if pose and entry is None:
            numbers.append(math.nan)
            continue
        number = _number(entry, f"{where}: {name}", source)
        if not pose and number <= 0.0:
            raise UserError(f"{where}: {name} in {source} must be positive, not {entry!r}.")
        numbers.append(number)
    return np.array(numbers)
