"""Arming: wait until everything is ready, then command where the servos' goals are."""

from __future__ import annotations

import numpy as np

from so101_driver.errors import UserError
from so101_driver.safety.arm_watch import ArmWatch
from so101_driver.safety.chunk_gate import ChunkGate
from so101_driver.safety.limits import Limits, ServoPart
from so101_driver.safety.machine import ARMED, LATCHED, Machine
from so101_driver.safety.motion import Motion
from so101_driver.safety.readiness import Problem, driver_problem, skew_sentence, supply_v
from so101_driver.safety.reasons import ReasonCode
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import (
    ArmState,
    Array,
    DriverReading,
    EventKind,
    Mode,
    OperatorEvent,
    State,
)

TORQUE_TIMEOUT_S = 6.0
"""Arming fails when the driver has not switched the torque on after this."""

GOAL_SETTLES_S = 0.05
"""So long after the last command the driver has written it: a status from before tells where its
goals were on the way there."""

AUTO_ARM_INTERVAL_S = 0.5
"""How often automatic arming looks; chunks must have come within this time."""

SENDER_TIMEOUT_S = 2.0
"""The clock of a sender that has been silent for longer does not matter."""


class Arming:
    """From a request, or automatically, to the first command.

    Attributes:
        armed_ns: When the arm was armed last; None before the first time.
        part: Servo part whose limits hold since then; None where the supply does not matter.
        asks_for_torque: Whether the driver is to be asked for torque in this step.
    """

    def __init__(
        self,
        machine: Machine,
        motion: Motion,
        limits: Limits,
        settings: Settings,
        watch: ArmWatch,
        gate: ChunkGate,
    ) -> None:
        self._machine = machine
        self._motion = motion
        self._limits = limits
        self._settings = settings
        self._watch = watch
        self._gate = gate
        self._request: OperatorEvent | None = None
        self._until_ns = 0
        self._automatic = settings.auto_arm
        self._look_ns: int | None = None
        self._chunk_came_ns: int | None = None
        self._commanded_ns: int | None = None
        self.armed_ns: int | None = None
        self.part: ServoPart | None = None
        self.asks_for_torque = False

    @property
    def pending(self) -> bool:
        """Whether a request waits for the driver's torque."""
        return self._request is not None

    @property
    def with_driver(self) -> bool:
        """Whether arming and moving take the driver; SHADOW needs none."""
        return self._settings.needs_driver and self._machine.mode is not Mode.SHADOW

    def commanded(self, steady_ns: int) -> None:
        """Note that the arm got a command."""
        self._commanded_ns = steady_ns

    def chunks_came(self, steady_ns: int) -> None:
        """Note that somebody sends chunks."""
        self._chunk_came_ns = steady_ns

    def sender_lives(self, steady_ns: int) -> bool:
        """Whether chunks came lately."""
        return self._chunks_come(steady_ns, SENDER_TIMEOUT_S)

    def by_hand(self) -> None:
        """Arm on request only: somebody has stopped the arm on purpose."""
        self._automatic = False

    def ask(self, event: OperatorEvent, steady_ns: int, arm: ArmState) -> None:
        """Begin to arm; the answer comes when it is done."""
        machine = self._machine
        if machine.will_disarm:
            machine.answer(event, False, "the arm will be disarmed at rest: ask again then")
        elif machine.state in ARMED:
            machine.answer(event, True, "already armed")
        elif machine.state in LATCHED:
            machine.answer(event, False, machine.reason)
        elif self._request is not None:
            machine.answer(event, False, "already waiting for the driver's torque")
        else:
            self._request = event
            self._until_ns = steady_ns + round(TORQUE_TIMEOUT_S * 1e9)
            problem = self._not_ready(steady_ns, arm)
            if problem is not None:
                self.fail(problem)
            elif self.with_driver and not _torque_on(arm.driver):
                self.asks_for_torque = True
                machine.say(ReasonCode.WAITING_FOR_TORQUE, "waiting for the driver's torque")

    def fail(self, problem: Problem) -> None:
        """Give a request up, if there is one."""
        if self._request is None:
            return
        request, self._request = self._request, None
        self._machine.answer(request, False, problem.sentence)
        if self._machine.state is State.DISARMED:
            self._machine.say(problem.code, problem.sentence)

    def advance(self, steady_ns: int, arm: ArmState) -> None:
        """Go on with a request, or look whether to arm automatically."""
        if self._machine.state is not State.DISARMED:
            return
        if self._automatic and self.armed_ns is None and self._request is None:
            self._look(steady_ns, arm)
        if self._request is None:
            return
        start, problem = self._start(steady_ns, arm)
        if problem is not None:
            self.fail(problem)
        elif start is not None:
            self._arm(self._request, start, steady_ns)

    def _look(self, steady_ns: int, arm: ArmState) -> None:
        if self._look_ns is not None and steady_ns < self._look_ns:
            return
        self._look_ns = steady_ns + round(AUTO_ARM_INTERVAL_S * 1e9)
        problem = self._not_ready(steady_ns, arm)
        if problem is None and not self._chunks_come(steady_ns, AUTO_ARM_INTERVAL_S):
            # Else a graph whose policy refuses its inputs would be armed for nothing.
            problem = Problem(ReasonCode.WAITING_FOR_CHUNKS, "waiting for a policy's chunks")
        if problem is None:
            self.ask(OperatorEvent(EventKind.ARM), steady_ns, arm)
        else:
            self._machine.say(problem.code, problem.sentence)

    def _not_ready(self, steady_ns: int, arm: ArmState) -> Problem | None:
        if arm.input_problem:
            return Problem(ReasonCode.INPUT_NOT_HEARD, arm.input_problem)
        if self._watch.fresh_reading(steady_ns) is None:
            return Problem(ReasonCode.JOINT_STATES, self._watch.problem)
        skew_s = self._gate.skew_s
        if abs(skew_s) > self._settings.max_clock_skew_s and self.sender_lives(steady_ns):
            return Problem(ReasonCode.CLOCK_SKEW, skew_sentence(skew_s))
        if self.with_driver:
            return driver_problem(arm.driver, len(self._limits.joint_names), steady_ns)
        return None

    def _chunks_come(self, steady_ns: int, within_s: float) -> bool:
        came_ns = self._chunk_came_ns
        return came_ns is not None and (steady_ns - came_ns) * 1e-9 <= within_s

    def _start(self, steady_ns: int, arm: ArmState) -> tuple[Array | None, Problem | None]:
        """Where to begin, or why not; neither while the driver's torque or status is awaited."""
        problem = self._not_ready(steady_ns, arm)
        reading = self._watch.fresh_reading(steady_ns)
        if problem is not None or reading is None:
            return None, problem
        start = np.array(reading.positions_rad)
        driver = arm.driver if self._settings.needs_driver else None
        if driver is not None and _torque_on(driver):
            if self.with_driver and self._goals_move(driver):
                return None, None
            goal = np.array(driver.goal_rad)
            # The goal register, not the measurement: a loaded joint hangs below its goal, and
            # arming from the measurement would let the arm sink a little each time.
            if goal.shape == start.shape and np.isfinite(goal).all():
                start = goal
            elif self.with_driver:
                return None, Problem(
                    ReasonCode.GOAL_UNKNOWN,
                    "torque is on, but the driver does not know the goals in the servos",
                )
        elif self.with_driver:
            if steady_ns <= self._until_ns:
                return None, None
            return None, Problem(
                ReasonCode.TORQUE_REFUSED,
                f"the driver has no torque on after {TORQUE_TIMEOUT_S:g} s",
            )
        sentence = self._motion.start_problem(start)
        if sentence:
            return None, Problem(ReasonCode.START_POSE, sentence)
        try:
            self.part = self._limits.servo_part(supply_v(driver))
        except UserError as error:
            return None, Problem(ReasonCode.SUPPLY_VOLTAGE, str(error))
        return start, None

    def _goals_move(self, driver: DriverReading) -> bool:
        """Whether the driver told its goals before the last command had become one."""
        return (
            self._commanded_ns is not None
            and (driver.received_ns - self._commanded_ns) * 1e-9 < GOAL_SETTLES_S
        )

    def _arm(self, request: OperatorEvent, start: Array, steady_ns: int) -> None:
        self._gate.restart()
        self._motion.start(start, self._machine.motion_scale, self.part)
        self.armed_ns = steady_ns
        self._machine.hold(ReasonCode.ARMED, "armed")
        self._machine.answer(request, True, "armed and holding")
        self._request = None


def _torque_on(driver: DriverReading | None) -> bool:
    return driver is not None and len(driver.torque_on) > 0 and all(driver.torque_on)
