"""When the arm is armed, from where, and every sentence that says why not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.safety import (
    DriverState,
    EventKind,
    EventResult,
    Limit,
    OperatorEvent,
    Output,
    State,
)

START = (0.2, -0.6, 0.7, 0.6, 0.1, 0.5)
GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)
T = 0.01


def test_arming_takes_the_goal_register_and_does_not_move(new_scene: Any):
    scene = new_scene().arm()
    assert scene.last.state is State.HOLD
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)
    scene.step(ticks=50)
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)
    assert scene.last.output is Output.COMMANDS


def test_twenty_cycles_under_sag_do_not_creep(new_scene: Any):
    scene = new_scene()
    for _ in range(20):
        scene.arm().step(ticks=5)
        hanging = scene.last.positions_rad - 0.05
        scene.measured = tuple(hanging)
        scene.driver = replace(scene.driver, goal_rad=tuple(scene.last.positions_rad))
        assert scene.ask(EventKind.DISARM).success
        scene.step(ticks=3)
        assert scene.last.output is Output.NONE
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


def test_arming_just_after_a_motion_waits_for_goals_that_are_known_since(new_scene: Any):
    """A status on its way since before the arm came to rest tells where the goals were then."""
    scene = new_scene().arm().track()
    scene.driver_talks = False
    assert scene.ask(EventKind.ESTOP).success
    while scene.last.output is Output.COMMANDS:
        scene.step()
    rests = scene.last.positions_rad
    assert np.abs(rests - scene.driver.goal_rad).max() == 0.0
    assert np.abs(rests - scene._heard.goal_rad).max() > 0.01
    assert scene.ask(EventKind.RESET).success
    scene.step(OperatorEvent(EventKind.ARM, 8), ticks=20)
    assert (scene.last.state, scene.results[-1].number) == (State.DISARMED, 7)
    scene.driver_talks = True
    scene.step()
    assert scene.results[-1] == EventResult(8, True, "armed and holding")
    np.testing.assert_array_equal(scene.last.positions_rad, rests)


def test_arming_asks_for_torque_once_and_waits(new_scene: Any):
    scene = new_scene()
    scene.driver = replace(scene.driver, torque_on=(False,) * 6)
    scene.step()
    assert scene.step(OperatorEvent(EventKind.ARM, 3)).request_torque
    scene.step(ticks=20)
    assert not any(command.request_torque for command in scene.commands[-20:])
    assert scene.last.state is State.DISARMED
    assert scene.results == []
    scene.driver = replace(scene.driver, torque_on=(True,) * 6)
    scene.step()
    assert scene.results == [EventResult(3, True, "armed and holding")]
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


def test_arming_fails_when_torque_does_not_come(new_scene: Any):
    scene = new_scene()
    scene.driver = replace(scene.driver, torque_on=(False,) * 6)
    scene.step()
    scene.step(OperatorEvent(EventKind.ARM, 3), ticks=700)
    assert not scene.results[-1].success
    assert "torque" in scene.results[-1].message
    scene.step(OperatorEvent(EventKind.ARM, 4))
    scene.step(OperatorEvent(EventKind.TORQUE_REFUSED, text="too hot"))
    assert "too hot" in scene.results[-1].message


def no_joints(scene: Any) -> None:
    scene.measuring = False


def nan_joint(scene: Any) -> None:
    scene.measured = (*START[:2], math.nan, *START[3:])


def no_driver(scene: Any) -> None:
    scene.driver = None


def driver_fault(scene: Any) -> None:
    scene.driver = replace(scene.driver, state=DriverState.FAULT, reason="servo 3 is silent")


def unknown_goals(scene: Any) -> None:
    scene.driver = replace(scene.driver, goal_rad=(*GOAL[:5], math.nan))


def other_supply(scene: Any) -> None:
    scene.driver = replace(scene.driver, voltage_v=(24.0, 24.1, math.nan, 5.0, 24.0, 24.0))


def other_joints(scene: Any) -> None:
    scene.driver = replace(scene.driver, torque_on=(True,) * 5)


def deaf_input(scene: Any) -> None:
    scene.problem = "a publisher of estop cannot be heard"


def far_outside(scene: Any) -> None:
    scene.driver = replace(scene.driver, goal_rad=(*GOAL[:2], 1.69 + 0.21, *GOAL[3:]))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (no_joints, "no joint states"),
        (nan_joint, "elbow_flex is not measured"),
        (no_driver, "driver has not reported"),
        (driver_fault, "servo 3 is silent"),
        (other_joints, "reports 5 joints instead of 6"),
        (unknown_goals, "does not know the goals in the servos"),
        (other_supply, "servos' supply is 24.0 V instead of"),
        (deaf_input, "estop"),
        (far_outside, "elbow_flex stands 12.0 degrees outside"),
    ],
)
def test_arming_is_refused_with_the_reason(new_scene: Any, problem: Any, words: str):
    scene = new_scene()
    problem(scene)
    scene.step(ticks=3)
    answer = scene.ask(EventKind.ARM)
    assert not answer.success
    assert words in answer.message
    assert words in scene.status.reason
    assert scene.last.output is Output.NONE


def test_an_arm_a_little_outside_is_armed_where_it_stands(new_scene: Any):
    scene = new_scene()
    folded = (*GOAL[:2], 1.69 + 0.17, *GOAL[3:])
    scene.driver = replace(scene.driver, goal_rad=folded)
    scene.arm()
    np.testing.assert_array_equal(scene.last.positions_rad, folded)


def test_auto_arms_once_when_everything_is_ready(new_scene: Any):
    scene = new_scene(auto_arm=True)
    scene.measuring = False
    scene.step(ticks=120)
    assert "not armed" in scene.status.reason
    scene.measuring = True
    scene.step(ticks=60)
    assert "waiting for a policy's chunks" in scene.status.reason
    assert scene.last.state is State.DISARMED, "nobody asks the arm to move, so it stays off"
    for _ in range(10):
        scene.step(chunks=(scene.chunk(),), ticks=8)
    assert scene.last.state is State.TRACKING
    scene.ask(EventKind.DISARM)
    for _ in range(20):
        scene.step(chunks=(scene.chunk(),), ticks=8)
    assert scene.last.state is State.DISARMED


def test_geometry_refuses_a_start_too_deep_inside(new_scene: Any):
    class Table:
        names = ("gripper to the table",)
        limits = (Limit.TABLE,)
        recoverable_m = 0.02

        def clearances(self, positions_rad: Any) -> Any:
            return 0.1 * (positions_rad[:, 1:2] + 0.4)

        def clearances_and_gradients(self, position_rad: Any) -> Any:
            return self.clearances(position_rad[None])[0], 0.1 * np.eye(6)[1:2]

        def tip_positions(self, positions_rad: Any) -> Any:
            return np.zeros((len(positions_rad), 3))

        def tip_jacobian(self, _position_rad: Any) -> Any:
            return np.zeros((3, 6))

    scene = new_scene(geometry=Table())
    deep = replace(scene.driver, goal_rad=(GOAL[0], -0.61, *GOAL[2:]))
    scene.driver, shallow = deep, scene.driver
    scene.step()
    refused = scene.ask(EventKind.ARM)
    assert not refused.success
    assert "gripper to the table is 21 mm too close" in refused.message
    assert scene.status.reason_code == "START_POSE"
    scene.driver = shallow
    scene.arm()
    assert (scene.status.clearance_m, scene.status.clearance_name) == (
        pytest.approx(-0.018),
        "gripper to the table",
    )


@pytest.mark.parametrize(
    ("volts", "part"), [((12.3,) * 6, "12 V"), ((5.1,) * 6, "7.4 V"), ((), "7.4 V")]
)
def test_the_supply_chooses_the_servo_part(new_scene: Any, volts: tuple[float, ...], part: str):
    scene = new_scene()
    scene.driver = replace(scene.driver, voltage_v=volts)
    assert scene.status.servo_part == ""
    scene.arm()
    assert scene.status.servo_part == part


def test_another_supply_while_armed_is_said_and_changes_no_motion(new_scene: Any):
    def run(later_v: float) -> Any:
        scene = new_scene()
        scene.driver = replace(scene.driver, voltage_v=(12.0,) * 6)
        scene.arm()
        scene.driver = replace(scene.driver, voltage_v=(later_v,) * 6)
        for _ in range(5):
            scene.step(chunks=(scene.chunk(),), ticks=8)
        return scene

    calm, sagged, wrong = run(12.5), run(5.0), run(3.0)
    for scene, words in (
        (sagged, "limits are those of the 12 V servo"),
        (wrong, "supply is 3.0 V"),
    ):
        assert scene.last.state is State.TRACKING
        assert words in scene.status.reason
        assert scene.status.counts[Limit.SUPPLY] == 1
        assert scene.status.servo_part == "12 V"
        np.testing.assert_array_equal(scene.last.positions_rad, calm.last.positions_rad)
    assert calm.status.counts[Limit.SUPPLY] == 0
    sagged.ask(EventKind.DISARM)
    sagged.step(ticks=30)
    sagged.arm()
    assert sagged.status.servo_part == "7.4 V"
    assert "servo" not in sagged.status.reason


def test_an_arm_without_our_driver_is_armed_where_it_is_measured(new_scene: Any):
    scene = new_scene(needs_driver=False)
    scene.driver = None
    scene.arm()
    assert not any(command.request_torque for command in scene.commands)
    np.testing.assert_array_equal(scene.last.positions_rad, START)
    scene.track().step(ticks=150)
    assert scene.last.state is State.HOLD
    scene.measuring = False
    scene.step(ticks=30)
    assert scene.last.state is State.FAULT


def test_arming_twice_is_answered_twice(new_scene: Any):
    scene = new_scene().arm()
    assert scene.ask(EventKind.ARM) == EventResult(7, True, "already armed")


def test_arming_an_arm_that_is_about_to_be_disarmed_is_no_success(new_scene: Any):
    scene = new_scene().arm()
    assert scene.ask(EventKind.PARK).success
    scene.step(ticks=60)
    refused = scene.ask(EventKind.ARM)
    assert not refused.success
    assert "will be disarmed" in refused.message
    assert scene.ask(EventKind.DISARM).success
    assert scene.last.state is State.STOPPING
    assert not scene.ask(EventKind.ARM).success
    scene.step(ticks=60)
    scene.arm().track()
    scene.ask(EventKind.SELECT_SOURCE)
    assert scene.last.state is State.STOPPING
    assert scene.ask(EventKind.ARM).message == "already armed"


def test_automatic_arming_does_not_pester_a_driver_that_refuses(new_scene: Any):
    scene = new_scene(auto_arm=True)
    scene.driver = replace(scene.driver, torque_on=(False,) * 6)
    scene.step()
    asked = 0
    for _ in range(100):
        command = scene.step(chunks=(scene.chunk(),))
        if command.request_torque:
            asked += 1
            scene.step(OperatorEvent(EventKind.TORQUE_REFUSED, text="too hot"))
    assert 2 <= asked <= 3
