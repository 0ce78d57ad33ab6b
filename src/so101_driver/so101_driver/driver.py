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
from so101_driver.command_gate import CommandGate
from so101_driver.driver_reasons import Reason, ReasonCode
from so101_driver.driver_types import (
    Command,
    CommandResult,
    DriverConfig,
    DriverSnapshot,
    DriverState,
    JointSample,
    StartAction,
    TorquePhase,
    Write,
)
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import ARM, JOINT_NAMES, SERVO_IDS
from so101_driver.overload_guard import OverloadRegisters
from so101_driver.reading_filter import ReadingFilter
from so101_driver.readings import Reading, ServoState
from so101_driver.servo_goals import ServoGoals
from so101_driver.servo_health import Ratings
from so101_driver.silence_watch import SilenceWatch
from so101_driver.supply_watch import SupplyWatch
from so101_driver.torque_keeper import TorqueKeeper

_REGAINED_GOAL_RAD = 0.1
"""How far goals may be from the last ones written when a lost port is back: the last writes before
it was lost may not have arrived."""
_LOST_SUPPLY_EXPLAINS = (ReasonCode.SERVO_SILENT, ReasonCode.BUS_SILENT)
_TORQUE_REASONS = {
    TorquePhase.OFF: reasons.TORQUE_OFF,
    TorquePhase.RISING: reasons.TORQUE_RISING,
    TorquePhase.FALLING: reasons.TORQUE_FALLING,
}


