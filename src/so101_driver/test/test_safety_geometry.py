"""The geometry is what keeps the arm off the table and itself: its distances must be the true ones.

Gradients are compared with finite differences, capsules with the URDF's shapes, and the whole with
the contacts that MuJoCo finds in random poses.
"""

import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics, rotation_of
from so101_driver.safety.geometry_distances import (
    box_distance,
    segment_in_box,
    segment_parameters,
)
from so101_driver.safety.geometry_file import load_geometry
from so101_driver.safety.limits import Limits
from so101_driver.safety.types import Limit

URDF = data_path("so101.urdf")
SHIPPED = data_path("so101_geometry.yaml")
ARM = Kinematics.from_urdf(URDF)
FOLDED_RAD = (0.0, -1.745, 1.69, 0.30, 0.0, -0.17)
UNCOVERED_M = 0.009
"""Capsules round off the corners of what they cover; this far at most."""


@pytest.fixture(scope="module")
def geometry():
    return load_geometry(SHIPPED, ARM, JOINT_NAMES)


@pytest.fixture
def changed(tmp_path):
    """Load the shipped file after a change to its content."""

    def load(change):
        content = yaml.safe_load(SHIPPED.read_text())
        change(content)
        path = tmp_path / "geometry.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_geometry(path, ARM, JOINT_NAMES)

    return load


def random_poses(count, seed=3):
    low, high = ARM.position_limits_rad.T
    return np.random.default_rng(seed).uniform(low, high, (count, len(low)))


def clearance(geometry, pose, name):
    values = geometry.clearances(np.atleast_2d(np.asarray(pose, dtype=float)))[0]
    return min(v for v, n in zip(values, geometry.names, strict=True) if n == name)


# Distances.


def test_segment_distance_is_the_smallest_one_and_never_nan():
    rng = np.random.default_rng(1)
    starts, ends = rng.uniform(-1, 1, (2, 2, 3, 400))
    ends[0, :, :40] = starts[0, :, :40]  # points
    ends[1, :, 20:60] = starts[1, :, 20:60]
    ends[1, :, 60:100] = starts[1, :, 60:100] + (ends - starts)[0, :, 60:100]  # parallel
    ends[1, :, 100:120] = starts[1, :, 100:120] - 0.3 * (ends - starts)[0, :, 100:120]
    starts[1, :, 120:130], ends[1, :, 120:130] = starts[0, :, 120:130], ends[0, :, 120:130]
    d1, d2 = ends - starts
    apart = starts[0] - starts[1]
    s, t = segment_parameters(
        (d1 * d2).sum(0),
        (d1 * apart).sum(0),
        (d2 * apart).sum(0),
        (d1 * d1).sum(0),
        (d2 * d2).sum(0),
    )
    assert ((s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)).all()
    found = np.linalg.norm(apart + s * d1 - t * d2, axis=0)
    shares = np.linspace(0, 1, 61)
    grid = (
        apart[..., None, None]
        + shares[:, None] * d1[..., None, None]
        - shares * d2[..., None, None]
    )
    best = np.linalg.norm(grid, axis=0).min(axis=(1, 2))
    assert (found <= best + 1e-9).all()
    assert (found >= best - 0.06).all()


def test_segment_to_box_distance_is_the_smallest_signed_one():
    rng = np.random.default_rng(2)
    half = np.array([0.2, 0.3, 0.1])[:, None]
    start, end = rng.uniform(-0.6, 0.6, (2, 3, 2000))
    end[:, :100] = start[:, :100]
    end[:2, 100:300] = start[:2, 100:300]  # along an axis
    share = segment_in_box(start, end - start, half)
    distance, normal = box_distance(start + share * (end - start), half)
    shares = np.linspace(0, 1, 401)
    grid = start[..., None] + shares * (end - start)[..., None]
    best = box_distance(grid, half[..., None])[0].min(axis=1)
    assert (best < 0).any()
    assert (best > 0).any()
    assert (distance <= best + 1e-9).all()
    assert (distance >= best - 0.004).all()
    assert np.linalg.norm(normal, axis=0) == pytest.approx(1.0)


