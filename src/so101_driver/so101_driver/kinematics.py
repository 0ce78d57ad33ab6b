"""Forward kinematics and Jacobian of an arm described by a URDF, in plain NumPy."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

Array = NDArray[np.float64]

TIP = "gripper_frame_link"
BASE = "base_link"


@dataclass(frozen=True, slots=True, eq=False)
class _Joint:
    """One URDF joint; ``index`` is its place in the joint array, None for a fixed one."""

    name: str
    parent: str
    child: str
    origin: Array
    axis: Array
    index: int | None


class Kinematics:
    """Where the links of an arm are for given joint angles.

    Joint arrays are radians in the order of ``joint_names``; leading dimensions are a batch. Frames
    are 4x4 homogeneous matrices in the base link's frame, metres.

    Attributes:
        joint_names: Order of every joint array.
        link_names: Every link, parents before children.
        position_limits_rad: [joints, 2], lower and upper limits of the URDF.
    """

    def __init__(self, joints: Sequence[_Joint], limits_rad: Array, tip: str) -> None:
        """Use ``from_urdf``; ``joints`` are sorted from the base outwards."""
        self.joint_names = JOINT_NAMES
        self.position_limits_rad = limits_rad
        self.link_names = (BASE, *(joint.child for joint in joints))
        self._joints = tuple(joints)
        by_child = {joint.child: joint for joint in joints}
        chain: list[_Joint] = []
        link = tip
        while link != BASE:
            chain.insert(0, by_child[link])
            link = chain[0].parent
        self._chain = tuple(chain)

    @classmethod
    def from_urdf(cls, path: str | Path, tip: str = TIP) -> Kinematics:
        """Read a URDF that has the joints of the SO-101, a ``base_link`` and a link ``tip``.

        Raises:
            UserError: The file is missing, is no URDF, or describes another arm.
        """
        try:
            root = ElementTree.parse(path).getroot()
        except OSError as error:
            raise UserError(f"cannot read the URDF {path}: {error.strerror}.") from error
        except ElementTree.ParseError as error:
            raise UserError(f"{path} is not a URDF: {error}.") from error
        joints = {}
        limits_rad = np.full((len(JOINT_NAMES), 2), np.nan)
        for element in root.iter("joint"):
            joint = _read_joint(element)
            joints[joint.child] = joint
            if joint.index is not None:
                limit = element.find("limit")
                if limit is None:
                    raise UserError(f"joint {joint.name} in {path} has no <limit>.")
                limits_rad[joint.index] = float(limit.get("lower", 0)), float(limit.get("upper", 0))
        missing = [n for i, n in enumerate(JOINT_NAMES) if np.isnan(limits_rad[i]).any()]
        if missing:
            raise UserError(f"{path} has no revolute joint {', '.join(missing)}: not an SO-101.")
        if tip not in joints:
            raise UserError(f"{path} has no link {tip}.")
        return cls(_from_base_outwards(joints, path), limits_rad, tip)

    def forward(self, positions_rad: ArrayLike) -> Array:
        """Return the tip's frame: [..., joints] -> [..., 4, 4]."""
        positions = np.asarray(positions_rad, dtype=np.float64)
        frame = np.broadcast_to(np.eye(4), (*positions.shape[:-1], 4, 4))
        for joint in self._chain:
            frame = frame @ _motion(joint, positions)
        return frame

    def link_frames(self, positions_rad: ArrayLike) -> dict[str, Array]:
        """Return the frame of every link: [..., joints] -> {link: [..., 4, 4]}.

        A joint's axis passes through the origin of its child link's frame.
        """
        positions = np.asarray(positions_rad, dtype=np.float64)
        frames = {BASE: np.broadcast_to(np.eye(4), (*positions.shape[:-1], 4, 4))}
        for joint in self._joints:
            frames[joint.child] = frames[joint.parent] @ _motion(joint, positions)
        return frames

    def jacobian(self, positions_rad: ArrayLike) -> Array:
        """Return the tip's Jacobian in the base frame: [..., joints] -> [..., 6, joints].

        Rows are the tip's velocity (m/s) and angular velocity (rad/s) per rad/s of each joint; a
        joint that does not move the tip (the gripper) has zeros.
        """
        positions = np.asarray(positions_rad, dtype=np.float64)
        jacobian = np.zeros((*positions.shape[:-1], 6, len(self.joint_names)))
        frame = np.broadcast_to(np.eye(4), (*positions.shape[:-1], 4, 4))
        axes = []
        for joint in self._chain:
            frame = frame @ _motion(joint, positions)
            if joint.index is not None:
                axes.append((joint.index, frame[..., :3, :3] @ joint.axis, frame[..., :3, 3]))
        tip = frame[..., :3, 3]
        for index, axis, origin in axes:
            jacobian[..., :3, index] = np.cross(axis, tip - origin)
            jacobian[..., 3:, index] = axis
        return jacobian


