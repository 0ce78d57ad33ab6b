"""A joint that something holds back slows the arm, then stops it, and can be led out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from so101_driver.safety import EventKind, Limit, Mode, State

GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)
LIFT = 1


def run_into_something(scene: Any) -> Any:
    """Follow chunks that go on for 1.2 rad while the shoulder's lift is held."""
    scene.arm()
    scene.jammed = (LIFT,)
    target = np.array(GOAL) + np.array([0.0, 1.2, 0.0, 0.0, 0.0, 0.0])
    for _ in range(25):
        scene.step(chunks=(scene.chunk(target),), ticks=8)
        if scene.last.state is not State.TRACKING:
            break
    return scene


def test_a_blocked_joint_slows_then_stops_the_arm_and_holds(new_scene: Any):
    scene = run_into_something(new_scene())
    slowed = [c for c in scene.commands if Limit.TRACKING_MARGIN in c.active_limits]
    assert len(slowed) > 3, "the path is slowed before it is stopped"
    scene.step(ticks=60)
    assert (scene.last.state, scene.status.reason_code) == (State.HOLD, "JOINT_BLOCKED")
    assert "shoulder_lift is blocked" in scene.status.reason
    assert scene.status.counts[Limit.JOINT_BLOCKED] >= 1
    hanging = scene.status.following_error_rad[LIFT]
    stop = scene.limits.following_stop_rad[LIFT]
    assert -stop - 0.15 < hanging < -scene.limits.following_slow_rad[LIFT]
    assert scene.status.path_rate < 0.5


def test_while_blocked_only_a_chunk_that_leads_back_is_followed(new_scene: Any):
    scene = run_into_something(new_scene())
    scene.step(ticks=60)
    command = scene.last.positions_rad
    further = command + np.eye(6)[LIFT] * 0.2
    scene.step(chunks=(scene.chunk(further),), ticks=8)
    assert (scene.last.state, scene.status.reason_code) == (State.HOLD, "JOINT_BLOCKED")
    np.testing.assert_array_equal(scene.last.positions_rad, command)
    for _ in range(60):
        scene.step(chunks=(scene.chunk(GOAL),), ticks=8)
    assert scene.last.state is State.TRACKING
    np.testing.assert_allclose(scene.last.positions_rad, GOAL, atol=0.01)
    assert abs(scene.status.following_error_rad[LIFT]) < 0.1
    assert scene.status.path_rate == 1.0


def test_a_joint_that_is_let_go_is_followed_again(new_scene: Any):
    scene = run_into_something(new_scene())
    scene.step(ticks=60)
    scene.jammed = ()
    scene.step(ticks=100)
    assert (scene.last.state, scene.status.reason_code) == (State.HOLD, "JOINT_FREED")
    scene.track()


def test_a_joint_that_is_pushed_away_in_hold_is_said_at_once(new_scene: Any):
    scene = new_scene().arm()
    scene.jammed = (0,)
    for _ in range(8):
        scene.measured = (scene.measured[0] + 0.05, *scene.measured[1:])
        scene.step(ticks=4)
    assert (scene.last.state, scene.status.reason_code) == (State.HOLD, "JOINT_BLOCKED")
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


def test_a_gripper_may_hang_behind_for_as_long_as_it_grips(new_scene: Any):
    scene = new_scene().arm()
    scene.jammed = (5,)
    closing = np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.6])
    for _ in range(30):
        scene.step(chunks=(scene.chunk(np.array(GOAL) + closing),), ticks=8)
    assert scene.last.state is State.TRACKING
    assert scene.status.following_error_rad[5] > 0.4
    assert scene.status.path_rate == 1.0


@pytest.mark.parametrize(
    ("kind", "ends"), [(EventKind.PARK, State.DISARMED), (EventKind.RETURN, State.HOLD)]
)
def test_a_move_that_is_blocked_is_cut_short(new_scene: Any, kind: EventKind, ends: State):
    scene = new_scene().arm()
    scene.jammed = (LIFT,)
    assert scene.ask(kind).success
    scene.step(ticks=500)
    assert scene.last.state is ends
    assert "shoulder_lift is blocked" in scene.status.reason


def test_in_shadow_mode_nothing_can_be_blocked(new_scene: Any):
    scene = run_into_something(new_scene(Mode.SHADOW))
    assert scene.last.state is State.TRACKING
    assert scene.status.following_error_rad == ()
    assert scene.status.path_rate == 1.0


def test_the_watch_can_be_switched_off(new_scene: Any):
    scene = run_into_something(new_scene(watch_following=False))
    assert scene.last.state is State.TRACKING


def test_a_reason_of_another_kind_still_says_that_a_joint_is_blocked(new_scene: Any):
    scene = run_into_something(new_scene())
    scene.step(ticks=60)
    scene.step(chunks=(scene.chunk(action_kind=0),), ticks=2)
    assert scene.status.reason_code == "CHUNK_BAD"
    assert "shoulder_lift is blocked" in scene.status.reason


def test_a_chunk_that_leads_on_stops_the_way_out(new_scene: Any):
    scene = run_into_something(new_scene())
    scene.step(ticks=60)
    scene.step(chunks=(scene.chunk(GOAL),), ticks=4)
    assert scene.last.state is State.TRACKING
    further = scene.last.positions_rad + np.eye(6)[LIFT] * 0.2
    scene.step(chunks=(scene.chunk(further),))
    assert (scene.last.state, scene.status.reason_code) == (State.STOPPING, "JOINT_BLOCKED")


def test_an_old_measurement_is_no_jam(new_scene: Any):
    scene = new_scene()
    scene.measure_every = 16
    scene.step(ticks=16)
    scene.arm()
    target = np.array(GOAL) + np.array([1.2, 0.0, 0.0, 0.0, 0.0, 0.0])
    scene.step(chunks=(scene.chunk(target),), ticks=80)
    assert np.abs(scene.last.positions_rad - GOAL).max() > 0.8
    assert scene.status.counts[Limit.TRACKING_MARGIN] == 0


def send_scaled(scene: Any, by_rad: float) -> None:
    """As a policy does that sees its joint stand: a quarter of a second from where it is measured.

    A fifth of its speed is followed, until something stops it.
    """
    for _ in range(90):
        begin = np.array(scene.measured)
        points = begin + np.linspace(0.0, by_rad, 25)[:, None] * np.eye(6)[LIFT]
        offsets = tuple(10_000_000 * i for i in range(25))
        scene.step(chunks=(scene.chunk(points_rad=points, offsets_ns=offsets),), ticks=8)
        if scene.last.state is not State.TRACKING:
            return


def test_in_scaled_mode_chunks_that_begin_at_the_blocked_joint_do_not_press_on(new_scene: Any):
    """They end behind the command, yet their motion, which is what SCALED follows, goes on."""
    scene = new_scene(Mode.SCALED, scale=0.2).arm()
    scene.jammed = (LIFT,)
    send_scaled(scene, 0.12)
    scene.step(ticks=60)
    assert (scene.last.state, scene.status.reason_code) == (State.HOLD, "JOINT_BLOCKED")
    pressed = scene.last.positions_rad[LIFT] - scene.measured[LIFT]
    assert pressed < scene.limits.following_stop_rad[LIFT] + 0.05
    command = scene.last.positions_rad
    send_scaled(scene, 0.12)
    np.testing.assert_array_equal(scene.last.positions_rad, command)
    send_scaled(scene, -0.12)
    scene.step(ticks=60)
    # The way out is open.
    assert scene.last.positions_rad[LIFT] < command[LIFT] - 0.1