# Poses.


def test_poses_that_the_arm_is_in_every_day_are_legal(geometry):
    limits = Limits.from_file(data_path("so101_limits.yaml"), "demo")
    poses = [np.zeros(6), np.array(FOLDED_RAD)]
    for pan in (-1.8, 0.0, 1.8):
        for roll in (-2.7, 0.0, 1.5):
            for gripper in (-0.17, 1.7):
                kept = np.array([pan, 0.0, 0.0, 0.0, roll, gripper])
                poses += [
                    np.where(np.isnan(pose), kept, pose)
                    for pose in (limits.via_rad, limits.rest_rad, limits.ready_rad)
                ]
    worst = geometry.clearances(np.array(poses)).min(axis=1)
    assert (worst > 0.0003).all(), np.array(poses)[worst <= 0.0003]


def test_fingertips_may_be_commanded_a_centimetre_below_the_table(geometry, changed):
    # Down to the table, closed gripper pointing at it.
    pose = np.array([0.0, 0.35, 0.55, 0.67, 0.0, 0.0])
    height = clearance(geometry, pose, "fixed finger to the table")
    flat = changed(lambda c: c["table"].update(table_command_depth_m=0.0))
    assert height - clearance(flat, pose, "fixed finger to the table") == pytest.approx(0.01)
    raised = changed(lambda c: c["table"].update(point_m=[0.3, -0.2, 0.05]))
    assert height - clearance(raised, pose, "fixed finger to the table") == pytest.approx(0.05)


def test_a_tilted_table_is_further_away_where_it_falls_off(geometry, changed):
    tilted = changed(lambda c: c["table"].update(normal=[0.1, 0.0, 1.0]))
    rows = changed(lambda c: c["table"].update(normal=[0.2, 0.0, 2.0]))
    pose = np.array([0.0, 0.35, 0.55, 0.67, 0.0, 0.0])
    name = "fixed finger to the table"
    assert clearance(tilted, pose, name) == pytest.approx(clearance(rows, pose, name))
    reach = ARM.forward(pose)[0, 3]
    rise = clearance(tilted, pose, name) - clearance(geometry, pose, name)
    assert rise == pytest.approx(0.1 * reach, abs=0.005)


def test_each_kind_of_constraint_says_what_it_keeps_apart(changed):
    def add(content):
        content["boxes"]["list"] = {
            "shelf": {"centre_m": [0.3, 0, 0.3], "size_m": [0.1, 0.2, 0.02], "rpy_rad": [0, 0, 0.3]}
        }

    geometry = changed(add)
    kinds = dict(zip(geometry.names, geometry.limits, strict=True))
    assert kinds["fixed finger to the table"] is Limit.TABLE
    assert kinds["forearm to the table"] is Limit.TABLE
    assert kinds["jaw to the base"] is Limit.SELF_COLLISION
    assert kinds["gripper tip to the workspace's front"] is Limit.WORKSPACE
    assert kinds["wrist to the box 'shelf'"] is Limit.WORKSPACE
    assert "base to the box 'shelf'" not in kinds
    assert (
        len(geometry.names)
        == len(geometry.limits)
        == geometry.clearances(np.zeros((2, 6))).shape[1]
    )
    assert not {"finger to the jaw", "jaw to the finger"} & set(kinds)


def test_a_box_around_the_tip_is_hit_and_one_beside_it_is_not(changed):
    tip = ARM.forward(np.zeros(6))[:3, 3].tolist()

    def box(centre):
        entry = {"centre_m": centre, "size_m": [0.04, 0.04, 0.04], "rpy_rad": [0.1, 0.2, 0.3]}
        return lambda content: content["boxes"].update(list={"shelf": entry})

    assert changed(box(tip)).clearances(np.zeros((1, 6))).min() < -0.02
    above = [tip[0], tip[1], tip[2] + 0.2]
    assert changed(box(above)).clearances(np.zeros((1, 6))).min() > 0


