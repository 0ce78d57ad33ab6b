"""Control table of the Feetech STS3215 as data (the SO-101's servo, model 777).

Addresses, sizes, defaults and ranges follow the vendor's memory table. Defaults are those of a
servo fresh from the factory; where they differ between parts the 7.4 V part's is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from so101_driver.protocol import decode_sign_magnitude, encode_sign_magnitude, little_endian

MODEL_NUMBER = 777
TICKS_PER_TURN = 4096
MAX_TICK = TICKS_PER_TURN - 1
TABLE_SIZE = 87
"""Bytes of the control table that this project knows, addresses 0..86."""
CURRENT_A = 6.5e-3
"""Unit of currents, in ampere."""
VOLTAGE_V = 0.1
"""Unit of voltages, in volt."""
DUTY = 1e-3
"""Unit of load and of torque limits; 1.0 is full PWM duty."""
PROTECTION_TIME_S = 0.01
"""Unit of protection times, in seconds."""
ACCELERATION_STEPS_S2 = 100
"""Unit of the acceleration register, in steps/s²."""


class Memory(Enum):
    """Where a register lives; EEPROM keeps writes over a power cycle only while unlocked."""

    EEPROM = "eeprom"
    RAM = "ram"


@dataclass(frozen=True, slots=True)
class Register:
    """One register.

    Attributes:
        address: Of its first byte.
        size: Bytes, 1 or 2.
        memory: EEPROM or RAM.
        read_only: Whether the servo ignores writes.
        sign_bit: Bit of the sign where the value is sign-magnitude, else None.
        default: Value at the factory (EEPROM) or after power-on (RAM).
        minimum: Smallest legal value of a write.
        maximum: Largest legal value of a write.
    """

    name: str
    address: int
    size: int
    memory: Memory
    read_only: bool = False
    sign_bit: int | None = None
    default: int = 0
    minimum: int = 0
    maximum: int = 255

    def encode(self, value: int) -> bytes:
        """Return ``value`` as bytes on the wire; ValueError if it does not fit."""
        raw = value if self.sign_bit is None else encode_sign_magnitude(value, self.sign_bit)
        if not 0 <= raw < 1 << 8 * self.size:
            raise ValueError(f"{value} does not fit into {self.name} ({self.size} bytes)")
        return little_endian(raw, self.size)

    def decode(self, data: bytes) -> int:
        """Return the value of this register's bytes."""
        raw = int.from_bytes(data[: self.size], "little")
        return raw if self.sign_bit is None else decode_sign_magnitude(raw, self.sign_bit)

    def decode_from(self, data: bytes, start_address: int) -> int:
        """Return this register's value from a block of bytes that began at ``start_address``."""
        offset = self.address - start_address
        if offset < 0 or offset + self.size > len(data):
            raise ValueError(f"{self.name} is not within {len(data)} bytes from {start_address}")
        return self.decode(data[offset : offset + self.size])


def _eeprom(name: str, address: int, size: int = 1, **keys: int | bool | None) -> Register:
    return Register(name, address, size, Memory.EEPROM, **keys)


def _ram(name: str, address: int, size: int = 1, **keys: int | bool | None) -> Register:
    return Register(name, address, size, Memory.RAM, **keys)


def _factory(name: str, address: int) -> Register:
    return Register(name, address, 1, Memory.EEPROM, read_only=True)


def _sensor(name: str, address: int, size: int = 1, sign_bit: int | None = None) -> Register:
    return Register(name, address, size, Memory.RAM, read_only=True, sign_bit=sign_bit)


