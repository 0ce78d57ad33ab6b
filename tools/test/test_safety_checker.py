"""Guards the guard: the independent checker sees what is barely illegal and nothing that is legal.

A checker that sees nothing would pass every fuzz run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from proof.checker import Bounds, Checker
from proof.plain_geometry import PlainArm, PlainGeometry, between_segments

DATA = Path(__file__).parents[2] / "src" / "so101_driver" / "so101_driver" / "data"
LIMITS, URDF, GEOMETRY = (
    DATA / name for name in ("so101_limits.yaml", "so101.urdf", "so101_geometry.yaml")
)
T = 0.01
BOUNDS = Bounds.read(LIMITS, "cautious", 5.0)
ARM = PlainArm(URDF, BOUNDS.names)
READY = np.array([0.0, -0.6, 0.5, 1.1, 0.0, 0.3])
WITHIN, BEYOND = 0.999, 1.001
EITHER = pytest.mark.parametrize("share", [WITHIN, BEYOND])


@pytest.fixture(scope="module")
def geometry():
    return PlainGeometry(GEOMETRY, ARM)


def kinds(violations):
    return {
        violation.what.split(" of ")[0].split(" outside")[-1].strip() for violation in violations
    }


def moved(joint: int, column: np.ndarray, start: np.ndarray = READY) -> np.ndarray:
    """A joint moves from rest at ``start``, the others stand."""
    rows = np.tile(start, (len(column) + 1, 1))
    rows[1:, joint] += column
    return rows


def from_jerks(jerks: np.ndarray) -> np.ndarray:
    """Positions whose third differences are given, from rest."""
    return T**3 * jerks.cumsum().cumsum().cumsum()


def test_the_limits_are_those_of_the_file():
    assert BOUNDS.names[1] == "shoulder_lift"
    assert BOUNDS.lower[1] == -1.74533 and BOUNDS.upper[1] == 1.74533
    assert [top[1] for top in BOUNDS.tops] == [1.5, 8.0, 100.0]
    assert BOUNDS.tip_speed == 0.5


def test_the_supply_chooses_the_speed():
    demo = [Bounds.read(LIMITS, "demo", volts).tops[0][0] for volts in (5.0, 12.0, float("nan"))]
    assert demo == [2.5, 3.0, 2.5]


@pytest.mark.parametrize("joint", range(6))
@EITHER
def test_velocity(joint, share):
    top = share * BOUNDS.tops[0][joint]
    # So slow a rise that nothing else is near its limit.
    speed = top * np.sin(np.linspace(0.0, np.pi / 2, 60)) ** 2
    found = Checker(BOUNDS, T).check(moved(joint, T * speed.cumsum(), np.zeros(6)))
    assert kinds(found) == ({"velocity"} if share > 1 else set())


@pytest.mark.parametrize("joint", range(6))
@EITHER
def test_acceleration(joint, share):
    top, jerk = share * BOUNDS.tops[1][joint], 0.9 * BOUNDS.tops[2][joint]
    rise = np.minimum(np.arange(1, 11) * jerk * T, top)
    acceleration = np.concatenate((rise, rise[::-1], [0.0], -rise, -rise[::-1]))
    column = T * T * acceleration.cumsum().cumsum()
    found = Checker(BOUNDS, T).check(moved(joint, column, np.zeros(6)))
    assert kinds(found) == ({"acceleration"} if share > 1 else set())


@pytest.mark.parametrize("joint", range(6))
@EITHER
def test_jerk(joint, share):
    top = share * BOUNDS.tops[2][joint]
    column = from_jerks(top * np.array([1, 1, 1, -1, -1, -1, -1, -1, -1, 1, 1, 1.0]))
    found = Checker(BOUNDS, T).check(moved(joint, column, np.zeros(6)))
    assert kinds(found) == ({"jerk"} if share > 1 else set())


def test_a_jump_in_the_middle_of_a_long_segment_is_seen():
    rows = np.tile(READY, (1000, 1))
    rows[700:, 2] += 1e-3
    assert kinds(Checker(BOUNDS, T).check(rows)) == {"acceleration", "jerk"}


def test_motion_at_the_first_command_is_seen_because_the_arm_rests_before():
    before = np.tile(READY, (3, 1))
    rows = READY + np.array([[0.005], [0.01], [0.015]])
    assert Checker(BOUNDS, T).check(rows, before)
    gliding = READY - np.array([[0.015], [0.01], [0.005]])
    rows = READY + np.array([[0.0], [0.005]])
    assert Checker(BOUNDS, T).check(rows, gliding) == []


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize("over_rad", [-1e-5, 1e-5])
def test_position(joint, side, over_rad):
    sign = 1.0 if side == "upper" else -1.0
    start = np.zeros(6)
    start[joint] = getattr(BOUNDS, side)[joint] - sign * 0.05
    # 4 s for 5 cm: far from every other limit.
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 400))
    found = Checker(BOUNDS, T).check(moved(joint, sign * (0.05 + over_rad) * share, start))
    assert {v.what for v in found} == (
        {f"{BOUNDS.names[joint]} outside its range"} if over_rad > 0 else set()
    )


@pytest.mark.parametrize(("towards", "legal"), [(-1.0, True), (1.0, False)])
def test_from_outside_a_joint_may_only_come_in(towards, legal):
    start = np.zeros(6)
    start[3] = BOUNDS.upper[3] + 0.1
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 400))
    rows = moved(3, towards * 0.05 * share, start)
    assert (Checker(BOUNDS, T).check(rows) == []) is legal


@pytest.mark.parametrize(("outside_rad", "legal"), [(0.1999, True), (0.2001, False)])
def test_a_start_too_far_outside_is_seen(outside_rad, legal):
    start = np.zeros(6)
    start[0] = BOUNDS.lower[0] - outside_rad
    assert (Checker(BOUNDS, T).check(np.tile(start, (5, 1))) == []) is legal


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(value):
    rows = np.tile(READY, (50, 1))
    rows[30, 4] = value
    assert Checker(BOUNDS, T).check(rows)


@EITHER
def test_tip_speed(share):
    """Pan turns the stretched tip at its radius times the joint's speed."""
    radius = float(np.hypot(*(ARM.tips(np.zeros((1, 6)))[0, :2] - (0.0388353, 0.0))))
    top = share * BOUNDS.tip_speed / radius
    speed = top * np.sin(np.linspace(0.0, np.pi / 2, 60)) ** 2
    rows = moved(0, T * speed.cumsum(), np.zeros(6))
    assert kinds(Checker(BOUNDS, T, ARM).check(rows)) == ({"speed"} if share > 1 else set())


