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
            ("shoulder_link", "upper_arm_link", 0.0648),
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
    tips = arm.forward(random_poses(arm, 200_000))[:, :3, 3]
    radius = np.hypot(tips[:, 0] - 0.0388, tips[:, 1])
    assert radius.max() == pytest.approx(0.441, abs=2e-3)
    assert tips.min(axis=0) == pytest.approx([-0.34, -0.44, -0.22], abs=0.01)
    assert tips.max(axis=0) == pytest.approx([0.48, 0.44, 0.53], abs=0.01)
    # A quarter of all poses has the tip in the table.
    assert np.mean(tips[:, 2] < 0) == pytest.approx(0.25, abs=0.01)
    assert arm.position_limits_rad[4] == pytest.approx([-2.74385, 2.84121])
    assert arm.position_limits_rad.shape == (6, 2)


def test_fastest_tip_per_joint_speed(arm):
    jacobians = arm.jacobian(random_poses(arm, 50_000))
    fastest = np.linalg.norm(jacobians[:, :3], axis=1).max(axis=0)
    assert fastest == pytest.approx([0.44, 0.41, 0.29, 0.16, 0.008, 0.0], abs=6e-3)


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


def test_tip_agrees_with_mujoco(arm):
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_path(str(data_path("so101_scene.xml")))
    data = mujoco.MjData(model)
    joints = [int(model.joint(name).qposadr[0]) for name in JOINT_NAMES]
    site = model.site("gripper_frame_link").id
    poses = random_poses(arm, 1000)
    tips = np.empty((len(poses), 3))
    for index, pose in enumerate(poses):
        data.qpos[joints] = pose
        mujoco.mj_kinematics(model, data)
        tips[index] = data.site_xpos[site]
    assert np.abs(arm.forward(poses)[:, :3, 3] - tips).max() < 1e-6


SEVEN = """
<robot name="seven">
  <link name="world"/><link name="pedestal"/>
  <joint name="bolted" type="fixed">
    <parent link="world"/><child link="pedestal"/><origin xyz="0 0 1"/>
  </joint>
  {joints}
  <joint name="slide" type="prismatic">
    <parent link="link7"/><child link="finger"/><axis xyz="0 1 0"/>
    <limit lower="0" upper="0.04"/>
  </joint>
  <transmission name="t"><joint name="j1"/></transmission>
</robot>"""


@pytest.fixture
def seven_urdf(tmp_path):
    """An arm of seven joints with slanted axes on a pedestal, and a finger that slides."""
    links = ["pedestal", *(f"link{i}" for i in range(1, 8))]
    joints = [
        f'<joint name="j{i}" type="{"continuous" if i == 7 else "revolute"}">'
        f'<parent link="{links[i - 1]}"/><child link="{links[i]}"/>'
        f'<origin xyz="0.0{i} 0.01 0.1" rpy="0.{i} -0.2 0.3"/>'
        f'<axis xyz="{i % 2} {i % 3} 1"/><limit lower="-{i}" upper="2"/></joint>'
        for i in range(1, 8)
    ]
    path = tmp_path / "seven.urdf"
    path.write_text(SEVEN.format(joints="".join(reversed(joints))))
    return path


def test_an_arm_of_seven_joints(seven_urdf):
    names = [f"j{i}" for i in range(1, 8)]
    arm = Kinematics.from_urdf(seven_urdf, "link7", base="pedestal", joint_names=names)
    assert arm.joint_names == tuple(names)
    assert arm.base == "pedestal"
    assert arm.position_limits_rad[1].tolist() == [-2.0, 2.0]
    assert arm.position_limits_rad[6].tolist() == [-np.inf, np.inf]
    assert set(arm.link_names) == {"pedestal", "finger", *(f"link{i}" for i in range(1, 8))}
    pose = np.linspace(-1, 1, 7)
    step = 1e-6 * np.eye(7)
    slope = (arm.forward(pose + step) - arm.forward(pose - step))[:, :3, 3].T / 2e-6
    assert arm.jacobian(pose)[:3] == pytest.approx(slope, abs=1e-8)
    # All revolute joints in the order of the file, which is from the tip here.
    other = Kinematics.from_urdf(seven_urdf, "link7", base="pedestal", joint_names=None)
    assert other.joint_names == tuple(reversed(names))
    assert other.forward(pose[::-1]) == pytest.approx(arm.forward(pose))
    from_world = Kinematics.from_urdf(seven_urdf, "link7", base="world", joint_names=names)
    assert from_world.forward(pose)[2, 3] == pytest.approx(arm.forward(pose)[2, 3] + 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tip": "hand"}, "no link hand"),
        ({"base": "table"}, "hangs on a link table"),
        ({"joint_names": ["j1", "slide"]}, "slide .* is not revolute"),
        ({"joint_names": ["j1", "bolted"]}, "no revolute joint bolted"),
        ({"joint_names": ["j1", "j2"]}, "j3 lies between"),
        ({"base": "link1", "tip": "link2"}, "does not connect j1 to link1"),
        ({"tip": "finger"}, "slide lies between"),
        ({"joint_names": []}, "no revolute joint"),
    ],
)
def test_what_the_urdf_does_not_have_is_named(seven_urdf, options, message):
    given = {"tip": "link7", "base": "pedestal", "joint_names": None} | options
    with pytest.raises(UserError, match=message):
        Kinematics.from_urdf(seven_urdf, **given)
