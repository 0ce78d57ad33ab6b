"""The servos' torque: switching on and off slowly, and limits that spare servos in trouble.

Pure: time is an argument, writes come back as values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from so101_driver import registers as reg
from so101_driver.driver_types import DriverConfig, TorquePhase, Write
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS
from so101_driver.overload_guard import OverloadGuard, OverloadRegisters
from so101_driver.readings import Reading, ServoState
from so101_driver.servo_health import Ratings, ServoHealth
from so101_driver.torque_ramp import TorqueRamp


class TorqueKeeper:
    """Decides every servo's torque limit; not thread-safe.

    Args:
        config: Times and shares.
        counters: For what is done to spare servos.

    Attributes:
        phase: What the driver wants of the torque.
        enabled: Whether each servo holds, as last read.
        limits: Torque limits, 0..1000, as last read or written.
        health: Temperatures and voltages.
    """

    def __init__(self, config: DriverConfig, counters: Counter[str]) -> None:
        self.phase = TorquePhase.OFF
        self.enabled = [False] * len(SERVO_IDS)
        self.limits = (0,) * len(SERVO_IDS)
        self.health = ServoHealth(config.health, counters)
        self._config = config
        self._guard = OverloadGuard(config.guard, counters)
        self._full_limits = (0,) * len(SERVO_IDS)
        self._ramp: TorqueRamp | None = None
        self._taken_over = False
        self._switching_off: set[int] = set()

    def start(
        self,
        states: Sequence[ServoState],
        full_limits: Sequence[int],
        overload: Sequence[OverloadRegisters],
        ratings: Sequence[Ratings],
        now_ns: int,
    ) -> None:
        """Begin with servos as found; their limits stay so until ``given`` or ``complete``."""
        self._ramp = None
        self._taken_over = False
        self._full_limits = tuple(full_limits)
        self._guard.start(self._full_limits, overload, now_ns)
        self.health.start(ratings)
        self.take(dict(zip(SERVO_IDS, states, strict=True)))
        self.phase = TorquePhase.ON if any(self.enabled) else TorquePhase.OFF
        # Switching on may fail half way.
        self._switching_off = set(SERVO_IDS)

    def take(self, states: Mapping[int, ServoState]) -> None:
        """Take what servos do as it was read from them."""
        limits = list(self.limits)
        for index, servo_id in enumerate(SERVO_IDS):
            if servo_id in states:
                self.enabled[index] = states[servo_id].torque_enabled
                limits[index] = states[servo_id].torque_limit
        self.limits = tuple(limits)

    @property
    def limp(self) -> bool:
        """Whether torque is off in every servo, as read from them."""
        return self.phase is TorquePhase.OFF and not any(self.enabled)

    @property
    def settled(self) -> bool:
        """Whether torque is neither rising nor falling."""
        return self._ramp is None and (self.phase is not TorquePhase.OFF or self.limp)

    @property
    def limited(self) -> tuple[tuple[str, float], ...]:
        """Joints (name, share of full torque) that have pressed too long, the gripper apart."""
        limited = self._guard.limited.items()
        return tuple((JOINT_NAMES[joint], share) for joint, share in limited if joint != GRIPPER)

    # Ramps.

    def given(self, now_ns: int) -> None:
        """Let torque rise in servos that were switched on with limit 0."""
        self.enabled = [True] * len(SERVO_IDS)
        self.limits = (0,) * len(SERVO_IDS)
        self.phase = TorquePhase.RISING
        self._taken_over = True
        self._switching_off.clear()
        self._begin_ramp(self._full_limits, self._config.torque_ramp_s, now_ns)

    def complete(self, now_ns: int) -> None:
        """Take over limits as found, perhaps in the middle of a ramp: they rise to full."""
        self._taken_over = True
        if self.limits != self._full_limits:
            self._begin_ramp(self._full_limits, self._config.torque_ramp_s, now_ns)

    def resume(self, now_ns: int) -> None:
        """Go on with an arm that was out of reach, and is as it was left."""
        if self._taken_over:
            self.complete(now_ns)

    def leave(self) -> None:
        """Leave limits as they are: the arm is not as it should be, and perhaps another one."""
        self.phase = TorquePhase.ON
        self._ramp = None
        self._taken_over = False

    def release(self, duration_s: float, now_ns: int) -> None:
        """Begin to let the arm down."""
        if self.phase is not TorquePhase.OFF:
            self.phase = TorquePhase.FALLING
            self._begin_ramp((0,) * len(SERVO_IDS), duration_s, now_ns)

    def _begin_ramp(self, target: tuple[int, ...], duration_s: float, now_ns: int) -> None:
        self._ramp = TorqueRamp(self.limits, target, now_ns, duration_s)

    def tick(self, now_ns: int) -> tuple[Write, ...]:
        """Advance the limits; call it once per cycle."""
        allowed = self._guard.limits(now_ns, self.health.torque_shares())
        if self._ramp is not None:
            return self._advance(self._ramp, allowed, now_ns)
        if self.phase is not TorquePhase.ON or not self._taken_over:
            return ()
        changed = {
            servo_id: limit
            for servo_id, limit, held in zip(SERVO_IDS, allowed, self.limits, strict=True)
            if limit != held
        }
        self.limits = allowed
        return (Write(reg.TORQUE_LIMIT, changed),) if changed else ()

    def _advance(self, ramp: TorqueRamp, allowed: Sequence[int], now_ns: int) -> tuple[Write, ...]:
        self.limits = tuple(map(min, ramp.limits(now_ns), allowed))
        writes = [Write(reg.TORQUE_LIMIT, dict(zip(SERVO_IDS, self.limits, strict=True)))]
        if ramp.finished(now_ns):
            self._ramp = None
            if self.phase is TorquePhase.FALLING:
                self.phase = TorquePhase.OFF
                self._switching_off = set(SERVO_IDS)
                writes.append(Write(reg.TORQUE_ENABLE, dict.fromkeys(SERVO_IDS, 0)))
            else:
                self.phase = TorquePhase.ON
        return tuple(writes)

    # Readings.

    def observe(
        self, readings: Mapping[int, Reading], goals: Sequence[int] | None, now_ns: int
    ) -> None:
        """Take duty, temperature and voltage, which only the longer reads bring."""
        address = reg.PRESENT_POSITION.address
        pressing = self.phase is TorquePhase.ON and self._ramp is None and goals is not None
        for joint, servo_id in enumerate(SERVO_IDS):
            reading = readings.get(servo_id)
            if reading is None or len(reading.data) < reg.DIAGNOSTICS_SIZE:
                continue
            self.health.observe(
                joint,
                float(reading.value(reg.PRESENT_TEMPERATURE, address)),
                reading.value(reg.PRESENT_VOLTAGE, address) * reg.VOLTAGE_V,
                now_ns,
            )
            if pressing:
                duty = reading.value(reg.PRESENT_LOAD, address) * reg.DUTY
                present = reading.value(reg.PRESENT_POSITION, address)
                self._guard.observe(joint, duty, present, goals[joint], now_ns)

    def strangers(self, states: Mapping[int, ServoState]) -> list[int]:
        """Return the servos of a limp arm that somebody else has switched on."""
        on = {servo_id for servo_id, state in states.items() if state.torque_enabled}
        return sorted(on - self._switching_off)

    def corrections(self, states: Mapping[int, ServoState]) -> tuple[Write, ...]:
        """Return what makes limp servos what they should be."""
        # Switching off is not acknowledged on the bus, so it is repeated until it is seen.
        still_on = [servo_id for servo_id, state in states.items() if state.torque_enabled]
        self._switching_off.difference_update(states.keys() - set(still_on))
        if still_on:
            return (Write(reg.TORQUE_ENABLE, dict.fromkeys(still_on, 0)),)
        # Leave a limp arm with its normal limits, for the next program that switches it on.
        wanted = dict(zip(SERVO_IDS, self._full_limits, strict=True))
        wrong = {i: wanted[i] for i, state in states.items() if state.torque_limit != wanted[i]}
        return (Write(reg.TORQUE_LIMIT, wrong),) if wrong else ()
