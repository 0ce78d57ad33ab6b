"""Where an arm's links are and how far they are from things, written down plainly.

The checker's half of forward kinematics and distances: it reads the URDF and the geometry file by
itself and works with rotation matrices and points, one shape after the other. Slow and simple on
purpose; only the poses are vectorised.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

Array = NDArray[np.float64]

TIP = "gripper_frame_link"


class PlainArm:
    """Forward kinematics of a URDF: a rotation and a position per link."""

    def __init__(self, urdf: Path, joint_names: tuple[str, ...]) -> None:
        self._tree: list[tuple[str, str, Array, Array, Array, int]] = []
        ranges = np.full((len(joint_names), 2), np.nan)
        for joint in ElementTree.parse(urdf).getroot().findall("joint"):
            origin = joint.find("origin")
            xyz = _numbers(None if origin is None else origin.get("xyz"), (0.0, 0.0, 0.0))
            rpy = _numbers(None if origin is None else origin.get("rpy"), (0.0, 0.0, 0.0))
            axis_tag = joint.find("axis")
            axis = _numbers(None if axis_tag is None else axis_tag.get("xyz"), (1.0, 0.0, 0.0))
            name = joint.get("name", "")
            column = -1
            if name in joint_names and joint.get("type") != "fixed":
                column = joint_names.index(name)
                limit = joint.find("limit")
                ranges[column] = float(limit.get("lower")), float(limit.get("upper"))
            parent, child = joint.find("parent").get("link"), joint.find("child").get("link")
            self._tree.append((parent, child, xyz, _fixed(rpy), axis, column))
        self.moving = {child for _, child, _, _, _, column in self._tree if column >= 0}
        for _ in self._tree:
            self.moving |= {child for parent, child, *_ in self._tree if parent in self.moving}
        self.ranges = ranges
        """[joints, 2], the URDF's limits."""

    def links(self, positions: Array) -> dict[str, tuple[Array, Array]]:
        """[n, joints] to each link's rotation [n, 3, 3] and position [n, 3]."""
        positions = np.asarray(positions, dtype=np.float64)
        count = len(positions)
        children = {child for _, child, *_ in self._tree}
        root = next(parent for parent, *_ in self._tree if parent not in children)
        done = {root: (np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3)))}
        waiting = list(self._tree)
        while waiting:
            parent, child, xyz, fixed, axis, column = waiting.pop(0)
            if parent not in done:
                waiting.append((parent, child, xyz, fixed, axis, column))
                continue
            rotation, place = done[parent]
            here = place + rotation @ xyz
            turned = rotation @ fixed
            if column >= 0:
                turned = turned @ _about(axis, positions[:, column])
            done[child] = turned, here
        return done

    def tips(self, positions: Array) -> Array:
        """[n, joints] to the tip's positions [n, 3]."""
        return self.links(positions)[TIP][1]


class PlainGeometry:
    """Signed clearances of a geometry file; negative means illegal.

    Attributes:
        names: One per constraint.
        recoverable_m: How deep a start may be.
    """

    def __init__(self, path: Path, arm: PlainArm) -> None:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        self._arm, self._content = arm, content
        self.recoverable_m = float(content["recoverable_m"])
        self.names = tuple(name for name, _ in self._constraints(np.zeros((1, len(arm.ranges)))))

    def clearances(self, positions: Array) -> Array:
        """[n, joints] to [n, constraints], metres."""
        positions = np.asarray(positions, dtype=np.float64)
        return np.array([values for _, values in self._constraints(positions)]).T

    def tips(self, positions: Array) -> Array:
        """[n, joints] to the tip's positions [n, 3]."""
        return self._arm.tips(positions)

    def _constraints(self, positions: Array) -> list[tuple[str, Array]]:
        links = self._arm.links(positions)
        content = self._content
        found: list[tuple[str, Array]] = []

        def place(link: str, point: list[float]) -> Array:
            rotation, origin = links[link]
            return origin + rotation @ np.array(point, dtype=np.float64)

        def capsules(part: str) -> list[tuple[Array, Array, float]]:
            link = content["parts"][part]["link"]
            return [
                (place(link, c["from_m"]), place(link, c["to_m"]), float(c["radius_m"]))
                for c in content["parts"][part]["capsules"]
            ]

        table = content["table"]
        if table is not None:
            normal = np.array(table["normal"], dtype=np.float64)
            normal = normal / np.sqrt((normal**2).sum())
            surface = float(normal @ np.array(table["point_m"], dtype=np.float64))
            for name, finger in (content["fingertips"] or {}).items():
                for point in finger["points_m"]:
                    height = place(finger["link"], point) @ normal - surface
                    found.append((f"{name} to the table", height + table["table_command_depth_m"]))
            for part in table["parts"]:
                for start, end, radius in capsules(part):
                    for point in (start, end):
                        height = point @ normal - surface - radius
                        found.append((f"{part} to the table", height - table["margin_m"]))
        space = content["workspace"]
        if space is not None:
            tip = links[TIP][1]
            for axis, letter in enumerate("xyz"):
                found.append((f"tip to least {letter}", tip[:, axis] - space["lower_m"][axis]))
                found.append((f"tip to most {letter}", space["upper_m"][axis] - tip[:, axis]))
        for pair in content["self_collision"]:
            (first, second), margin = pair["parts"], pair["margin_m"]
            for start_1, end_1, radius_1 in capsules(first):
                for start_2, end_2, radius_2 in capsules(second):
                    apart = between_segments(start_1, end_1, start_2, end_2)
                    found.append((f"{first} to {second}", apart - radius_1 - radius_2 - margin))
        for box_name, box in (content["boxes"]["list"] or {}).items():
            for part, entry in content["parts"].items():
                if entry["link"] not in self._arm.moving:
                    continue
                for start, end, radius in capsules(part):
                    apart = _segment_to_box(start, end, box)
                    reach = radius + content["boxes"]["margin_m"]
                    found.append((f"{part} to box {box_name}", apart - reach))
        return found


