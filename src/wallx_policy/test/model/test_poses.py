"""Relative rotations become the poses that the training data had, whatever library wrote them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from so101_driver.errors import UserError
from wallx_policy.dof_groups import BASE_05
from wallx_policy.model.poses import (
    PoseGroups,
    rotation_from_euler,
    rotation_from_six,
    six_from_rotation,
)

ARM = {"a_ee_cartesian_pos_relative": 3, "a_ee_rotation_6D_relative": 6, "a_gripper": 1}
STATE = {"a_ee_cartesian_pos": 3, "a_ee_rotation_6D": 6, "a_gripper": 1}
ABSOLUTE = {"b_ee_cartesian_pos": 3, "b_ee_rotation": 3, "b_gripper": 1}

angles = st.lists(st.floats(-3.1, 3.1), min_size=3, max_size=3)
seeds = st.integers(0, 2**32 - 2)


@given(seeds)
def test_six_numbers_are_the_first_two_rows(seed: int) -> None:
    rotation = Rotation.random(4, random_state=seed).as_matrix()
    six = six_from_rotation(rotation)
    np.testing.assert_array_equal(six[:, :3], rotation[:, 0])
    np.testing.assert_array_equal(six[:, 3:], rotation[:, 1])
    np.testing.assert_allclose(rotation_from_six(six), rotation, atol=1e-12)
    # Columns instead of rows would be the inverse rotation.
    assert np.abs(rotation_from_six(six) - rotation.swapaxes(1, 2)).max() > 1e-3


@given(seeds)
def test_numbers_that_are_off_become_a_rotation_nearby(seed: int) -> None:
    random = np.random.default_rng(seed)
    rotation = Rotation.random(8, random_state=seed).as_matrix()
    rough = 1.7 * six_from_rotation(rotation) + random.normal(0, 0.02, (8, 6))
    found = rotation_from_six(rough)
    eye = np.broadcast_to(np.eye(3), found.shape)
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), eye, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1.0, atol=1e-12)
    assert np.abs(found - rotation).max() < 0.15


@given(angles)
def test_euler_angles_turn_about_the_fixed_axes_x_y_z(rpy: list[float]) -> None:
    np.testing.assert_allclose(
        rotation_from_euler(rpy), Rotation.from_euler("xyz", rpy).as_matrix(), atol=1e-12
    )


def test_the_order_of_euler_angles_matters() -> None:
    rpy = [0.3, -0.7, 1.1]
    other = Rotation.from_euler("XYZ", rpy).as_matrix()
    assert np.abs(rotation_from_euler(rpy) - other).max() > 0.1


@settings(max_examples=30)
@given(seeds)
def test_a_relative_chunk_comes_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    now = Rotation.random(random_state=seed)
    wanted = Rotation.random(5, random_state=seed + 1)
    where = random.normal(size=3)
    targets = random.normal(size=(5, 3))
    delta = (wanted * now.inv()).as_matrix()
    grip = random.uniform(size=(5, 1))
    actions = np.hstack([targets - where, six_from_rotation(delta), grip])
    state = np.hstack([where, six_from_rotation(now.as_matrix()), 0.5])
    poses = PoseGroups.of(ARM, STATE, 10).absolute(actions, state)
    pose = poses.end_effectors["a_ee"]
    np.testing.assert_allclose(pose.position_m, targets, atol=1e-12)
    np.testing.assert_allclose(pose.rotation, wanted.as_matrix(), atol=1e-10)
    np.testing.assert_array_equal(poses.others["a_gripper"], grip)


def test_an_example_by_hand() -> None:
    """The arm points along y (a quarter turn about z); the chunk turns it about the world's x."""
    now = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    state = [0.2, 0.1, 0.3, *now[0], *now[1], 0.0]
    about_x = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    actions = [
        [0.0, 0.0, -0.1, 1, 0, 0, 0, 1, 0, 0.7],
        [0.1, 0.0, -0.2, *about_x[0], *about_x[1], 0.9],
    ]
    poses = PoseGroups.of(ARM, STATE, 10).absolute(actions, state)
    pose = poses.end_effectors["a_ee"]
    # Every step is relative to the state, not to the step before.
    np.testing.assert_allclose(pose.position_m, [[0.2, 0.1, 0.2], [0.3, 0.1, 0.1]])
    np.testing.assert_allclose(pose.rotation[0], now)
    # From the left: the tip's x axis, which pointed along y, points along z afterwards.
    np.testing.assert_allclose(pose.rotation[1], [[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    np.testing.assert_allclose(poses.others["a_gripper"], [[0.7], [0.9]])


def test_euler_groups_without_suffix_are_absolute_already() -> None:
    groups = PoseGroups.of(ABSOLUTE, ABSOLUTE, 7)
    actions = np.array([[0.1, 0.2, 0.3, 0.4, -0.5, 0.6, 0.7]])
    poses = groups.absolute(actions, np.full(7, 9.0))
    pose = poses.end_effectors["b_ee"]
    np.testing.assert_allclose(pose.position_m, actions[:, :3])
    wanted = Rotation.from_euler("xyz", actions[0, 3:6]).as_matrix()
    np.testing.assert_allclose(pose.rotation[0], wanted)


def test_a_state_in_euler_angles_serves_six_numbers_too() -> None:
    """LIBERO's fine-tunes have a state of other width than the action."""
    state = {"a_ee_cartesian_pos": 3, "a_ee_rotation": 3, "a_gripper": 2}
    rpy = [0.2, -0.4, 2.0]
    now = [0.0, 0.0, 0.0, *rpy, 0.0, 0.0]
    actions = [[0.0] * 3 + [1, 0, 0, 0, 1, 0] + [0.0]]
    poses = PoseGroups.of(ARM, state, 10).absolute(actions, now)
    wanted = Rotation.from_euler("xyz", rpy).as_matrix()
    np.testing.assert_allclose(poses.end_effectors["a_ee"].rotation[0], wanted, atol=1e-12)


def test_the_base_of_wall_oss_05_has_two_arms() -> None:
    state = {name.removesuffix("_relative"): width for name, width in BASE_05.items()}
    groups = PoseGroups.of(BASE_05, state, 26)
    ends = list(groups.action.values())
    assert (ends[0].start, ends[-1].stop) == (0, 26)
    assert all(a.stop == b.start for a, b in pairwise(ends))
    eye = [1, 0, 0, 0, 1, 0]
    now = np.array([1, 2, 3, *eye, 0, 4, 5, 6, *eye, 0, *[0] * 6], float)
    poses = groups.absolute(np.tile(np.array([0, 0, 0, *eye, 0] * 2 + [0] * 6, float), (3, 1)), now)
    assert list(poses.end_effectors) == ["follow_left_ee", "follow_right_ee"]
    right = poses.end_effectors["follow_right_ee"].position_m
    np.testing.assert_allclose(right, np.tile([4, 5, 6], (3, 1)))
    assert set(poses.others) == {
        *("follow_left_gripper", "follow_right_gripper", "velocity_decomposed", "height"),
        "head_actions",
    }
    # What is not given out is not guessed: 15 columns end in the middle of the right arm.
    assert PoseGroups.of(BASE_05, state, 15).end_effectors == ("follow_left_ee",)
    assert PoseGroups.of(BASE_05, state, 7) is None
    assert PoseGroups.of(BASE_05, state, 9).end_effectors == ("follow_left_ee",)


@pytest.mark.parametrize(
    ("dof", "state", "words"),
    [
        ({"a_ee_cartesian_pos": 3}, {}, "a_ee one position and one rotation"),
        ({"a_ee_rotation": 4, "a_ee_cartesian_pos": 3}, {}, "4 columns of a_ee_rotation"),
        ({"a_ee_twist": 3}, {}, "a_ee_twist"),
        (ARM, {"other": 9}, "no a_ee_cartesian_pos, which a_ee_cartesian_pos_relative"),
        (ARM, {**STATE, "a_ee_cartesian_pos": 2}, "columns of a_ee_cartesian_pos"),
    ],
)
def test_groups_that_cannot_be_understood(dof: dict, state: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PoseGroups.of(dof, state, 26)


def test_joints_are_no_poses() -> None:
    assert PoseGroups.of({"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1}, {}, 6) is None


@pytest.mark.parametrize("six", [[0.0] * 6, [1, 0, 0, 2, 0, 0], [np.nan, 0, 0, 0, 1, 0]])
def test_six_numbers_that_are_no_rotation(six: list[float]) -> None:
    state = [0.0] * 3 + [1, 0, 0, 0, 1, 0] + [0.0]
    poses = PoseGroups.of(ARM, STATE, 10).absolute([[0.0] * 3 + six + [0.0]], state)
    assert poses.end_effectors == {}
    assert poses.undefined == {"a_ee": "six numbers are no two rows of a rotation"}
    assert set(poses.others) == {"a_gripper"}


def test_an_unknown_state_gives_no_pose() -> None:
    state = [np.nan] * 3 + [1, 0, 0, 0, 1, 0] + [0.0]
    for given_ in (state, []):
        poses = PoseGroups.of(ARM, STATE, 10).absolute(
            [[0.0] * 3 + [1, 0, 0, 0, 1, 0] + [0.0]], given_
        )
        assert poses.undefined == {"a_ee": "the state of a_ee_cartesian_pos is unknown"}


def test_joints_relative_to_the_state_are_refused_within_the_columns_in_use() -> None:
    action = {"arm_joint_pos_relative": 5, "gripper": 1}
    state = {"arm_joint_pos": 5, "gripper": 1}
    with pytest.raises(UserError, match="arm_joint_pos_relative is relative to the state"):
        PoseGroups.of(action, state, 6)
    behind = {"gripper": 1, "arm_joint_pos_relative": 5}
    assert PoseGroups.of(behind, state, 1) is None
