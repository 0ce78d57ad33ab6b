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
