"""A geometry that forbids grasping gets switched off: every pose of the expert must be legal."""

import math

import numpy as np
import pytest
from so101_driver.joints import GRIPPER, JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import load_geometry
from wallx_policy.backends.base import ObjectPose
from wallx_policy.backends.expert import CLOSED_RAD, HOME_RAD, OPEN_RAD
from wallx_policy.backends.pick_place import CARRY_M, RELEASE_M, PickPlanner
from wallx_policy.backends.reach import Reach

KINEMATICS = Kinematics.from_urdf(data_path("so101.urdf"))
GEOMETRY = load_geometry(data_path("so101_geometry.yaml"), KINEMATICS, JOINT_NAMES)
PLANNER = PickPlanner(Reach(KINEMATICS))
PAN_AXIS_M = (0.0388, 0.0)
TO_SPARE_M = 0.01
"""What the arm may be commanded beyond a pose to hang in it."""


def lying(x, y, yaw):
    turn = np.array([0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)])
    return ObjectPose(np.array([x, y, 0.0125]), turn, np.full(3, 0.025))


def worst(poses):
    clearances = GEOMETRY.clearances(np.atleast_2d(poses)).min(axis=0)
    index = int(clearances.argmin())
    return clearances[index], GEOMETRY.names[index]


@pytest.mark.parametrize("yaw", [-0.4, 0.0, 0.4])
def test_every_grasp_on_the_table_is_legal(yaw):
    grasps = 0
    for x in np.linspace(0.14, 0.32, 6):
        for y in np.linspace(-0.07, 0.11, 6):
            if not 0.115 <= math.hypot(x - PAN_AXIS_M[0], y) <= 0.31:
                continue
            grasp = PLANNER.grasp({"red_cube": lying(x, y, yaw)}, "red_cube", OPEN_RAD)
            descent = np.array(grasp.descent_rad)
            closed = descent.copy()
            closed[:, GRIPPER] = CLOSED_RAD
            approach = HOME_RAD + np.linspace(0, 1, 15)[:, None] * (grasp.hover_rad - HOME_RAD)
            clearance, name = worst(np.concatenate([descent, closed, approach]))
            assert clearance > TO_SPARE_M, f"{name} at ({x:.2f}, {y:.2f})"
            grasps += 1
    assert grasps > 25


def test_placing_into_the_tray_is_legal():
    tray = lying(0.20, -0.19, 0.0)
    for height_m in (CARRY_M, RELEASE_M):
        for gripper_rad in (CLOSED_RAD, OPEN_RAD):
            clearance, name = worst(PLANNER.above(tray, height_m, gripper_rad))
            assert clearance > TO_SPARE_M, name
