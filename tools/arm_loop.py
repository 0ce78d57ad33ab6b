"""Safety layer and arm at 100 Hz, in lockstep: no ROS, no thread, no clock.

With a driver that does at once what it is told, or with the driver's core and servos' registers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_types import Command as DriverCommand
from so101_driver.driver_types import DriverConfig, Write
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import STATE_ADDRESS, STATE_SIZE, Reading, ServoState
from so101_driver.safety import (
    ActionKind,
    ArmState,
    Chunk,
    Command,
    DriverReading,
    DriverState,
    JointReading,
    OperatorEvent,
    Output,
    Supervisor,
)
from so101_driver.safety.limits import Limits
from so101_driver.sim.arm_simulation import ArmSimulation

from so101_driver import registers as reg

TICK_S = 0.01
TICK_NS = 10_000_000
LATENCY_S, JITTER_S = 0.11, 0.02
"""Of a policy: from an observation to the arrival of its chunk."""
_SWEEP_EVERY = 10
"""Cycles between two reads of everything that the servos tell, as in the driver."""
_POSITION_SIZE = 4
"""Bytes of position and velocity."""
_FULL_TORQUE = (1000,) * 5 + (500,)
"""Largest torque limits; the driver halves that of the gripper."""

Array = NDArray[np.float64]


class Arm(Protocol):
    """Something with servos that moves as time passes.

    Attributes:
        servos: By id.
        now_s: Its own time.
    """

    servos: Mapping[int, Any]
    now_s: float

    def step(self) -> None:
        """Let a little time pass."""
        ...


class Loop(ABC):
    """A Supervisor and an arm; what is in between is the subclass's.

    Attributes:
        arm: Moves as time passes.
        supervisor: Commands it.
        tick: Number of the newest tick; the first is 1.
    """

    def __init__(self, arm: Arm, supervisor: Supervisor) -> None:
        self.arm = arm
        self.supervisor = supervisor
        self.tick = 0

    @property
    def now_ns(self) -> int:
        """Time of every clock."""
        return self.tick * TICK_NS

    def advance(self) -> Array:
        """Let the arm move on to the next tick; returns what is measured then."""
        self.tick += 1
        while self.arm.now_s < self.tick * TICK_S - 1e-9:
            self.arm.step()
        return self._measure()

    def command(
        self,
        measured_rad: Array,
        chunks: Sequence[Chunk] = (),
        events: Sequence[OperatorEvent] = (),
    ) -> Command:
        """Let the supervisor decide, and the arm obey."""
        reading = JointReading(tuple(measured_rad.tolist()), self.now_ns, self.now_ns)
        arm = ArmState(reading, self._driver())
        command = self.supervisor.step(self.tick, self.now_ns, self.now_ns, arm, chunks, events)
        if command.request_torque:
            self._give_torque()
        if command.output is Output.COMMANDS and command.positions_rad is not None:
            self._obey(command.positions_rad)
        return command

    def step(self, chunks: Sequence[Chunk] = (), events: Sequence[OperatorEvent] = ()) -> Command:
        """Pass one tick with what came."""
        return self.command(self.advance(), chunks, events)

    @abstractmethod
    def _measure(self) -> Array: ...

    @abstractmethod
    def _driver(self) -> DriverReading: ...

    @abstractmethod
    def _give_torque(self) -> None: ...

    @abstractmethod
    def _obey(self, goal_rad: Array) -> None: ...


class ObedientLoop(Loop):
    """The driver does at once what it is told.

    Attributes:
        goal_rad: What the servos were told last.
    """

    arm: ArmSimulation

    def __init__(
        self, arm: ArmSimulation, supervisor: Supervisor, supply_v: float = math.nan
    ) -> None:
        super().__init__(arm, supervisor)
        self._supply_v = (supply_v,) * len(JOINT_NAMES)
        self._give_torque()
        self.goal_rad: Array = arm.joints_rad()

    def _measure(self) -> Array:
        return self.arm.joints_rad()

    def _driver(self) -> DriverReading:
        on, goal = (True,) * len(JOINT_NAMES), tuple(self.goal_rad.tolist())
        return DriverReading(DriverState.ACTIVE, "", on, goal, False, self.now_ns, self._supply_v)

    def _give_torque(self) -> None:
        self.arm.enable_torque()

    def _obey(self, goal_rad: Array) -> None:
        self.goal_rad = goal_rad
        self.arm.set_goals_rad(goal_rad)


class PolicyLoop(ObedientLoop):
    """The same, with chunks that arrive after the latency of a policy.

    Attributes:
        sent: Number of chunks so far.
    """

    def __init__(self, arm: ArmSimulation, supervisor: Supervisor, seed: int = 0) -> None:
        super().__init__(arm, supervisor)
        self.sent = 0
        self._random = np.random.default_rng(seed)
        self._on_the_way: deque[tuple[float, Chunk]] = deque()

    def send(self, points_rad: ArrayLike, period_s: float) -> None:
        """Let a chunk that begins now be on its way: goals [points, joints], and their spacing."""
        points = np.asarray(points_rad).tolist()
        self.sent += 1
        chunk = Chunk(
            stamp_ns=self.now_ns,
            source="policy",
            session=1,
            sequence=self.sent,
            joint_names=JOINT_NAMES,
            points_rad=points,
            offsets_ns=tuple(round(index * period_s * 1e9) for index in range(len(points))),
            image_age_s=0.0,
            action_kind=ActionKind.GOAL,
        )
        delay_s = LATENCY_S + self._random.uniform(0.0, JITTER_S)
        self._on_the_way.append((self.tick * TICK_S + delay_s, chunk))

    def command(
        self,
        measured_rad: Array,
        chunks: Sequence[Chunk] = (),
        events: Sequence[OperatorEvent] = (),
    ) -> Command:
        """Let the supervisor decide with the chunks that arrived by now, and the arm obey."""
        arrived = list(chunks)
        while self._on_the_way and self._on_the_way[0][0] <= self.tick * TICK_S:
            arrived.append(self._on_the_way.popleft()[1])
        return super().command(measured_rad, arrived, events)


class DrivenLoop(Loop):
    """The driver's core is in between; it reads and writes the servos' registers.

    Attributes:
        core: The driver's.
        found: What it made of the arm at the start.
    """

    def __init__(
        self, arm: Arm, supervisor: Supervisor, limits: Limits, calibration: Calibration
    ) -> None:
        super().__init__(arm, supervisor)
        bounds = np.stack([limits.lower_rad, limits.upper_rad], axis=-1)
        self.core = DriverCore(DriverConfig(bounds, limits.velocity_rad_s), calibration)
        self.found = self.core.start(list(self.states().values()), _FULL_TORQUE, self.now_ns)

    def states(self) -> dict[int, ServoState]:
        """What the servos do."""
        readings = self._read(STATE_ADDRESS, STATE_SIZE)
        return {servo_id: ServoState.from_reading(reply) for servo_id, reply in readings.items()}

    def write(self, register: reg.Register, values: Mapping[int, int]) -> None:
        """Write a register of some servos."""
        for servo_id, value in values.items():
            data = register.encode(value)
            self.arm.servos[servo_id].write(register.address, data, self.arm.now_s)

    def _read(self, address: int, size: int) -> dict[int, Reading]:
        return {
            servo_id: Reading(servo_id, servo.read(address, size), ServoError(0), self.now_ns)
            for servo_id, servo in self.arm.servos.items()
        }

    def _measure(self) -> Array:
        """What the driver does between two commands; returns the measurement."""
        size = reg.DIAGNOSTICS_SIZE if self.tick % _SWEEP_EVERY == 0 else _POSITION_SIZE
        readings = self._read(reg.PRESENT_POSITION.address, size)
        sample = self.core.observe(readings, self.now_ns)
        assert sample is not None, "every servo answers"
        writes: list[Write] = []
        if self.tick % _SWEEP_EVERY == _SWEEP_EVERY // 2:
            writes += self.core.check_states(self.states())
        writes += self.core.tick(self.now_ns)
        for write in writes:
            self.write(write.register, write.values)
        return sample.position_rad

    def _driver(self) -> DriverReading:
        snapshot = self.core.snapshot(self.now_ns)
        return DriverReading(
            DriverState[snapshot.state.name],
            snapshot.reason.sentence,
            snapshot.torque_enabled,
            tuple(snapshot.goal_rad.tolist()),
            desync=False,
            received_ns=self.now_ns,
        )

    def _obey(self, goal_rad: Array) -> None:
        wanted = DriverCommand(JOINT_NAMES, self.now_ns, tuple(goal_rad.tolist()))
        result = self.core.command(wanted, self.now_ns, self.now_ns)
        assert result.refusal is None, result.refusal
        if result.write is not None:
            self.write(result.write.register, result.write.values)

    def _give_torque(self) -> None:
        """As the driver does: no force, goal = present, torque on, then the ramp."""
        present = {servo_id: state.present_ticks for servo_id, state in self.states().items()}
        self.write(reg.TORQUE_LIMIT, dict.fromkeys(SERVO_IDS, 0))
        self.write(reg.GOAL_POSITION, present)
        self.write(reg.TORQUE_ENABLE, dict.fromkeys(SERVO_IDS, 1))
        goals = [state.goal_ticks for state in self.states().values()]
        self.core.torque_given(goals, self.now_ns)
