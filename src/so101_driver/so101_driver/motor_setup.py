"""Gives new servos their ids and baud rate, one at a time.

All servos come from the factory with id 1, so each must be alone on the bus while it is given its
own. An interrupted run leaves a servo that the next run finds wherever it is then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from so101_driver import registers as reg
from so101_driver.arm_inspection import ServoReport, inspect_servo
from so101_driver.bus import BAUD_RATE, BusError, ServoBus
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_ID_OF, SERVO_IDS
from so101_driver.protocol import MAX_ID
from so101_driver.servo_search import BAUD_RATES, Found, Search, search

ORDER: tuple[str, ...] = tuple(reversed(JOINT_NAMES))
"""Gripper first, as in LeRobot: each next cable then goes one motor further down the arm."""

_EEPROM_S = 0.05
"""A servo is busy for a moment when it stores a new id or baud rate."""
_CHECKS = 5
"""Two servos with one id answer alike at times; five long replies never stay whole."""


class WrongMotorsError(UserError):
    """Not exactly one motor, or not the expected one, is connected; asking again is right."""


@dataclass(frozen=True, slots=True)
class MotorResult:
    """What was done to one motor.

    Attributes:
        joint: Its name.
        found: Where it answered before.
        report: What it says of itself now.
        changed: Whether anything was written.
    """

    joint: str
    found: Found
    report: ServoReport
    changed: bool


def find_single(port: str, progress: Callable[[str], None]) -> Found:
    """Return where the one connected servo answers.

    Args:
        port: Serial port.
        progress: Told a sentence when the search takes longer.

    Raises:
        WrongMotorsError: No servo, or several.
    """
    result = search(port, SERVO_IDS)
    if not result.servos and not result.collided:
        progress(
            "nobody answers yet: is the supply on? Asking every id at every baud rate (15 s) ..."
        )
        result = search(port, range(MAX_ID + 1), broadcast=False)
    _refuse_several(result, port)
    if not result.servos:
        raise WrongMotorsError(
            f"no motor answers on {port}: switch the power supply on (the USB cable alone does not "
            "feed motors), and check the three-pin cable between the board and the motor."
        )
    found = result.servos[0]
    _check_alone(port, found)
    return found


def set_up(
    port: str, joint: str, found: Found, already: Mapping[int, str], force: bool = False
) -> MotorResult:
    """Give the one connected servo the id of a joint and the standard baud rate.

    Args:
        port: Serial port.
        joint: What it shall be.
        found: Where it answers.
        already: Motors that have been set up just before, by id.
        force: Whether one that has the id of another joint may get this one.

    Raises:
        WrongMotorsError: It is another joint's motor.
        UserError: It does not keep what was written.
    """
    wanted = SERVO_ID_OF[joint]
    if found.servo_id != wanted:
        _refuse_other(joint, found, already, force)
    try:
        return _write(port, joint, found)
    except BusError as error:
        raise UserError(
            f"{joint} was not set up ({error}): check its cable and the supply, and run this again "
            "for it; nothing else was changed."
        ) from error


def _write(port: str, joint: str, found: Found) -> MotorResult:
    wanted = SERVO_ID_OF[joint]
    with ServoBus(port, (found.servo_id,), found.baud_rate) as bus:
        model = bus.read(found.servo_id, reg.MODEL)
        if model != reg.MODEL_NUMBER:
            raise UserError(
                f"the motor on {port} is model {model}, not an STS3215 ({reg.MODEL_NUMBER}): it "
                "does not belong into an SO-101; nothing was written."
            )
        held_baud = bus.read(found.servo_id, reg.BAUD_RATE)
        changed = found.servo_id != wanted or held_baud != BAUD_RATES.index(BAUD_RATE)
        if changed:
            # A servo that holds must not be renamed: whoever makes it hold would lose it.
            bus.write(found.servo_id, reg.TORQUE_ENABLE, 0)
            bus.write(found.servo_id, reg.LOCK, 0)
        if found.servo_id != wanted:
            # Whether the reply comes from the old or from the new id depends on the firmware.
            bus.sync_write(reg.ID, {found.servo_id: wanted})
            time.sleep(_EEPROM_S)
            _expect(bus, wanted, reg.ID, wanted)
        if held_baud != BAUD_RATES.index(BAUD_RATE):
            bus.sync_write(reg.BAUD_RATE, {wanted: BAUD_RATES.index(BAUD_RATE)})
            time.sleep(_EEPROM_S)
    with ServoBus(port, (wanted,)) as bus:
        _expect(bus, wanted, reg.BAUD_RATE, BAUD_RATES.index(BAUD_RATE))
        if bus.read(wanted, reg.LOCK) != 1:
            bus.write(wanted, reg.LOCK, 1)
        return MotorResult(joint, found, inspect_servo(bus, wanted), changed)


def _expect(bus: ServoBus, servo_id: int, register: reg.Register, value: int) -> None:
    held = bus.read(servo_id, register)
    if held != value:
        raise BusError(f"it keeps {register.name} {held} although {value} was written")


def _refuse_several(result: Search, port: str) -> None:
    if not result.several:
        return
    if result.collided and len(result.servos) <= 1:
        what = "several motors with the same id answer at once"
    else:
        ids = ", ".join(str(found.servo_id) for found in result.servos)
        what = f"{len(result.servos)} motors answer (ids {ids})"
    raise WrongMotorsError(
        f"{what} on {port}: connect exactly one to the board, with nothing behind it in the chain "
        "(an arm that is wired and has its ids needs no set-up: `wallx doctor` checks it)."
    )


def _check_alone(port: str, found: Found) -> None:
    """Read long replies: two servos with one id would spoil each other's."""
    with ServoBus(port, (found.servo_id,), found.baud_rate) as bus:
        try:
            for _ in range(_CHECKS):
                bus.read_block(found.servo_id, reg.DIAGNOSTICS_ADDRESS, reg.DIAGNOSTICS_SIZE)
        except BusError as error:
            raise WrongMotorsError(
                f"the motor with id {found.servo_id} answers a call but no question ({error}): "
                "connect exactly one motor, and check its cable."
            ) from error
        damaged = bus.counters["bad_checksum"] + bus.counters["garbage_bytes"]
        if damaged:
            raise WrongMotorsError(
                f"replies of id {found.servo_id} come garbled: two motors with the same id are "
                "connected, or the cable is loose; connect exactly one."
            )


def _refuse_other(joint: str, found: Found, already: Mapping[int, str], force: bool) -> None:
    if found.servo_id in already:
        raise WrongMotorsError(
            f"this is still the {already[found.servo_id]} motor, which has just got its id "
            f"{found.servo_id}: unplug it and connect the {joint} motor."
        )
    # 1 is every new motor's id, so it tells nothing.
    if found.servo_id in SERVO_IDS[1:] and not force:
        other = JOINT_NAMES[SERVO_IDS.index(found.servo_id)]
        raise WrongMotorsError(
            f"this motor has the id of {other} ({found.servo_id}) already: connect the {joint} "
            f"motor, or make this one {joint} with --motor {joint}."
        )
