"""The world must have the arm's published geometry, and hold cubes by friction alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("mujoco")

import mujoco
from numpy.typing import NDArray
from scipy.optimize import least_squares
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.world import CUBE_NAMES, FOLDED_RAD, World

KINEMATICS = Kinematics.from_urdf(data_path("so101.urdf"))
LOWER = np.array([-1.9, -1.7, -1.65, -1.62, -2.7])
UPPER = -LOWER
ARM_LINKS = (
    "shoulder_link",
    "upper_arm_link",
    "lower_arm_link",
    "wrist_link",
    "gripper_link",
    "moving_jaw_link",
)
OPEN_RAD = 0.9
CLOSED_RAD = -0.15
PAN_AXIS_M = np.array([0.0388, 0.0])


class ScriptedHand:
    """Moves the tip to points, straight down, correcting for sag by what the encoders say."""

    def __init__(self, arm: ArmSimulation) -> None:
        self.arm = arm
        arm.enable_torque()
        self.goal = arm.joints_rad()
        self.pose = np.array([0.0, 0.0, 0.3, 1.2, 0.0])
        self.correction_m = np.zeros(3)

    def solve(self, point_m: NDArray[np.float64]) -> NDArray[np.float64]:
        def errors(pose: NDArray[np.float64]) -> list[float]:
            tip = KINEMATICS.forward([*pose, 0.0])
            return [*(tip[:3, 3] - point_m) * 10, *(tip[:3, 2] - (0, 0, -1)), 0.02 * pose[4]]

        start = np.clip(self.pose, LOWER + 0.01, UPPER - 0.01)
        return least_squares(errors, start, bounds=(LOWER, UPPER)).x

    def move(self, goal: Sequence[float], duration_s: float) -> None:
        start, goal = self.goal, np.asarray(goal)
        count = round(duration_s / 0.02)
        for step in range(1, count + 1):
            share = step / count
            share = share * share * (3 - 2 * share)
            self.arm.set_goals_rad(start + (goal - start) * share)
            self.arm.run(0.02)
        self.goal = goal

    def go(self, point_m: NDArray[np.float64], gripper_rad: float, duration_s: float) -> None:
        self.pose = self.solve(point_m + self.correction_m)
        self.move([*self.pose, gripper_rad], duration_s)

    def settle(self, point_m: NDArray[np.float64], gripper_rad: float) -> None:
        for _ in range(2):
            self.arm.run(0.25)
            tip = KINEMATICS.forward(self.arm.joints_rad())[:3, 3]
            self.correction_m = self.correction_m + 0.8 * (point_m - tip)
            self.go(point_m, gripper_rad, 0.2)
        self.arm.run(0.2)

    def lift(self, cube: str, closed_rad: float = CLOSED_RAD) -> None:
        """Approach, close, and lift by 8 cm."""
        at = self.arm.cube_position_m(cube)
        outward = (at[:2] - PAN_AXIS_M) / np.linalg.norm(at[:2] - PAN_AXIS_M)
        # The fixed finger is on the inner side: leave it 6 mm of clearance.
        at = at - [*(0.006 * outward), -0.003]
        self.pose[0] = -np.arctan2(outward[1], outward[0])
        for height_m in (0.07, 0.0):
            point = at + np.array([0, 0, height_m])
            self.go(point, OPEN_RAD, 1.0)
            self.settle(point, OPEN_RAD)
        self.move([*self.pose, closed_rad], 0.5)
        self.arm.run(0.3)
        self.go(at + np.array([0, 0, 0.08]), closed_rad, 0.8)
        self.arm.run(0.3)

    def place_in_tray(self) -> None:
        above = np.array([0.20, -0.19, 0.09])
        self.pose[0] = 0.87
        self.correction_m = np.zeros(3)
        self.go(above, CLOSED_RAD, 1.2)
        self.settle(above, CLOSED_RAD)
        self.go(above - [0, 0, 0.04], CLOSED_RAD, 0.5)
        self.move([*self.pose, 0.6], 0.4)
        self.arm.run(0.6)


def test_tip_of_the_zero_pose_is_the_published_one() -> None:
    tip = World((0.0,) * 6).tip_pose()
    assert tip[:3, 3] == pytest.approx((0.3914, 0.0, 0.2265), abs=1e-4)
    assert tip[:3, 2] == pytest.approx((1.0, 0.0, 0.0), abs=1e-3)


def test_kinematics_equal_mujocos_in_a_thousand_random_poses() -> None:
    world, rng = World(), np.random.default_rng(0)
    model, data = world.model, world.data
    joints = [model.joint(name) for name in JOINT_NAMES]
    limits = model.jnt_range[[joint.id for joint in joints]]
    assert limits == pytest.approx(KINEMATICS.position_limits_rad, abs=1e-4)
    poses = rng.uniform(limits[:, 0], limits[:, 1], (1000, len(joints)))
    tips, jacobians = KINEMATICS.forward(poses), KINEMATICS.jacobian(poses)
    frames = KINEMATICS.link_frames(poses)
    columns = [int(joint.dofadr[0]) for joint in joints]
    site = model.site("gripper_frame_link").id
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    for index, pose in enumerate(poses):
        world.set_joints(pose)
        assert np.abs(world.tip_pose() - tips[index]).max() < 1e-6
        for link in ARM_LINKS:
            difference_m = data.body(link).xpos - frames[link][index, :3, 3]
            assert np.abs(difference_m).max() < 1e-6
        mujoco.mj_jacSite(model, data, linear, angular, site)
        mujocos = np.vstack((linear, angular))[:, columns]
        assert np.abs(mujocos - jacobians[index]).max() < 1e-6


def test_nothing_but_contact_can_hold_a_cube() -> None:
    model = World().model
    assert model.neq == 0
    assert set(model.actuator_trntype.tolist()) == {int(mujoco.mjtTrn.mjTRN_JOINT)}
    driven = {model.joint(joint).name for joint in model.actuator_trnid[:, 0]}
    assert driven == set(JOINT_NAMES)


def test_masses_are_the_published_ones() -> None:
    model = World().model
    arm_kg = sum(
        float(model.body(name).mass[0])
        for name in [
            "shoulder_link",
            "upper_arm_link",
            "lower_arm_link",
            "wrist_link",
            "gripper_link",
            "moving_jaw_link",
        ]
    )
    assert arm_kg == pytest.approx(0.632 - 0.147, abs=1e-3)
    assert model.body("red_cube").mass[0] == pytest.approx(0.020)


@pytest.mark.parametrize("seed", range(5))
def test_cube_is_lifted_by_friction_and_placed_in_the_tray(seed: int) -> None:
    arm = ArmSimulation(seed)
    hand = ScriptedHand(arm)
    hand.lift("red_cube")
    assert arm.gripped("red_cube")
    assert arm.cube_position_m("red_cube")[2] > 0.06
    # The cube's centre is where the docs say it is: in gripper_frame_link.
    offset_m = np.linalg.norm(arm.cube_position_m("red_cube") - arm.tip_pose()[:3, 3])
    assert offset_m < 0.01
    hand.place_in_tray()
    assert arm.in_tray("red_cube")
    assert not arm.in_tray("blue_cube")


def test_cube_falls_when_the_jaws_open_in_mid_air() -> None:
    arm = ArmSimulation(1)
    hand = ScriptedHand(arm)
    hand.lift("red_cube")
    hand.move([*hand.pose, OPEN_RAD], 0.3)
    arm.run(0.5)
    assert arm.cube_position_m("red_cube")[2] == pytest.approx(0.0125, abs=0.002)


def test_open_gripper_lifts_nothing() -> None:
    arm = ArmSimulation(1)
    ScriptedHand(arm).lift("red_cube", closed_rad=OPEN_RAD)
    assert not arm.gripped("red_cube")
    assert arm.cube_position_m("red_cube")[2] == pytest.approx(0.0125, abs=0.002)


def test_same_seed_and_calls_give_the_same_numbers() -> None:
    def trace(seed: int) -> NDArray[np.float64]:
        arm = ArmSimulation(seed)
        arm.enable_torque()
        arm.set_goals_rad((0.3, -0.4, 0.5, 0.2, 0.1, 0.6))
        rows = []
        for _ in range(20):
            arm.run(0.04)
            rows.append([*arm.joints_rad(), *arm.world.state()])
        return np.array(rows)

    assert np.array_equal(trace(4), trace(4))
    assert not np.array_equal(trace(4), trace(5))


def test_reset_moves_only_the_cubes_and_repeats() -> None:
    arm = ArmSimulation(0)
    arm.run(0.2)
    joints = arm.world.joint_positions_rad()
    arm.reset(7)
    first = [arm.cube_position_m(name) for name in CUBE_NAMES]
    assert arm.world.joint_positions_rad() == joints
    arm.reset(8)
    assert not np.allclose(first, [arm.cube_position_m(name) for name in CUBE_NAMES])
    arm.reset(7)
    assert np.array_equal(first, [arm.cube_position_m(name) for name in CUBE_NAMES])


def test_cubes_start_reachable_apart_and_away_from_the_tray() -> None:
    arm = ArmSimulation()
    tray = next(thing for thing in arm.objects() if thing.name == "tray")
    for seed in range(100):
        arm.reset(seed)
        centres = np.array([arm.cube_position_m(name) for name in CUBE_NAMES])
        assert np.all((centres[:, 0] > 0.13) & (centres[:, 0] < 0.33))
        assert np.all((centres[:, 1] > -0.08) & (centres[:, 1] < 0.12))
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(3, 1)]
        assert np.all(gaps > 0.08)
        assert np.all(centres[:, 1] > tray.position_m[1] + tray.size_m[1] / 2 + 0.04)
        assert not arm.in_tray("red_cube")


def test_reset_says_when_the_arm_is_in_the_way_everywhere() -> None:
    world = World(FOLDED_RAD)
    world._contact_partners = lambda _geom: set(world._arm_geoms)
    with pytest.raises(RuntimeError, match="move it away"):
        world.reset_objects(0)
