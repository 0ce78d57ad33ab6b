"""Parking and returning: up through the via pose, legal all the way, or refused with a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety import EventKind, Limit, Limits, Mode, OperatorEvent, Output, State
from so101_driver.safety.geometry_file import load_geometry
from so101_driver.safety.parking import Blocked, PosesPath, plan

LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
SHIPPED = load_geometry(
    data_path("so101_geometry.yaml"), Kinematics.from_urdf(data_path("so101.urdf")), JOINT_NAMES
)
START = np.array([0.8, 0.6, 0.2, 0.9, 0.4, 0.3])
VIA = np.where(np.isnan(LIMITS.via_rad), START, LIMITS.via_rad)
REST = np.where(np.isnan(LIMITS.rest_rad), VIA, LIMITS.rest_rad)
T = 0.01


class Post:
    """A geometry with one forbidden ball of joint space, 0.05 in size."""

    names = ("gripper to the post",)
    limits = (Limit.WORKSPACE,)
    recoverable_m = 0.02

    def __init__(self, centre: Any, size: float = 0.05) -> None:
        self._centre = np.array(centre)
        self._size = size

    def clearances(self, positions_rad: Any) -> Any:
        return np.linalg.norm(positions_rad - self._centre, axis=-1)[..., None] - self._size

    def clearances_and_gradients(self, position_rad: Any) -> Any:
        away = position_rad - self._centre
        length = np.linalg.norm(away)
        return np.array([length - self._size]), (away / max(length, 1e-9))[None]

    def tip_positions(self, positions_rad: Any) -> Any:
        return np.zeros((len(positions_rad), 3))

    def tip_jacobian(self, _position_rad: Any) -> Any:
        return np.zeros((3, 6))


def rows_of(path: PosesPath) -> np.ndarray:
    return np.array([path.at(k * T) for k in range(round(path.duration_s / T) + 2)])


def test_parking_rises_first_and_keeps_the_gripper():
    path = plan(START, LIMITS.rest_rad, LIMITS, None, "parking")
    rows = rows_of(path)
    assert path.duration_s < 6.0
    tops = (LIMITS.velocity_rad_s, LIMITS.acceleration_rad_s2, LIMITS.jerk_rad_s3)
    for order, top in enumerate(tops, start=1):
        assert (np.abs(np.diff(rows, order, axis=0) / T**order) <= top).all()
    np.testing.assert_allclose(rows[0], START, atol=1e-9)
    np.testing.assert_allclose(rows[-1], REST, atol=1e-9)
    assert np.ptp(rows[:, 5]) <= 1e-9
    lifted = np.argmax(rows[:, 1] <= LIMITS.via_rad[1] + 1e-6)
    assert np.ptp(rows[:lifted, 0]) <= 1e-9
    assert np.abs(rows - VIA).max(axis=1).min() <= 1e-4
    # Half of the acceleration that the limits allow is used, and nine tenths of the speed.
    shares = [np.abs(np.diff(rows, k, axis=0) / T**k).max(axis=0) / tops[k - 1] for k in (1, 2)]
    assert shares[0].max() == pytest.approx(0.9, abs=0.01)
    assert shares[1].max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("bound", "sign"), [("lower_rad", -1.0), ("upper_rad", 1.0)])
def test_an_arm_outside_its_limits_comes_back_to_them_first(bound: str, sign: float):
    start = START.copy()
    start[0] = getattr(LIMITS, bound)[0] + 0.1 * sign
    rows = rows_of(plan(start, LIMITS.rest_rad, LIMITS, None, "parking"))
    at_via = np.abs(rows[:, 1:4] - VIA[1:4]).max(axis=1).argmin()
    assert rows[at_via, 0] == pytest.approx(getattr(LIMITS, bound)[0], abs=1e-4)


def test_near_the_goal_it_goes_there_directly():
    rows = rows_of(plan(REST + 0.05, LIMITS.rest_rad, LIMITS, None, "parking"))
    assert rows[:, 1].max() <= REST[1] + 0.05 + 1e-9


def test_an_arm_in_its_goal_stays_there():
    rows = rows_of(plan(REST, LIMITS.rest_rad, LIMITS, None, "parking"))
    np.testing.assert_allclose(rows, np.tile(REST, (len(rows), 1)), atol=1e-9)


@pytest.mark.parametrize("first", [1, 2])
def test_another_way_is_taken_when_the_usual_one_is_illegal(first: int):
    """Joint by joint from the base, and where that is illegal too, from the tip."""
    posts = [0.5 * (START + VIA)]
    if first == 2:
        corner = START.copy()
        corner[1] = VIA[1]
        posts.append(corner)

    class Posts(Post):
        names = ("gripper to the post",) * len(posts)

        def clearances(self, positions_rad: Any) -> Any:
            return np.hstack([Post(post).clearances(positions_rad) for post in posts])

    geometry = Posts(posts[0])
    path = plan(START, LIMITS.rest_rad, LIMITS, geometry, "parking")
    assert isinstance(path, PosesPath)
    rows = rows_of(path)
    assert geometry.clearances(rows).min() >= 0.0
    moved = np.argmax(np.abs(rows - START) > 0.1, axis=0)
    assert moved[first] == moved[1:4].min()
    np.testing.assert_allclose(rows[-1], REST, atol=1e-9)


def test_no_legal_way_is_a_sentence_that_names_what_is_in_the_way():
    answer = plan(START, LIMITS.rest_rad, LIMITS, Post(VIA), "parking")
    assert isinstance(answer, Blocked)
    assert answer.sentence == (
        "parking would bring the gripper 50 mm too close to the post: move the arm by hand"
    )


def test_a_violated_start_may_be_left_but_not_entered_deeper():
    assert isinstance(plan(START, LIMITS.rest_rad, LIMITS, Post(START), "parking"), PosesPath)
    ahead = Post(START + 0.03 * (VIA - START) / np.linalg.norm(VIA - START))
    rows = rows_of(plan(START, LIMITS.rest_rad, LIMITS, ahead, "parking"))
    # Between two samples it may still dip a little; the limiter does not let that happen.
    assert ahead.clearances(rows).min() >= ahead.clearances(START) - 3e-3
    everywhere = Post(START - 0.03, size=0.6)
    everywhere.clearances = lambda rows: -0.1 - 0.1 * np.abs(rows - START).max(axis=-1)[:, None]
    assert isinstance(plan(START, LIMITS.rest_rad, LIMITS, everywhere, "parking"), Blocked)


def test_with_the_shipped_geometry_almost_every_legal_pose_has_a_way():
    random = np.random.default_rng(1)
    ways = []
    while len(ways) < 60:
        pose = random.uniform(LIMITS.lower_rad, LIMITS.upper_rad)
        if SHIPPED.clearances(pose[None]).min() < 0.0:
            continue
        for goal in (LIMITS.rest_rad, LIMITS.ready_rad):
            path = plan(pose, goal, LIMITS, SHIPPED, "parking")
            ways.append(isinstance(path, PosesPath))
            if ways[-1]:
                assert SHIPPED.clearances(rows_of(path)).min() > -2e-3
                assert path.duration_s < 7.5
    assert np.mean(ways) >= 0.95


# In the state machine.


def finish(scene: Any, most_s: float = 10.0) -> None:
    """Go on until the move has ended; chunks that come meanwhile are not followed."""
    for _ in range(round(most_s / T)):
        scene.step(chunks=(scene.chunk(),) if scene.last.state is State.PARKING else ())
        if scene.last.state not in (State.PARKING, State.STOPPING):
            return
    pytest.fail(scene.status.reason)


def test_returning_ends_at_the_ready_pose_in_hold_and_chunks_go_on(new_scene: Any):
    scene = new_scene(geometry=SHIPPED).arm().track()
    refused = scene.ask(EventKind.RETURN)
    assert not refused.success
    assert "returning needs HOLD: the state is TRACKING" in refused.message
    scene.step(ticks=80)
    assert scene.ask(EventKind.RETURN).success
    assert scene.ask(EventKind.RETURN).message == "already returning"
    assert scene.status.reason_code == "RETURNING"
    finish(scene)
    assert (scene.last.state, scene.status.reason_code) == (State.HOLD, "RETURNED")
    np.testing.assert_allclose(scene.last.positions_rad[:5], LIMITS.ready_rad[:5], atol=0.003)
    scene.track()


def test_returning_works_in_shadow_and_scaled_mode(new_scene: Any):
    shadow = new_scene(Mode.SHADOW).arm()
    assert shadow.ask(EventKind.RETURN).success
    finish(shadow)
    np.testing.assert_allclose(shadow.last.positions_rad[:5], LIMITS.ready_rad[:5], atol=0.003)
    assert {command.output for command in shadow.commands} == {Output.NONE, Output.SHADOW}

    scaled = new_scene(Mode.SCALED, scaled_radius_rad=0.05).arm()
    assert scaled.ask(EventKind.RETURN).success
    finish(scaled)
    ready = scaled.last.positions_rad
    np.testing.assert_allclose(ready[:5], LIMITS.ready_rad[:5], atol=0.003)
    for _ in range(60):
        scaled.step(chunks=(scaled.chunk(ready + 0.5),), ticks=8)
    # The neighbourhood that SCALED mode is confined to is the new one.
    np.testing.assert_allclose(scaled.last.positions_rad[:5], ready[:5] + 0.05, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "ends"), [(EventKind.PARK, State.DISARMED), (EventKind.RETURN, State.HOLD)]
)
def test_a_move_that_is_cut_short_ends_in_its_own_state(new_scene: Any, kind: Any, ends: State):
    scene = new_scene(deadman_required=True).arm()
    press = OperatorEvent(EventKind.DEADMAN, pressed=True)
    assert "deadman" in scene.ask(kind).message
    scene.step(press)
    assert scene.ask(kind).success
    scene.step(ticks=15)
    scene.step(press, ticks=15)
    assert scene.last.state is State.PARKING
    assert np.abs(scene.last.velocities_rad_s).max() > 0.1
    finish(scene)
    assert (scene.last.state, scene.status.reason_code) == (ends, "DEADMAN")


def test_after_a_return_that_is_cut_short_chunks_wait_for_hold(new_scene: Any):
    scene = new_scene(deadman_required=True).arm()
    press = OperatorEvent(EventKind.DEADMAN, pressed=True)
    scene.step(press)
    assert scene.ask(EventKind.RETURN).success
    scene.step(ticks=15)
    scene.step(press, ticks=15)
    scene.step(OperatorEvent(EventKind.DEADMAN, pressed=False))
    assert scene.last.state is State.STOPPING
    scene.step(press, chunks=(scene.chunk(),))
    assert scene.last.state is State.STOPPING
    finish(scene)
    scene.step(press, chunks=(scene.chunk(),))
    assert scene.last.state is State.TRACKING


def test_parking_in_motion_plans_from_where_the_brake_ends(new_scene: Any):
    scene = new_scene(geometry=SHIPPED).arm().track(0.8)
    assert scene.ask(EventKind.PARK).success
    rows = [scene.last.positions_rad]
    while scene.last.state is not State.DISARMED:
        scene.step()
        rows.append(scene.last.positions_rad)
        assert len(rows) < 900
    np.testing.assert_allclose(rows[-1][:5], LIMITS.rest_rad[:5], atol=0.003)
    assert SHIPPED.clearances(np.array(rows)).min() >= -1e-9


def test_a_move_without_a_legal_way_is_refused_and_changes_nothing(new_scene: Any):
    goal = np.array(new_scene.GOAL)
    via = np.where(np.isnan(LIMITS.via_rad), goal, LIMITS.via_rad)
    scene = new_scene(geometry=Post(via)).arm()
    for kind, word in ((EventKind.PARK, "parking"), (EventKind.RETURN, "returning")):
        refused = scene.ask(kind)
        assert not refused.success
        assert refused.message.startswith(f"{word} would bring the gripper 50 mm too close")
        assert scene.last.state is State.HOLD
    assert scene.ask(EventKind.DISARM).success


def test_parking_keeps_to_the_speed_of_the_servo_part(new_scene: Any):
    slow = replace(LIMITS.servos[0], velocity_rad_s=0.5)
    scene = new_scene(limits=replace(LIMITS, servos=(slow,)))
    scene.driver = replace(scene.driver, voltage_v=(5.0,) * 6)
    scene.arm()
    assert scene.ask(EventKind.RETURN).success
    finish(scene)
    assert max(np.abs(c.velocities_rad_s).max() for c in scene.commands[3:]) <= 0.5 + 1e-9
