"""What servos answer, as values: one reply, and the registers that say what a servo is doing."""

from __future__ import annotations

from dataclasses import dataclass

from so101_driver import registers as reg
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.registers import Register

STATE_ADDRESS = reg.TORQUE_ENABLE.address
STATE_SIZE = reg.PRESENT_POSITION.address + reg.PRESENT_POSITION.size - STATE_ADDRESS
"""One read of 40..57 brings everything of a ServoState."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one servo answered.

    Attributes:
        servo_id: Who answered.
        data: The bytes read.
        error: Error bits of the reply.
        stamp_ns: Steady time at which the request was sent: the data is not older than this.
    """

    servo_id: int
    data: bytes
    error: ServoError
    stamp_ns: int

    def value(self, register: Register, start_address: int) -> int:
        """Return one register out of a block that was read from ``start_address`` on."""
        return register.decode_from(self.data, start_address)


@dataclass(frozen=True, slots=True)
class ServoState:
    """The registers that say what a servo is doing.

    Attributes:
        torque_enabled: Whether it holds.
        goal_ticks: Where.
        torque_limit: With how much of its torque, 0..1000.
        present_ticks: Where it is.
        acceleration: Its acceleration register, which only set-up writes. One that has changed
            tells of a lost supply, even where a goal has switched the servo on again.
    """

    torque_enabled: bool
    goal_ticks: int
    torque_limit: int
    present_ticks: int
    acceleration: int = 0

    @classmethod
    def from_reading(cls, reading: Reading) -> ServoState:
        """Decode a block of STATE_SIZE bytes from STATE_ADDRESS."""
        return cls(
            torque_enabled=reading.value(reg.TORQUE_ENABLE, STATE_ADDRESS) != 0,
            goal_ticks=reading.value(reg.GOAL_POSITION, STATE_ADDRESS),
            torque_limit=reading.value(reg.TORQUE_LIMIT, STATE_ADDRESS),
            present_ticks=reading.value(reg.PRESENT_POSITION, STATE_ADDRESS),
            acceleration=reading.value(reg.ACCELERATION, STATE_ADDRESS),
        )


def servo_name(servo_id: int) -> str:
    """Return e.g. ``servo 3 (elbow_flex)``."""
    return f"servo {servo_id} ({JOINT_NAMES[SERVO_IDS.index(servo_id)]})"
