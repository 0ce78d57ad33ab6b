"""The three numbers of a calibration that stand in each servo's EEPROM, read and written.

Either all servos are written or none: when one fails, what was written before is taken back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from so101_driver import registers as reg
from so101_driver.calibration import JointCalibration
from so101_driver.calibration_sweep import actual_ticks, turned
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_ID_OF, SERVO_IDS
from so101_driver.readings import servo_name

if TYPE_CHECKING:
    # pyserial is for who opens a bus, not for who compares numbers.
    from so101_driver.bus import ServoBus

_DEADLINE_S = 0.03
"""No loop waits for these reads: a late reply is better than none."""
_HAND_TICKS_PER_S = 8000
"""No hand turns a joint faster (12 rad/s)."""
_SPARE_TICKS = 60


@dataclass(frozen=True, slots=True)
class ServoCalibration:
    """What one servo holds.

    Attributes:
        homing_offset: Register 31, subtracted inside the servo.
        range_min: Register 9.
        range_max: Register 11.
    """

    homing_offset: int
    range_min: int
    range_max: int

    @classmethod
    def of(cls, joint: JointCalibration) -> ServoCalibration:
        """Return what the servo of a calibrated joint should hold."""
        return cls(joint.homing_offset, joint.range_min, joint.range_max)


FACTORY = ServoCalibration(0, 0, reg.MAX_TICK)
"""A servo that was never calibrated, or reset."""


def read_servos(bus: ServoBus) -> dict[str, ServoCalibration]:
    """Return what every servo holds, by joint; BusError if one is silent."""
    return {name: _read(bus, servo_id) for name, servo_id in SERVO_ID_OF.items()}


def read_actual(bus: ServoBus, offsets: Mapping[str, int]) -> dict[str, int]:
    """Return the encoder readings of the servos that answer one sync read, by joint.

    Args:
        bus: The bus.
        offsets: The homing offset that stands in each servo.
    """
    register = reg.PRESENT_POSITION
    replies = bus.sync_read(register.address, register.size, _DEADLINE_S)
    return {
        name: actual_ticks(
            replies[servo_id].value(register, register.address),
            offsets[name],
        )
        for name, servo_id in SERVO_ID_OF.items()
        if servo_id in replies
    }


def standing(bus: ServoBus) -> list[str]:
    """Return the joints whose torque is on."""
    return [name for name, servo_id in SERVO_ID_OF.items() if bus.read(servo_id, reg.TORQUE_ENABLE)]


def release(bus: ServoBus) -> None:
    """Switch every torque off; BusError if a servo keeps it."""
    for servo_id in SERVO_IDS:
        bus.write(servo_id, reg.TORQUE_ENABLE, 0)


def write_servos(bus: ServoBus, wanted: Mapping[str, ServoCalibration]) -> list[str]:
    """Write what differs, read it back, and return the joints that were written.

    Raises:
        UserError: A servo failed, or a torque is on (a new offset would make the joint jump); the
            servos that were written hold their earlier values again, or the text names those that
            could not be put back.
    """
    from so101_driver.bus import BusError

    if holding := standing(bus):
        raise UserError(
            f"the torque of {', '.join(holding)} is on, and a joint would jump at its new zero: "
            "release the arm first."
        )
    held = read_servos(bus)
    names = [name for name in JOINT_NAMES if held[name] != wanted[name]]
    touched: list[str] = []
    try:
        for name in names:
            touched.append(name)
            _write(bus, name, held[name], wanted[name])
    except BusError as error:
        stuck = _take_back(bus, {name: held[name] for name in touched})
        state = "every servo holds its earlier values"
        if stuck:
            state = (
                f"{', '.join(stuck)} could not be put back and may hold either: run --check when "
                "the bus works"
            )
        raise UserError(f"the calibration was not written to the servos ({error}): {state}.") from (
            error
        )
    return names


def _read(bus: ServoBus, servo_id: int) -> ServoCalibration:
    start = reg.MIN_POSITION.address
    block = bus.read_block(
        servo_id, start, reg.HOMING_OFFSET.address + reg.HOMING_OFFSET.size - start
    )
    return ServoCalibration(
        block.value(reg.HOMING_OFFSET, start),
        block.value(reg.MIN_POSITION, start),
        block.value(reg.MAX_POSITION, start),
    )


def _write(bus: ServoBus, name: str, held: ServoCalibration, wanted: ServoCalibration) -> None:
    from so101_driver.bus import BusError

    servo_id = SERVO_ID_OF[name]
    begin_s = time.monotonic()
    before = actual_ticks(bus.read(servo_id, reg.PRESENT_POSITION), held.homing_offset)
    _put(bus, servo_id, held, wanted)
    after = actual_ticks(bus.read(servo_id, reg.PRESENT_POSITION), wanted.homing_offset)
    moved = abs(turned(before, after))
    if moved > _SPARE_TICKS + _HAND_TICKS_PER_S * (time.monotonic() - begin_s):
        raise BusError(
            f"{servo_name(servo_id)} reads {moved} ticks away from where its new offset should "
            "have put it"
        )


def _put(bus: ServoBus, servo_id: int, held: ServoCalibration, wanted: ServoCalibration) -> None:
    """Write the registers that differ; the EEPROM is locked again even when one fails."""
    bus.write(servo_id, reg.LOCK, 0)
    try:
        for register, old, new in (
            (reg.HOMING_OFFSET, held.homing_offset, wanted.homing_offset),
            (reg.MIN_POSITION, held.range_min, wanted.range_min),
            (reg.MAX_POSITION, held.range_max, wanted.range_max),
        ):
            if old != new:
                bus.write(servo_id, register, new)
    finally:
        bus.write(servo_id, reg.LOCK, 1)


def _take_back(bus: ServoBus, earlier: Mapping[str, ServoCalibration]) -> list[str]:
    """Return the servos that could not be put back."""
    from so101_driver.bus import BusError

    stuck = []
    for name, values in earlier.items():
        try:
            now = _read(bus, SERVO_ID_OF[name])
            if now != values:
                _put(bus, SERVO_ID_OF[name], now, values)
        except BusError:
            stuck.append(servo_name(SERVO_ID_OF[name]))
    return stuck