def test_forward_kinematics_gives_the_published_pose():
    """The tip of the zero pose, and how it moves, as the model's data sheet has them."""
    zero = ARM.tips(np.zeros((1, 6)))[0]
    np.testing.assert_allclose(zero, (0.3914, 0.0, 0.2265), atol=1e-4)
    turned = ARM.tips(np.eye(6) * 0.3) - zero
    assert turned[0, 1] < -0.05 and (turned[1:4, 2] < -0.01).all()
    np.testing.assert_allclose(turned[5], 0.0, atol=1e-12)


def lowered(geometry, over_m: float) -> np.ndarray:
    """A slow way down with the shoulder until a finger is ``over_m`` below what is legal."""
    start = np.array([0.0, 0.2, 0.4, 0.9, 0.0, 0.1])
    index = [i for i, name in enumerate(geometry.names) if name.endswith("to the table")]

    def depth(lift: float) -> float:
        pose = start.copy()
        pose[1] = lift
        return -float(geometry.clearances(pose[None])[0, index].min())

    low, high = 0.0, 1.2
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if depth(middle) < over_m else (low, middle)
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 600))
    start[1] = low - 0.2
    return moved(1, 0.2 * share, start)


@pytest.mark.parametrize(("over_m", "legal"), [(-1e-5, True), (1e-5, False)])
def test_the_table_is_seen(geometry, over_m, legal):
    rows = lowered(geometry, over_m)
    found = Checker(BOUNDS, T, ARM, geometry).check(rows)
    assert (found == []) is legal
    assert all("to the table" in violation.what for violation in found)


