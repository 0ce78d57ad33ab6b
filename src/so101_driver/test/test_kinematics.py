"""Geometry guards and the expert trust forward kinematics: it must match the published arm."""

import numpy as np
import pytest
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics

URDF = data_path("so101.urdf")
ZERO = np.zeros(6)


@pytest.fixture(scope="module")
def arm():
    return Kinematics.from_urdf(URDF)


def random_poses(arm, count):
    low, high = arm.position_limits_rad.T
    return np.random.default_rng(3).uniform(low, high, (count, 6))


def test_zero_pose_tip_and_approach_axis(arm):
    frame = arm.forward(ZERO)
    assert frame[:3, 3] == pytest.approx([0.3914, 0, 0.2265], abs=1e-4)
    assert frame[:3, 2] == pytest.approx([1, 0, 0], abs=1e-3)


def test_joint_origins_at_zero(arm):
    frames = arm.link_frames(ZERO)
    expected = {
        "shoulder_link": (0.0388, 0, 0.0624),
        "upper_arm_link": (0.0692, -0.0183, 0.1166),
        "lower_arm_link": (0.0972, -0.0183, 0.2292),
        "wrist_link": (0.2321, -0.0183, 0.2344),
        "gripper_link": (0.2932, 0, 0.2344),
    }
    for link, origin in expected.items():
        assert frames[link][:3, 3] == pytest.approx(origin, abs=2e-4), link


def test_link_lengths_in_any_pose(arm):
    for pose in random_poses(arm, 5):
        frames = {name: frame[:3, 3] for name, frame in arm.link_frames(pose).items()}
        for a, b, length in (
            ("upper_arm_link", "lower_arm_link", 0.1160),
            ("lower_arm_link", "wrist_link", 0.1350),
            ("wrist_link", "gripper_link", 0.0637),
            ("gripper_link", "gripper_frame_link", 0.0984),
        ):
            assert np.linalg.norm(frames[a] - frames[b]) == pytest.approx(length, abs=1e-4)


@pytest.mark.parametrize(
    ("joint", "axis", "sign"),
    [
        ("shoulder_pan", 1, -1),
        ("shoulder_lift", 2, -1),
        ("elbow_flex", 2, -1),
        ("wrist_flex", 2, -1),
    ],
)
def test_positive_directions(arm, joint, axis, sign):
    pose = ZERO.copy()
    pose[JOINT_NAMES.index(joint)] = 0.3
    assert sign * (arm.forward(pose) - arm.forward(ZERO))[axis, 3] > 0.01


def test_shoulder_lift_moves_the_tip_forward(arm):
    assert arm.forward([0, 0.3, 0, 0, 0, 0])[0, 3] > arm.forward(ZERO)[0, 3]


def test_gripper_does_not_move_the_tip_but_its_jaw(arm):
    moved = [0, 0, 0, 0, 0, 1.0]
    assert np.array_equal(arm.forward(moved), arm.forward(ZERO))
    jaw = "moving_jaw_link"
    assert not np.allclose(arm.link_frames(moved)[jaw], arm.link_frames(ZERO)[jaw])


def test_batches_equal_single_poses(arm):
    poses = random_poses(arm, 6).reshape(2, 3, 6)
    frames, jacobians, links = arm.forward(poses), arm.jacobian(poses), arm.link_frames(poses)
    for i in np.ndindex(2, 3):
        assert np.allclose(frames[i], arm.forward(poses[i]), atol=1e-12)
        assert np.allclose(jacobians[i], arm.jacobian(poses[i]), atol=1e-12)
        assert np.allclose(links["wrist_link"][i], arm.link_frames(poses[i])["wrist_link"])


def test_jacobian_is_the_derivative(arm):
    step = 1e-6
    for pose in random_poses(arm, 5):
        jacobian = arm.jacobian(pose)
        rotation = arm.forward(pose)[:3, :3]
        for joint in range(6):
            moved = pose.copy()
            moved[joint] += step
            after = arm.forward(moved)
            linear = (after[:3, 3] - arm.forward(pose)[:3, 3]) / step
            spin = (after[:3, :3] - rotation) / step @ rotation.T
            angular = [spin[2, 1], spin[0, 2], spin[1, 0]]
            assert jacobian[:3, joint] == pytest.approx(linear, abs=1e-5)
            assert jacobian[3:, joint] == pytest.approx(angular, abs=1e-5)


def test_reach_and_limits(arm):
    tips = arm.forward(random_poses(arm, 20_000))[:, :3, 3]
    radius = np.hypot(tips[:, 0] - 0.0388, tips[:, 1])
    assert 0.43 < radius.max() < 0.445
    assert arm.position_limits_rad[4] == pytest.approx([-2.74385, 2.84121])
    assert arm.position_limits_rad.shape == (6, 2)


def test_other_files_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"absent\.urdf"):
        Kinematics.from_urdf(tmp_path / "absent.urdf")
    broken = tmp_path / "broken.urdf"
    broken.write_text("<robot>")
    with pytest.raises(UserError, match="not a URDF"):
        Kinematics.from_urdf(broken)
    other = tmp_path / "other.urdf"
    other.write_text(URDF.read_text().replace('"elbow_flex"', '"knee"'))
    with pytest.raises(UserError, match="elbow_flex"):
        Kinematics.from_urdf(other)