def between_segments(start_1: Array, end_1: Array, start_2: Array, end_2: Array) -> Array:
    """Smallest distance of two segments, [n, 3] each.

    It is at an end of one of them, or where both lines come closest if that is within both.
    """
    best = np.minimum(
        np.minimum(_to_segment(start_1, start_2, end_2), _to_segment(end_1, start_2, end_2)),
        np.minimum(_to_segment(start_2, start_1, end_1), _to_segment(end_2, start_1, end_1)),
    )
    along_1, along_2 = end_1 - start_1, end_2 - start_2
    across = np.cross(along_1, along_2)
    size = (across**2).sum(axis=1)
    lines_cross = size > 1e-18
    size = np.where(lines_cross, size, 1.0)
    offset = start_2 - start_1
    share_1 = (np.cross(offset, along_2) * across).sum(axis=1) / size
    share_2 = (np.cross(offset, along_1) * across).sum(axis=1) / size
    within = (share_1 > 0.0) & (share_1 < 1.0) & (share_2 > 0.0) & (share_2 < 1.0)
    gap = np.abs((offset * across).sum(axis=1)) / np.sqrt(size)
    return np.where(lines_cross & within, np.minimum(gap, best), best)


def _to_segment(point: Array, start: Array, end: Array) -> Array:
    along = end - start
    length = (along**2).sum(axis=1)
    share = ((point - start) * along).sum(axis=1) / np.where(length > 0.0, length, 1.0)
    nearest = start + np.clip(share, 0.0, 1.0)[:, None] * along
    return np.sqrt(((point - nearest) ** 2).sum(axis=1))


def _segment_to_box(start: Array, end: Array, box: dict[str, list[float]]) -> Array:
    """Smallest signed distance; it is convex along a segment, so that halving finds it."""
    axes = _fixed(np.array(box["rpy_rad"], dtype=np.float64))
    centre = np.array(box["centre_m"], dtype=np.float64)
    half = 0.5 * np.array(box["size_m"], dtype=np.float64)
    # By coordinate, [3, n].
    start, end = ((start - centre) @ axes).T.copy(), ((end - centre) @ axes).T.copy()

    def distance(share: Array) -> Array:
        x, y, z = (np.abs(a + share * (b - a)) - most for a, b, most in zip(start, end, half))  # noqa: B905
        outside = np.maximum(x, 0.0) ** 2 + np.maximum(y, 0.0) ** 2 + np.maximum(z, 0.0) ** 2
        return np.sqrt(outside) + np.minimum(np.maximum(np.maximum(x, y), z), 0.0)

    low, high = np.zeros(start.shape[1]), np.ones(start.shape[1])
    for _ in range(80):
        left, right = low + (high - low) / 3.0, high - (high - low) / 3.0
        nearer = distance(left) <= distance(right)
        low, high = np.where(nearer, low, left), np.where(nearer, right, high)
    return np.minimum(distance(low), distance(high))


def _numbers(text: str | None, default: tuple[float, ...]) -> Array:
    return np.array(default if text is None else [float(part) for part in text.split()])


def _about(axis: Array, angle: Array) -> Array:
    """Rotations by ``angle`` [n] about an axis, [n, 3, 3]: I + sin K + (1 - cos) K²."""
    x, y, z = axis / np.sqrt((axis**2).sum())
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1.0 - cosine) * (cross @ cross)


def _fixed(rpy: Array) -> Array:
    """Roll about x, then pitch about y, then yaw about z, all fixed axes."""
    turns = [_about(np.eye(3)[axis], rpy[axis : axis + 1])[0] for axis in range(3)]
    return turns[2] @ turns[1] @ turns[0]
