"""A made-up arm, driver and clock around a Supervisor, and a record of everything it commands.

Nothing here decides what goes wrong: an adversary (adversary.py) or a test does.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import data_path
from so101_driver.safety import (
    ArmState,
    Chunk,
    Command,
    DriverReading,
    DriverState,
    EventKind,
    JointReading,
    Limits,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
)
from so101_driver.safety.geometry import Geometry

from proof.rules import Rules

Array = NDArray[np.float64]

LIMITS_FILE = Path(data_path("so101_limits.yaml"))
URDF_FILE = Path(data_path("so101.urdf"))
GEOMETRY_FILE = Path(data_path("so101_geometry.yaml"))

DEAD_S, LAG_S = 0.085, 0.03
SAG_RAD = np.array([0.0, 0.03, 0.03, 0.01, 0.0, 0.0])


@dataclass(slots=True)
class Weather:
    """What is unusual about one step; the defaults are an ordinary one.

    Attributes:
        joints: "good", "none", "nan", "old", "future", "short",
            "infinite", "repeated" or "teleport".
        driver: What it reports; None for silence.
        desync: Whether it reports that it does not follow.
        skipped: Ticks missed before this step.
        jump_ns: Step of ROS time against the steady clock.
        jam: Joints that stand still whatever is commanded.
        problem: What the node says about an input.
        supply_v: Supply voltage that the driver reports; None for the world's own.
    """

    joints: str = "good"
    driver: DriverState | None = DriverState.ACTIVE
    desync: bool = False
    skipped: int = 0
    jump_ns: int = 0
    jam: tuple[int, ...] = ()
    problem: str = ""
    supply_v: float | None = None


@dataclass(slots=True)
class Segment:
    """Commands between one arming and the next, and the supply at its beginning."""

    supply_v: float
    rows: list[Array] = field(default_factory=list)


class World:
    """Steps a Supervisor; the arm follows its commands as a servo does."""

    def __init__(
        self,
        limits: Limits,
        settings: Settings,
        geometry: Geometry | None,
        start_rad: Array,
        supply_v: float = math.nan,
        torque_on: bool = False,
    ) -> None:
        self.limits = limits
        self.settings = settings
        self.supervisor = (
            Supervisor(limits, settings)
            if geometry is None
            else Supervisor(limits, settings, geometry)
        )
        self.rules = Rules(settings, limits)
        self.period_ns = round(settings.period_s * 1e9)
        self.steady_ns, self.offset_ns = 5_000_000_000, 1_700_000_000_000_000_000
        self.tick = 0
        self.supply_v = supply_v
        self.torque = torque_on
        self._torque_at_ns = 0
        self.measured = np.array(start_rad)
        self.goal = np.array(start_rad)
        delay = max(round(DEAD_S / settings.period_s), 1)
        self._on_the_way = deque([self.goal] * delay, maxlen=delay)
        self._lagged = np.array(start_rad)
        self._reading: JointReading | None = None
        self.arm = ArmState()
        self.command: Command | None = None
        self.segments: list[Segment] = []
        self.states: set[State] = set()

    @property
    def ros_ns(self) -> int:
        """ROS time of the newest step."""
        return self.steady_ns + self.offset_ns

    @property
    def state(self) -> State:
        """State after the newest step."""
        return State.DISARMED if self.command is None else self.command.state

    def step(
        self,
        chunks: tuple[Chunk, ...] = (),
        events: tuple[OperatorEvent, ...] = (),
        weather: Weather | None = None,
    ) -> Command:
        """One step of everything; raises AssertionError when a rule of the states is broken."""
        weather = weather or Weather()
        ticks = 1 + weather.skipped
        self.tick += ticks
        self.steady_ns += ticks * self.period_ns
        self.offset_ns += weather.jump_ns
        self._follow(weather.jam)
        if weather.joints != "none":
            self._reading = self._measure(weather.joints)
        driver = self.arm.driver
        if weather.driver is not None:
            driver = DriverReading(
                weather.driver,
                "made up",
                (self.torque,) * len(self.goal),
                tuple(self.goal.tolist()),
                weather.desync,
                self.steady_ns,
                (self.supply_v if weather.supply_v is None else weather.supply_v,) * len(self.goal),
            )
        self.arm = ArmState(self._reading, driver, weather.problem)
        command = self.supervisor.step(
            self.tick, self.steady_ns, self.ros_ns, self.arm, chunks, events
        )
        self._record(command, events)
        status = self.supervisor.status(self.steady_ns)
        self.rules.check(command, status, chunks, events, self.steady_ns, weather)
        self.command = command
        return command

    def _record(self, command: Command, events: tuple[OperatorEvent, ...]) -> None:
        self.states.add(command.state)
        if command.request_torque:
            self._torque_at_ns = self.steady_ns + 50_000_000
        if self._torque_at_ns and self.steady_ns >= self._torque_at_ns:
            self._torque_at_ns = 0
            if not self.torque:
                self.torque = True
                self.goal = np.array(self.measured)
        if command.output is Output.NONE:
            return
        assert command.positions_rad is not None
        row = np.array(command.positions_rad)
        armed_now = any(result.message == "armed and holding" for result in command.results)
        silent = self.command is None or self.command.output is Output.NONE
        if armed_now or silent:
            self.segments.append(Segment(self._armed_with_v()))
        self.segments[-1].rows.append(row)
        if command.output is Output.COMMANDS and np.isfinite(row).all():
            self.goal = row

    def _armed_with_v(self) -> float:
        """The supply by which the servo part is chosen; unknown without a driver."""
        driver = self.arm.driver
        known = self.settings.needs_driver and driver is not None
        return driver.voltage_v[0] if known else math.nan

    def _follow(self, jam: tuple[int, ...]) -> None:
        arrived = self._on_the_way[0]
        self._on_the_way.append(self.goal)
        share = 1.0 - math.exp(-self.settings.period_s / LAG_S)
        moved = self._lagged + share * (arrived - self._lagged)
        for joint in jam:
            moved[joint] = self._lagged[joint]
        self._lagged = moved
        self.measured = moved - SAG_RAD[: len(moved)] * self.torque

    def _measure(self, kind: str) -> JointReading:
        values = self.measured.tolist()
        stamp_ns = self.ros_ns
        if kind == "nan":
            values[-1] = math.nan
        elif kind == "infinite":
            values[0] = math.inf
        elif kind == "old":
            stamp_ns -= 1_000_000_000
        elif kind == "future":
            stamp_ns += 1_000_000_000
        elif kind == "short":
            values = values[:-1]
        elif kind == "teleport":
            values = [value + 1.0 for value in values]
        elif kind == "repeated" and self._reading is not None:
            return self._reading
        return JointReading(tuple(values), stamp_ns, self.steady_ns)


def arm_event(number: int = 1) -> OperatorEvent:
    """A request to arm."""
    return OperatorEvent(EventKind.ARM, number)
