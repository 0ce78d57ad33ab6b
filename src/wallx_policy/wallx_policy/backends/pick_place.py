"""Where the gripper goes to pick a cube and to put it into a tray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import GRIPPER

from wallx_policy.backends.base import ObjectPose
from wallx_policy.backends.reach import Reach
from wallx_policy.success import Objects

Array = NDArray[np.float64]

PAN_AXIS_M = (0.0388, 0.0)
"""Where the shoulder's vertical axis stands."""
HOVER_M = 0.07
CARRY_M = 0.10
GRASP_M = 0.014
RELEASE_M = 0.045
"""Heights of the tip above the table."""
FINGER_OFFSET_M = 0.008
"""The fixed finger has no clearance of its own: it comes down this far off the cube."""
FIXED_FINGER_M = 0.032
MOVING_FINGER_M = -0.045
"""Outer sides of the open fingers along the jaw's direction, from the cube's centre."""
ENOUGH_CLEARANCE_M = 0.04
LINE_KNOTS = 6
REACHING_RAD = np.array([0.0, -0.2, 0.3, 1.4, 0.0, 0.0])
"""From here the inverse kinematics finds the elbow-up solutions."""


@dataclass(frozen=True, slots=True)
class Grasp:
    """One way to pick a cube, with the gripper open.

    Attributes:
        hover_rad: Above the cube.
        descent_rad: From there straight down to the grasp.
        cube_height_m: Height of the cube's centre before.
    """

    hover_rad: Array
    descent_rad: tuple[Array, ...]
    cube_height_m: float


class PickPlanner:
    """Turns object poses into joint angles."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def grasp(self, objects: Objects, cube: str, open_rad: float) -> Grasp:
        """Choose the side to grasp from and return its joint angles.

        Raises:
            Unreachable: if the tip cannot get there.
        """
        target = objects[cube].position_m
        facing_rad = self._facing(target[:2], open_rad)
        yaw_rad = self._choose_yaw(objects, cube, self._reach.jaw_yaw(facing_rad))
        # Off along the jaw, so that both fingers come down beside the cube.
        shift_m = FINGER_OFFSET_M * np.array([math.cos(yaw_rad), math.sin(yaw_rad)])
        xy_m = target[:2] + shift_m
        hover_rad = self._reach.solve(np.array([*xy_m, HOVER_M]), facing_rad, yaw_rad)
        descent = self.line(hover_rad, np.array([*xy_m, GRASP_M]), yaw_rad)
        return Grasp(hover_rad, descent, float(target[2]))

    def above(self, place: ObjectPose, height_m: float, gripper_rad: float) -> Array:
        """Return joint angles with the tip above an object's centre."""
        tip_m = np.array([*place.position_m[:2], height_m])
        return self._reach.solve(tip_m, self._facing(tip_m[:2], gripper_rad))

    def line(
        self, start_rad: Array, end_m: Array, jaw_yaw_rad: float | None = None
    ) -> tuple[Array, ...]:
        """Return knots of a straight line of the tip, from joint angles to a point."""
        start_m = self._reach.tip_m(start_rad)
        knots = [np.array(start_rad)]
        for share in np.linspace(0.0, 1.0, LINE_KNOTS)[1:]:
            tip_m = start_m + share * (end_m - start_m)
            knots.append(self._reach.solve(tip_m, knots[-1], jaw_yaw_rad))
        return tuple(knots)

    def _facing(self, xy_m: Sequence[float] | Array, gripper_rad: float) -> Array:
        """Return a pose that reaches in the direction of a point, to start the search from."""
        pose = REACHING_RAD.copy()
        # Positive pan turns clockwise seen from above.
        pose[0] = -math.atan2(xy_m[1] - PAN_AXIS_M[1], xy_m[0] - PAN_AXIS_M[0])
        pose[GRIPPER] = gripper_rad
        return pose

    def _choose_yaw(self, objects: Objects, cube: str, natural_rad: float) -> float:
        """Return the jaw direction along a side of the cube with the most room for the fingers."""
        x, y, z, w = objects[cube].quaternion_xyzw
        cube_yaw_rad = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        others_m = [
            pose.position_m[:2] - objects[cube].position_m[:2]
            for name, pose in objects.items()
            if name.endswith("_cube") and name != cube
        ]

        def score(yaw_rad: float) -> float:
            jaw = np.array([math.cos(yaw_rad), math.sin(yaw_rad)])
            room_m = ENOUGH_CLEARANCE_M
            for finger_m in (FIXED_FINGER_M, MOVING_FINGER_M):
                for other_m in others_m:
                    room_m = min(room_m, float(np.linalg.norm(other_m - finger_m * jaw)))
            turn_rad = abs(math.remainder(yaw_rad - natural_rad, 2.0 * math.pi))
            # 1 cm of room is worth a quarter turn of the wrist.
            return room_m - 0.01 * turn_rad / (math.pi / 2)

        return max((cube_yaw_rad + k * math.pi / 2 for k in range(4)), key=score)
