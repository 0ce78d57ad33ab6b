"""Groups of columns, as wall-x names them in ``dof_config`` and ``agent_pos_config``."""

from __future__ import annotations

from collections.abc import Mapping

PADDING_GROUP = "action_padding"
"""Name of the group that fills a robot's columns up to those of the base model."""

BASE_05: Mapping[str, int] = {
    "follow_left_ee_cartesian_pos_relative": 3,
    "follow_left_ee_rotation_6D_relative": 6,
    "follow_left_gripper": 1,
    "follow_right_ee_cartesian_pos_relative": 3,
    "follow_right_ee_rotation_6D_relative": 6,
    "follow_right_gripper": 1,
    "velocity_decomposed": 3,
    "height": 1,
    "head_actions": 2,
}
"""Action columns of the wall-oss-0.5 base model, whose ``config.json`` does not hold them."""


def is_end_effector(name: str) -> bool:
    """Whether a group is a part of an end-effector's pose."""
    return "_ee_" in name


def columns_in_use(groups: Mapping[str, int]) -> int | None:
    """Return how many leading columns are not padding; None if there are no groups."""
    if not groups:
        return None
    return sum(width for name, width in groups.items() if name != PADDING_GROUP)
