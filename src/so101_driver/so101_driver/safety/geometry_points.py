"""Forward kinematics of many poses at once, for chosen points and directions only.

Written for the 100 Hz loop: constants are computed once, arrays keep the poses in their last
dimension, and every joint is turned so that its axis is z, which leaves four NumPy calls per joint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from so101_driver.kinematics import Kinematics

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """Where the points of a ``PointSet`` are for some poses.

    Attributes:
        rows: [3, rows, poses]; points in metres, directions as long as given.
        axes: [3, bodies, poses], unit axis of the joint that moves each body; body 0 is the base.
        origins: [3, bodies, poses], a point on that axis.
    """

    rows: Array
    axes: Array
    origins: Array


class PointSet:
    """Points and directions that are fixed to links of an arm.

    A body is a link that a joint moves, together with the links fixed to it; body 0 is the base.

    Attributes:
        moved_by: [bodies, joints], whether a joint moves a body.
        columns: [bodies - 1], joint that moves body 1, 2, ... against its parent body.
    """

    def __init__(self, kinematics: Kinematics, joint_names: tuple[str, ...]) -> None:
        """Take joint arrays in the order of ``joint_names``, which all are the arm's."""
        in_body = {kinematics.base: (0, np.eye(4))}
        parents: list[int] = []
        columns: list[int] = []
        steps: list[Array] = []
        moved_by = [np.zeros(len(joint_names), dtype=bool)]
        for joint in kinematics.joints:
            body, frame = in_body[joint.parent]
            frame = frame @ joint.origin
            if joint.index is None:
                in_body[joint.child] = body, frame
                continue
            align = _with_z_along(joint.axis)
            parents.append(body)
            columns.append(joint_names.index(joint.name))
            # Transposed: it multiplies rows of base vectors and origin from the left.
            steps.append((frame @ align).T)
            moved = moved_by[body].copy()
            moved[columns[-1]] = True
            moved_by.append(moved)
            in_body[joint.child] = len(parents), align.T
        self.moved_by = np.array(moved_by)
        self.columns: Indices = np.array(columns, dtype=np.intp)
        self._in_body = in_body
        self._parents = parents
        self._steps = steps
        self._locals: list[list[Array]] = [[] for _ in moved_by]
        self._sorted: tuple[Array, ...] = ()

    def add(self, link: str, vector: Array, *, direction: bool = False) -> tuple[int, int]:
        """Add a point, or a direction, given in a link's frame; ``row`` translates the result."""
        body, frame = self._in_body[link]
        self._locals[body].append(frame @ np.append(vector, 0.0 if direction else 1.0))
        return body, len(self._locals[body]) - 1

    def finish(self) -> None:
        """Fix the order of the rows; nothing can be added afterwards."""
        self._sorted = tuple(np.array(rows).reshape(-1, 4) for rows in self._locals)
        ends = np.cumsum([0, *(len(rows) for rows in self._sorted)])
        self._slices = [slice(ends[i], ends[i + 1]) for i in range(len(self._sorted))]
        self._count = int(ends[-1])

    def row(self, handle: tuple[int, int]) -> int:
        """Return the row of something added, once finished."""
        body, number = handle
        return int(self._slices[body].start) + number

    def pose(self, positions_rad: Array) -> Posed:
        """Place everything: [poses, joints] -> Posed."""
        angles = np.ascontiguousarray(positions_rad.T[self.columns])
        count, poses = angles.shape
        cosine = np.cos(angles)
        sine = np.empty((count, 2, poses))
        np.sin(angles, out=sine[:, 0])
        np.negative(sine[:, 0], out=sine[:, 1])
        # frames[:, body]: x, y and z axis and origin, each [3, poses].
        frames = np.empty((3, count + 1, 4, poses))
        frames[:, 0] = _IDENTITY
        rows = np.empty((3, self._count, poses))
        rows[:, self._slices[0]] = self._sorted[0].T[:3, :, None]
        for index, (parent, step) in enumerate(zip(self._parents, self._steps, strict=True)):
            frame = frames[:, index + 1]
            np.matmul(step, frames[:, parent], out=frame)
            xy = frame[:, :2]
            np.add(xy * cosine[index], xy[:, ::-1] * sine[index], out=xy)
            np.matmul(self._sorted[index + 1], frame, out=rows[:, self._slices[index + 1]])
        return Posed(rows, frames[:, :, 2], frames[:, :, 3])


_IDENTITY = np.eye(4)[:3, :, None]


def _with_z_along(axis: Array) -> Array:
    """Return a rotation (4x4) that takes z to a unit vector."""
    out = np.eye(4)
    helper = np.eye(3)[np.argmin(np.abs(axis))]
    x = np.cross(helper, axis)
    x /= np.linalg.norm(x)
    out[:3, 0], out[:3, 1], out[:3, 2] = x, np.cross(axis, x), axis
    return out