def test_from_below_the_table_the_arm_may_only_come_up(geometry):
    down = lowered(geometry, 0.01)[-1]
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 600))
    checker = Checker(BOUNDS, T, ARM, geometry)
    assert checker.check(moved(1, -0.1 * share, down)) == []
    assert checker.check(moved(1, 0.02 * share, down)) != []


def test_a_start_too_deep_is_seen(geometry):
    checker = Checker(BOUNDS, T, ARM, geometry)
    for depth_m, legal in ((0.0199, True), (0.0201, False)):
        pose = lowered(geometry, depth_m)[-1]
        assert (checker.check(np.tile(pose, (5, 1))) == []) is legal


def test_the_arm_through_itself_is_seen(geometry):
    """The elbow folds the arm onto its shoulder, far from everything else."""
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 600))
    clear = np.array([-1.22, -0.11, 1.46, -1.61, -0.67, 0.47])
    checker = Checker(BOUNDS, T, ARM, geometry)
    found = checker.check(moved(2, 0.2 * share, clear))
    assert {violation.what.removeprefix("clearance of ") for violation in found} <= {
        "forearm to shoulder",
        "wrist to shoulder",
    }
    assert found
    assert checker.check(moved(2, -0.2 * share, clear)) == []


def test_every_constraint_can_be_violated(geometry):
    """One that no pose violates would be wrong, or useless."""
    draw = np.random.default_rng(0)
    poses = draw.uniform(BOUNDS.lower, BOUNDS.upper, (20000, 6))
    names = np.array(geometry.names)
    broken = set(names[(geometry.clearances(poses) < 0.0).any(axis=0)])
    assert {n for n in broken if "table" in n} == {n for n in names if "table" in n}
    # The workspace's front is as far as the arm reaches.
    assert {n for n in names if "tip to" in n} - broken <= {"tip to most x"}
    assert sum("to base" in n or "to shoulder" in n or "to upper" in n for n in broken) >= 5


def test_distances_of_segments_agree_with_a_dense_grid():
    draw = np.random.default_rng(1)
    a, b, c, d = draw.normal(size=(4, 40, 3))
    shares = np.linspace(0.0, 1.0, 201)
    first = a[:, None] + shares[:, None] * (b - a)[:, None]
    second = c[:, None] + shares[:, None] * (d - c)[:, None]
    grid = np.sqrt(((first[:, :, None] - second[:, None]) ** 2).sum(-1)).min(axis=(1, 2))
    exact = between_segments(a, b, c, d)
    assert (exact <= grid + 1e-12).all() and (exact >= grid - 0.02).all()
    np.testing.assert_allclose(between_segments(a, b, a + 1.0, b + 1.0)[0] > 0, True)
    np.testing.assert_allclose(between_segments(a, a, b, b), np.sqrt(((a - b) ** 2).sum(1)))


def test_a_box_keeps_the_whole_arm_away(tmp_path):
    content = yaml.safe_load(GEOMETRY.read_text(encoding="utf-8"))
    tip = ARM.tips(READY[None])[0]
    content["boxes"]["list"] = {
        "shelf": {
            "centre_m": [float(tip[0]), float(tip[1]) + 0.2, float(tip[2])],
            "size_m": [0.1, 0.1, 0.1],
            "rpy_rad": [0.0, 0.0, 0.3],
        }
    }
    (tmp_path / "geometry.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    geometry = PlainGeometry(tmp_path / "geometry.yaml", ARM)
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 600))
    found = Checker(BOUNDS, T, ARM, geometry).check(moved(0, -0.9 * share))
    assert any("box shelf" in violation.what for violation in found)
    assert Checker(BOUNDS, T, ARM, geometry).check(moved(0, 0.9 * share)) == []
