"""What a random checkpoint drives: the simulated SO-101, or the robot of the base models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics

from wallx_policy.contract import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    Contract,
    PredictionMode,
    Statistics,
    Unit,
    Weights,
)

_POSE = (0.0, -60.0, 34.0, 60.0, 0.0, 20.0)
"""Degrees, gripper in percent: raised in front of the base, clear of the table."""
_SWING = (14.0, 8.0, 8.0, 10.0, 14.0, 15.0)
"""What an action of ±1 adds to the pose."""
_SO101_GROUPS = {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1}
_BASE_GROUPS = {
    "follow_left_ee_cartesian_pos": 3,
    "follow_left_ee_rotation": 3,
    "follow_left_gripper": 1,
    "follow_right_ee_cartesian_pos": 3,
    "follow_right_ee_rotation": 3,
    "follow_right_gripper": 1,
    "head_actions": 2,
    "height": 1,
    "car_pose": 3,
}
_BASE_GROUPS_05 = {
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
ROBOTS = ("so101", "base")

_Extent = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Robot:
    """One robot.

    Attributes:
        groups: Columns of state and action by name, without padding.
        cameras: Views in prompt order.
        state: Lowest and highest values of the state, in data set units.
        action: Likewise.
        statistics_name: What wall-x calls its statistics.
        contract: None where the numbers are end-effector poses.
    """

    groups: Mapping[str, int]
    cameras: tuple[Camera, ...]
    state: _Extent
    action: _Extent
    statistics_name: str
    contract: Contract | None

    @property
    def columns(self) -> int:
        """Of state and action."""
        return sum(self.groups.values())

    def padded_groups(self, columns: int) -> dict[str, int]:
        """Return the groups and what fills them up to so many columns."""
        spare = columns - self.columns
        return {**self.groups, **({"action_padding": spare} if spare else {})}


def so101(horizon: int, prediction: PredictionMode = PredictionMode.FLOW) -> Robot:
    """Return the simulated SO-101; its contract holds what the simulation sends."""
    pose, swing = np.asarray(_POSE), np.asarray(_SWING)
    limits = np.degrees(Kinematics.from_urdf(data_path("so101.urdf")).position_limits_rad)
    limits[-1] = (0.0, 100.0)
    channels = tuple(
        Channel(name, Unit.PERCENT if name == "gripper" else Unit.DEG) for name in JOINT_NAMES
    )
    state = (limits[:, 0].round(3), limits[:, 1].round(3))
    action = ((pose - swing).round(3), (pose + swing).round(3))
    contract = Contract(
        embodiment="so101",
        action_space=ActionSpace.JOINT,
        cameras=(Camera("face_view", 320, 240), Camera("wrist_view", 240, 240)),
        state=channels,
        action=channels,
        period_s=0.04,
        horizon=horizon,
        action_kind=ActionKind.GOAL,
        image_age_s=0.0,
        state_statistics=_statistics(state),
        action_statistics=_statistics(action),
        weights=Weights.RANDOM,
    )
    return Robot(
        groups=_SO101_GROUPS,
        cameras=contract.cameras,
        state=state,
        action=action,
        statistics_name="so101_sim",
        contract=replace(contract, prediction_mode=prediction),
    )


def base(*, new: bool) -> Robot:
    """Return the robot of the base models: two arms, in end-effector poses.

    Args:
        new: Whether of wall-oss-0.5, which has other columns.
    """
    groups = _BASE_GROUPS_05 if new else _BASE_GROUPS
    one = np.ones(sum(groups.values()))
    return Robot(
        groups=groups,
        cameras=(Camera("face_view", 640, 480), Camera("left_wrist_view", 640, 480)),
        state=(-one, one),
        action=(-one, one),
        statistics_name="x2_normal",
        contract=None,
    )


def _statistics(extent: _Extent) -> Statistics:
    low, high = (tuple(values.tolist()) for values in extent)
    return Statistics(min=low, max=high)
