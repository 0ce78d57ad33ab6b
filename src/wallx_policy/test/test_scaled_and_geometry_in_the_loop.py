"""A policy in closed loop through the safety core: slowed down in SCALED mode, and with geometry.

Scaling poses around a fixed point goes nowhere when the next chunk starts from what is measured;
and a guard that makes grasping impossible is switched off by its users.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from arm_loop import LATENCY_S, TICK_S, PolicyLoop
from scene_objects import object_poses
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety import (
    EventKind,
    Mode,
    OperatorEvent,
    Settings,
    State,
    Supervisor,
    effective_limits,
)
from so101_driver.safety.geometry_file import load_geometry
from so101_driver.sim.arm_simulation import ArmSimulation
from wallx_policy.backends.base import BackendSettings, Observation
from wallx_policy.backends.expert import ExpertBackend, Phase
from wallx_policy.backends.joint_path import Bounds, Segment
from wallx_policy.success import red_cube_in_tray

TICKS_PER_CHUNK = 8
POINT_S, POINTS = 0.04, 25
STARTED_S = 2.0
GRASP_S = 40.0
REACH_RAD = 0.5
PAN, LIFT, ELBOW = 0, 1, 2
URDF = data_path("so101.urdf")
GEOMETRY = load_geometry(data_path("so101_geometry.yaml"), Kinematics.from_urdf(URDF), JOINT_NAMES)


def loop_of(profile, settings, **arm):
    limits = effective_limits(
        data_path("so101_limits.yaml"),
        profile,
        URDF,
        Calibration.load(data_path("sim_calibration.json")),
    )
    return PolicyLoop(ArmSimulation(**arm), Supervisor(limits, settings, GEOMETRY))


class ReachPolicy:
    """Reaches along a demonstration, from wherever it is measured to be on it."""

    def __init__(self, start_rad, goal_rad):
        bounds = Bounds(velocity_rad_s=1.0, acceleration_rad_s2=5.0, jerk_rad_s3=50.0)
        self._segment = Segment.through([start_rad, goal_rad], 0, bounds)
        self.duration_s = self._segment.duration_s
        self._times_s = np.linspace(0.0, self.duration_s, 200)
        self._poses = np.array([self.at(t) for t in self._times_s])

    def at(self, time_s):
        return self._segment.at(round(time_s * 1e9))

    def predict(self, joints_rad):
        here_s = self._times_s[np.abs(self._poses - joints_rad).max(axis=1).argmin()]
        return np.array([self.at(here_s + i * POINT_S) for i in range(POINTS)])


@pytest.mark.parametrize(("joint", "scale"), [(PAN, 0.1), (LIFT, 0.2), (ELBOW, 0.15)])
def test_scaled_mode_covers_most_of_a_reach_in_the_time_that_the_scale_asks_for(joint, scale):
    start = np.array([0.0, -0.5, 0.3, 0.9, 0.0, 0.3])
    loop = loop_of(
        "cautious", Settings(mode=Mode.SCALED, scale=scale), start_rad=tuple(start), seed=1
    )
    for _ in range(150):
        loop.step()
    # What is measured is the start of the reach: the arm hangs a little below its goals.
    begin = loop.arm.joints_rad()
    goal = begin.copy()
    goal[joint] += REACH_RAD * (-1.0 if joint == LIFT else 1.0)
    policy = ReachPolicy(begin, goal)
    command = loop.step(events=[OperatorEvent(EventKind.ARM, 1)])
    assert command.state is State.HOLD
    ticks = round((policy.duration_s / scale + LATENCY_S) / TICK_S)
    for tick in range(ticks):
        joints_rad = loop.advance()
        if tick % TICKS_PER_CHUNK == 0:
            loop.send(policy.predict(joints_rad), POINT_S)
        command = loop.command(joints_rad)
    covered = (loop.arm.joints_rad()[joint] - begin[joint]) / (goal[joint] - begin[joint])
    print(f"{JOINT_NAMES[joint]} at scale {scale}: {covered:.0%} in {ticks * TICK_S:.1f} s")
    assert covered > 0.8
    assert covered < 1.1


@pytest.mark.parametrize(("profile", "seed"), [("demo", 21), ("cautious", 13)])
def test_the_expert_grasps_with_geometry_on_and_hardly_anything_clipped(profile, seed):
    loop = loop_of(profile, Settings(mode=Mode.FULL, auto_arm=True, source="policy"), seed=seed)
    expert = ExpertBackend(BackendSettings())
    shares = []
    for tick in range(round(GRASP_S / TICK_S)):
        joints_rad = loop.advance()
        if tick % TICKS_PER_CHUNK == 0:
            prediction = expert.predict(
                Observation(loop.now_ns, {}, joints_rad, loop.now_ns, "", object_poses(loop.arm))
            )
            loop.send(prediction.actions_rad, prediction.period_s)
            if expert.phase is Phase.DONE:
                break
        command = loop.command(joints_rad)
        if tick * TICK_S > STARTED_S:
            # Before, the folded arm leaves its stops, and the shares are of next to no motion.
            shares.append(loop.supervisor.status(loop.now_ns).intent_clipped)
    print(f"{profile}, seed {seed}: {np.mean(shares):.2%} clipped, at most {max(shares):.2%}")
    assert expert.phase is Phase.DONE
    assert expert.attempts == 1
    assert red_cube_in_tray(object_poses(loop.arm))
    assert command.state is State.TRACKING
    assert np.mean(shares) <= 0.05
