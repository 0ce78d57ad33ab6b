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
from so101_driver.sim.parts import FOLLOWER_12V, ServoPart
from so101_driver.sim.plant import DriveSettings, ServoModel, ServoPlant
from so101_driver.sim.protections import Protections
from so101_driver.sim.tick_scale import RAD_PER_TICK, TickScale

_UNLIMITED_ACCELERATION_RADPS2 = 100.0
_MOVING_RADPS = 0.02
_REFERENCE_P = 16
_REFERENCE_D = 32
_MAX_15_BIT = 32767
_MULTI_TURN_FEEDBACK = 0x10
"""Bit of PHASE: positions count on beyond a turn. Otherwise they are 0..4095."""


@dataclass(slots=True)
class ServoFaults:
    """What is wrong with a servo from outside; see ``faults.py``.

    Attributes:
        mute: It ignores every packet.
        unpowered: It has no supply.
        overload: Its overload protection has tripped for good.
        temperature_c: Its temperature instead of the plant's.
        supply_v: Its supply instead of the world's.
        eeprom_s: How long it is busy after a write to its EEPROM.
        model: Its model number instead of the true one.
        firmware_minor: The same for the firmware.
        answers_as: Its bus id instead of the register's.
    """

    mute: bool = False
    unpowered: bool = False
    overload: bool = False
    temperature_c: float | None = None
    supply_v: float | None = None
    eeprom_s: float = 0.0
    model: int | None = None
    firmware_minor: int | None = None
    answers_as: int | None = None


