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

_TURNING = ("revolute", "continuous")


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """One URDF joint.

    Attributes:
        name: As in the URDF.
        parent: Link on the base's side.
        child: Link that the joint moves.
        origin: 4x4 frame of the joint in the parent link's.
        axis: Unit vector in the child's frame.
        index: Place in the joint arrays; None for a joint that stands still at zero.
    """

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
        joints: Every joint, fixed ones too, from the base outwards.
        link_names: Every link, parents before children.
        base: Link whose frame everything is given in.
        tip: Link that ``forward`` and ``jacobian`` are about.
        position_limits_rad: [joints, 2], lower and upper limits of the URDF; infinite for a
            continuous joint.
    """

    def __init__(
        self, joint_names: Sequence[str], joints: Sequence[Joint], limits_rad: Array, tip: str
    ) -> None:
        """Use ``from_urdf``; ``joints`` are sorted from the base outwards."""
        self.joint_names = tuple(joint_names)
        self.joints = tuple(joints)
        self.position_limits_rad = limits_rad
        self.base = joints[0].parent
        self.tip = tip
        self.link_names = (self.base, *(joint.child for joint in joints))
        by_child = {joint.child: joint for joint in joints}
        chain: list[Joint] = []
        link = tip
        while link != self.base:
            chain.insert(0, by_child[link])
            link = chain[0].parent
        self._chain = tuple(chain)

    @classmethod
    def from_urdf(
        cls,
        path: str | Path,
        tip: str = TIP,
        *,
        base: str = BASE,
        joint_names: Sequence[str] | None = JOINT_NAMES,
    ) -> Kinematics:
        """Read the part of a URDF that hangs on the link ``base``.

        Args:
            path: The URDF.
            tip: Link whose frame ``forward`` returns.
            base: Link in whose frame everything is given.
            joint_names: The revolute joints of the joint arrays, in this order; None takes all of
                the URDF's, in the order of the file. Other joints stand at zero, and none of them
                may lie between base and tip unless it is fixed.

        Raises:
            UserError: The file is missing, is no URDF, or describes another arm.
        """
        try:
            root = ElementTree.parse(path).getroot()
        except OSError as error:
            raise UserError(f"cannot read the URDF {path}: {error.strerror}.") from error
        except ElementTree.ParseError as error:
            raise UserError(f"{path} is not a URDF: {error}.") from error
        # A joint element within <transmission> or <ros2_control> is a reference, not a joint.
        elements = {element.get("name", ""): element for element in root.findall("joint")}
        if joint_names is None:
            joint_names = [n for n, e in elements.items() if e.get("type") in _TURNING]
        names = tuple(joint_names)
        _check_names(names, elements, path)
        joints = _from_base_outwards(
            [_read_joint(element, names, path) for element in elements.values()], base, path
        )
        kinematics = cls(
            names,
            joints,
            np.array([_limits_rad(elements[name], path) for name in names]),
            _known_tip(tip, joints, path),
        )
        lost = set(names) - {joint.name for joint in joints}
        if lost:
            raise UserError(f"{path} does not connect {', '.join(sorted(lost))} to {base}.")
        for joint in kinematics._chain:
            if joint.index is None and elements[joint.name].get("type") != "fixed":
                raise UserError(
                    f"joint {joint.name} lies between {base} and {tip} in {path} but is not among "
                    f"the arm's joints {', '.join(names)}: add it to them."
                )
        return kinematics

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
        frames = {self.base: np.broadcast_to(np.eye(4), (*positions.shape[:-1], 4, 4))}
        for joint in self.joints:
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


def _motion(joint: Joint, positions: Array) -> Array:
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


def _check_names(
    names: tuple[str, ...], elements: dict[str, ElementTree.Element], path: str | Path
) -> None:
    if not names:
        raise UserError(f"{path} has no revolute joint.")
    missing = [
        name
        for name in names
        if name not in elements or elements[name].get("type") in ("fixed", "floating", "planar")
    ]
    if missing:
        raise UserError(f"{path} has no revolute joint {', '.join(missing)}: it is another arm's.")
    sliding = [name for name in names if elements[name].get("type") not in _TURNING]
    if sliding:
        raise UserError(
            f"joint {', '.join(sliding)} in {path} is not revolute: only arms whose joints all "
            "turn are supported."
        )


def _limits_rad(element: ElementTree.Element, path: str | Path) -> tuple[float, float]:
    if element.get("type") == "continuous":
        return -np.inf, np.inf
    limit = element.find("limit")
    if limit is None:
        raise UserError(f"joint {element.get('name')} in {path} has no <limit>.")
    lower, upper = (_numbers(limit, key, "0", 1, path)[0] for key in ("lower", "upper"))
    return float(lower), float(upper)


def _known_tip(tip: str, joints: Sequence[Joint], path: str | Path) -> str:
    if tip not in {joint.child for joint in joints}:
        raise UserError(f"{path} has no link {tip} beyond {joints[0].parent}.")
    return tip


def _read_joint(
    element: ElementTree.Element, joint_names: tuple[str, ...], path: str | Path
) -> Joint:
    name = element.get("name", "")
    origin = element.find("origin")
    xyz = _numbers(origin, "xyz", "0 0 0", 3, path)
    roll, pitch, yaw = _numbers(origin, "rpy", "0 0 0", 3, path)
    axis = _numbers(element.find("axis"), "xyz", "1 0 0", 3, path)
    length = np.linalg.norm(axis)
    if length < 1e-9:
        raise UserError(f"the axis of joint {name} in {path} has no length.")
    parent, child = element.find("parent"), element.find("child")
    return Joint(
        name=name,
        parent="" if parent is None else parent.get("link", ""),
        child="" if child is None else child.get("link", ""),
        origin=_frame(xyz, roll, pitch, yaw),
        axis=axis / length,
        index=joint_names.index(name) if name in joint_names else None,
    )


def _numbers(
    element: ElementTree.Element | None, attribute: str, default: str, count: int, path: str | Path
) -> Array:
    text = default if element is None else element.get(attribute, default)
    try:
        numbers = np.array([float(part) for part in text.split()])
    except ValueError:
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise UserError(f"{attribute}='{text}' in {path} must be {count} finite number(s).")
    return numbers


def rotation_of(roll_rad: float, pitch_rad: float, yaw_rad: float) -> Array:
    """Rotation [3, 3] by a URDF's rpy: about the fixed x, y, z axes, in this order."""
    turns = zip(np.eye(3)[::-1], (yaw_rad, pitch_rad, roll_rad), strict=True)
    z, y, x = (_rotation(axis, np.float64(angle))[:3, :3] for axis, angle in turns)
    return z @ y @ x


def _frame(xyz: Array, roll: float, pitch: float, yaw: float) -> Array:
    """URDF origin as a 4x4 frame."""
    frame = np.eye(4)
    frame[:3, :3] = rotation_of(roll, pitch, yaw)
    frame[:3, 3] = xyz
    return frame


def _from_base_outwards(joints: Sequence[Joint], base: str, path: str | Path) -> list[Joint]:
    """The joints that hang on the base, parents before children; others do not matter."""
    done = [base]
    ordered: list[Joint] = []
    while True:
        ready = [j for j in joints if j.parent in done and j.child not in done]
        if not ready:
            break
        ordered += ready
        done += [joint.child for joint in ready]
    if not ordered:
        raise UserError(f"no joint of {path} hangs on a link {base}: name the arm's base link.")
    return ordered
