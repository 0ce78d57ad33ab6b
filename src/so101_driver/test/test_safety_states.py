"""Every way the safety layer changes its state, and the sentence that says why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.safety import (
    ArmState,
    DriverState,
    EventKind,
    JointReading,
    Limit,
    Mode,
    OperatorEvent,
    Output,
    ReasonCode,
    State,
)

START = (0.2, -0.6, 0.7, 0.6, 0.1, 0.5)
GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)
T = 0.01


@pytest.mark.parametrize("kind", [EventKind.ESTOP, None])
def test_stops_latch_until_reset_and_arm(new_scene: Any, kind: EventKind | None):
    scene = new_scene(chunk_timeout_s=0.9).arm().track()
    if kind:
        scene.ask(kind)
    else:
        scene.measuring = False
        scene.step(ticks=22)
    state = State.ESTOP if kind else State.FAULT
    assert scene.last.state is state
    assert scene.last.output is Output.COMMANDS
    assert not scene.ask(EventKind.RESET).success
    scene.measuring = True
    scene.step(ticks=60)
    assert scene.last.output is Output.NONE
    assert not np.any(scene.last.velocities_rad_s)
    assert not scene.ask(EventKind.ARM).success
    assert not scene.ask(EventKind.PARK).success
    assert scene.ask(EventKind.RESET).success
    assert scene.last.state is State.DISARMED
    scene.step(chunks=(scene.chunk(),))
    assert scene.last.state is State.DISARMED
    scene.arm()


def test_a_measured_jump_latches_and_never_moves_the_command(new_scene: Any):
    scene = new_scene().arm()
    scene.step(ticks=5)
    scene.measured = (START[0] + 0.5, *START[1:])
    scene.step()
    assert scene.last.state is State.FAULT
    assert "shoulder_pan was measured to jump by +0.50" in scene.status.reason
    assert scene.status.counts[Limit.TRACKING_MARGIN] == 1
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


@pytest.mark.parametrize(
    ("age_ns", "limit", "words"),
    [
        (99_000_000, None, ""),
        (101_000_000, Limit.STALE_STATE, "0.10 s old"),
        (-49_000_000, None, ""),
        (-51_000_000, Limit.CLOCK, "in the future"),
    ],
)
def test_joint_states_out_of_time_are_refused(
    new_scene: Any, age_ns: int, limit: Limit | None, words: str
):
    scene = new_scene()
    reading = JointReading(START, scene.ros_ns - age_ns, scene.ns)
    driver = replace(scene.driver, received_ns=scene.ns)
    event = OperatorEvent(EventKind.ARM, 1)
    command = scene.supervisor.step(
        1, scene.ns, scene.ros_ns, ArmState(reading, driver), (), (event,)
    )
    assert command.results[0].success == (limit is None)
    assert words in command.results[0].message
    assert limit is None or scene.status.counts[limit] == 1


def test_joint_states_that_repeat_do_not_keep_the_arm_alive(new_scene: Any):
    scene = new_scene().arm()
    frozen_ns = scene.ros_ns
    for tick in range(1, 40):
        scene.ns += 5_000_000
        reading = JointReading(START, frozen_ns, scene.ns)
        arm = ArmState(reading, replace(scene.driver, received_ns=scene.ns))
        command = scene.supervisor.step(scene.tick + tick, scene.ns, scene.ros_ns, arm, (), ())
        if tick * 5 <= 90:
            assert command.state is State.HOLD
    scene.ns += 20_000_000
    command = scene.supervisor.step(scene.tick + 41, scene.ns, scene.ros_ns, arm, (), ())
    assert command.state is State.FAULT
    assert scene.status.counts[Limit.STALE_STATE] > 30


def test_a_silent_driver_is_a_fault(new_scene: Any):
    scene = new_scene().arm()
    silent = replace(scene.driver, received_ns=scene.ns)
    for _ in range(110):
        scene.tick += 1
        scene.ns += 10_000_000
        arm = ArmState(JointReading(START, scene.ros_ns, scene.ns), silent)
        command = scene.supervisor.step(scene.tick, scene.ns, scene.ros_ns, arm, (), ())
    assert command.state is State.FAULT
    assert "driver has not reported for 1.0" in scene.status.reason
    assert scene.status.counts[Limit.STALE_STATE] == 1


def test_desync_and_a_holding_driver_need_arming_again(new_scene: Any):
    scene = new_scene().arm()
    scene.step(ticks=50)
    scene.driver = replace(scene.driver, desync=True, reason="DESYNC")
    scene.step()
    assert scene.last.state is State.DISARMED
    assert "DESYNC" in scene.status.reason
    # What the driver still reports from before does not disarm at once.
    scene.arm().step(ticks=20)
    assert scene.last.state is State.HOLD
    scene.driver = replace(scene.driver, desync=False, state=DriverState.HOLDING, reason="two")
    scene.step(ticks=90)
    assert scene.last.state is State.HOLD
    scene.step(ticks=20)
    assert scene.last.state is State.DISARMED
    assert scene.status.counts[Limit.DESYNC] == 2


def test_torque_that_goes_off_disarms(new_scene: Any):
    scene = new_scene().arm()
    scene.driver = replace(scene.driver, torque_on=(True,) * 5 + (False,))
    scene.step()
    assert scene.last.state is State.DISARMED


@pytest.mark.parametrize("jump_ns", [-(10**10), 10**9])
def test_a_jump_of_ros_time_stops_and_recovers(new_scene: Any, jump_ns: int):
    scene = new_scene().arm().track()
    scene.ros_offset_ns += jump_ns
    scene.step()
    assert scene.last.state is State.STOPPING
    assert "ROS time jumped" in scene.status.reason
    assert scene.status.counts[Limit.CLOCK] == 1
    scene.step(ticks=60)
    scene.track()


def test_the_deadman_switch_must_keep_coming(new_scene: Any):
    scene = new_scene(deadman_required=True).arm()
    pressed = OperatorEvent(EventKind.DEADMAN, pressed=True)
    scene.step(chunks=(scene.chunk(),))
    assert scene.last.state is State.HOLD
    scene.step(pressed, chunks=(scene.chunk(),))
    assert scene.last.state is State.TRACKING
    for _ in range(4):
        scene.step(pressed, chunks=(scene.chunk(),), ticks=8)
    assert scene.last.state is State.TRACKING
    scene.step(OperatorEvent(EventKind.DEADMAN, pressed=False))
    assert scene.last.state is State.STOPPING
    scene.step(ticks=60)
    assert not scene.ask(EventKind.PARK).success
    scene.step(pressed)
    assert scene.ask(EventKind.PARK).success
    scene.step(ticks=100)
    # Parking that is cut short does not go back to following chunks.
    assert scene.last.state is State.DISARMED


def test_parking_ends_at_the_rest_pose_disarmed(new_scene: Any):
    scene = new_scene().arm().track()
    assert scene.ask(EventKind.PARK).success
    while scene.last.state is not State.DISARMED:
        # Chunks that still come are not followed.
        scene.step(chunks=(scene.chunk(),))
        assert scene.tick < 1000
    np.testing.assert_allclose(scene.last.positions_rad[:5], scene.limits.rest_rad[:5], atol=0.003)
    assert "parked" in scene.status.reason


def test_disarming_in_motion_brakes_first(new_scene: Any):
    scene = new_scene().arm().track()
    assert scene.ask(EventKind.DISARM).success
    assert scene.last.state is State.STOPPING
    scene.step(chunks=(scene.chunk(),))
    scene.step(ticks=60)
    assert scene.last.state is State.DISARMED
    assert not np.any(scene.last.velocities_rad_s)


def test_shadow_runs_everything_but_commands_nothing(new_scene: Any):
    scene = new_scene(Mode.SHADOW)
    scene.driver = None
    scene.arm().track()
    assert {command.output for command in scene.commands} == {Output.NONE, Output.SHADOW}
    assert np.abs(scene.last.velocities_rad_s).max() > 0.1


def test_the_ladder_goes_up_step_by_step_from_rest(new_scene: Any):
    scene = new_scene(Mode.SHADOW).arm().track()
    refused = scene.ask(EventKind.SET_MODE, mode=Mode.SCALED)
    assert not refused.success
    assert "needs HOLD: the state is TRACKING; stop the sender of chunks" in refused.message
    scene.step(ticks=80)
    refused = scene.ask(EventKind.SET_MODE, mode=Mode.FULL)
    assert not refused.success
    assert "FULL comes after SCALED" in refused.message
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SCALED).success
    assert scene.last.state is State.DISARMED, "the arm stands elsewhere than SHADOW's commands"
    scene.arm().track().step(ticks=80)
    assert scene.ask(EventKind.SET_MODE, mode=Mode.FULL).success
    assert scene.last.state is State.HOLD
    scene.track(0.8).step(ticks=80)
    # Each time includes the chunk's timeout, until the arm began to stop.
    following = {
        m: sum(c.state is State.TRACKING and c.mode is m for c in scene.commands) for m in Mode
    }
    assert scene.status.mode_s == {
        mode: pytest.approx(ticks * T) for mode, ticks in following.items()
    }
    assert following[Mode.FULL] > following[Mode.SHADOW] > 40
    changes = [c.code for command in scene.commands for c in command.changes]
    assert changes.count(ReasonCode.MODE_CHANGED) == 2
    assert "the mode is FULL" not in scene.status.reason


def test_going_down_brakes_before_the_mode_changes(new_scene: Any):
    scene = new_scene().arm().track()
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SHADOW).success
    assert (scene.last.state, scene.last.mode) == (State.STOPPING, Mode.FULL)
    scene.step(ticks=60)
    assert (scene.last.state, scene.last.mode) == (State.HOLD, Mode.SHADOW)
    stopping = [c for c in scene.commands if c.state is State.STOPPING]
    assert {c.output for c in stopping} == {Output.COMMANDS}


def test_a_lower_scale_in_motion_is_not_overtaken_by_the_next_chunk(new_scene: Any):
    scene = new_scene(Mode.SCALED, scale=0.2).arm().track()
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SCALED, scale=0.1).success
    scene.step(chunks=(scene.chunk(),))
    assert scene.last.state is State.STOPPING
    scene.step(ticks=60)
    assert (scene.last.state, scene.status.scale) == (State.HOLD, 0.1)
    scene.track()


def pressed(scene: Any) -> None:
    scene.ask(EventKind.ESTOP)
    scene.step(ticks=60)
    assert scene.last.mode is Mode.FULL
    scene.ask(EventKind.RESET)


def parked(scene: Any) -> None:
    assert scene.ask(EventKind.PARK).success
    while scene.last.state is not State.DISARMED:
        scene.step()
        assert scene.tick < 1000


def driver_lost(scene: Any) -> None:
    scene.driver = replace(scene.driver, torque_on=(False,) * 6)
    scene.step()
    scene.driver = replace(scene.driver, torque_on=(True,) * 6)


@pytest.mark.parametrize("disturb", [pressed, parked, driver_lost])
def test_a_mode_that_was_lowered_stays_lowered_whatever_comes_while_braking(
    new_scene: Any, disturb: Any
):
    scene = new_scene().arm().track()
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SHADOW).message == "braking, then SHADOW"
    disturb(scene)
    assert (scene.last.state, scene.last.mode) == (State.DISARMED, Mode.SHADOW)
    scene.step(ticks=40)
    scene.arm()
    assert scene.last.output is Output.SHADOW


@pytest.mark.parametrize("scale", [0.09, 0.21, math.nan])
def test_an_impossible_scale_is_refused(new_scene: Any, scale: float):
    scene = new_scene().arm()
    assert not scene.ask(EventKind.SET_MODE, mode=Mode.SCALED, scale=scale).success
    assert not scene.ask(EventKind.SET_MODE, mode=None).success


def test_scaled_goes_the_scaled_way_and_no_further_than_its_radius(new_scene: Any):
    scene = new_scene(Mode.SCALED, scale=0.2, scaled_radius_rad=0.05).arm()
    for _ in range(5):
        # The policy sees an arm that lags far behind and asks again and again.
        scene.step(chunks=(scene.chunk(),), ticks=8)
    moved = scene.last.positions_rad - np.array(GOAL)
    # 0.3 rad in 0.96 s, a fifth of it in 0.4 s; the gripper stays.
    np.testing.assert_allclose(moved[:5], 0.2 * 0.3 / 0.96 * 0.4, rtol=0.25)
    assert moved[5] == 0.0
    for sign in (1.0, -1.0):
        for _ in range(30):
            target = scene.last.positions_rad + 0.3 * sign
            scene.step(chunks=(scene.chunk(target),), ticks=8)
        moved = sign * (scene.last.positions_rad - np.array(GOAL))
        assert (moved <= 0.05 + 1e-9).all()
        np.testing.assert_allclose(moved[:5], 0.05, atol=1e-3)


def test_scaled_leaves_a_start_outside_the_limits_at_its_own_speed(new_scene: Any):
    """A folded arm rests on its stops; its gripper does not move, wherever it stands."""
    scene = new_scene(Mode.SCALED, scale=0.2)
    folded = np.array((*GOAL[:2], 1.69 + 0.17, *GOAL[3:5], -0.174533 - 0.1))
    scene.driver = replace(scene.driver, goal_rad=tuple(folded))
    scene.measured = tuple(folded)
    scene.arm()
    for _ in range(5):
        scene.step(chunks=(scene.chunk(folded),), ticks=8)
    np.testing.assert_allclose(scene.last.positions_rad, folded, atol=1e-9)
    inwards = np.array([0.0, 0.0, -0.3, 0.0, 0.0, 0.3])
    before = len(scene.commands)
    for _ in range(20):
        scene.step(chunks=(scene.chunk(scene.last.positions_rad + inwards),), ticks=8)
    speeds = np.array([np.abs(c.velocities_rad_s) for c in scene.commands[before:]])
    assert speeds.max() <= 1.2 * 0.2 * 0.3 / 0.96
    moved = scene.last.positions_rad - folded
    assert moved[2] < -0.8 * 0.2 * 0.3 / 0.96 * 1.6
    assert moved[5] == 0.0


def test_the_mode_changes_in_hold_where_the_arm_is(new_scene: Any):
    scene = new_scene(scale=0.2, scaled_radius_rad=0.05).arm().track()
    scene.step(ticks=80)
    here = scene.last.positions_rad
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SCALED).success
    assert scene.last.state is State.HOLD
    for _ in range(60):
        scene.step(chunks=(scene.chunk(here + 0.5),), ticks=8)
    np.testing.assert_allclose(scene.last.positions_rad[:5], here[:5] + 0.05, atol=1e-3)


def test_the_mode_may_change_after_a_driver_was_lost_in_motion(new_scene: Any):
    scene = new_scene().arm().track()
    assert np.any(scene.last.velocities_rad_s)
    scene.driver = replace(scene.driver, torque_on=(False,) * 6)
    scene.step()
    assert scene.last.state is State.DISARMED
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SCALED).success
