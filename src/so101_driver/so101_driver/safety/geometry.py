"""How far the arm is from the table, itself, the workspace's sides and boxes, with gradients.

Pure NumPy for the 100 Hz loop: each kind of constraint is computed for all poses together.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_constraints import (
    BoxConstraints,
    Constraints,
    PairConstraints,
    Placed,
    PlacedPoint,
    TableConstraints,
    WorkspaceConstraints,
)
from so101_driver.safety.geometry_points import PointSet, Posed
from so101_driver.safety.geometry_shapes import Shapes
from so101_driver.safety.types import Limit

Array = NDArray[np.float64]

_TIP_NAME = "gripper tip"


class Geometry:
    """Constraints on poses; immutable.

    A clearance is at least 0 where a pose is legal; margins and radii are already subtracted.
    Joint angles must be finite.

    Attributes:
        names: What each constraint keeps apart, e.g. ``forearm to the base``. Parts are covered
            with several capsules, so that a name may stand several times.
        limits: TABLE, SELF_COLLISION or WORKSPACE (which boxes are too) of each constraint.
        recoverable_m: A start that violates a constraint by more than this is refused.
        shapes: What this was made from.
    """

    def __init__(
        self, shapes: Shapes, kinematics: Kinematics, joint_names: tuple[str, ...]
    ) -> None:
        """Use ``geometry_file.load_geometry``, which checks what it reads.

        Args:
            shapes: Of the arm and its surroundings; links are the kinematics'.
            kinematics: Of the arm.
            joint_names: Order of the joint arrays; the same joints as the kinematics'.
        """
        self.shapes = shapes
        self.recoverable_m = shapes.recoverable_m
        self._points = PointSet(kinematics, joint_names)
        self._of_joint = np.argsort(self._points.columns)
        self._kinds = self._place(shapes, kinematics.tip)
        start = np.zeros((1, len(joint_names)))
        self._last = start, self._points.pose(start)
        self.names: tuple[str, ...] = tuple(name for kind in self._kinds for name in kind.names)
        self.limits: tuple[Limit, ...] = tuple(
            kind.limit for kind in self._kinds for _ in kind.names
        )
        moved = self._points.moved_by.astype(np.float64)
        self._signs = np.concatenate(
            [np.empty((0, len(joint_names)))]
            + [moved[kind.bodies] - moved[kind.others] for kind in self._kinds]
        )

    def clearances(self, positions_rad: Array) -> Array:
        """Return the clearances of poses: [n, joints] -> [n, constraints], metres."""
        rows = self._pose(positions_rad).rows
        out = np.empty((len(self.names), rows.shape[2]))
        begin = 0
        for kind in self._kinds:
            end = begin + len(kind.names)
            out[begin:end] = kind.clearances(rows)
            begin = end
        return out.T

    def clearances_and_gradients(self, position_rad: Array) -> tuple[Array, Array]:
        """Return the clearances of one pose and their derivatives by the joints.

        [joints] -> [constraints] metres, [constraints, joints] metres per radian.
        """
        posed = self._pose(position_rad[None])
        count = len(self.names)
        clearances, points, normals = np.empty(count), np.empty((3, count)), np.empty((3, count))
        begin = 0
        for kind in self._kinds:
            end = begin + len(kind.names)
            clearances[begin:end], points[:, begin:end], normals[:, begin:end] = kind.contacts(
                posed.rows
            )
            begin = end
        # A joint turns along z about o: n · (z x (p - o)) = z · (p x n) + n · (o x z).
        axes, origins = self._joint_lines(posed)
        gradients = _cross(points, normals).T @ axes + normals.T @ _cross(origins, axes)
        gradients *= self._signs
        return clearances, gradients

    def tip_positions(self, positions_rad: Array) -> Array:
        """Return where the tip is: [n, joints] -> [n, 3], metres in the base's frame."""
        return self._pose(positions_rad).rows[:, self._tip.row].T.copy()

    def tip_jacobian(self, position_rad: Array) -> Array:
        """Return the tip's velocity per joint velocity: [joints] -> [3, joints]."""
        posed = self._pose(position_rad[None])
        axes, origins = self._joint_lines(posed)
        lever = posed.rows[:, self._tip.row] - origins
        return _cross(axes, lever) * self._points.moved_by[self._tip.body]

    def _pose(self, positions_rad: Array) -> Posed:
        """Place the arm; the same poses are asked for several things, one after the other."""
        last, posed = self._last
        if last.shape != positions_rad.shape or not (last == positions_rad).all():
            posed = self._points.pose(positions_rad)
            self._last = positions_rad.copy(), posed
        return posed

    def _joint_lines(self, posed: Posed) -> tuple[Array, Array]:
        """Axes and points on them of one pose, [3, joints] in the order of the joint arrays."""
        return posed.axes[:, 1:, 0][:, self._of_joint], posed.origins[:, 1:, 0][:, self._of_joint]

    def _place(self, shapes: Shapes, tip_link: str) -> list[Constraints]:
        points = self._points
        tip = points.add(tip_link, np.zeros(3))
        fingers = [
            (tip_of.name, points.add(tip_of.link, point))
            for tip_of in shapes.fingertips
            for point in tip_of.points_m
        ]
        capsules = [
            (
                part.name,
                capsule,
                points.add(part.link, capsule.start_m),
                points.add(part.link, capsule.end_m),
                points.add(part.link, capsule.end_m - capsule.start_m, direction=True),
            )
            for part in shapes.parts
            for capsule in part.capsules
        ]
        points.finish()
        self._tip = PlacedPoint(_TIP_NAME, tip[0], points.row(tip))
        placed: dict[str, list[Placed]] = {part.name: [] for part in shapes.parts}
        for name, capsule, start, end, direction in capsules:
            along = capsule.end_m - capsule.start_m
            placed[name].append(
                Placed(
                    part=name,
                    body=start[0],
                    start=points.row(start),
                    end=points.row(end),
                    direction=points.row(direction),
                    radius_m=capsule.radius_m,
                    squared_m2=float(along @ along),
                )
            )
        moving = [c for some in placed.values() for c in some if points.moved_by[c.body].any()]
        kinds: list[Constraints] = []
        if shapes.table is not None:
            kinds.append(
                TableConstraints(
                    shapes.table,
                    [PlacedPoint(name, at[0], points.row(at)) for name, at in fingers],
                    [capsule for name in shapes.table.parts for capsule in placed[name]],
                )
            )
        pairs = [
            (first, second, pair.margin_m)
            for pair in shapes.pairs
            for first, second in product(placed[pair.first], placed[pair.second])
        ]
        if pairs:
            kinds.append(PairConstraints(pairs))
        if shapes.workspace is not None:
            kinds.append(WorkspaceConstraints(shapes.workspace, self._tip))
        kinds += [BoxConstraints(box, moving, shapes.boxes_margin_m) for box in shapes.boxes]
        return kinds


def _cross(first: Array, second: Array) -> Array:
    """Cross product of [3, n] and [3, n]; numpy.cross takes several times as long."""
    return first[_NEXT] * second[_AFTER] - first[_AFTER] * second[_NEXT]


_NEXT = np.array([1, 2, 0])
_AFTER = np.array([2, 0, 1])
