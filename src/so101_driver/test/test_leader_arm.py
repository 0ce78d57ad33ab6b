"""Teleoperation is tested against this arm: limp it follows the hand, with torque its goals."""

from __future__ import annotations

import numpy as np
import pytest
from so101_driver.sim import LeaderArm, RecordedHand, SineHand, StillHand

from so101_driver import registers as reg


def angles(arm: LeaderArm) -> np.ndarray:
    return np.array([servo.position_rad for servo in arm.servos.values()])


def test_limp_it_is_where_the_hand_holds_it_but_never_jumps() -> None:
    hand = StillHand((0.0,) * 6)
    arm = LeaderArm(hand=hand)
    hand.held_rad = (1.0, -0.2, 0.0, 0.0, 0.0, 0.5)
    arm.step()
    assert angles(arm)[0] == pytest.approx(0.06)
    assert arm.servos[1].velocity_radps == pytest.approx(6.0)
    arm.run(0.3)
    assert angles(arm) == pytest.approx(hand.held_rad)
    assert arm.servos[1].velocity_radps == 0.0


def test_a_servo_with_torque_follows_its_goal_and_the_hand_gives_way() -> None:
    arm = LeaderArm(hand=SineHand())
    servo = arm.servos[4]
    goal = servo.present_ticks() + 200
    servo.write(reg.GOAL_POSITION.address, reg.GOAL_POSITION.encode(goal), arm.now_s)
    arm.run(2.0)
    assert servo.present_ticks() == pytest.approx(goal, abs=3)
    servo.write(reg.TORQUE_ENABLE.address, b"\0", arm.now_s)
    arm.run(1.0)
    assert servo.position_rad == pytest.approx(arm.hand.pose_rad(arm.now_s - 0.01)[3])


def test_a_stuck_joint_stays() -> None:
    arm = LeaderArm(hand=SineHand())
    arm.set_stuck(1, True)
    before = angles(arm)
    arm.run(1.0)
    assert angles(arm)[0] == before[0]
    assert angles(arm)[1] != before[1]


def test_sine_begins_at_rest_stays_within_the_limits_and_repeats() -> None:
    hand = SineHand()
    poses = np.array([hand.pose_rad(0.01 * tick) for tick in range(6000)])
    assert poses[0] == pytest.approx(StillHand().held_rad)
    assert np.abs(np.diff(poses, axis=0)).max() / 0.01 < 1.5
    assert np.abs(np.diff(poses, axis=0))[0].max() < 0.01
    assert np.array_equal(poses[1234], SineHand().pose_rad(12.34))


def test_recorded_motion_is_straight_between_its_poses_and_held_outside() -> None:
    hand = RecordedHand((1.0, 3.0), ((0.0,) * 6, (1.0,) * 6))
    for now_s, expected in ((0.0, 0.0), (1.0, 0.0), (1.5, 0.25), (3.0, 1.0), (9.0, 1.0)):
        assert hand.pose_rad(now_s) == pytest.approx((expected,) * 6)


def test_its_servos_are_a_leaders() -> None:
    arm = LeaderArm()
    ratios = {1: 191, 2: 345, 3: 191, 4: 147, 5: 147, 6: 147}
    stall = {n: servo.plant.model.stall_torque_nm for n, servo in arm.servos.items()}
    for number, ratio in ratios.items():
        assert stall[number] / stall[2] == pytest.approx(ratio / 345)
        assert not arm.servos[number].settings.enabled
        assert arm.servos[number].voltage_v == pytest.approx(5.1)
        assert arm.servos[number].error == 0