def _motion(joint: _Joint, positions: Array) -> Array:
    """Frame of the joint's child link in its parent link's."""
    if joint.index is None:
        return joint.origin
    return joint.origin @ _rotation(joint.axis, positions[..., joint.index])


def _rotation(axis: Array, angle_rad: Array) -> Array:
    """Rotation by ``angle_rad`` [...] about a unit axis, as [..., 4, 4]."""
    x, y, z = axis
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    k = 1.0 - c
    out = np.zeros((*np.shape(angle_rad), 4, 4))
    out[..., 0, 0] = c + x * x * k
    out[..., 0, 1] = x * y * k - z * s
    out[..., 0, 2] = x * z * k + y * s
    out[..., 1, 0] = y * x * k + z * s
    out[..., 1, 1] = c + y * y * k
    out[..., 1, 2] = y * z * k - x * s
    out[..., 2, 0] = z * x * k - y * s
    out[..., 2, 1] = z * y * k + x * s
    out[..., 2, 2] = c + z * z * k
    out[..., 3, 3] = 1.0
    return out


def _read_joint(element: ElementTree.Element) -> _Joint:
    name = element.get("name", "")
    origin = element.find("origin")
    xyz = _numbers(origin, "xyz", "0 0 0")
    roll, pitch, yaw = _numbers(origin, "rpy", "0 0 0")
    axis = _numbers(element.find("axis"), "xyz", "1 0 0")
    moves = element.get("type") == "revolute" and name in JOINT_NAMES
    parent, child = element.find("parent"), element.find("child")
    return _Joint(
        name=name,
        parent="" if parent is None else parent.get("link", ""),
        child="" if child is None else child.get("link", ""),
        origin=_frame(xyz, roll, pitch, yaw),
        axis=axis / np.linalg.norm(axis),
        index=JOINT_NAMES.index(name) if moves else None,
    )


def _numbers(element: ElementTree.Element | None, attribute: str, default: str) -> Array:
    text = default if element is None else element.get(attribute, default)
    return np.array([float(part) for part in text.split()])


def _frame(xyz: Array, roll: float, pitch: float, yaw: float) -> Array:
    """URDF origin: roll, pitch, yaw about the fixed x, y, z axes, in this order."""
    frame = (
        _rotation(np.array([0.0, 0.0, 1.0]), np.float64(yaw))
        @ _rotation(np.array([0.0, 1.0, 0.0]), np.float64(pitch))
        @ _rotation(np.array([1.0, 0.0, 0.0]), np.float64(roll))
    )
    frame[:3, 3] = xyz
    return frame


def _from_base_outwards(joints: dict[str, _Joint], path: str | Path) -> list[_Joint]:
    done = [BASE]
    ordered: list[_Joint] = []
    while len(ordered) < len(joints):
        ready = [j for j in joints.values() if j.parent in done and j.child not in done]
        if not ready:
            lost = [j.name for j in joints.values() if j.child not in done]
            raise UserError(f"{path} does not connect {', '.join(lost)} to {BASE}.")
        ordered += ready
        done += [joint.child for joint in ready]
    return ordered