class VirtualServo:
    """A servo as its bus sees it; the world sets its position, it gives the world torque.

    Only position mode (0) moves. The fields may be set from outside at any time.

    Attributes:
        servo_id: Its id at the start, by which its chain knows it; ``bus_id`` may change.
        position_rad: Angle of the joint.
        velocity_radps: Its velocity.
        supply_v: Voltage at the servo.
        muted: Whether it ignores every packet, as a servo with a loose cable does.
        stuck: Whether its joint is held from outside; for worlds without physics.
        goal_write_enables_torque: Several projects report that writing Goal_Position switches the
            torque on; assumed here, because it is the more dangerous of the two.
    """

    def __init__(
        self,
        servo_id: int,
        *,
        scale: TickScale | None = None,
        position_rad: float = 0.0,
        registers: Mapping[Register, int] | None = None,
        part: ServoPart = FOLLOWER_12V,
        model: ServoModel | None = None,
        seed: int = 0,
        goal_write_enables_torque: bool = True,
    ) -> None:
        self.servo_id = servo_id
        self.scale = scale or TickScale()
        self.position_rad = position_rad
        self.velocity_radps = 0.0
        self.supply_v = part.supply_v
        self.muted = False
        self.stuck = False
        self.goal_write_enables_torque = goal_write_enables_torque
        self.memory = ServoMemory({reg.ID: servo_id, **(registers or {})}, part.factory)
        self.plant = ServoPlant(model or part.model, position_rad)
        self.settings = DriveSettings()
        self.protections = Protections()
        self.faults = ServoFaults()
        self._connected = True
        self._identity: dict[Register, int] = {}
        self._pending_write: tuple[int, bytes] | None = None
        self._dither = random.Random(f"{seed} {servo_id}")
        self._apply_settings()

    # Bus side.

    @property
    def bus_id(self) -> int:
        """The id that it answers to."""
        answers_as = self.faults.answers_as
        return self.memory.value(reg.ID) if answers_as is None else answers_as

    @property
    def connected(self) -> bool:
        """Whether it is on the cable, which brings its supply too."""
        return self._connected

    @property
    def overload_trips(self) -> int:
        """How often its overload protection has cut its torque.

        The cut ends with the next goal, so under a stream of goals it lasts for milliseconds.
        """
        return self.protections.trips

    @property
    def temperature_c(self) -> float:
        """What its thermometer says."""
        forced_c = self.faults.temperature_c
        return self.plant.temperature_c if forced_c is None else forced_c

    @property
    def voltage_v(self) -> float:
        """What its voltmeter says."""
        return self.supply_v if self.faults.supply_v is None else self.faults.supply_v

    @property
    def error(self) -> ServoError:
        """The error byte of a reply."""
        return self.protections.error(self.temperature_c, self.voltage_v)

    @property
    def goal_ticks(self) -> int:
        """The goal register."""
        return self.memory.value(reg.GOAL_POSITION)

    def listens(self, now_s: float) -> bool:
        """Whether it takes packets now."""
        silent = self.muted or self.faults.mute
        return self._powered and not silent and now_s >= self.memory.saving_until_s()

    def read(self, address: int, size: int) -> bytes:
        """Return registers as a READ at this moment would."""
        if address + size > reg.PRESENT_POSITION.address:
            self._measure()
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes, now_s: float) -> bool:
        """Carry out a WRITE; returns whether it was a goal."""
        was_enabled = self.settings.enabled
        written = self.memory.write(address, data, now_s, self.faults.eeprom_s)
        is_goal = reg.GOAL_POSITION in written
        if self.memory.value(reg.TORQUE_ENABLE) == reg.TORQUE_CENTRE_VALUE:
            self.recentre(reg.TICKS_PER_TURN // 2)
            self.memory.put(reg.TORQUE_ENABLE, 0)
        if is_goal:
            self._clamp_goal()
            if not self.faults.overload:
                self.protections.clear()
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

    def recentre(self, ticks: int) -> None:
        """Let the present position read ``ticks`` from now on, saved in the homing offset."""
        offset = round(self.scale.encoder_ticks(self.position_rad)) - ticks
        limit = reg.HOMING_OFFSET.maximum
        self.memory.put(reg.HOMING_OFFSET, max(-limit, min(limit, offset)))
        self.memory.save(reg.HOMING_OFFSET)

    def factory_reset(self) -> None:
        """Set every register but the id to the factory's value; the torque is off then."""
        self.memory.factory_reset()
        self._restart()

    def power_cycle(self, now_s: float = math.inf) -> None:
        """Lose the supply for a moment: torque off, RAM at its defaults."""
        self.memory.power_cycle(now_s)
        self._restart()

    def connect(self, connected: bool, now_s: float) -> None:
        """Put it on the cable, or take it off."""
        if connected != self._connected:
            self._connected = connected
            self.power_cycle(now_s)

    def set_faults(self, faults: ServoFaults, now_s: float) -> None:
        """Let these faults replace the ones before."""
        was_powered = self._powered
        self.faults = faults
        if self._powered != was_powered:
            self.power_cycle(now_s)
        if faults.overload and not self.protections.overloaded:
            self.protections.trip()
        self._disguise()
        self._apply_settings()

    # World side.

    def present_ticks(self) -> int:
        """Present_Position as a read at this moment gives it, one tick of flicker included."""
        ticks = round(self._exact_ticks() + self._dither.uniform(-0.5, 0.5))
        return ticks if self._multi_turn else ticks % reg.TICKS_PER_TURN

    def goal_rad(self) -> float:
        """The goal register as a joint angle."""
        return self.ticks_to_rad(self.goal_ticks + self._whole_turns())

    def ticks_to_rad(self, ticks: int) -> float:
        """Joint angle of a goal or present position."""
        return self.scale.angle_rad(ticks + self.memory.value(reg.HOMING_OFFSET))

    def rad_to_ticks(self, angle_rad: float) -> int:
        """Nearest goal for a joint angle."""
        return round(self.scale.encoder_ticks(angle_rad) - self.memory.value(reg.HOMING_OFFSET))

    def torque_nm(self, now_s: float, dt_s: float) -> float:
        """Advance the plant by ``dt_s`` and return its torque on the joint."""
        self.settings.output_share = self.protections.share(self.temperature_c, self.voltage_v)
        self.settings.supply_v = self.voltage_v
        torque = self.plant.step(now_s, dt_s, self.position_rad, self.velocity_radps, self.settings)
        self.protections.step(dt_s, self.plant.duty, self.plant.current_a)
        return torque

    @property
    def _powered(self) -> bool:
        return self._connected and not self.faults.unpowered

    @property
    def _multi_turn(self) -> bool:
        return bool(self.memory.value(reg.PHASE) & _MULTI_TURN_FEEDBACK)

    def _exact_ticks(self) -> float:
        return self.scale.encoder_ticks(self.position_rad) - self.memory.value(reg.HOMING_OFFSET)

    def _whole_turns(self) -> int:
        """Ticks of the turns that a single-turn position does not show."""
        if self._multi_turn:
            return 0
        return round(self._exact_ticks()) // reg.TICKS_PER_TURN * reg.TICKS_PER_TURN

    def _restart(self) -> None:
        self._pending_write = None
        self.protections.restart()
        self._disguise()
        self._apply_settings()

    def _disguise(self) -> None:
        """Show another model or firmware while a fault says so."""
        for register, shown in (
            (reg.MODEL, self.faults.model),
            (reg.FIRMWARE_MINOR, self.faults.firmware_minor),
        ):
            if shown is not None:
                self._identity.setdefault(register, self.memory.value(register))
                self.memory.put(register, shown)
            elif register in self._identity:
                self.memory.put(register, self._identity.pop(register))

    def _apply_settings(self) -> None:
        """Translate the registers into the plant's units, once per write instead of per step."""
        value = self.memory.value
        model = self.plant.model
        settings = self.settings
        settings.enabled = (
            value(reg.TORQUE_ENABLE) == 1 and value(reg.OPERATING_MODE) == 0 and self._powered
        )
        settings.proportional = value(reg.P_GAIN) / _REFERENCE_P
        settings.derivative = value(reg.D_GAIN) / _REFERENCE_D
        settings.torque_limit = value(reg.TORQUE_LIMIT) * reg.DUTY
        speed = abs(value(reg.GOAL_VELOCITY)) * RAD_PER_TICK
        settings.max_speed_radps = speed or model.max_speed_radps
        acceleration = value(reg.ACCELERATION) * reg.ACCELERATION_STEPS_S2 * RAD_PER_TICK
        settings.max_acceleration_radps2 = acceleration or _UNLIMITED_ACCELERATION_RADPS2
        self.protections.configure(self.memory)

    def _clamp_goal(self) -> None:
        low, high = self.memory.value(reg.MIN_POSITION), self.memory.value(reg.MAX_POSITION)
        if (low, high) != (0, 0):
            self.memory.put(reg.GOAL_POSITION, max(low, min(high, self.goal_ticks)))

    def _measure(self) -> None:
        put = self.memory.put
        put(reg.PRESENT_POSITION, _in_15_bits(self.present_ticks()))
        put(reg.PRESENT_VELOCITY, _in_15_bits(round(self.velocity_radps / RAD_PER_TICK)))
        put(reg.PRESENT_LOAD, round(self.plant.duty / reg.DUTY))
        put(reg.PRESENT_VOLTAGE, min(255, round(self.voltage_v / reg.VOLTAGE_V)))
        put(reg.PRESENT_TEMPERATURE, min(255, max(0, round(self.temperature_c))))
        put(reg.STATUS, int(self.error))
        put(reg.MOVING, int(abs(self.velocity_radps) > _MOVING_RADPS))
        put(reg.GOAL_ECHO, self.goal_ticks)
        put(reg.GOAL_POSITION_2, self.goal_ticks)
        put(reg.PRESENT_CURRENT, round(self.plant.current_a / reg.CURRENT_A))


def _in_15_bits(value: int) -> int:
    return max(-_MAX_15_BIT, min(_MAX_15_BIT, value))


class IdealServo(VirtualServo):
    """A servo that reaches its goal at once; for tests of what talks to servos."""

    def write(self, address: int, data: bytes, now_s: float) -> bool:
        """Carry out a WRITE; an enabled servo with any torque is at its goal afterwards."""
        is_goal = super().write(address, data, now_s)
        if self.settings.enabled and self.settings.torque_limit > 0.0 and not self.stuck:
            self.position_rad = self.goal_rad()
        # Nobody lets time pass for its plant, which would keep every goal.
        self.plant.start_from(self.position_rad)
        return is_goal
