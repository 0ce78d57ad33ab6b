"""What ``info.json`` of a LeRobot data set says: robot, rate, joint names and image sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

from wallx_policy.lerobot_files import IMAGE_PREFIX, read_json

WRITE_ONE = "or write a contract.yaml"
_SO101_ROBOTS = ("so101_follower", "so_follower", "so100_follower")


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
        if self.robot not in _SO101_ROBOTS:
            raise UserError(
                f"{self.path} names robot_type {self.robot!r}, known are "
                f"{', '.join(_SO101_ROBOTS)}: take the file of the right data set, {WRITE_ONE}"
            )

    def joints(self, feature: str) -> tuple[str, ...]:
        """Return the joints of a feature's columns.

        Raises:
            UserError: when they are not named, or not this arm's.
        """
        names = self._feature(feature).get("names")
        if isinstance(names, Mapping):  # older data sets nest them: {"motors": [...]}
            names = next(iter(names.values()), None)
        if not names or not isinstance(names, list):
            raise UserError(f"{self.path} lacks the names of {feature}: add them, {WRITE_ONE}")
        joints = [str(name).removesuffix(".pos").removeprefix("main_") for name in names]
        unknown = [joint for joint in joints if joint not in JOINT_NAMES]
        if unknown:
            raise UserError(
                f"{self.path}: {feature} names {unknown[0]!r}, which is no joint of this arm"
            )
        return tuple(joints)

    def image_size(self, name: str) -> tuple[int, int]:
        """Return width and height of an image feature, whose name may lack its prefix."""
        full = name if name.startswith(IMAGE_PREFIX) else IMAGE_PREFIX + name
        feature = self._feature(full)
        shape, order = feature.get("shape") or (), feature.get("names")
        if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
            raise UserError(f"{self.path} lacks the shape of {full}: add it, {WRITE_ONE}")
        first = isinstance(order, list) and str(order[0]).startswith("channel")
        height, width = shape[1:] if first else shape[:2]
        return width, height

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
