"""The expert must place the cube against dead time, sag and latency, and fail when it cannot.

Closed loop in lockstep, without ROS: the simulated arm, 100 Hz commands, chunks at 12.5 Hz that
take effect 110 ms after their observation.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("mujoco")

from scene_objects import object_poses
from so101_driver.sim.arm_simulation import ArmSimulation
from wallx_policy.backends.base import BackendSettings, ObjectPose, Observation
from wallx_policy.backends.expert import ExpertBackend, Phase
from wallx_policy.success import LIFT_M, lift_height, red_cube_in_tray

LATENCY_S = 0.11
TICK_S = 0.01
MAX_SPEED_RADPS = 3.0


@dataclass
class Outcome:
    placed: bool
    lifted_m: float
    attempts: int
    phase: Phase
    took_s: float
    fastest_radps: float


def observe(arm):
    now_ns = round(arm.now_s * 1e9)
    return Observation(now_ns, {}, arm.joints_rad(), now_ns, "", object_poses(arm))


def run(arm, expert, limit_s, disturb=lambda arm, expert: None):
    start = object_poses(arm)["red_cube"]
    outcome = Outcome(False, 0.0, 0, expert.phase, 0.0, 0.0)
    command = np.array(arm.joints_rad())
    waiting, chunk = deque(), None
    for tick in range(round(limit_s / TICK_S)):
        while arm.now_s < tick * TICK_S:
            arm.step()
        disturb(arm, expert)
        if tick % 8 == 0:
            observation = observe(arm)
            waiting.append((observation.stamp_ns * 1e-9, expert.predict(observation)))
            height = lift_height(start, observation.objects["red_cube"])
            outcome.lifted_m = max(outcome.lifted_m, height)
            if expert.phase is Phase.DONE:
                break
        if waiting and waiting[0][0] + LATENCY_S <= arm.now_s:
            chunk = waiting.popleft()
        if chunk is not None:
            stamp_s, prediction = chunk
            grid = stamp_s + prediction.period_s * np.arange(len(prediction.actions_rad))
            wanted = np.array([np.interp(arm.now_s, grid, q) for q in prediction.actions_rad.T])
            step = np.clip(wanted - command, -MAX_SPEED_RADPS * TICK_S, MAX_SPEED_RADPS * TICK_S)
            fastest = float(np.abs(wanted - command).max()) / TICK_S
            outcome.fastest_radps = max(outcome.fastest_radps, fastest)
            command = command + step
            arm.set_goals_rad(command)
    outcome.placed = red_cube_in_tray(object_poses(arm))
    outcome.attempts, outcome.phase, outcome.took_s = expert.attempts, expert.phase, arm.now_s
    return outcome


def start(seed, **options):
    arm = ArmSimulation(seed=seed)
    arm.enable_torque()
    return arm, ExpertBackend(BackendSettings(options=options))


@pytest.mark.parametrize("seed", range(5))
def test_it_places_the_cube_and_holds_at_home(seed):
    outcome = run(*start(seed), limit_s=40.0)
    assert outcome.placed
    assert outcome.lifted_m >= LIFT_M
    assert outcome.phase is Phase.DONE
    assert outcome.attempts == 1
    assert outcome.fastest_radps < MAX_SPEED_RADPS


def test_with_the_gripper_kept_open_the_check_says_no():
    outcome = run(*start(1, expert_keep_gripper_open=True), limit_s=25.0)
    assert not outcome.placed
    assert outcome.lifted_m < LIFT_M
    assert outcome.attempts >= 2


def test_a_cube_that_slips_is_picked_again():
    slipped = []

    def drop(arm, expert):
        if expert.phase is Phase.CARRY and not slipped:
            slipped.append(True)
            arm.reset(3)

    outcome = run(*start(2), limit_s=60.0, disturb=drop)
    assert slipped
    assert outcome.placed
    assert outcome.attempts == 2


def test_an_arm_that_does_not_follow_gets_a_plan_from_where_it_is():
    arm, expert = start(0)
    for _ in range(60):
        arm.run(0.08)
        prediction = expert.predict(observe(arm))
    assert np.abs(prediction.actions_rad[0, :5] - arm.joints_rad()[:5]).max() < 0.6
    assert run(arm, expert, limit_s=40.0).placed


def test_overlapping_chunks_agree_until_a_new_motion_takes_effect():
    arm, expert = start(4)
    held = expert.predict(observe(arm)).actions_rad
    # The first motion is planned now, yet the first 0.2 s of the chunk stay where the arm is.
    assert np.array_equal(held[:5], np.tile(held[0], (5, 1)))
    assert np.abs(held[-1] - held[0]).max() > 0.1
    arm.run(0.08)
    later = expert.predict(observe(arm)).actions_rad
    assert np.abs(later[:-2] - held[2:]).max() < 0.02


def test_a_cube_out_of_reach_is_reported_and_nothing_moves():
    arm, expert = start(0)
    observation = observe(arm)
    objects = dict(observation.objects)
    cube = objects["red_cube"]
    far = ObjectPose(np.array([0.7, 0.0, 0.0125]), cube.quaternion_xyzw, cube.size_m)
    objects["red_cube"] = far
    got = expert.predict(
        Observation(observation.stamp_ns, {}, observation.state_rad, 0, "", objects)
    )
    assert "gets no closer" in got.subtask
    assert np.array_equal(got.actions_rad, np.tile(observation.state_rad, (25, 1)))
