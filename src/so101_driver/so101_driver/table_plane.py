"""Finds the table by touching it: joint angles to fingertip positions to a plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from so101_driver.errors import UserError
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import MAX_TILT_RAD
from so101_driver.safety.geometry_shapes import Fingertip

Array = NDArray[np.float64]

LEAST_POINTS = 3
LEAST_DISTANCE_M = 0.10
"""An error of 2 mm at points this far apart tilts the plane by 1 degree."""
LEAST_WIDTH_M = 0.05
"""Points that lie closer to one line tell nothing about the tilt across it."""
LARGEST_RESIDUAL_M = 0.01
MOVING_RAD = 0.01
"""Encoders flicker by a step or two, 0.003 rad."""
LEAST_SAMPLES = 5


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """A measured table.

    Attributes:
        point_m: Where it passes below (or above) the base's origin.
        normal: Unit vector up.
        residuals_m: Height of each touched point over it; zeros for three.
    """

    point_m: Array
    normal: Array
    residuals_m: Array

    @property
    def tilt_rad(self) -> float:
        """Angle between the normal and the base's z axis."""
        return math.acos(min(1.0, float(self.normal[2])))


@dataclass(frozen=True, slots=True, eq=False)
class Touch:
    """One pose in which a fingertip touches the table; which point does is not known.

    Attributes:
        points_m: [points, 3] of all fingertips, in the base's frame.
        names: Finger of each.
    """

    points_m: Array
    names: tuple[str, ...]

    def lowest(self, normal: Array) -> int:
        """Return the point that is lowest along a normal: it is the one that touches."""
        return int(np.argmin(self.points_m @ normal))


def steady_pose(samples: Sequence[Sequence[float]], joint_names: Sequence[str]) -> Array:
    """Return the median of measured positions of a resting arm.

    Args:
        samples: Positions of all joints, one after the other over about half a second.
        joint_names: Their names.

    Raises:
        UserError: Too few samples, a joint without a measurement, or a moving arm.
    """
    if len(samples) < LEAST_SAMPLES:
        raise UserError(
            f"only {len(samples)} joint states came in: see with `wallx echo driver/status` "
            "whether the driver reads the arm."
        )
    positions = np.array(samples, dtype=np.float64)
    silent = [n for n, bad in zip(joint_names, np.isnan(positions).any(axis=0), strict=True) if bad]
    if silent:
        raise UserError(f"{', '.join(silent)} did not answer: see `wallx echo driver/status`.")
    travel = np.ptp(positions, axis=0)
    if travel.max() > MOVING_RAD:
        moving = joint_names[int(travel.argmax())]
        raise UserError(
            f"{moving} moved by {math.degrees(travel.max()):.1f} degrees: keep the arm still."
        )
    return np.median(positions, axis=0)


def touch_of(
    kinematics: Kinematics, fingertips: Sequence[Fingertip], position_rad: ArrayLike
) -> Touch:
    """Return where the fingertips are in a pose.

    Raises:
        UserError: The geometry file has no fingertips.
    """
    if not fingertips:
        raise UserError("the geometry file has no fingertips: add the points that touch the table.")
    frames = kinematics.link_frames(position_rad)
    points = [
        tip.points_m @ frames[tip.link][:3, :3].T + frames[tip.link][:3, 3] for tip in fingertips
    ]
    names = tuple(tip.name for tip in fingertips for _ in tip.points_m)
    return Touch(np.concatenate(points), names)


def plane_of(touches: Sequence[Touch], normal: ArrayLike = (0.0, 0.0, 1.0)) -> Plane:
    """Return the table through the touched points.

    Args:
        touches: At least three poses.
        normal: Of the table as it was believed to be.

    Raises:
        UserError: The points do not tell a plane, or one that no table has.
    """
    up = np.asarray(normal, dtype=np.float64)
    plane = None
    # Which point of the fingertips is the lowest depends a little on the tilt.
    for _ in range(3):
        plane = fit_plane([touch.points_m[touch.lowest(up)] for touch in touches])
        up = plane.normal
    return plane


def check_apart(points_m: ArrayLike) -> None:
    """Refuse points [n, 3] of which two are so close that an error at one tilts the plane.

    Raises:
        UserError: Two points are too close.
    """
    points = np.asarray(points_m, dtype=np.float64)
    for first, second in combinations(range(len(points)), 2):
        distance = float(np.linalg.norm(points[first] - points[second]))
        if distance < LEAST_DISTANCE_M:
            raise UserError(
                f"points {first + 1} and {second + 1} are only {100 * distance:.1f} cm apart: "
                f"touch places that are at least {100 * LEAST_DISTANCE_M:.0f} cm apart."
            )


def fit_plane(points_m: ArrayLike) -> Plane:
    """Return the plane through points [n, 3], by least squares where there are more than three.

    Raises:
        UserError: Points are too few, too close, nearly on a line, off the plane, or too steep.
    """
    points = np.asarray(points_m, dtype=np.float64)
    if len(points) < LEAST_POINTS:
        raise UserError(f"{len(points)} points are no plane: touch the table at three places.")
    check_apart(points)
    centre = points.mean(axis=0)
    axes = np.linalg.svd(points - centre)[2]
    width = float(np.ptp((points - centre) @ axes[1]))
    if width < LEAST_WIDTH_M:
        raise UserError(
            f"the points lie within {100 * width:.0f} cm of a line: touch one of the places "
            f"further to the side, at least {100 * LEAST_WIDTH_M:.0f} cm."
        )
    normal = axes[2] if axes[2][2] >= 0.0 else -axes[2]
    tilt = math.acos(min(1.0, float(normal[2])))
    if tilt > MAX_TILT_RAD:
        raise UserError(
            f"the points are on a plane that is tilted by {math.degrees(tilt):.0f} degrees: touch "
            "the table's surface only, and check the arm's calibration."
        )
    residuals = (points - centre) @ normal
    worst = int(np.abs(residuals).argmax())
    if abs(residuals[worst]) > LARGEST_RESIDUAL_M:
        raise UserError(
            f"point {worst + 1} is {1e3 * abs(residuals[worst]):.0f} mm off the plane of the "
            "others: touch the table's surface only, with the same finger down."
        )
    height = float(normal @ centre) / float(normal[2])
    return Plane(np.array([0.0, 0.0, height]), normal, residuals)


def with_table(content: Mapping[str, Any], plane: Plane) -> dict[str, Any]:
    """Return a geometry file's content with a measured table in it.

    Raises:
        UserError: The file has no table.
    """
    if not isinstance(content.get("table"), dict):
        raise UserError("the geometry file has no table: add the section first.")
    table = dict(content["table"])
    table["point_m"] = [round(float(value), 5) for value in plane.point_m]
    table["normal"] = [round(float(value), 6) for value in plane.normal]
    return {**content, "table": table}
