"""A table that is measured wrongly makes the arm hit it: what is no plane must be refused."""

import math

import numpy as np
import pytest
from so101_driver.errors import UserError
from so101_driver.joints import ARM, JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import load_shapes, read_content, shapes_of
from so101_driver.table_plane import (
    Plane,
    Touch,
    fit_plane,
    plane_of,
    steady_pose,
    touch_of,
    with_table,
)

SHIPPED = data_path("so101_geometry.yaml")
KINEMATICS = Kinematics.from_urdf(data_path("so101.urdf"))
FINGERTIPS = load_shapes(SHIPPED, KINEMATICS.link_names).fingertips
CORNERS = np.array([[0.15, -0.15, 0.0], [0.15, 0.15, 0.0], [0.35, 0.0, 0.0]])
FROM_TRUTH_M = 0.001
"""Two encoder steps at this reach."""


def plane_at(points, height, slope_x, slope_y):
    points = np.array(points, dtype=float)
    points[:, 2] = height + slope_x * points[:, 0] + slope_y * points[:, 1]
    return points


def test_three_points_give_their_plane_up_to_the_largest_tilt():
    slope = math.tan(math.radians(14.9))
    plane = fit_plane(plane_at(CORNERS, -0.012, slope, 0.0))
    assert plane.point_m == pytest.approx([0, 0, -0.012])
    assert plane.normal == pytest.approx(np.array([-slope, 0, 1]) / math.hypot(slope, 1))
    assert plane.tilt_rad == pytest.approx(math.radians(14.9))
    assert plane.residuals_m == pytest.approx([0, 0, 0], abs=1e-12)
    with pytest.raises(UserError, match="tilted by 15 degrees"):
        fit_plane(plane_at(CORNERS, 0.0, math.tan(math.radians(15.1)), 0.0))


def test_more_points_are_averaged_and_their_residual_is_told():
    points = plane_at([*CORNERS, [0.35, 0.3, 0]], 0.01, 0.02, -0.03)
    points[:, 2] += [0.001, -0.001, -0.001, 0.001]
    plane = fit_plane(points)
    assert plane.point_m[2] == pytest.approx(0.01, abs=0.002)
    assert 0.0005 < np.abs(plane.residuals_m).max() < 0.002
    points[3, 2] += 0.04
    with pytest.raises(UserError, match="mm off the plane"):
        fit_plane(points)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (CORNERS[:2], "2 points are no plane"),
        ([*CORNERS[:2], CORNERS[0] + [0.0, 0.099, 0]], r"points 1 and 3 are only 9\.9 cm apart"),
        ([[0.1, 0, 0], [0.2, 0.04, 0], [0.3, 0, 0]], "within 4 cm of a line"),
        ([[0.1, 0, 0], [0.21, 0, 0], [0.32, 0, 0]], "within 0 cm of a line"),
        ([[0.1, 0, 0], [0.1, 0, 0.2], [0.1, 0.2, 0]], "tilted by 90 degrees"),
    ],
)
def test_points_that_tell_no_table_are_refused(points, message):
    with pytest.raises(UserError, match=message):
        fit_plane(points)


def test_points_just_far_enough_are_taken():
    assert fit_plane([[0, 0, 0], [0.1001, 0, 0], [0.05, 0.0867, 0]]).tilt_rad == 0.0
    assert fit_plane([[0.1, 0, 0], [0.2, 0.051, 0], [0.3, 0, 0]]).tilt_rad == 0.0


def test_the_lowest_point_along_the_measured_normal_touches():
    # Two corners of a finger 2 cm apart: on a slope it is not the one with the smallest z.
    slope = 0.2
    on_slope = plane_at(CORNERS, 0.0, slope, 0.0)
    other = on_slope + np.array([-0.02, 0.0, -0.003])
    touches = [Touch(np.array(pair), ("a", "b")) for pair in zip(on_slope, other, strict=True)]
    assert [touch.lowest(np.array([0.0, 0.0, 1.0])) for touch in touches] == [1, 1, 1]
    normal = plane_of(touches).normal
    assert normal == pytest.approx(np.array([-slope, 0, 1]) / math.hypot(slope, 1))


