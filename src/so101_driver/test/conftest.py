"""Fixtures that several test files share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.safety import (
    ActionKind,
    ArmState,
    Chunk,
    Command,
    DriverReading,
    DriverState,
    EventKind,
    EventResult,
    JointReading,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
)
from so101_driver.sim import IdealArm, VirtualBus
from so101_driver.sim.virtual_servo import IdealServo, TickScale

from so101_driver import registers as reg

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))


def calibrated_arm() -> IdealArm:
    """Servos that hold the calibration of ``sim_calibration.json``, fresh otherwise."""
    arm = IdealArm()
    for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True):
        joint = CALIBRATION.joints[name]
        arm.servos[servo_id] = IdealServo(
            servo_id,
            scale=TickScale(zero_tick=joint.mid_tick, homing_offset=joint.homing_offset),
            registers={
                reg.HOMING_OFFSET: joint.homing_offset,
                reg.MIN_POSITION: joint.range_min,
                reg.MAX_POSITION: joint.range_max,
            },
        )
    return arm


@pytest.fixture
def new_arm() -> Callable[[], IdealArm]:
    """Makes calibrated servos."""
    return calibrated_arm


@pytest.fixture
def calibrated_servos() -> Iterator[VirtualBus]:
    """Calibrated servos on a bus."""
    with VirtualBus(calibrated_arm()) as bus:
        yield bus


class Scene:
    """A supervisor, an arm that obeys it and a clock; time passes tick by tick.

    Attributes:
        measured: What the next joint states say.
        jammed: Joints that do not follow their commands.
        driver: What the next driver status says.
        driver_talks: Whether there is a next one.
        measure_every: Ticks between two joint states.
    """

    START = (0.2, -0.6, 0.7, 0.6, 0.1, 0.5)
    GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)
    LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")

    def __init__(
        self,
        mode: Mode = Mode.FULL,
        limits: Limits | None = None,
        geometry: Any = None,
        **settings: Any,
    ) -> None:
        self.limits = limits or self.LIMITS
        self.supervisor = Supervisor(self.limits, Settings(mode=mode, **settings), geometry)
        self.ns = 1_000_000_000
        self.ros_offset_ns = 10**18
        self.tick = 0
        self.measured: tuple[float, ...] = self.START
        self.jammed: tuple[int, ...] = ()
        self._on_the_way: deque[Any] = deque(maxlen=9)
        self.driver: DriverReading | None = DriverReading(
            DriverState.ACTIVE, "", (True,) * 6, self.GOAL, False, 0
        )
        self.driver_talks = True
        self._heard: DriverReading | None = None
        self.measuring = True
        self.measure_every = 1
        self._reading: JointReading | None = None
        self.sequence = 0
        self.problem = ""
        self.commands: list[Command] = []
        self.results: list[EventResult] = []

    @property
    def ros_ns(self) -> int:
        return self.ns + self.ros_offset_ns

    @property
    def last(self) -> Command:
        return self.commands[-1]

    @property
    def status(self) -> Any:
        return self.supervisor.status(self.ns)

    def step(self, *events: OperatorEvent, chunks: tuple[Chunk, ...] = (), ticks: int = 1) -> Any:
        for _ in range(ticks):
            self.tick += 1
            self.ns += 10_000_000
            if self.measuring and self.tick % self.measure_every == 0:
                self._reading = JointReading(self.measured, self.ros_ns, self.ns)
            joints = self._reading if self.measuring else None
            if self.driver_talks:
                self._heard = self.driver and replace(self.driver, received_ns=self.ns)
            arm = ArmState(joints, self._heard, self.problem)
            command = self.supervisor.step(self.tick, self.ns, self.ros_ns, arm, chunks, events)
            self.commands.append(command)
            self.results += command.results
            self._obey(command)
            events, chunks = (), ()
        return self.last

    def _obey(self, command: Command) -> None:
        """Move the arm: 85 ms late, with a lag of 30 ms, hanging a little below its goals."""
        if command.output is not Output.COMMANDS:
            self._on_the_way.clear()
            return
        if self.driver is not None and np.isfinite(self.driver.goal_rad).all():
            self.driver = replace(self.driver, goal_rad=tuple(command.positions_rad.tolist()))
        self._on_the_way.append(command.positions_rad)
        aim = self._on_the_way[0] + np.subtract(self.START, self.GOAL)
        moved = np.array(self.measured) + 0.25 * (aim - self.measured)
        moved[list(self.jammed)] = np.array(self.measured)[list(self.jammed)]
        self.measured = tuple(moved.tolist())

    def ask(self, kind: EventKind, **details: Any) -> EventResult:
        self.step(OperatorEvent(kind, 7, **details))
        return self.results[-1]

    def arm(self) -> Scene:
        """Arm; just after a motion that takes until the driver has told its goals again."""
        self.step()
        answered = len(self.results)
        self.step(OperatorEvent(EventKind.ARM, 7))
        for _ in range(10):
            if len(self.results) == answered:
                self.step()
        assert self.results[answered:], self.status.reason
        assert self.results[-1].success, self.status.reason
        return self

    def chunk(self, target: Any = None, age_s: float = 0.0, **changes: Any) -> Chunk:
        """A second from the commanded pose to a target; ``age_s`` old at the next step."""
        self.sequence += 1
        position = self.last.positions_rad
        begin = np.array(self.START if position is None else position)
        end = begin + 0.3 if target is None else np.array(target)
        chunk = Chunk(
            stamp_ns=self.ros_ns + 10_000_000 - round(age_s * 1e9),
            source="policy",
            session=1,
            sequence=self.sequence,
            joint_names=JOINT_NAMES,
            points_rad=begin + (end - begin) * np.linspace(0, 1, 25)[:, None],
            offsets_ns=tuple(40_000_000 * i for i in range(25)),
            image_age_s=0.0,
            action_kind=int(ActionKind.GOAL),
        )
        return replace(chunk, **changes)

    def track(self, seconds: float = 0.4, **changes: Any) -> Scene:
        for _ in range(round(seconds / (8 * 0.01))):
            self.step(chunks=(self.chunk(**changes),), ticks=8)
        assert self.last.state is State.TRACKING, self.status.reason
        return self


@pytest.fixture
def new_scene() -> type[Scene]:
    """Makes a supervisor with an arm that obeys it."""
    return Scene
