"""Named checks of whether a task is done, from the poses of the simulated objects.

The same checks decide in tests, in the demo's table and in the run_instruction action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from wallx_policy.backends.base import ObjectPose

LIFT_M = 0.04
"""A cube counts as lifted once its centre has been this much above where it started."""

Objects = Mapping[str, ObjectPose]


def lift_height(start: ObjectPose, now: ObjectPose) -> float:
    """Return how far an object's centre is above where it started, in metres."""
    return float(now.position_m[2] - start.position_m[2])


def cube_in_tray(objects: Objects, cube: str, tray: str = "tray") -> bool:
    """Whether a cube's centre is over the tray's floor and it rests there, not held above it.

    False when either object is unknown or has a non-finite pose.
    """
    if cube not in objects or tray not in objects:
        return False
    cube_pose, tray_pose = objects[cube], objects[tray]
    offset_m = _rotation(tray_pose.quaternion_xyzw).T @ (
        cube_pose.position_m - tray_pose.position_m
    )
    half_tray_m = tray_pose.size_m / 2
    inside = bool(np.all(np.abs(offset_m[:2]) < half_tray_m[:2]))
    resting = bool(offset_m[2] < half_tray_m[2] + cube_pose.size_m[2] / 2)
    above_floor = bool(offset_m[2] > -half_tray_m[2])
    return inside and resting and above_floor


def red_cube_in_tray(objects: Objects) -> bool:
    """Whether the red cube lies in the tray."""
    return cube_in_tray(objects, "red_cube")


CHECKS: dict[str, Callable[[Objects], bool]] = {"red_cube_in_tray": red_cube_in_tray}
"""Success checks by the name that the policy's parameter ``success_check`` takes."""


def _rotation(quaternion_xyzw: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion_xyzw / np.linalg.norm(quaternion_xyzw)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
