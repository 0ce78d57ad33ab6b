"""What ``info.json`` of a LeRobot data set says: robot, rate, joint names and image sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

from wallx_policy.contract_types import Zeros
from wallx_policy.lerobot_files import ACTION_FEATURE, IMAGE_PREFIX, STATE_FEATURE, read_json

WRITE_ONE = "or write a contract.yaml"
_SO101_ROBOTS = ("so101_follower", "so_follower", "so100_follower")
_OLD_ROBOTS = ("so101", "so100")
"""What LeRobot called them while its zeros were those of the stretched arm."""
_OLD_PREFIX = "main_"
"""Of joint names at that time; see LeRobot's page on backward compatibility."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The description of a data set.

    Attributes:
        path: Its file.
        robot: ``robot_type``.
        fps: Frames per second.
        features: By name, as the file has them.
    """

    path: Path
    robot: str
    fps: float
    features: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The file's name within the checkpoint."""
        return self.path.name

    def check_arm(self) -> None:
        """Refuse the data set of another robot."""
        known = (*_SO101_ROBOTS, *_OLD_ROBOTS)
        if self.robot not in known:
            raise UserError(
                f"{self.path} names robot_type {self.robot!r}, known are {', '.join(known)}: take "
                f"the file of the right data set, {WRITE_ONE}"
            )

    def joints(self, feature: str) -> tuple[str, ...]:
        """Return the joints of a feature's columns.

        Raises:
            UserError: when they are not named, or not this arm's.
        """
        names = self._names(feature)
        if not names:
            raise UserError(f"{self.path} lacks the names of {feature}: add them, {WRITE_ONE}")
        joints = [name.removesuffix(".pos").removeprefix(_OLD_PREFIX) for name in names]
        unknown = [joint for joint in joints if joint not in JOINT_NAMES]
        if unknown:
            raise UserError(
                f"{self.path}: {feature} names {unknown[0]!r}, which is no joint of this arm"
            )
        return tuple(joints)

    @property
    def zeros(self) -> Zeros:
        """Which zeros the names of robot and joints tell of."""
        names = [*self._names(STATE_FEATURE), *self._names(ACTION_FEATURE)]
        old = self.robot in _OLD_ROBOTS or any(name.startswith(_OLD_PREFIX) for name in names)
        return Zeros.STRETCHED if old else Zeros.MID_RANGE

    def image_size(self, name: str) -> tuple[int, int]:
        """Return width and height of an image feature, whose name may lack its prefix."""
        full = name if name.startswith(IMAGE_PREFIX) else IMAGE_PREFIX + name
        feature = self._feature(full)
        shape, order = feature.get("shape"), feature.get("names")
        if not isinstance(shape, list) or [type(n) for n in shape] != [int] * 3 or min(shape) < 1:
            raise UserError(f"{self.path} lacks the shape of {full}: add it, {WRITE_ONE}")
        first = isinstance(order, list) and str([*order, ""][0]).startswith("channel")
        height, width = shape[1:] if first else shape[:2]
        return width, height

    def _names(self, feature: str) -> list[str]:
        names = self._feature(feature).get("names")
        if isinstance(names, Mapping):  # older data sets nest them: {"motors": [...]}
            names = next(iter(names.values()), None)
        return [str(name) for name in names] if isinstance(names, list) else []

    def _feature(self, name: str) -> Mapping[str, Any]:
        feature = self.features.get(name)
        return feature if isinstance(feature, Mapping) else {}


def find_data_set(folder: Path) -> Path | None:
    """Return the ``info.json`` that lies in a checkpoint, or in its folder ``meta``."""
    paths = (folder / "info.json", folder / "meta/info.json")
    return next((path for path in paths if path.is_file()), None)


def read_data_set(folder: Path) -> DataSet:
    """Read the description of a checkpoint's training data.

    Raises:
        UserError: when it does not lie there, or names no rate.
    """
    path = find_data_set(folder)
    if path is None:
        raise UserError(
            f"{folder} has no contract.yaml, and its own files do not record joint names and frame "
            f"rate: copy meta/info.json of its training data into the folder, {WRITE_ONE}"
        )
    content = read_json(path)
    fps = content.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
        raise UserError(f"{path} lacks a positive fps: add it, {WRITE_ONE}")
    features = content.get("features")
    return DataSet(
        path,
        str(content.get("robot_type")),
        float(fps),
        features if isinstance(features, Mapping) else {},
    )