class DriverCore:
    """Turns commands, readings and events into writes; not thread-safe.

    Attributes:
        counters: Refused and changed commands, faults.
        fault: The latched fault, or None.
    """

    def __init__(self, config: DriverConfig, calibration: Calibration) -> None:
        self.counters: Counter[str] = Counter()
        self.fault: Reason | None = None
        self._config = config
        self._calibration = calibration
        self._gate = CommandGate(config)
        self._goals = ServoGoals(config, calibration, self.counters)
        self._torque = TorqueKeeper(config, self.counters)
        self._port_lost: Reason | None = None
        self._supply = SupplyWatch()
        self._filter = ReadingFilter()
        self._silence = SilenceWatch(config.max_bad_cycles, config.bus_silence_s)

    @property
    def torque(self) -> TorquePhase:
        """What the driver wants of the torque."""
        return self._torque.phase

    @property
    def unverified(self) -> frozenset[int]:
        """Servos that missed an answer and may have lost their supply, until their state is read.

        They are not written goals: a goal would switch a fallen servo on with full torque.
        """
        return frozenset(self._supply.suspects)

    # Starting.

    def start(
        self,
        states: Sequence[ServoState],
        full_limits: Sequence[int],
        now_ns: int,
        overload: Sequence[OverloadRegisters] = (OverloadRegisters(),) * len(SERVO_IDS),
        ratings: Sequence[Ratings] = (Ratings(),) * len(SERVO_IDS),
        other_setting: str = "",
    ) -> StartAction:
        """Decide what to do with the arm as found; clears a fault.

        An arm that is a fault as found is left as it is: not even its torque limits are changed.

        Args:
            states: In the order of SERVO_IDS.
            full_limits: Each servo's torque limit in normal use, 0..1000.
            now_ns: Steady time.
            overload: Each servo's own protection against pressing.
            ratings: Its protection against heat and a wrong supply.
            other_setting: What is set otherwise than it should be in an arm that stands.
        """
        self.fault = self._port_lost = None
        self._torque.start(states, full_limits, overload, ratings, now_ns)
        self._silence.start(now_ns)
        self._filter.start()
        self._supply.start(states)
        self._gate.start()
        enabled = self._torque.enabled
        if any(enabled):
            self._goals.take([state.goal_ticks for state in states])
        if any(enabled) and not all(enabled):
            limp = [i for i, on in zip(SERVO_IDS, enabled, strict=True) if not on]
            self.set_fault(reasons.power_cycled(limp))
        elif other_setting:
            self.set_fault(reasons.other_settings(other_setting))
        elif not any(enabled):
            return StartAction.GIVE_TORQUE
        elif not self._far_from_goal(states):
            self._torque.complete(now_ns)
            return StartAction.ADOPT
        return StartAction.FAULT

    def _far_from_goal(self, states: Sequence[ServoState]) -> bool:
        present = self._calibration.ticks_to_rad([state.present_ticks for state in states])
        apart = np.abs(present - self._goals.rad)[ARM]
        worst = int(np.argmax(apart))
        if apart[worst] <= self._config.adopt_rad:
            return False
        self.set_fault(reasons.far_from_goal(JOINT_NAMES[worst], math.degrees(apart[worst])))
        return True

    def torque_given(self, goal_ticks: Sequence[int], now_ns: int) -> None:
        """Take over an arm that was switched on at these goals with torque limit 0."""
        self._goals.take(goal_ticks)
        self._silence.start(now_ns)
        self._torque.given(now_ns)

    def set_fault(self, reason: Reason) -> None:
        """Latch a fault: the arm holds until ``start``; the first one is kept.

        Except that servos found without torque explain why they were silent before.
        """
        known = self.fault
        if known is not None and not (
            reason.code is ReasonCode.POWER_CYCLED and known.code in _LOST_SUPPLY_EXPLAINS
        ):
            return
        self.fault = reason
        self.counters["faults"] += known is None

    # The port.

    def lose_port(self, reason: Reason) -> None:
        """Hold because the port is gone: the servos cannot be told anything."""
        if self._port_lost is None:
            self.counters["port_losses"] += 1
        self._port_lost = reason

    def regain_port(
        self, states: Sequence[ServoState], now_ns: int, problem: Reason | None = None
    ) -> None:
        """Take the arm back through a port that was lost, as its servos are now.

        An arm that stands as it was left goes on holding; anything else is a fault, as is what the
        servos' set-up was found to be (``problem``).
        """
        self._port_lost = None
        self._silence.start(now_ns)
        self._filter.start()
        self._supply.clear(SERVO_IDS)
        self._gate.demand_resync()
        if problem is not None:
            self.set_fault(problem)
        found = dict(zip(SERVO_IDS, states, strict=True))
        as_left = not self._note_fallen(found) and problem is None
        self._torque.take(found)
        if self.torque is TorquePhase.OFF:
            self._note_strangers(found)
            return
        goals = [state.goal_ticks for state in states]
        apart = np.abs(self._calibration.ticks_to_rad(goals) - self._goals.rad)
        worst = int(np.argmax(apart))
        # Written so that an unknown goal (NaN) counts as another one.
        if not apart[worst] <= _REGAINED_GOAL_RAD:
            self.set_fault(reasons.other_goal(JOINT_NAMES[worst], math.degrees(apart[worst])))
            as_left = False
        self._goals.take(goals)
        as_left = not self._far_from_goal(states) and as_left
        if self.torque is TorquePhase.FALLING:
            self.release(self._config.release_s, now_ns)
        elif as_left:
            self._torque.resume(now_ns)
        else:
            self._torque.leave()

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
        refusal = self._gate.refusal(
            command,
            ros_now_ns,
            now_ns,
            sources,
            fault=self.fault is not None or self._port_lost is not None,
            torque=self.torque,
            goal_rad=self._goals.rad,
        )
        if refusal is not None:
            self.counters[refusal.value] += 1
            return CommandResult(refusal=refusal)
        goals = self._goals.approach(command.position_rad, self._supply.suspects, now_ns)
        return CommandResult(Write(reg.GOAL_POSITION, goals) if goals else None)

    # Events.

    def estop(self, now_ns: int) -> None:
        """Take a pressed emergency stop."""
        if not self._gate.estop.pressed:
            self.counters["estops"] += 1
        self._gate.estop.press(now_ns)

    def safety(self, phase: SafetyPhase) -> None:
        """Take the safety layer's state."""
        self._gate.estop.safety(phase)

    def release(self, duration_s: float, now_ns: int) -> None:
        """Begin to let the arm down by lowering its torque limits."""
        self._torque.release(duration_s, now_ns)

    # Cycles.

    def observe(self, readings: Mapping[int, Reading], now_ns: int) -> JointSample | None:
        """Take one cycle's read of present position and velocity; None if nobody answered."""
        believed = self._filter.plausible(readings)
        disbelieved = readings.keys() - believed.keys()
        if disbelieved:
            self.counters["implausible_reading"] += len(disbelieved)
            readings = believed
        self._supply.answered(readings)
        silent = self._silence.update(readings, now_ns, disbelieved)
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
        self._torque.observe(readings, self._goals.ticks, now_ns)
        strain = self._torque.health.exhausted(now_ns)
        if strain is not None and self.torque is not TorquePhase.OFF:
            self.set_fault(reasons.exhausted(strain))
        return JointSample(
            min(reading.stamp_ns for reading in readings.values()),
            self._calibration.ticks_to_rad(position),
            self._calibration.tick_rate_to_rad_s(velocity),
        )

    def check_states(
        self, states: Mapping[int, ServoState], now_ns: int | None = None
    ) -> tuple[Write, ...]:
        """Compare what the servos do with what they should do; returns corrections.

        With ``now_ns``, goals that a lost packet left behind are taken as they are, once none have
        been written for a while.
        """
        self._note_fallen(states)
        if self.fault is None or self.fault.code is not ReasonCode.POWER_CYCLED:
            self._supply.clear(states)
        self._torque.take(states)
        if self.torque is TorquePhase.OFF and not self._note_strangers(states):
            return self._torque.corrections(states)
        known = self.fault is None and now_ns is not None and self._goals.silent(now_ns)
        if known and self._goals.take_changed(states):
            self.counters["goals_corrected"] += 1
            self._gate.demand_resync()
        return ()

    def _note_fallen(self, states: Mapping[int, ServoState]) -> bool:
        """Whether servos that should hold have lost their supply."""
        fallen = [] if self.torque is TorquePhase.OFF else self._supply.fallen(states)
        if fallen:
            known = self.fault
            self.set_fault(reasons.power_cycled(fallen))
            self.counters["power_cycled"] += self.fault is not known
        return bool(fallen)

    def _note_strangers(self, states: Mapping[int, ServoState]) -> bool:
        """Whether somebody else has switched servos of a limp arm on: they hold something up."""
        strangers = self._torque.strangers(states)
        if strangers:
            self._torque.leave()
            self.set_fault(reasons.switched_on(strangers))
            if len(states) == len(SERVO_IDS):
                self._goals.take([states[servo_id].goal_ticks for servo_id in SERVO_IDS])
        return bool(strangers)

    def tick(self, now_ns: int) -> tuple[Write, ...]:
        """Advance torque limits; call it once per cycle."""
        return self._torque.tick(now_ns)

    def commands_stopped(self, now_ns: int) -> bool:
        """Return whether no acceptable command has come for ``command_timeout_s``."""
        return self._gate.silent(now_ns)

    def limp(self) -> bool:
        """Return whether torque is off in every servo, as read from them."""
        return self._torque.limp

    def settled(self) -> bool:
        """Return whether torque is neither rising nor falling."""
        return self._torque.settled

    def estopped(self) -> bool:
        """Return whether an emergency stop is latched."""
        return self._gate.estop.pressed

    def snapshot(self, now_ns: int) -> DriverSnapshot:
        """Return the state for ``driver/status``."""
        state, reason = self._state(now_ns)
        rising = self.torque is TorquePhase.RISING
        return DriverSnapshot(
            state=state,
            reason=reason,
            torque_enabled=tuple(on and not rising for on in self._torque.enabled),
            goal_rad=self._goals.held_rad,
            reading_age_s=self._silence.ages_s(now_ns),
            torque_limit=np.array(self._torque.limits) * reg.DUTY,
            limited=self._torque.limited,
            strains=self._torque.health.strains(),
        )

    def _state(self, now_ns: int) -> tuple[DriverState, Reason]:
        if self._port_lost is not None:
            return DriverState.FAULT, self._port_lost
        if self.fault is not None:
            return DriverState.FAULT, self.fault
        if self.torque is not TorquePhase.ON:
            return DriverState.HOLDING, _TORQUE_REASONS[self.torque]
        if self._gate.frozen(now_ns):
            return DriverState.HOLDING, reasons.ESTOP
        if not self._goals.silent(now_ns):
            return DriverState.ACTIVE, self._weakness()
        if self._gate.silent(now_ns):
            return DriverState.HOLDING, reasons.NO_COMMANDS
        if self._goals.mute(now_ns):
            return DriverState.HOLDING, reasons.BUS_MUTE
        if self._gate.several_sources:
            return DriverState.HOLDING, reasons.MULTIPLE_SOURCES
        return DriverState.HOLDING, reasons.DESYNC if self._gate.desync else reasons.NO_COMMANDS

    def _weakness(self) -> Reason:
        """Why the arm follows with less than its full force, if so."""
        strains = self._torque.health.strains()
        if strains:
            return reasons.strained(strains)
        limited = self._torque.limited
        return reasons.torque_limited(limited) if limited else reasons.FOLLOWING
