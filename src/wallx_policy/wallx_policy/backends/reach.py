"""Inverse kinematics for reaching down to a point on the table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from so101_driver.joints import ARM
from so101_driver.kinematics import Kinematics

Array = NDArray[np.float64]

POSITION_SCALE_M = 2e-3
"""Against the angles' scale this costs 0.2 mm for a radian of tilt: position wins."""
ANGLE_SCALE_RAD = 0.5
TOLERANCE_M = 2e-3
LIMIT_MARGIN_RAD = 0.03
DOWN = np.array([0.0, 0.0, -1.0])


class Unreachable(Exception):
    """The tip cannot get to a point."""


class Reach:
    """Finds joint angles that put the tip at a point, gripper pointing down as far as possible."""

    def __init__(self, kinematics: Kinematics) -> None:
        self._kinematics = kinematics
        self._lower_rad = kinematics.position_limits_rad[ARM, 0] + LIMIT_MARGIN_RAD
        self._upper_rad = kinematics.position_limits_rad[ARM, 1] - LIMIT_MARGIN_RAD

    def tip_m(self, joints_rad: Array) -> Array:
        """Return the position of the tip [3] in ``base_link``."""
        return self._kinematics.forward(joints_rad)[:3, 3]

    def jaw_yaw(self, joints_rad: Array) -> float:
        """Return the direction from the moving to the fixed finger, about the vertical."""
        x, y, _z = self._kinematics.forward(joints_rad)[:3, 0]
        return float(np.arctan2(y, x))

    def solve(self, tip_m: Array, start_rad: Array, jaw_yaw_rad: float | None = None) -> Array:
        """Return [6] joint angles; the gripper's is that of ``start_rad``.

        Args:
            tip_m: Where the tip shall be, in ``base_link``.
            start_rad: [6], where the search starts; the solution stays in its neighbourhood.
            jaw_yaw_rad: Direction from the moving to the fixed finger; None keeps the wrist's roll.

        Raises:
            Unreachable: if no angles within the limits bring the tip within 2 mm.
        """
        start = np.clip(start_rad[ARM], self._lower_rad + 1e-6, self._upper_rad - 1e-6)

        def residuals(arm_rad: Array) -> Array:
            """Residuals [..., 7] of arm angles [..., 5]; batched for the derivative."""
            gripper = np.full((*arm_rad.shape[:-1], 1), start_rad[-1])
            pose = self._kinematics.forward(np.concatenate([arm_rad, gripper], axis=-1))
            # The tip frame's z axis points out of the gripper, its x axis to the fixed finger.
            if jaw_yaw_rad is None:
                turn = arm_rad[..., 4] - start[4]
            else:
                turn = np.arctan2(pose[..., 1, 0], pose[..., 0, 0]) - jaw_yaw_rad
                turn = np.remainder(turn + np.pi, 2.0 * np.pi) - np.pi
            parts = (
                (pose[..., :3, 3] - tip_m) / POSITION_SCALE_M,
                (pose[..., :3, 2] - DOWN) / ANGLE_SCALE_RAD,
                turn[..., None] / ANGLE_SCALE_RAD,
            )
            return np.concatenate(parts, axis=-1)

        def derivative(arm_rad: Array) -> Array:
            step = 1e-6 * np.eye(len(arm_rad))
            return (residuals(arm_rad + step) - residuals(arm_rad - step)).T / 2e-6

        found = least_squares(
            residuals,
            start,
            jac=derivative,
            bounds=(self._lower_rad, self._upper_rad),
            x_scale=1.0,
            xtol=1e-5,
            max_nfev=50,
        )
        solution = np.array(start_rad, dtype=np.float64)
        solution[ARM] = found.x
        miss_m = float(np.linalg.norm(self.tip_m(solution) - tip_m))
        if not miss_m <= TOLERANCE_M:
            point = ", ".join(f"{value:.3f}" for value in tip_m)
            raise Unreachable(f"the tip gets no closer than {miss_m * 1e3:.0f} mm to ({point}) m")
        return solution
