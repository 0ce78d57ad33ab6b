"""Demonstrations for `bench_chunking`: the expert drives the simulated arm, headless, in lockstep.

Everything between the expert and the servos is as in the running graph: chunks with latency and
jitter, the safety core at 100 Hz with the limits of a demonstration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from so101_driver.calibration import Calibration
from so101_driver.joints import data_path

Array = NDArray[np.float64]

TICK_S = 0.01
TICKS_PER_CHUNK = 8
LONGEST_S = 60.0
REST_S = 0.6
"""Of an episode, after the expert is done."""


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One pick and place, every 10 ms.

    Attributes:
        seed: Of the scene.
        commands_rad: What safety told the servos, [ticks, 6].
        joints_rad: What was measured then, [ticks, 6].
        cube_m: Centre of the red cube in ``base_link``, [ticks, 3].
    """

    seed: int
    commands_rad: Array
    joints_rad: Array
    cube_m: Array

    @property
    def duration_s(self) -> float:
        """From the first tick to the last."""
        return TICK_S * (len(self.commands_rad) - 1)

    def faster(self, factor: float) -> Episode:
        """The same way in a fraction of the time, as another operator's hand would go."""
        ticks = np.arange(len(self.commands_rad))
        wanted = np.arange(0.0, ticks[-1], factor)

        def sampled(values: Array) -> Array:
            return np.stack([np.interp(wanted, ticks, column) for column in values.T], axis=-1)

        return Episode(
            self.seed,
            sampled(self.commands_rad),
            sampled(self.joints_rad),
            sampled(self.cube_m),
        )


def record_episode(seed: int) -> Episode:
    """Let the expert put the red cube of a scene into the tray; deterministic.

    Raises:
        RuntimeError: when it does not manage within a minute.
    """
    from arm_loop import PolicyLoop
    from scene_objects import object_poses
    from so101_driver.safety import Mode, Output, Settings, Supervisor, effective_limits
    from so101_driver.sim.arm_simulation import ArmSimulation
    from wallx_policy.backends.base import BackendSettings, Observation
    from wallx_policy.backends.expert import ExpertBackend, Phase

    limits = effective_limits(
        data_path("so101_limits.yaml"),
        "demo",
        data_path("so101.urdf"),
        Calibration.load(data_path("sim_calibration.json")),
    )
    supervisor = Supervisor(limits, Settings(mode=Mode.FULL, auto_arm=True, source="policy"))
    loop = PolicyLoop(ArmSimulation(seed=seed), supervisor, seed)
    expert = ExpertBackend(BackendSettings())
    rows: list[tuple[Array, Array, Array]] = []
    done_ticks = 0
    for tick in range(round(LONGEST_S / TICK_S)):
        joints_rad = loop.advance()
        if tick % TICKS_PER_CHUNK == 0:
            poses = object_poses(loop.arm)
            prediction = expert.predict(
                Observation(loop.now_ns, {}, joints_rad, loop.now_ns, "", poses)
            )
            loop.send(prediction.actions_rad, prediction.period_s)
        command = loop.command(joints_rad)
        if command.output is Output.COMMANDS and command.positions_rad is not None:
            cube_m = loop.arm.cube_position_m("red_cube")
            rows.append((np.array(command.positions_rad), joints_rad, np.array(cube_m)))
        done_ticks += expert.phase is Phase.DONE
        if done_ticks * TICK_S >= REST_S:
            return Episode(seed, *(np.array(column) for column in zip(*rows, strict=True)))
    raise RuntimeError(f"the expert did not finish the scene of seed {seed} within {LONGEST_S} s")


def episodes(seeds: Sequence[int], cache: Path, say: Callable[[str], None]) -> list[Episode]:
    """Record, or read what an earlier run has recorded; a scene that fails is left out, named."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        file = cache / f"episode_{seed}.npz"
        if not file.exists():
            try:
                one = record_episode(seed)
            except RuntimeError as error:
                say(f"left out: {error}")
                continue
            np.savez(
                file, commands_rad=one.commands_rad, joints_rad=one.joints_rad, cube_m=one.cube_m
            )
        with np.load(file) as data:
            found.append(Episode(seed, **{name: data[name] for name in data.files}))
    return found