def test_the_tip_is_the_kinematics_tip(geometry):
    poses = random_poses(50)
    assert geometry.tip_positions(poses) == pytest.approx(ARM.forward(poses)[:, :3, 3], abs=1e-12)
    for pose in poses[:10]:
        assert geometry.tip_jacobian(pose) == pytest.approx(ARM.jacobian(pose)[:3], abs=1e-12)


def everything(content):
    content["table"].update(normal=[0.1, -0.15, 1.0], point_m=[0.0, 0.0, -0.02])
    content["boxes"]["list"] = {
        "shelf": {
            "centre_m": [0.2, 0.1, 0.2],
            "size_m": [0.1, 0.2, 0.05],
            "rpy_rad": [0.4, 0, 0.3],
        },
        "wall": {"centre_m": [-0.3, 0, 0.2], "size_m": [0.1, 2, 1], "rpy_rad": [0, 0, 0]},
    }


def test_gradients_are_the_derivatives(changed):
    geometry = changed(everything)
    step = 1e-6
    total = 0
    for pose in random_poses(150):
        clearances, gradients = geometry.clearances_and_gradients(pose)
        assert clearances == pytest.approx(geometry.clearances(pose[None])[0], abs=1e-12)
        moved = pose + step * np.concatenate([np.eye(6), -np.eye(6)])
        around = geometry.clearances(moved)
        slopes = (around[:6] - around[6:]).T / (2 * step)
        assert np.isfinite(gradients).all()
        # Deeper no arm is ever armed; a capsule whose axis is in a box has several ways out there.
        matters = clearances > -geometry.recoverable_m
        assert gradients[matters] == pytest.approx(slopes[matters], abs=1e-5)
        total += int(matters.sum())
    assert total > 10_000


def test_order_and_number_of_poses_do_not_matter(geometry):
    poses = random_poses(45)
    together = geometry.clearances(poses)
    assert geometry.clearances(poses[::-1]) == pytest.approx(together[::-1], abs=1e-12)
    one = poses[7].copy()
    assert geometry.clearances(one[None])[0] == pytest.approx(together[7], abs=1e-12)
    one += 0.1  # the array that was asked about before is reused for something else
    assert geometry.clearances(one[None])[0] == pytest.approx(
        geometry.clearances(poses[7:9] + 0.1)[0], abs=1e-12
    )
    geometry.tip_positions(poses)[:] = 0.0
    assert geometry.clearances(poses) == pytest.approx(together, abs=1e-12)


def test_joint_arrays_may_have_another_order(geometry):
    order = [3, 0, 5, 1, 4, 2]
    other = load_geometry(SHIPPED, ARM, [JOINT_NAMES[i] for i in order])
    pose = random_poses(1)[0]
    clearances, gradients = geometry.clearances_and_gradients(pose)
    shuffled, shuffled_gradients = other.clearances_and_gradients(pose[order])
    assert shuffled == pytest.approx(clearances, abs=1e-12)
    assert shuffled_gradients == pytest.approx(gradients[:, order], abs=1e-12)
    assert other.tip_jacobian(pose[order]) == pytest.approx(geometry.tip_jacobian(pose)[:, order])


def test_it_is_fast_enough_for_the_loop(geometry):
    """The aim is 0.25 ms for 45 poses and 0.1 ms for gradients; doubled: the CPU is shared."""
    poses = random_poses(45)

    def best_s(call):
        durations = []
        for index in range(60):
            there = poses + 1e-6 * index
            start = time.perf_counter()
            call(there)
            durations.append(time.perf_counter() - start)
        return min(durations)

    assert best_s(geometry.clearances) < 0.5e-3
    assert best_s(lambda there: geometry.clearances_and_gradients(there[0])) < 0.2e-3


# Against the arm's shapes.


