"""A driver core whose servos and clocks are values: what a test says they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_types import (
    Command,
    DriverConfig,
    DriverSnapshot,
    Refusal,
    StartAction,
    TorquePhase,
    Write,
)
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.protocol import ServoError
from so101_driver.readings import Reading, ServoState

from so101_driver import registers as reg

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))


class DriverBench:
    """A driver core with its clocks and servos that say what they are asked to say.

    Attributes:
        goal: What reached the goal registers.
        ros_shift_ns: ROS time beyond steady time.
    """

    CALIBRATION = CALIBRATION
    FULL = (1000, 1000, 1000, 1000, 1000, 500)
    LOW = (200,) * 6
    """Torque limits as a driver leaves them that is killed while it lets the arm down."""
    HOME = CALIBRATION.rad_to_ticks([0.1, -0.5, 0.6, 0.3, 0.0, 0.2])
    SPEED = 2.0
    CONFIG = DriverConfig(
        position_limits_rad=np.array([[-1.5, 1.5]] * 5 + [[-0.17, 1.7]]),
        max_speed_rad_s=np.full(6, SPEED),
    )

    def __init__(self, adopt: bool = True) -> None:
        self.core = DriverCore(self.CONFIG, self.CALIBRATION)
        self.now_ns = 5_000_000_000
        self.ros_shift_ns = 1_700_000_000_000_000_000
        self.goal = self.HOME.copy()
        if adopt:
            assert self.start() is StartAction.ADOPT

    @property
    def ros_ns(self) -> int:
        """ROS time."""
        return self.now_ns + self.ros_shift_ns

    @property
    def goal_rad(self) -> np.ndarray:
        """What the goal registers hold."""
        return self.CALIBRATION.ticks_to_rad(self.goal)

    @property
    def moved(self) -> bool:
        """Whether any goal has changed."""
        return not np.array_equal(self.goal, self.HOME)

    def snapshot(self) -> DriverSnapshot:
        """State for the status."""
        return self.core.snapshot(self.now_ns)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * 1e9)

    # What servos say.

    @classmethod
    def states(
        cls, goal: Any = HOME, sag: Any = 0, enabled: Any = True, limits: Any = FULL
    ) -> tuple[ServoState, ...]:
        """Servos with these goals; ``sag`` is how far they are from them, in ticks."""
        enabled = [enabled] * 6 if isinstance(enabled, bool) else enabled
        present = np.asarray(goal) + sag
        return tuple(
            ServoState(on, int(g), limit, int(p))
            for on, g, limit, p in zip(enabled, goal, limits, present, strict=True)
        )

    def by_id(self, states: Any) -> dict[int, ServoState]:
        """The same by servo id."""
        return dict(zip(SERVO_IDS, states, strict=True))

    def readings(self, ids: Any = SERVO_IDS, velocity: int = 0) -> dict[int, Reading]:
        """A short read of present positions and velocities."""
        return self._answers(reg.PRESENT_VELOCITY.encode(velocity), ids)

    def sweep(
        self, temperature: int = 40, volts: float = 12.0, duty: int = 0
    ) -> dict[int, Reading]:
        """A long read of all servos."""
        parts = (
            reg.PRESENT_VELOCITY.encode(0),
            reg.PRESENT_LOAD.encode(duty),
            bytes([round(volts / reg.VOLTAGE_V), temperature]),
            bytes(7),
        )
        return self._answers(b"".join(parts), SERVO_IDS)

    def _answers(self, data: bytes, ids: Any) -> dict[int, Reading]:
        home = dict(zip(SERVO_IDS, self.HOME.tolist(), strict=True))
        return {
            i: Reading(i, reg.PRESENT_POSITION.encode(home[i]) + data, ServoError(0), self.now_ns)
            for i in ids
        }

    # What is done with the driver.

    def start(self, other_setting: str = "", **found: Any) -> StartAction:
        """Begin with servos as ``states`` makes them."""
        states = self.states(**found)
        return self.core.start(states, self.FULL, self.now_ns, other_setting=other_setting)

    def command(self, position: Any, **changes: Any) -> Command:
        """A command of now."""
        made = Command(JOINT_NAMES, self.ros_ns, tuple(float(v) for v in position))
        return replace(made, **changes)

    def send(self, position: Any, *, sources: int = 1, **changes: Any) -> Refusal | None:
        """Give a command and take what it writes; returns why not."""
        command = self.command(position, **changes)
        result = self.core.command(command, self.ros_ns, self.now_ns, sources)
        if result.write is not None:
            assert result.write.register is reg.GOAL_POSITION
            self.goal = np.array([result.write.values[i] for i in SERVO_IDS])
        return result.refusal

    def stream(self, position: Any, cycles: int, period_s: float = 0.01) -> set[Refusal | None]:
        """Give the same command again and again; returns all refusals."""
        refusals = set()
        for _ in range(cycles):
            self.wait(period_s)
            refusals.add(self.send(position))
        return refusals

    def pass_time(self, seconds: float) -> list[Write]:
        """Cycles without commands; returns what they write."""
        writes = []
        for _ in range(round(seconds * 100)):
            self.wait(0.01)
            self.core.observe(self.readings(), self.now_ns)
            writes += self.core.tick(self.now_ns)
        return writes

    def follow(self, seconds: float, **measured: Any) -> list[Write]:
        """Cycles with commands that stay at the goal; returns what they write."""
        writes = []
        for cycle in range(round(seconds * 100)):
            self.wait(0.01)
            self.send(self.goal_rad)
            if cycle % 10 == 0:
                self.core.observe(self.sweep(**measured), self.now_ns)
            writes += self.core.tick(self.now_ns)
        return writes

    def release(self) -> list[Write]:
        """Let the arm down; returns what is written."""
        writes = []
        self.core.release(3.0, self.now_ns)
        while self.core.torque is TorquePhase.FALLING:
            self.wait(0.01)
            assert self.send(self.goal_rad) in (Refusal.TORQUE, Refusal.FAULT)
            writes += self.core.tick(self.now_ns)
        return writes

    def all_off(self) -> None:
        """Let the arm down, and see it limp."""
        self.release()
        self.core.check_states(self.by_id(self.states(enabled=False)))
        assert self.core.limp()
