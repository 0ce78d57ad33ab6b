"""The four kinds of constraints: table, pairs of parts, sides of the workspace, boxes.

Each kind holds many constraints of one sort and computes them together. ``clearances`` serves many
poses; ``contacts`` one pose, with what a gradient needs: the point of the arm that is closest to
the other side and the direction in which it gets away from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from so101_driver.safety.geometry_distances import (
    box_distance,
    segment_in_box,
    segment_parameters,
)
from so101_driver.safety.geometry_points import Indices
from so101_driver.safety.geometry_shapes import Box, Table, Workspace
from so101_driver.safety.types import Limit

Array = NDArray[np.float64]
Contacts = tuple[Array, Array, Array]
"""Clearances [c], points [3, c] in metres, unit normals [3, c]."""

_TOUCHING_M = 1e-9
"""Two axes that meet have no direction from one to the other: the gradient is zero there."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A capsule whose ends are rows of a ``PointSet``.

    Attributes:
        part: Name of the part of the arm.
        body: Body that carries it.
        start: Row of one end.
        end: Row of the other.
        direction: Row of the vector from one to the other.
        radius_m: As given.
        squared_m2: Squared length of the segment.
    """

    part: str
    body: int
    start: int
    end: int
    direction: int
    radius_m: float
    squared_m2: float


@dataclass(frozen=True, slots=True)
class PlacedPoint:
    """A point that is one row of a ``PointSet``."""

    name: str
    body: int
    row: int


class Constraints(Protocol):
    """Constraints of one kind.

    Attributes:
        names: Of each.
        limit: Bit that tells that one of them acts.
        bodies: [c], body of the point that ``contacts`` gives.
        others: [c], body on the other side; 0, which never moves, for things around the arm.
    """

    names: list[str]
    limit: Limit
    bodies: Indices
    others: Indices

    def clearances(self, rows: Array) -> Array:
        """Return clearances: rows [3, rows, poses] -> [c, poses]."""
        ...

    def contacts(self, rows: Array) -> Contacts:
        """Return the contacts of one pose: rows [3, rows, 1]."""
        ...


class TableConstraints:
    """Points that stay above a plane: fingertips, and the ends of capsules less their radius."""

    limit = Limit.TABLE

    def __init__(
        self, table: Table, fingertips: Sequence[PlacedPoint], capsules: Sequence[Placed]
    ) -> None:
        """Test every fingertip point and both ends of every capsule."""
        height_m = float(table.normal @ table.point_m)
        names = [f"{point.name} to the table" for point in fingertips]
        rows = [point.row for point in fingertips]
        bodies = [point.body for point in fingertips]
        least = [height_m - table.command_depth_m for _ in fingertips]
        for capsule in capsules:
            ends = {capsule.start, capsule.end} if capsule.squared_m2 else {capsule.start}
            for row in sorted(ends):
                names.append(f"{capsule.part} to the table")
                rows.append(row)
                bodies.append(capsule.body)
                least.append(height_m + capsule.radius_m + table.margin_m)
        self.names = names
        self.bodies = np.array(bodies, dtype=np.intp)
        self.others = np.zeros_like(self.bodies)
        self._rows = np.array(rows, dtype=np.intp)
        self._least_m = np.array(least)[:, None]
        self._normal = table.normal

    def clearances(self, rows: Array) -> Array:
        """Return clearances: rows [3, rows, poses] -> [c, poses]."""
        heights = self._normal @ rows.reshape(3, -1)
        return heights.reshape(rows.shape[1:]).take(self._rows, axis=0) - self._least_m

    def contacts(self, rows: Array) -> Contacts:
        """Return the contacts of one pose: rows [3, rows, 1]."""
        points = rows[:, self._rows, 0]
        normals = np.broadcast_to(self._normal[:, None], points.shape)
        return self._normal @ points - self._least_m[:, 0], points, normals


class PairConstraints:
    """Pairs of capsules that keep apart."""

    limit = Limit.SELF_COLLISION

    def __init__(self, pairs: Sequence[tuple[Placed, Placed, float]]) -> None:
        """Test each pair, given with the distance that it keeps; the first part is named first."""
        self.names = [f"{first.part} to the {second.part}" for first, second, _ in pairs]
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        self.bodies, self.others = (
            np.array([capsule.body for capsule in side], dtype=np.intp) for side in (first, second)
        )
        self._start_1, self._start_2 = (
            np.array([capsule.start for capsule in side], dtype=np.intp) for side in (first, second)
        )
        self._direction_1, self._direction_2 = (
            np.array([capsule.direction for capsule in side], dtype=np.intp)
            for side in (first, second)
        )
        self._squared_1, self._squared_2 = (
            np.array([[capsule.squared_m2] for capsule in side]) for side in (first, second)
        )
        self._reach_m = np.array([[a.radius_m + b.radius_m + margin_m] for a, b, margin_m in pairs])

    def clearances(self, rows: Array) -> Array:
        """Return clearances: rows [3, rows, poses] -> [c, poses]."""
        between = self._closest(rows)[0]
        return np.sqrt((between * between).sum(axis=0)) - self._reach_m

    def contacts(self, rows: Array) -> Contacts:
        """Return the contacts of one pose: rows [3, rows, 1]."""
        between, points = self._closest(rows)
        length = np.sqrt((between * between).sum(axis=0))
        normals = between / np.maximum(length, _TOUCHING_M)
        return (length - self._reach_m)[:, 0], points[:, :, 0], normals[:, :, 0]

    def _closest(self, rows: Array) -> tuple[Array, Array]:
        """Return the vector between the closest points and the first of them, [3, c, poses]."""
        start = rows.take(self._start_1, axis=1)
        apart = start - rows.take(self._start_2, axis=1)
        direction_1 = rows.take(self._direction_1, axis=1)
        direction_2 = rows.take(self._direction_2, axis=1)
        s, t = segment_parameters(
            (direction_1 * direction_2).sum(axis=0),
            (direction_1 * apart).sum(axis=0),
            (direction_2 * apart).sum(axis=0),
            self._squared_1,
            self._squared_2,
        )
        direction_1 *= s
        direction_2 *= t
        apart += direction_1
        apart -= direction_2
        start += direction_1
        return apart, start


class WorkspaceConstraints:
    """The six sides of the box that the tip may not leave."""

    limit = Limit.WORKSPACE
    _FACES = np.concatenate([np.eye(3), -np.eye(3)]).T

    def __init__(self, workspace: Workspace, tip: PlacedPoint) -> None:
        """Test one point."""
        sides = ("back", "right side", "bottom", "front", "left side", "top")
        self.names = [f"{tip.name} to the workspace's {side}" for side in sides]
        self.bodies = np.full(6, tip.body)
        self.others = np.zeros_like(self.bodies)
        self._row = tip.row
        self._signs = np.repeat([1.0, -1.0], 3)[:, None]
        self._bounds = np.concatenate([workspace.lower_m, -workspace.upper_m])[:, None]

    def clearances(self, rows: Array) -> Array:
        """Return clearances: rows [3, rows, poses] -> [c, poses]."""
        tip = rows[:, self._row]
        return np.concatenate([tip, -tip]) - self._bounds

    def contacts(self, rows: Array) -> Contacts:
        """Return the contacts of one pose: rows [3, rows, 1]."""
        tip = np.broadcast_to(rows[:, self._row], (3, 6))
        return self.clearances(rows)[:, 0], tip, self._FACES


class BoxConstraints:
    """Every capsule against one box."""

    limit = Limit.WORKSPACE

    def __init__(self, box: Box, capsules: Sequence[Placed], margin_m: float) -> None:
        """Test every capsule given."""
        self.names = [f"{capsule.part} to the box '{box.name}'" for capsule in capsules]
        self.bodies = np.array([capsule.body for capsule in capsules], dtype=np.intp)
        self.others = np.zeros_like(self.bodies)
        self._starts = np.array([capsule.start for capsule in capsules], dtype=np.intp)
        self._directions = np.array([capsule.direction for capsule in capsules], dtype=np.intp)
        self._reach_m = np.array([[capsule.radius_m + margin_m] for capsule in capsules])
        self._box = box
        self._half = box.half_m[:, None, None]

    def clearances(self, rows: Array) -> Array:
        """Return clearances: rows [3, rows, poses] -> [c, poses]."""
        return self._closest(rows)[0] - self._reach_m

    def contacts(self, rows: Array) -> Contacts:
        """Return the contacts of one pose: rows [3, rows, 1]."""
        distance, normals, points = self._closest(rows)
        return (distance - self._reach_m)[:, 0], points[:, :, 0], normals[:, :, 0]

    def _closest(self, rows: Array) -> tuple[Array, Array, Array]:
        starts, directions = rows.take(self._starts, axis=1), rows.take(self._directions, axis=1)
        into = self._box.rotation.T
        local_starts = _turned(into, starts - self._box.centre_m[:, None, None])
        local_directions = _turned(into, directions)
        share = segment_in_box(local_starts, local_directions, self._half)
        distance, normals = box_distance(local_starts + share * local_directions, self._half)
        return distance, _turned(self._box.rotation, normals), starts + share * directions


def _turned(rotation: Array, vectors: Array) -> Array:
    return (rotation @ vectors.reshape(3, -1)).reshape(vectors.shape)