def shape_corners(link):
    """Corners of a link's collision boxes [n, 3], in its frame; a cylinder's rim likewise."""
    element = ElementTree.parse(URDF).getroot().find(f"link[@name='{link}']")
    signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * 3)).reshape(3, -1).T
    corners = []
    for collision in element.iter("collision"):
        origin = collision.find("origin")
        xyz = np.array(origin.get("xyz").split(), dtype=float)
        rotation = rotation_of(*map(float, origin.get("rpy").split()))
        box = collision.find("geometry/box")
        if box is None:
            continue
        half = 0.5 * np.array(box.get("size").split(), dtype=float)
        corners.append(xyz + (signs * half) @ rotation.T)
    return np.concatenate(corners)


@pytest.mark.parametrize(
    "link", ["shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw"]
)
def test_capsules_cover_the_corners_of_the_links(geometry, link):
    corners = shape_corners(f"{link}_link")
    distances = []
    for part in geometry.shapes.parts:
        for capsule in part.capsules if part.link == f"{link}_link" else ():
            along = capsule.end_m - capsule.start_m
            share = np.clip((corners - capsule.start_m) @ along / (along @ along), 0, 1)
            nearest = capsule.start_m + share[:, None] * along
            distances.append(np.linalg.norm(corners - nearest, axis=1) - capsule.radius_m)
    assert np.min(distances, axis=0).max() < UNCOVERED_M


@pytest.fixture(scope="module")
def contacts():
    """Random poses, and MuJoCo's distances between links and to the table in them."""
    pytest.importorskip("mujoco")
    from geometry_rates import true_distances

    poses = random_poses(3000, seed=11)
    true = true_distances(ARM, poses)
    return poses, true.apart_m, true.above_m


def clearances_between(geometry, poses):
    """Smallest clearance of each pair of links that the geometry knows."""
    link_of = {part.name: part.link for part in geometry.shapes.parts}
    values = geometry.clearances(poses)
    found = {}
    for index, (name, limit) in enumerate(zip(geometry.names, geometry.limits, strict=True)):
        if limit is Limit.SELF_COLLISION:
            pair = frozenset(link_of[part] for part in name.split(" to the "))
            found[pair] = np.minimum(found.get(pair, np.inf), values[:, index])
    return found


AT_THE_STOPS = (
    frozenset(("lower_arm_link", "shoulder_link")),
    frozenset(("wrist_link", "upper_arm_link")),
)
"""Pairs that touch where the arm is folded; the shapes there overlap by up to 2.5 mm."""


def test_where_mujoco_sees_the_arm_in_itself_the_geometry_does_too(geometry, contacts):
    poses, apart, _above = contacts
    known = clearances_between(geometry, poses)
    for pair, truth in apart.items():
        hits = truth < 0.0
        if pair not in known:
            assert not hits.any(), f"{set(pair)} can collide"
            continue
        allowed_m = 0.006 if pair in AT_THE_STOPS else 0.0
        assert (known[pair][hits] < allowed_m).all(), set(pair)
    collides = np.min(list(apart.values()), axis=0)
    told = np.min(list(known.values()), axis=0)
    assert (collides < 0.0).sum() > 200
    assert (told[collides < -0.005] < 0.0).all()
    # Of the legal poses hardly any is lost, and those come close.
    false_alarm = (told < 0.0) & (collides > 0.0)
    assert false_alarm.mean() < 0.025
    assert np.median(collides[false_alarm]) < 0.008


def test_where_mujoco_sees_the_arm_in_the_table_the_geometry_does_too(geometry, contacts):
    poses, _apart, above = contacts
    is_table = np.array([limit is Limit.TABLE for limit in geometry.limits])
    told = geometry.clearances(poses)[:, is_table].min(axis=1)
    depth_m = geometry.shapes.table.command_depth_m
    assert (above < -depth_m).sum() > 300
    assert (told[above < -depth_m - 0.001] < 0.0).all()
    false_alarm = (told < 0.0) & (above > 0.0)
    assert false_alarm.mean() < 0.01
