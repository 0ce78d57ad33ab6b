"""What is watched while the arm is armed: clocks, the deadman switch, the arm, the driver."""

from __future__ import annotations

import numpy as np

from so101_driver.errors import UserError
from so101_driver.safety.arm_watch import ArmWatch
from so101_driver.safety.arming import Arming
from so101_driver.safety.chunk_gate import ChunkGate
from so101_driver.safety.contact import Following, FollowingWatch
from so101_driver.safety.limits import Limits
from so101_driver.safety.machine import ARMED, Machine
from so101_driver.safety.readiness import driver_problem, skew_sentence, supply_v
from so101_driver.safety.reasons import ReasonCode
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import (
    ArmState,
    Array,
    DriverReading,
    DriverState,
    JointReading,
    Limit,
    Mode,
    State,
)

DRIVER_HOLDING_S = 1.0
"""A driver that holds for so long while commands come does not follow them."""

DRIVER_RESYNC_S = 0.3
"""So long after arming the driver may still report what was wrong before."""

DEADMAN_TIMEOUT_S = 0.2
"""A deadman switch reports at 10 Hz or more; one report may be lost."""

SLOW_RATE = 0.95
"""A path that is followed at less than this share of its speed is said to be slowed."""


class Guards:
    """Changes the machine's state when something is wrong.

    Attributes:
        following: How the arm follows its commands; None in SHADOW mode and when not watched.
    """

    def __init__(
        self,
        machine: Machine,
        arming: Arming,
        limits: Limits,
        settings: Settings,
        watch: ArmWatch,
        gate: ChunkGate,
    ) -> None:
        self._machine = machine
        self._arming = arming
        self._limits = limits
        self._settings = settings
        self._watch = watch
        self._gate = gate
        self._contact = FollowingWatch(limits, settings)
        self._contact_from_ns: int | None = None
        self._measured: JointReading | None = None
        self._clock_offset_ns: int | None = None
        self._deadman_ns: int | None = None
        self._holds_ns: int | None = None
        self._judged: DriverReading | None = None
        self.following: Following | None = None

    # Clocks.

    def check_clock(self, steady_ns: int, ros_ns: int) -> None:
        """Stop when ROS time jumps; say when the policy's clock is another one."""
        last_ns, self._clock_offset_ns = self._clock_offset_ns, ros_ns - steady_ns
        if last_ns is None:
            return
        jump_s = (self._clock_offset_ns - last_ns) * 1e-9
        if abs(jump_s) <= self._settings.max_clock_skew_s:
            return
        self._machine.act(Limit.CLOCK)
        self._gate.forget()
        self._watch.forget_stamps()
        if self._machine.state is State.TRACKING:
            self._machine.stop(ReasonCode.CLOCK_JUMP, f"ROS time jumped by {jump_s:+.2f} s")

    def check_skew(self, steady_ns: int) -> None:
        """Say when the clock of the chunks' sender is another one."""
        sentence = ""
        skewed = abs(self._gate.skew_s) > self._settings.skew_warning_s
        if skewed and self._arming.sender_lives(steady_ns):
            sentence = skew_sentence(self._gate.skew_s)
        self._machine.note("clock", Limit.CLOCK, sentence)

    # Deadman.

    def deadman(self, pressed: bool, steady_ns: int) -> None:
        """Take a report of the switch."""
        self._deadman_ns = steady_ns if pressed else None

    def deadman_pressed(self, steady_ns: int) -> bool:
        """Whether the arm may move."""
        return not self._settings.deadman_required or (
            self._deadman_ns is not None
            and (steady_ns - self._deadman_ns) * 1e-9 <= DEADMAN_TIMEOUT_S
        )

    # The arm and its driver.

    @property
    def rate(self) -> float:
        """Speed at which a path may be followed, 0..1."""
        return 1.0 if self.following is None else self.following.rate

    def check_arm(self, steady_ns: int, arm: ArmState, command_rad: Array) -> None:
        """Leave the armed states when the arm cannot be controlled.

        Args:
            steady_ns: Time of the tick.
            arm: What is known about the arm.
            command_rad: What was commanded last.
        """
        machine = self._machine
        if machine.state not in ARMED:
            self._quiet()
            return
        moving = machine.state in (State.TRACKING, State.PARKING)
        if moving and not self.deadman_pressed(steady_ns):
            machine.stop(ReasonCode.DEADMAN, ReasonCode.DEADMAN.value)
        reading = self._watch.fresh_reading(steady_ns)
        if reading is None:
            machine.act(Limit.STALE_STATE)
            machine.latch(State.FAULT, ReasonCode.JOINT_STATES, self._watch.problem)
        elif self._watch.teleport:
            machine.act(Limit.TRACKING_MARGIN)
            machine.latch(State.FAULT, ReasonCode.JOINT_JUMPED, self._watch.teleport)
        elif machine.mode is Mode.SHADOW:
            self._quiet()
        else:
            if self._settings.needs_driver:
                self._check_driver(steady_ns, arm.driver)
            if machine.state in ARMED:
                self._check_following(reading, command_rad)

    def _quiet(self) -> None:
        """Watch nothing that needs an arm which obeys."""
        self.following = None
        self._contact_from_ns = self._holds_ns = None
        self._machine.note("supply", Limit.SUPPLY, "")
        self._machine.note("following", Limit(0), "")
        self._machine.note("blocked", Limit(0), "")

    def _check_driver(self, steady_ns: int, driver: DriverReading | None) -> None:
        machine = self._machine
        problem = driver_problem(driver, len(self._limits.joint_names), steady_ns)
        if problem is not None:
            machine.act(Limit.STALE_STATE)
            machine.latch(State.FAULT, problem.code, problem.sentence)
        if problem is not None or driver is None:
            return
        if driver.state is not DriverState.HOLDING:
            self._holds_ns = None
        elif self._holds_ns is None:
            self._holds_ns = steady_ns
        holds_long = (
            self._holds_ns is not None and (steady_ns - self._holds_ns) * 1e-9 > DRIVER_HOLDING_S
        )
        armed_ns = self._arming.armed_ns or 0
        settled = (driver.received_ns - armed_ns) * 1e-9 > DRIVER_RESYNC_S
        if (driver.desync and settled) or holds_long or not all(driver.torque_on):
            machine.act(Limit.DESYNC)
            why = driver.reason or "torque is off"
            machine.disarm(ReasonCode.DRIVER_NOT_FOLLOWING, f"the driver does not follow ({why})")
        elif driver is not self._judged:
            self._judged = driver
            self._check_supply(supply_v(driver))

    def _check_supply(self, volts: float) -> None:
        """Say when the supply is no longer that of the servos whose limits hold.

        The limits stay: a supply that sags must not change a motion that has been verified.
        """
        armed_with = self._arming.part
        if armed_with is None or not np.isfinite(volts):
            return
        sentence = ""
        try:
            part = self._limits.servo_part(volts)
            if part is not armed_with:
                sentence = (
                    f"the supply is {volts:.1f} V, but the limits are those of the "
                    f"{armed_with.name} servo: disarm and arm to change them"
                )
        except UserError as error:
            sentence = str(error)
        self._machine.note("supply", Limit.SUPPLY, sentence)

    # Contact.

    def _check_following(self, reading: JointReading, command_rad: Array) -> None:
        """Slow down or stop when joints hang behind their commands."""
        if not self._settings.watch_following:
            return
        if self._contact_from_ns != self._arming.armed_ns:
            self._contact_from_ns = self._arming.armed_ns
            self._contact.start(command_rad)
        measured_rad = None
        if reading is not self._measured:
            self._measured = reading
            measured_rad = np.array(reading.positions_rad)
        machine = self._machine
        following = self._contact.update(command_rad, measured_rad, machine.target_rad)
        newly = self.following is None or not self.following.blocked
        self.following = following
        moving = machine.state in (State.TRACKING, State.PARKING)
        slow = moving and following.rate < SLOW_RATE
        if slow:
            machine.act(Limit.TRACKING_MARGIN)
        machine.note(
            "following",
            Limit(0),
            "slowly, because a joint hangs behind its command" if slow else "",
        )
        self._judge(following, newly)
        known = machine.code is ReasonCode.JOINT_BLOCKED
        machine.note("blocked", Limit(0), "" if known else following.sentence)

    def _judge(self, following: Following, newly: bool) -> None:
        """Stop for a joint that is blocked, unless the motion leads it back."""
        machine = self._machine
        target_rad = machine.target_rad
        if not following.blocked:
            if machine.state is State.HOLD and machine.code is ReasonCode.JOINT_BLOCKED:
                machine.say(ReasonCode.JOINT_FREED, "the joint that was blocked follows again")
        elif machine.state in (State.TRACKING, State.PARKING):
            if target_rad is None or not self._contact.relieves(target_rad):
                machine.act(Limit.JOINT_BLOCKED)
                machine.stop(ReasonCode.JOINT_BLOCKED, following.sentence)
        elif machine.state is State.HOLD and newly:
            machine.act(Limit.JOINT_BLOCKED)
            machine.say(ReasonCode.JOINT_BLOCKED, following.sentence)

    def blocks(self, target_rad: Array) -> str:
        """Why a motion to a target is not begun, or "": it does not free the blocked joints."""
        following = self.following
        if following is None or not following.blocked or self._contact.relieves(target_rad):
            return ""
        return following.sentence
