"""What the expert wants must be what safety lets through: clipped intent misses cubes.

The whole control chain in lockstep, without ROS: expert, chunks with latency and jitter, the safety
core at 100 Hz with the demo's limits, the simulated arm.
"""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from arm_loop import TICK_S, PolicyLoop
from scene_objects import object_poses
from so101_driver.calibration import Calibration
from so101_driver.joints import data_path
from so101_driver.safety import Mode, Output, Settings, State, Supervisor, effective_limits
from so101_driver.sim.arm_simulation import ArmSimulation
from wallx_policy.backends.base import BackendSettings, Observation
from wallx_policy.backends.expert import ExpertBackend, Phase
from wallx_policy.success import red_cube_in_tray

TICKS_PER_CHUNK = 8
LIMIT_S = 40.0
STARTED_S = 2.0


@pytest.mark.parametrize("profile", ["demo", "cautious"])
@pytest.mark.parametrize("seed", [6, 13])
def test_the_cube_is_placed_with_hardly_anything_clipped(profile, seed):
    limits = effective_limits(
        data_path("so101_limits.yaml"),
        profile,
        data_path("so101.urdf"),
        Calibration.load(data_path("sim_calibration.json")),
    )
    supervisor = Supervisor(limits, Settings(mode=Mode.FULL, auto_arm=True, source="policy"))
    loop = PolicyLoop(ArmSimulation(seed=seed), supervisor, seed)
    expert = ExpertBackend(BackendSettings())
    commands = []
    clipped, slowest = 0.0, 1.0
    for tick in range(round(LIMIT_S / TICK_S)):
        joints_rad = loop.advance()
        if tick % TICKS_PER_CHUNK == 0:
            prediction = expert.predict(
                Observation(loop.now_ns, {}, joints_rad, loop.now_ns, "", object_poses(loop.arm))
            )
            loop.send(prediction.actions_rad, prediction.period_s)
            if expert.phase is Phase.DONE:
                break
        command = loop.command(joints_rad)
        if command.output is Output.COMMANDS:
            commands.append(command.positions_rad)
        status = supervisor.status(loop.now_ns)
        slowest = min(slowest, status.path_rate)
        if tick * TICK_S > STARTED_S:
            # Before, the folded arm leaves its stops, and the shares are of next to no motion.
            clipped = max(clipped, status.intent_clipped)

    assert expert.phase is Phase.DONE
    assert expert.attempts == 1
    assert red_cube_in_tray(object_poses(loop.arm))
    assert command.state is State.TRACKING
    assert clipped < 0.1
    # Neither the servos' lag nor what hangs under gravity may look like a joint that is held.
    assert slowest == 1.0
    speed = np.abs(np.diff(commands, axis=0)).max(axis=0) / TICK_S
    assert (speed < limits.velocity_rad_s + 1e-6).all()
