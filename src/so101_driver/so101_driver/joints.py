"""Names and order of the SO-101's joints, and where this package keeps its data files."""

from collections.abc import Mapping
from pathlib import Path

JOINT_NAMES: tuple[str, ...] = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)
"""Order of every joint array in the project (base to tip, gripper last)."""

SERVO_IDS: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
"""Bus ids of the servos, in the order of JOINT_NAMES."""

SERVO_ID_OF: Mapping[str, int] = dict(zip(JOINT_NAMES, SERVO_IDS, strict=True))
"""Bus id of each joint's servo."""

ARM = slice(0, 5)
"""Index of the joints that move the tip."""

GRIPPER = 5
"""Index of the gripper."""


def data_path(name: str) -> Path:
    """Return the path of a file that ships with this package, e.g. ``so101.urdf``."""
    return Path(__file__).parent / "data" / name
