"""The driver's decisions: what is written to the servos, and when the arm is left holding.

Pure: time comes as an argument (``now_ns`` steady, ``ros_now_ns`` ROS time), writes come back as
values. Holding is never an action here: servos hold their last goal by themselves, so holding is
writing nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from so101_driver import driver_reasons as reasons
from so101_driver import registers as reg
from so101_driver.calibration import Calibration
from so101_driver.driver_reasons import Reason
from so101_driver.driver_types import (
    Array,
    Command,
    CommandResult,
    DriverConfig,
    DriverSnapshot,
    DriverState,
    JointSample,
    Refusal,
    StartAction,
    TorquePhase,
    Write,
)
from so101_driver.estop_latch import EstopLatch, SafetyPhase
from so101_driver.joints import ARM, GRIPPER, JOINT_NAMES, SERVO_IDS
from so101_driver.overload_guard import OverloadGuard, OverloadRegisters
from so101_driver.readings import Reading, ServoState
from so101_driver.silence_watch import SilenceWatch
from so101_driver.torque_ramp import TorqueRamp

_PERIOD_S = 0.01
"""Nominal time between commands."""
_CREDIT_S = 0.03
"""How much late commands may catch up at once, as seconds of motion at full speed."""
_SPEED_HEADROOM = 1.05
"""So that a trajectory at exactly the speed limit is not cut by jitter and rounding."""
_TORQUE_REASONS = {
    TorquePhase.OFF: reasons.TORQUE_OFF,
    TorquePhase.RISING: reasons.TORQUE_RISING,
    TorquePhase.FALLING: reasons.TORQUE_FALLING,
}


class DriverCore:
    """Turns commands, readings and events into writes; not thread-safe.

    Attributes:
        counters: Refused and changed commands, faults.
        torque: What the driver wants of the torque.
        fault: The latched fault, or None.
    """

    def __init__(self, config: DriverConfig, calibration: Calibration) -> None:
        self.counters: Counter[str] = Counter()
        self.torque = TorquePhase.OFF
        self.fault: Reason | None = None
        self._config = config
        self._calibration = calibration
        self._estop = EstopLatch(config.estop_acknowledge_s)
        self._guard = OverloadGuard(config.guard, self.counters)
        self._ramp: TorqueRamp | None = None
        self._full_limits = (0,) * len(SERVO_IDS)
        self._enabled = [False] * len(SERVO_IDS)
        self._limits = (0,) * len(SERVO_IDS)
        self._goal_rad: Array = np.full(len(SERVO_IDS), np.nan)
        self._goal_ticks: Sequence[int] | None = None
        self._credit_s = np.zeros(len(SERVO_IDS))
        self._goal_written_ns: int | None = None
        self._last_stamp_ns: int | None = None
        self._fresh_command_ns: int | None = None
        self._several_sources = False
        self._needs_resync = False
        self._silence = SilenceWatch(config.max_bad_cycles, config.bus_silence_s)

    # Starting.

    def start(
        self,
        states: Sequence[ServoState],
        full_limits: Sequence[int],
        now_ns: int,
        overload: Sequence[OverloadRegisters] = (OverloadRegisters(),) * len(SERVO_IDS),
    ) -> StartAction:
        """Decide what to do with the arm as found; clears a fault.

        Args:
            states: In the order of SERVO_IDS.
            full_limits: Each servo's torque limit in normal use, 0..1000.
            now_ns: Steady time.
            overload: Each servo's own protection.
        """
        self.fault = None
        self._ramp = None
        self._full_limits = tuple(full_limits)
        self._guard.start(self._full_limits, overload, now_ns)
        self._silence.start(now_ns)
        self._needs_resync = False
        self._take_states(dict(zip(SERVO_IDS, states, strict=True)))
        enabled = [state.torque_enabled for state in states]
        if not any(enabled):
            self.torque = TorquePhase.OFF
            return StartAction.GIVE_TORQUE
        self.torque = TorquePhase.ON
        self._take_goal([state.goal_ticks for state in states])
        if not all(enabled):
            limp = [i for i, on in zip(SERVO_IDS, enabled, strict=True) if not on]
            self.set_fault(reasons.power_cycled(limp))
            return StartAction.FAULT
        present = self._calibration.ticks_to_rad([state.present_ticks for state in states])
        apart = np.abs(present - self._goal_rad)[ARM]
        worst = int(np.argmax(apart))
        if apart[worst] > self._config.adopt_rad:
            self.set_fault(reasons.far_from_goal(JOINT_NAMES[worst], math.degrees(apart[worst])))
            return StartAction.FAULT
        if self._limits != self._full_limits:
            # It was left in the middle of a ramp, or by a program with other limits.
            self._ramp_torque(self._full_limits, self._config.torque_ramp_s, now_ns)
        return StartAction.ADOPT

    def torque_given(self, goal_ticks: Sequence[int], now_ns: int) -> None:
        """Take over an arm that was switched on at these goals with torque limit 0."""
        self._take_goal(goal_ticks)
        self._silence.start(now_ns)
        self._enabled = [True] * len(SERVO_IDS)
        self._limits = (0,) * len(SERVO_IDS)
        self.torque = TorquePhase.RISING
        self._ramp_torque(self._full_limits, self._config.torque_ramp_s, now_ns)

    def set_fault(self, reason: Reason) -> None:
        """Latch a fault: the arm holds until ``start``; the first one is kept."""
        if self.fault is None:
            self.fault = reason
            self.counters["faults"] += 1

    # Commands.

    def command(
        self, command: Command, ros_now_ns: int, now_ns: int, sources: int = 1
    ) -> CommandResult:
        """Judge one command and return the goal write it leads to.

        Args:
            command: As received.
            ros_now_ns: Time of the clock that stamped it.
            now_ns: Steady time.
            sources: How many publishers the topic has.
        """
        refusal = self._refusal(command, ros_now_ns, now_ns, sources)
        if refusal is not None:
            self.counters[refusal.value] += 1
            return CommandResult(refusal=refusal)
        wanted = np.array(command.position_rad)
        bounded = np.clip(wanted, *self._bounds())
        if not np.array_equal(bounded, wanted):
            self.counters["position_clamped"] += 1
        reachable = self._limit_rate(bounded, now_ns)
        ticks = self._calibration.rad_to_ticks(reachable).tolist()
        self._goal_rad = reachable
        self._goal_ticks = ticks
        self._goal_written_ns = now_ns
        return CommandResult(Write(reg.GOAL_POSITION, dict(zip(SERVO_IDS, ticks, strict=True))))

    def _refusal(
        self, command: Command, ros_now_ns: int, now_ns: int, sources: int
    ) -> Refusal | None:
        """Return why a command must not be carried out, and remember what it means for holding."""
        if command.names != JOINT_NAMES or len(command.position_rad) != len(JOINT_NAMES):
            return Refusal.JOINTS
        if not all(map(math.isfinite, (*command.position_rad, *command.velocity_rad_s))):
            return Refusal.NON_FINITE
        age_s = (ros_now_ns - command.stamp_ns) * 1e-9
        if age_s > self._config.command_max_age_s:
            return Refusal.STALE
        if age_s < -self._config.command_max_future_s:
            return Refusal.FUTURE
        silent = self._silent(self._fresh_command_ns, now_ns)
        # After a silence order starts anew, else a clock set back would lock the arm for good.
        last_ns = None if silent else self._last_stamp_ns
        if last_ns is not None and command.stamp_ns <= last_ns:
            return Refusal.ORDER
        self._last_stamp_ns = command.stamp_ns
        frozen = self._estop.frozen(now_ns, silent)
        self._fresh_command_ns = now_ns
        self._several_sources = sources > 1
        if self._several_sources:
            self._needs_resync = True
            return Refusal.MULTIPLE_SOURCES
        if self.fault is not None:
            return Refusal.FAULT
        if frozen:
            self._needs_resync = True
            return Refusal.ESTOP
        if self.torque is not TorquePhase.ON:
            return Refusal.TORQUE
        distance = float(np.max(np.abs(np.array(command.position_rad) - self._goal_rad)))
        # Written so that an unknown goal (NaN) counts as far away.
        if not distance <= self._config.desync_rad:
            self._needs_resync = True
        elif distance <= self._config.resync_rad:
            self._needs_resync = False
        return Refusal.DESYNC if self._needs_resync else None

    def _bounds(self) -> tuple[Array, Array]:
        """Position limits, wider where the arm started outside: from there it may only return."""
        low, high = self._config.position_limits_rad.T
        return np.minimum(low, self._goal_rad), np.maximum(high, self._goal_rad)

    def _limit_rate(self, wanted: Array, now_ns: int) -> Array:
        """Move from the last goal towards ``wanted`` by what the time since then allows."""
        speed = self._config.max_speed_rad_s * _SPEED_HEADROOM
        written_ns = self._goal_written_ns
        if written_ns is None or self._silent(written_ns, now_ns):
            self._credit_s[:] = _PERIOD_S
        else:
            self._credit_s += (now_ns - written_ns) * 1e-9
            np.minimum(self._credit_s, _CREDIT_S, out=self._credit_s)
        step = wanted - self._goal_rad
        largest = speed * self._credit_s
        if (np.abs(step) > largest).any():
            self.counters["rate_limited"] += 1
            step = np.clip(step, -largest, largest)
        self._credit_s -= np.abs(step) / speed
        return self._goal_rad + step

    # Events.

    def estop(self, now_ns: int) -> None:
        """Take a pressed emergency stop."""
        if not self._estop.pressed:
            self.counters["estops"] += 1
        self._estop.press(now_ns)

    def safety(self, phase: SafetyPhase) -> None:
        """Take the safety layer's state."""
        self._estop.safety(phase)

    def release(self, duration_s: float, now_ns: int) -> None:
        """Begin to let the arm down by lowering its torque limits."""
        if self.torque is TorquePhase.OFF:
            return
        self.torque = TorquePhase.FALLING
        self._ramp_torque((0,) * len(SERVO_IDS), duration_s, now_ns)

    # Cycles.

    def observe(self, readings: Mapping[int, Reading], now_ns: int) -> JointSample | None:
        """Take one cycle's read of present position and velocity; None if nobody answered."""
        silent = self._silence.update(readings, now_ns)
        if silent is not None:
            self.set_fault(silent)
        if not readings:
            return None
        address = reg.PRESENT_POSITION.address
        position = np.full(len(SERVO_IDS), np.nan)
        velocity = np.full(len(SERVO_IDS), np.nan)
        for index, servo_id in enumerate(SERVO_IDS):
            if servo_id in readings:
                position[index] = readings[servo_id].value(reg.PRESENT_POSITION, address)
                velocity[index] = readings[servo_id].value(reg.PRESENT_VELOCITY, address)
        self._watch_load(readings, now_ns)
        return JointSample(
            min(reading.stamp_ns for reading in readings.values()),
            self._calibration.ticks_to_rad(position),
            self._calibration.tick_rate_to_rad_s(velocity),
        )

    def _watch_load(self, readings: Mapping[int, Reading], now_ns: int) -> None:
        """Pass on the duties, which only the longer reads bring."""
        if self.torque is not TorquePhase.ON or self._ramp or self._goal_ticks is None:
            return
        address = reg.PRESENT_POSITION.address
        for joint, (servo_id, goal) in enumerate(zip(SERVO_IDS, self._goal_ticks, strict=True)):
            reading = readings.get(servo_id)
            if reading is not None and len(reading.data) >= reg.DIAGNOSTICS_SIZE:
                duty = reading.value(reg.PRESENT_LOAD, address) * reg.DUTY
                present = reading.value(reg.PRESENT_POSITION, address)
                self._guard.observe(joint, duty, present, goal, now_ns)

    def check_states(self, states: Mapping[int, ServoState]) -> tuple[Write, ...]:
        """Compare what the servos do with what they should do; returns corrections.

        A servo whose supply failed comes back limp and with its power-on registers: the next goal
        would switch it on with full torque, wherever it has fallen.
        """
        self._take_states(states)
        if self.torque is not TorquePhase.OFF:
            limp = [servo_id for servo_id, state in states.items() if not state.torque_enabled]
            if limp:
                self.set_fault(reasons.power_cycled(limp))
            return ()
        # Switching off is not acknowledged on the bus, so it is repeated until it is seen.
        still_on = [servo_id for servo_id, state in states.items() if state.torque_enabled]
        if still_on:
            return (Write(reg.TORQUE_ENABLE, dict.fromkeys(still_on, 0)),)
        # Leave a limp arm with its normal limits, for the next program that switches it on.
        wanted = dict(zip(SERVO_IDS, self._full_limits, strict=True))
        wrong = {i: wanted[i] for i, state in states.items() if state.torque_limit != wanted[i]}
        return (Write(reg.TORQUE_LIMIT, wrong),) if wrong else ()

    def tick(self, now_ns: int) -> tuple[Write, ...]:
        """Advance torque limits; call it once per cycle."""
        ramp = self._ramp
        if ramp is None:
            return self._guarded_limits(now_ns) if self.torque is TorquePhase.ON else ()
        limits = ramp.limits(now_ns)
        writes = [Write(reg.TORQUE_LIMIT, dict(zip(SERVO_IDS, limits, strict=True)))]
        self._limits = limits
        if ramp.finished(now_ns):
            self._ramp = None
            if self.torque is TorquePhase.FALLING:
                self.torque = TorquePhase.OFF
                writes.append(Write(reg.TORQUE_ENABLE, dict.fromkeys(SERVO_IDS, 0)))
            else:
                self.torque = TorquePhase.ON
        return tuple(writes)

    def _guarded_limits(self, now_ns: int) -> tuple[Write, ...]:
        limits = self._guard.limits(now_ns)
        changed = {
            servo_id: limit
            for servo_id, limit, held in zip(SERVO_IDS, limits, self._limits, strict=True)
            if limit != held
        }
        self._limits = limits
        return (Write(reg.TORQUE_LIMIT, changed),) if changed else ()

    def commands_stopped(self, now_ns: int) -> bool:
        """Return whether no acceptable command has come for ``command_timeout_s``."""
        return self._silent(self._fresh_command_ns, now_ns)

    def limp(self) -> bool:
        """Return whether torque is off in every servo, as read from them."""
        return self.torque is TorquePhase.OFF and not any(self._enabled)

    def snapshot(self, now_ns: int) -> DriverSnapshot:
        """Return the state for ``driver/status``."""
        state, reason = self._state(now_ns)
        goal = np.full(len(SERVO_IDS), np.nan)
        if self._goal_ticks is not None:
            goal = self._calibration.ticks_to_rad(self._goal_ticks)
        rising = self.torque is TorquePhase.RISING
        return DriverSnapshot(
            state=state,
            reason=reason,
            torque_enabled=tuple(on and not rising for on in self._enabled),
            goal_rad=goal,
            reading_age_s=self._silence.ages_s(now_ns),
            torque_limit=np.array(self._limits) * reg.DUTY,
            limited=self._limited_joints(),
        )

    def _limited_joints(self) -> tuple[tuple[str, float], ...]:
        limited = self._guard.limited.items()
        return tuple((JOINT_NAMES[joint], share) for joint, share in limited if joint != GRIPPER)

    def _state(self, now_ns: int) -> tuple[DriverState, Reason]:
        if self.fault is not None:
            return DriverState.FAULT, self.fault
        if self.torque is not TorquePhase.ON:
            return DriverState.HOLDING, _TORQUE_REASONS[self.torque]
        silent = self._silent(self._fresh_command_ns, now_ns)
        if self._estop.frozen(now_ns, silent):
            return DriverState.HOLDING, reasons.ESTOP
        if not self._silent(self._goal_written_ns, now_ns):
            limited = self._limited_joints()
            return DriverState.ACTIVE, (
                reasons.torque_limited(limited) if limited else reasons.FOLLOWING
            )
        if self._several_sources and not silent:
            return DriverState.HOLDING, reasons.MULTIPLE_SOURCES
        return DriverState.HOLDING, reasons.DESYNC if self._needs_resync else reasons.NO_COMMANDS

    def _silent(self, since_ns: int | None, now_ns: int) -> bool:
        return since_ns is None or now_ns - since_ns > self._config.command_timeout_s * 1e9

    def _take_goal(self, ticks: Sequence[int]) -> None:
        self._goal_ticks = tuple(ticks)
        self._goal_rad = self._calibration.ticks_to_rad(self._goal_ticks)
        self._goal_written_ns = None

    def _take_states(self, states: Mapping[int, ServoState]) -> None:
        limits = list(self._limits)
        for index, servo_id in enumerate(SERVO_IDS):
            if servo_id in states:
                self._enabled[index] = states[servo_id].torque_enabled
                limits[index] = states[servo_id].torque_limit
        self._limits = tuple(limits)

    def _ramp_torque(self, target: tuple[int, ...], duration_s: float, now_ns: int) -> None:
        self._ramp = TorqueRamp(self._limits, target, now_ns, duration_s)
