"""One virtual STS3215: its registers, what writing them does, and its plant."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from so101_driver import registers as reg
from so101_driver.protocol import ServoError
from so101_driver.registers import Register
from so101_driver.sim.memory import ServoMemory
from so101_driver.sim.plant import DriveSettings, ServoModel, ServoPlant

_RAD_PER_STEP = 2.0 * math.pi / reg.TICKS_PER_TURN
_UNLIMITED_ACCELERATION_RADPS2 = 100.0
_MOVING_RADPS = 0.02
_REFERENCE_P = 16
_REFERENCE_D = 32
_MAX_15_BIT = 32767
_12_V_PART = {reg.MAX_VOLTAGE: 140}


@dataclass(frozen=True, slots=True)
class TickScale:
    """How a joint's angle and its servo's encoder are coupled.

    Attributes:
        zero_tick: Present_Position at 0 rad, with ``homing_offset`` in the servo.
        rad_per_tick: Joint angle per tick.
        homing_offset: Of the calibration; ticks are ``encoder - homing_offset``.
    """

    zero_tick: float = 2048.0
    rad_per_tick: float = _RAD_PER_STEP
    homing_offset: int = 0

    def encoder_ticks(self, angle_rad: float) -> float:
        """Encoder reading, before any homing offset."""
        return self.zero_tick + angle_rad / self.rad_per_tick + self.homing_offset

    def angle_rad(self, encoder_ticks: float) -> float:
        """Joint angle at an encoder reading."""
        return (encoder_ticks - self.homing_offset - self.zero_tick) * self.rad_per_tick


class VirtualServo:
    """A servo as its bus sees it; the world sets its position, it gives the world torque.

    Only position mode (0) moves. The fields may be set from outside at any time.

    Attributes:
        position_rad: Angle of the joint.
        velocity_radps: Its velocity.
        supply_v: Voltage at the servo.
        muted: Whether it ignores every packet, as a servo with a loose cable does.
        goal_write_enables_torque: Several projects report that writing Goal_Position switches the
            torque on; assumed here, because it is the more dangerous of the two.
        overload_trips: How often its overload protection has cut its torque. The cut ends with the
            next goal, so under a stream of goals it lasts for milliseconds.
    """

    def __init__(
        self,
        servo_id: int,
        *,
        scale: TickScale | None = None,
        position_rad: float = 0.0,
        registers: Mapping[Register, int] | None = None,
        model: ServoModel | None = None,
        seed: int = 0,
        goal_write_enables_torque: bool = True,
    ) -> None:
        self.servo_id = servo_id
        self.scale = scale or TickScale()
        self.position_rad = position_rad
        self.velocity_radps = 0.0
        self.supply_v = 12.1
        self.muted = False
        self.goal_write_enables_torque = goal_write_enables_torque
        self.overload_trips = 0
        self.memory = ServoMemory({**_12_V_PART, reg.ID: servo_id, **(registers or {})})
        self.plant = ServoPlant(model, position_rad)
        self.settings = DriveSettings()
        self._pending_write: tuple[int, bytes] | None = None
        self._overload_s = 0.0
        self._overloaded = False
        self._dither = random.Random(f"{seed} {servo_id}")
        self._apply_settings()

    # Bus side.

    @property
    def error(self) -> ServoError:
        """The error byte of a reply."""
        error = ServoError.OVERLOAD if self._overloaded else ServoError(0)
        low = self.memory.value(reg.MIN_VOLTAGE) * reg.VOLTAGE_V
        high = self.memory.value(reg.MAX_VOLTAGE) * reg.VOLTAGE_V
        if not low <= self.supply_v <= high:
            error |= ServoError.VOLTAGE
        if self.plant.temperature_c > self.memory.value(reg.MAX_TEMPERATURE):
            error |= ServoError.TEMPERATURE
        return error

    @property
    def goal_ticks(self) -> int:
        """The goal register."""
        return self.memory.value(reg.GOAL_POSITION)

    def read(self, address: int, size: int) -> bytes:
        """Return registers as a READ at this moment would."""
        if address + size > reg.PRESENT_POSITION.address:
            self._measure()
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes, now_s: float) -> bool:
        """Carry out a WRITE; returns whether it was a goal."""
        was_enabled = self.settings.enabled
        written = self.memory.write(address, data)
        is_goal = reg.GOAL_POSITION in written
        if self.memory.value(reg.TORQUE_ENABLE) == reg.TORQUE_CENTRE_VALUE:
            self._centre()
        if is_goal:
            self._clamp_goal()
            self._overloaded = False
            if self.goal_write_enables_torque:
                self.memory.put(reg.TORQUE_ENABLE, 1)
        self._apply_settings()
        if self.settings.enabled and not was_enabled:
            # Whatever stands in the goal register becomes the target, however old it is.
            self.plant.start_from(self.position_rad)
            self.plant.command(now_s, self.goal_rad())
        elif is_goal and self.settings.enabled:
            self.plant.command(now_s, self.goal_rad())
        return is_goal

    def reg_write(self, address: int, data: bytes) -> None:
        """Keep a write for ``action``."""
        self._pending_write = (address, data)
        self.memory.put(reg.ASYNC_WRITE_FLAG, 1)

    def action(self, now_s: float) -> bool:
        """Carry out the pending write; returns whether it was a goal."""
        if self._pending_write is None:
            return False
        address, data = self._pending_write
        self._pending_write = None
        self.memory.put(reg.ASYNC_WRITE_FLAG, 0)
        return self.write(address, data, now_s)

    def power_cycle(self) -> None:
        """Lose the supply for a moment: torque off, RAM at its defaults."""
        self.memory.power_cycle()
        self._pending_write = None
        self._overloaded = False
        self._apply_settings()

    # World side.

    def present_ticks(self) -> int:
        """Present_Position as a read at this moment gives it, one tick of flicker included."""
        exact = self.scale.encoder_ticks(self.position_rad) - self.memory.value(reg.HOMING_OFFSET)
        return round(exact + self._dither.uniform(-0.5, 0.5))

    def goal_rad(self) -> float:
        """The goal register as a joint angle."""
        return self.ticks_to_rad(self.goal_ticks)

    def ticks_to_rad(self, ticks: int) -> float:
        """Joint angle of a goal or present position."""
        return self.scale.angle_rad(ticks + self.memory.value(reg.HOMING_OFFSET))

    def rad_to_ticks(self, angle_rad: float) -> int:
        """Nearest goal for a joint angle."""
        return round(self.scale.encoder_ticks(angle_rad) - self.memory.value(reg.HOMING_OFFSET))

    def torque_nm(self, now_s: float, dt_s: float) -> float:
        """Advance the plant by ``dt_s`` and return its torque on the joint."""
        torque = self.plant.step(now_s, dt_s, self.position_rad, self.velocity_radps, self.settings)
        self._watch_overload(dt_s)
        return torque

    def _watch_overload(self, dt_s: float) -> None:
        if abs(self.plant.duty) * 100.0 <= self._overload_percent or self._overloaded:
            self._overload_s = 0.0
            return
        self._overload_s += dt_s
        if self._overload_s >= self._protection_time_s:
            self._overloaded = True
            self._overload_s = 0.0
            self.overload_trips += 1
            self._apply_settings()

    def _apply_settings(self) -> None:
        """Translate the registers into the plant's units, once per write instead of per step."""
        value = self.memory.value
        model = self.plant.model
        settings = self.settings
        settings.enabled = value(reg.TORQUE_ENABLE) == 1 and value(reg.OPERATING_MODE) == 0
        settings.proportional = value(reg.P_GAIN) / _REFERENCE_P
        settings.derivative = value(reg.D_GAIN) / _REFERENCE_D
        settings.torque_limit = value(reg.TORQUE_LIMIT) * reg.DUTY
        if self._overloaded:
            protective = value(reg.PROTECTIVE_TORQUE) / 100.0
            settings.torque_limit = min(settings.torque_limit, protective)
        speed = abs(value(reg.GOAL_VELOCITY)) * _RAD_PER_STEP
        settings.max_speed_radps = speed or model.max_speed_radps
        acceleration = value(reg.ACCELERATION) * reg.ACCELERATION_STEPS_S2 * _RAD_PER_STEP
        settings.max_acceleration_radps2 = acceleration or _UNLIMITED_ACCELERATION_RADPS2
        protects = value(reg.UNLOAD_CONDITION) & ServoError.OVERLOAD
        self._overload_percent = value(reg.OVERLOAD_TORQUE) if protects else 100.0
        self._protection_time_s = value(reg.PROTECTION_TIME) * 0.01

    def _clamp_goal(self) -> None:
        low, high = self.memory.value(reg.MIN_POSITION), self.memory.value(reg.MAX_POSITION)
        if (low, high) != (0, 0):
            self.memory.put(reg.GOAL_POSITION, max(low, min(high, self.goal_ticks)))

    def _centre(self) -> None:
        """What 128 in Torque_Enable does: the present position becomes 2048."""
        offset = round(self.scale.encoder_ticks(self.position_rad)) - reg.TICKS_PER_TURN // 2
        limit = reg.HOMING_OFFSET.maximum
        self.memory.put(reg.HOMING_OFFSET, max(-limit, min(limit, offset)))
        self.memory.put(reg.TORQUE_ENABLE, 0)

    def _measure(self) -> None:
        put = self.memory.put
        put(reg.PRESENT_POSITION, self.present_ticks())
        steps_s = round(self.velocity_radps / _RAD_PER_STEP)
        put(reg.PRESENT_VELOCITY, max(-_MAX_15_BIT, min(_MAX_15_BIT, steps_s)))
        put(reg.PRESENT_LOAD, round(self.plant.duty / reg.DUTY))
        put(reg.PRESENT_VOLTAGE, round(self.supply_v / reg.VOLTAGE_V))
        put(reg.PRESENT_TEMPERATURE, min(255, round(self.plant.temperature_c)))
        put(reg.STATUS, int(self.error))
        put(reg.MOVING, int(abs(self.velocity_radps) > _MOVING_RADPS))
        put(reg.GOAL_ECHO, self.goal_ticks)
        put(reg.PRESENT_CURRENT, round(self.plant.current_a / reg.CURRENT_A))


class IdealServo(VirtualServo):
    """A servo that reaches its goal at once; for tests of what talks to servos."""

    def write(self, address: int, data: bytes, now_s: float) -> bool:
        """Carry out a WRITE; an enabled servo with any torque is at its goal afterwards."""
        is_goal = super().write(address, data, now_s)
        if self.settings.enabled and self.settings.torque_limit > 0.0:
            self.position_rad = self.goal_rad()
        return is_goal