def test_a_pose_is_the_median_of_a_resting_arm():
    rng = np.random.default_rng(1)
    truth = rng.uniform(-1, 1, 6)
    samples = truth + rng.choice([-0.0015, 0.0, 0.0015], (50, 6))
    assert steady_pose(samples, JOINT_NAMES) == pytest.approx(truth, abs=0.0016)
    with pytest.raises(UserError, match="only 4 joint states"):
        steady_pose(samples[:4], JOINT_NAMES)
    samples[20, 2] = math.nan
    with pytest.raises(UserError, match="elbow_flex did not answer"):
        steady_pose(samples, JOINT_NAMES)
    samples[20, 2] = truth[2] + 0.02
    with pytest.raises(UserError, match=r"elbow_flex moved by 1\.. degrees: keep the arm still"):
        steady_pose(samples, JOINT_NAMES)


def test_the_table_is_written_where_the_geometry_reads_it():
    plane = Plane(np.array([0.0, 0.0, -0.0123]), np.array([0.0, -0.1, 1.0]), np.zeros(3))
    content = with_table(read_content(SHIPPED), plane)
    table = shapes_of(content, KINEMATICS.link_names, "copy").table
    assert table.point_m == pytest.approx(plane.point_m)
    assert table.normal == pytest.approx(plane.normal / np.linalg.norm(plane.normal), abs=1e-6)
    assert table.command_depth_m == 0.01
    with pytest.raises(UserError, match="no table"):
        with_table({"table": None}, plane)
    with pytest.raises(UserError, match="no fingertips"):
        touch_of(KINEMATICS, (), np.zeros(6))


def test_the_simulated_table_is_found_by_touching_it():
    pytest.importorskip("mujoco")
    from scipy.optimize import least_squares
    from so101_driver.sim.arm_simulation import ArmSimulation

    arm = ArmSimulation(seed=1)
    model, data = arm.world.model, arm.world.data
    for place, cube in enumerate(("red_cube", "green_cube", "blue_cube")):  # out of the way
        at = int(model.joint(cube).qposadr[0])
        data.qpos[at : at + 2] = -0.2, 0.1 * place
    arm.enable_torque()
    lower, upper = KINEMATICS.position_limits_rad[ARM].T

    def pose_at(point, start):
        def errors(joints):
            tip = KINEMATICS.forward([*joints, 0.0])
            return [*(tip[:3, 3] - point) * 10, *(tip[:3, 2] - (0, 0, -1)), 0.1 * joints[4]]

        return np.array([*least_squares(errors, start[ARM], bounds=(lower, upper)).x, -0.17])

    def touches_table():
        table = model.geom("table").id
        return any(
            table in pair and (model.geom_contype[pair] == 1).any() for pair in data.contact.geom
        )

    pose = np.array([0.0, -0.4, 0.5, 1.4, 0.0, -0.17])
    touches = []
    for x, y in ((0.18, 0.12), (0.18, -0.05), (0.30, 0.02)):
        pose[0] = -math.atan2(y, x - 0.0388)
        for height in np.arange(0.06, -0.06, -0.002):
            pose = pose_at(np.array([x, y, height]), pose)
            arm.set_goals_rad(pose)
            arm.run(0.8 if height > 0.055 else 0.08)
            if touches_table():
                break
        assert touches_table()
        arm.run(0.3)
        samples = []
        for _ in range(25):
            arm.run(0.02)
            samples.append(arm.joints_rad())
        touches.append(touch_of(KINEMATICS, FINGERTIPS, steady_pose(samples, JOINT_NAMES)))
        for height in (0.03, 0.06):
            pose = pose_at(np.array([x, y, height]), pose)
            arm.set_goals_rad(pose)
            arm.run(0.3)
    plane = plane_of(touches)
    below_m = [plane.normal @ (corner - plane.point_m) for corner in CORNERS]
    assert np.abs(below_m).max() < FROM_TRUTH_M