FIRMWARE_MAJOR = _eeprom("firmware_major", 0, default=3, read_only=True)
FIRMWARE_MINOR = _eeprom("firmware_minor", 1, default=10, read_only=True)
BYTE_ORDER = _eeprom("byte_order", 2, read_only=True)
MODEL = _eeprom("model", 3, 2, default=MODEL_NUMBER, read_only=True)
ID = _eeprom("id", 5, default=1, maximum=253)
BAUD_RATE = _eeprom("baud_rate", 6, maximum=7)
RETURN_DELAY = _eeprom("return_delay", 7, default=250, maximum=254)
RESPONSE_LEVEL = _eeprom("response_level", 8, default=1, maximum=1)
MIN_POSITION = _eeprom("min_position", 9, 2, maximum=MAX_TICK)
MAX_POSITION = _eeprom("max_position", 11, 2, default=MAX_TICK, maximum=MAX_TICK)
MAX_TEMPERATURE = _eeprom("max_temperature", 13, default=70, maximum=100)
MAX_VOLTAGE = _eeprom("max_voltage", 14, default=80, maximum=254)
MIN_VOLTAGE = _eeprom("min_voltage", 15, default=40, maximum=254)
MAX_TORQUE = _eeprom("max_torque", 16, 2, default=1000, maximum=1000)
PHASE = _eeprom("phase", 18)
UNLOAD_CONDITION = _eeprom("unload_condition", 19, default=0x2C)
LED_CONDITION = _eeprom("led_condition", 20, default=0x2F)
P_GAIN = _eeprom("p_gain", 21, default=32, maximum=254)
D_GAIN = _eeprom("d_gain", 22, default=32, maximum=254)
I_GAIN = _eeprom("i_gain", 23, maximum=254)
MIN_START_FORCE = _eeprom("min_start_force", 24, 2, default=16, maximum=1000)
CW_DEAD_ZONE = _eeprom("cw_dead_zone", 26, default=1, maximum=32)
CCW_DEAD_ZONE = _eeprom("ccw_dead_zone", 27, default=1, maximum=32)
PROTECTION_CURRENT = _eeprom("protection_current", 28, 2, default=500, maximum=2047)
ANGULAR_RESOLUTION = _eeprom("angular_resolution", 30, default=1, minimum=1, maximum=128)
HOMING_OFFSET = _eeprom("homing_offset", 31, 2, sign_bit=11, minimum=-2047, maximum=2047)
OPERATING_MODE = _eeprom("operating_mode", 33, maximum=3)
PROTECTIVE_TORQUE = _eeprom("protective_torque", 34, default=20, maximum=100)
PROTECTION_TIME = _eeprom("protection_time", 35, default=200, maximum=254)
OVERLOAD_TORQUE = _eeprom("overload_torque", 36, default=80, maximum=100)
VELOCITY_P_GAIN = _eeprom("velocity_p_gain", 37, default=10, maximum=254)
OVERCURRENT_TIME = _eeprom("overcurrent_time", 38, default=200, maximum=254)
VELOCITY_I_GAIN = _eeprom("velocity_i_gain", 39, default=10, maximum=254)

TORQUE_ENABLE = _ram("torque_enable", 40, maximum=128)
ACCELERATION = _ram("acceleration", 41, maximum=254)
GOAL_POSITION = _ram("goal_position", 42, 2, sign_bit=15, minimum=-32767, maximum=32767)
GOAL_TIME = _ram("goal_time", 44, 2, maximum=1000)
GOAL_VELOCITY = _ram("goal_velocity", 46, 2, sign_bit=15, minimum=-32767, maximum=32767)
TORQUE_LIMIT = _ram("torque_limit", 48, 2, default=1000, maximum=1000)
LOCK = _ram("lock", 55, default=1, maximum=1)
PRESENT_POSITION = _sensor("present_position", 56, 2, sign_bit=15)
PRESENT_VELOCITY = _sensor("present_velocity", 58, 2, sign_bit=15)
PRESENT_LOAD = _sensor("present_load", 60, 2, sign_bit=10)
PRESENT_VOLTAGE = _sensor("present_voltage", 62)
PRESENT_TEMPERATURE = _sensor("present_temperature", 63)
ASYNC_WRITE_FLAG = _sensor("async_write_flag", 64)
STATUS = _sensor("status", 65)
MOVING = _sensor("moving", 66)
GOAL_ECHO = _sensor("goal_echo", 67, 2, sign_bit=15)
PRESENT_CURRENT = _sensor("present_current", 69, 2, sign_bit=15)
GOAL_POSITION_2 = _sensor("goal_position_2", 71, 2, sign_bit=15)
# The factory's own constants; only the acceleration's limit is written by others (LeRobot: 254).
MOVING_THRESHOLD = _factory("moving_threshold", 80)
D_SAMPLE_TIME = _factory("d_sample_time", 81)
VELOCITY_UNIT = _factory("velocity_unit", 82)
MIN_VELOCITY_TIME = _factory("min_velocity_time", 83)
MAX_VELOCITY = _factory("max_velocity", 84)
MAX_ACCELERATION = _ram("max_acceleration", 85, maximum=254)
ACCELERATION_FACTOR = _factory("acceleration_factor", 86)

REGISTERS: tuple[Register, ...] = tuple(
    sorted(
        (value for value in list(globals().values()) if isinstance(value, Register)),
        key=lambda register: register.address,
    )
)
"""Every register, by address."""

BAUD_RATES: tuple[int, ...] = (
    1_000_000,
    500_000,
    250_000,
    128_000,
    115_200,
    76_800,
    57_600,
    38_400,
)
"""Bits per second, by the value of BAUD_RATE."""

TORQUE_CENTRE_VALUE = 128
"""Written to TORQUE_ENABLE this makes the present position the centre: never write it."""

DIAGNOSTICS_ADDRESS = PRESENT_POSITION.address
DIAGNOSTICS_SIZE = 15
"""One read of 56..70 brings position to current of a servo."""
