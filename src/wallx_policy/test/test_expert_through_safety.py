"""What the expert wants must be what safety lets through: clipped intent misses cubes.

The whole control chain in lockstep, without ROS: expert, chunks with latency and jitter, the safety
core at 100 Hz with the demo's limits, the simulated arm.
"""

from collections import deque

import numpy as np
import pytest

pytest.importorskip("mujoco")

from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety.limits import effective_limits
from so101_driver.safety.settings import Settings
from so101_driver.safety.supervisor import Supervisor
from so101_driver.safety.types import (
    ActionKind,
    ArmState,
    Chunk,
    DriverReading,
    DriverState,
    JointReading,
    Mode,
    Output,
    State,
)
from so101_driver.sim.arm_simulation import ArmSimulation
from wallx_policy.backends.base import BackendSettings, ObjectPose, Observation
from wallx_policy.backends.expert import ExpertBackend, Phase
from wallx_policy.success import red_cube_in_tray

TICK_S = 0.01
TICKS_PER_CHUNK = 8
LATENCY_S = 0.11
JITTER_S = 0.02
LIMIT_S = 40.0
STARTED_S = 2.0


def objects_of(arm):
    poses = {}
    for thing in arm.objects():
        w, x, y, z = thing.quaternion_wxyz
        poses[thing.name] = ObjectPose(
            np.array(thing.position_m), np.array([x, y, z, w]), np.array(thing.size_m)
        )
    return poses


def chunk_of(prediction, stamp_ns, sequence):
    offsets = np.arange(len(prediction.actions_rad)) * prediction.period_s
    return Chunk(
        stamp_ns=stamp_ns,
        source="expert",
        session=1,
        sequence=sequence,
        joint_names=JOINT_NAMES,
        points_rad=prediction.actions_rad.tolist(),
        offsets_ns=tuple(round(offset * 1e9) for offset in offsets),
        image_age_s=0.0,
        action_kind=ActionKind.GOAL,
    )


@pytest.mark.parametrize("profile", ["demo", "cautious"])
@pytest.mark.parametrize("seed", [6, 13])
def test_the_cube_is_placed_with_hardly_anything_clipped(profile, seed):
    arm = ArmSimulation(seed=seed)
    arm.enable_torque()
    limits = effective_limits(
        data_path("so101_limits.yaml"),
        profile,
        data_path("so101.urdf"),
        Calibration.load(data_path("sim_calibration.json")),
    )
    supervisor = Supervisor(limits, Settings(mode=Mode.FULL, auto_arm=True, source="expert"))
    expert = ExpertBackend(BackendSettings())
    random = np.random.default_rng(seed)
    on_the_way, commands = deque(), []
    goal_rad = arm.joints_rad()
    clipped, slowest = 0.0, 1.0
    for tick in range(round(LIMIT_S / TICK_S)):
        while arm.now_s < tick * TICK_S:
            arm.step()
        now_ns = round(tick * TICK_S * 1e9)
        joints_rad = arm.joints_rad()
        if tick % TICKS_PER_CHUNK == 0:
            prediction = expert.predict(
                Observation(now_ns, {}, joints_rad, now_ns, "", objects_of(arm))
            )
            arrival_s = tick * TICK_S + LATENCY_S + random.uniform(0.0, JITTER_S)
            sequence = tick // TICKS_PER_CHUNK
            on_the_way.append((arrival_s, chunk_of(prediction, now_ns, sequence)))
            if expert.phase is Phase.DONE:
                break
        arrived = []
        while on_the_way and on_the_way[0][0] <= tick * TICK_S:
            arrived.append(on_the_way.popleft()[1])
        driver = DriverReading(
            DriverState.ACTIVE, "", (True,) * 6, tuple(goal_rad), False, received_ns=now_ns
        )
        reading = JointReading(tuple(joints_rad), now_ns, now_ns)
        command = supervisor.step(tick, now_ns, now_ns, ArmState(reading, driver), arrived, [])
        if command.output is Output.COMMANDS:
            goal_rad = command.positions_rad
            commands.append(goal_rad)
            arm.set_goals_rad(goal_rad)
        status = supervisor.status(now_ns)
        slowest = min(slowest, status.path_rate)
        if tick * TICK_S > STARTED_S:
            # Before, the folded arm leaves its stops, and the shares are of next to no motion.
            clipped = max(clipped, status.intent_clipped)

    assert expert.phase is Phase.DONE
    assert expert.attempts == 1
    assert red_cube_in_tray(objects_of(arm))
    assert command.state is State.TRACKING
    assert clipped < 0.1
    # Neither the servos' lag nor what hangs under gravity may look like a joint that is held.
    assert slowest == 1.0
    speed = np.abs(np.diff(commands, axis=0)).max(axis=0) / TICK_S
    assert (speed < limits.velocity_rad_s + 1e-6).all()
