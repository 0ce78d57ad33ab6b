"""What is done with the six servos before and when torque is given; every write is read back.

These steps take tens of milliseconds each and run while the arm is not following commands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from so101_driver import registers as reg
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import Calibration, JointCalibration
from so101_driver.errors import UserError
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS
from so101_driver.overload_guard import OverloadRegisters
from so101_driver.readings import STATE_ADDRESS, STATE_SIZE, Reading, ServoState, servo_name
from so101_driver.registers import Memory, Register
from so101_driver.servo_health import Ratings

SETTINGS: tuple[tuple[Register, int], ...] = (
    (reg.RETURN_DELAY, 0),
    (reg.OPERATING_MODE, 0),
    (reg.P_GAIN, 16),
    (reg.I_GAIN, 0),
    (reg.D_GAIN, 32),
    (reg.ACCELERATION, 254),
    (reg.MAX_ACCELERATION, 254),
)
"""Of every servo; the values that LeRobot uses, so that its policies meet the arm they know."""

GRIPPER_SETTINGS: tuple[tuple[Register, int], ...] = (
    (reg.MAX_TORQUE, 500),
    (reg.PROTECTION_CURRENT, 250),
    (reg.OVERLOAD_TORQUE, 25),
)
"""Of the gripper besides: it squeezes at half force, else it burns out on what it holds."""

_PHASE_ANGLE_FEEDBACK = 0x10
"""Bit of PHASE that makes positions count on over several turns; must be off."""

_BEYOND_RANGE_DEG = 10.0
"""How far a limp joint may rest outside its range, as ``recoverable_violation`` of the limits."""
_STILL_DEG = 12.0
"""How far it may turn between two looks at it: a hand may be at the arm, a wrong reply is off."""

_EEPROM_ADDRESS = reg.ID.address
_EEPROM_SIZE = reg.VELOCITY_I_GAIN.address + reg.VELOCITY_I_GAIN.size - _EEPROM_ADDRESS
"""One read of 5..39 brings everything that a servo keeps over a power cycle."""


@dataclass(frozen=True, slots=True)
class ServoRatings:
    """What a servo allows itself.

    Attributes:
        full_limit: Its largest torque, 0..1000: what its limit is after power-on.
        overload: Its protection against pressing too long.
        health: Its protection against heat and a wrong supply.
    """

    full_limit: int
    overload: OverloadRegisters
    health: Ratings


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that a servo does not have."""

    servo_id: int
    register: Register
    held: int
    wanted: int

    def __str__(self) -> str:
        return (
            f"{servo_name(self.servo_id)} has {self.register.name} {self.held} "
            f"instead of {self.wanted}"
        )


def identify(bus: ServoBus, allow_mixed_firmware: bool = False) -> None:
    """Check that six STS3215 with the same firmware answer.

    Args:
        bus: Open bus.
        allow_mixed_firmware: Whether servos may have different firmware.

    Raises:
        UserError: Names the silent servos, or one of another model or firmware.
    """
    damaged_before = _damaged(bus)
    silent = [servo_id for servo_id in SERVO_IDS if not bus.ping(servo_id)]
    if len(silent) == len(SERVO_IDS):
        raise UserError(
            f"no servo answers on {bus.port}: switch the arm's power supply on and check the cable "
            "between the bus adapter and the first servo."
        )
    if silent:
        verb = "does" if len(silent) == 1 else "do"
        advice = "check the cable that leads there, then its id and baud rate."
        if _damaged(bus) > damaged_before:
            advice = (
                "something answers in their place, but garbled: two servos may have the same id "
                "(wallx setup-motors gives each its own)."
            )
        raise UserError(
            f"{_names(silent)} {verb} not answer on {bus.port} while the others do: {advice}"
        )
    firmware: dict[str, list[int]] = {}
    for servo_id in SERVO_IDS:
        block = bus.read_block(servo_id, 0, reg.MODEL.address + reg.MODEL.size)
        model = block.value(reg.MODEL, 0)
        if model != reg.MODEL_NUMBER:
            raise UserError(
                f"{servo_name(servo_id)} on {bus.port} is model {model}, not an STS3215 "
                f"({reg.MODEL_NUMBER}): this driver cannot move it safely."
            )
        version = f"{block.value(reg.FIRMWARE_MAJOR, 0)}.{block.value(reg.FIRMWARE_MINOR, 0)}"
        firmware.setdefault(version, []).append(servo_id)
    if len(firmware) > 1 and not allow_mixed_firmware:
        held = "; ".join(f"{version} in {_names(ids)}" for version, ids in firmware.items())
        raise UserError(
            f"the servos on {bus.port} have different firmware ({held}) and may move differently: "
            "bring all to one version with Feetech's FD program, or set allow_mixed_firmware."
        )


def _damaged(bus: ServoBus) -> int:
    """How many replies so far were no whole packets."""
    return bus.counters["bad_checksum"] + bus.counters["garbage_bytes"]


def _names(servo_ids: Sequence[int]) -> str:
    return ", ".join(map(servo_name, servo_ids))


def check_calibration(bus: ServoBus, calibration: Calibration) -> None:
    """Check that the servos hold the numbers of this calibration file.

    Raises:
        UserError: The file is of another arm, or of an earlier calibration of this one.
    """
    for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True):
        joint = calibration.joints[name]
        block = bus.read_block(servo_id, _EEPROM_ADDRESS, _EEPROM_SIZE)
        for register, wanted in (
            (reg.HOMING_OFFSET, joint.homing_offset),
            (reg.MIN_POSITION, joint.range_min),
            (reg.MAX_POSITION, joint.range_max),
        ):
            held = block.value(register, _EEPROM_ADDRESS)
            if held != wanted:
                raise UserError(
                    f"{servo_name(servo_id)} holds {register.name} {held} but the calibration "
                    f"{calibration.source} says {wanted}: give the file that was written when this "
                    "arm was calibrated last, or calibrate it again."
                )


def differences(bus: ServoBus) -> list[Difference]:
    """Return every setting that is not as it should be."""
    found = []
    for servo_id in SERVO_IDS:
        eeprom = bus.read_block(servo_id, _EEPROM_ADDRESS, _EEPROM_SIZE)
        wanted = list(SETTINGS)
        if servo_id == SERVO_IDS[GRIPPER]:
            wanted += GRIPPER_SETTINGS
        phase = eeprom.value(reg.PHASE, _EEPROM_ADDRESS)
        wanted.append((reg.PHASE, phase & ~_PHASE_ANGLE_FEEDBACK))
        for register, value in wanted:
            if register.memory is Memory.EEPROM:
                held = eeprom.value(register, _EEPROM_ADDRESS)
            else:
                held = bus.read(servo_id, register)
            if held != value:
                found.append(Difference(servo_id, register, held, value))
    return found


def apply(bus: ServoBus, wanted: Iterable[Difference]) -> None:
    """Write settings and read each one back; only what differs, for the EEPROM's sake."""
    wanted = list(wanted)
    for servo_id in sorted({difference.servo_id for difference in wanted}):
        mine = [difference for difference in wanted if difference.servo_id == servo_id]
        eeprom = any(difference.register.memory is Memory.EEPROM for difference in mine)
        with _unlocked(bus, servo_id) if eeprom else contextlib.nullcontext():
            for difference in mine:
                bus.write(servo_id, difference.register, difference.wanted)


@contextlib.contextmanager
def _unlocked(bus: ServoBus, servo_id: int) -> Iterator[None]:
    """Let a servo keep what is written to its EEPROM."""
    bus.write(servo_id, reg.LOCK, 0)
    try:
        yield
    finally:
        bus.write(servo_id, reg.LOCK, 1)


def lock(bus: ServoBus) -> None:
    """Lock the EEPROM of servos that another program has left open."""
    for servo_id in SERVO_IDS:
        if bus.read(servo_id, reg.LOCK) != 1:
            bus.write(servo_id, reg.LOCK, 1)


def read_states(bus: ServoBus) -> tuple[ServoState, ...]:
    """Read what every servo is doing, in the order of SERVO_IDS."""
    return tuple(
        ServoState.from_reading(bus.read_block(servo_id, STATE_ADDRESS, STATE_SIZE))
        for servo_id in SERVO_IDS
    )


def read_ratings(bus: ServoBus) -> tuple[ServoRatings, ...]:
    """Read what each servo allows itself; the factory's values where a protection is off."""
    found = []
    for servo_id in SERVO_IDS:
        block = bus.read_block(servo_id, _EEPROM_ADDRESS, _EEPROM_SIZE)

        def held(register: Register, block: Reading = block) -> int:
            return block.value(register, _EEPROM_ADDRESS) or register.default

        found.append(
            ServoRatings(
                full_limit=block.value(reg.MAX_TORQUE, _EEPROM_ADDRESS),
                overload=OverloadRegisters(
                    held(reg.OVERLOAD_TORQUE) / 100,
                    held(reg.PROTECTION_TIME) * reg.PROTECTION_TIME_S,
                ),
                health=Ratings(
                    float(held(reg.MAX_TEMPERATURE)),
                    held(reg.MIN_VOLTAGE) * reg.VOLTAGE_V,
                    held(reg.MAX_VOLTAGE) * reg.VOLTAGE_V,
                ),
            )
        )
    return tuple(found)


def give_torque(
    bus: ServoBus, calibration: Calibration, states: Sequence[ServoState]
) -> tuple[int, ...]:
    """Switch a limp arm on where it is, with torque limit 0; returns the goals in ticks.

    The order matters: writing a goal switches the torque of an STS3215 on by itself, and whatever
    goal stands in it then becomes the target. What fails half way is switched off again.

    Args:
        bus: Open bus.
        calibration: The one in the servos.
        states: As just read, in the order of SERVO_IDS.

    Raises:
        UserError: A joint is so far outside its range that it would turn back, or moves.
        BusError: A servo failed.
    """
    goals = [
        _nearest_goal(servo_id, calibration.joints[name], state.present_ticks)
        for servo_id, name, state in zip(SERVO_IDS, JOINT_NAMES, states, strict=True)
    ]
    try:
        for servo_id in SERVO_IDS:
            bus.write(servo_id, reg.TORQUE_LIMIT, 0)
        for index, servo_id in enumerate(SERVO_IDS):
            present = bus.read(servo_id, reg.PRESENT_POSITION)
            moved_deg = _degrees(present - states[index].present_ticks)
            if abs(moved_deg) > _STILL_DEG:
                raise UserError(
                    f"{servo_name(servo_id)} moved by {moved_deg:.0f}° while it was to be switched "
                    "on: hold the arm still and ask again."
                )
            goals[index] = _nearest_goal(servo_id, calibration.joints[JOINT_NAMES[index]], present)
            bus.write(servo_id, reg.GOAL_POSITION, goals[index])
        for servo_id in SERVO_IDS:
            bus.write(servo_id, reg.TORQUE_ENABLE, 1)
    except (BusError, UserError):
        _let_go(bus, states)
        raise
    return tuple(goals)


def _nearest_goal(servo_id: int, joint: JointCalibration, present: int) -> int:
    """Return the position itself, or the end of the range that it rests a little beyond.

    A servo clamps goals to its range.
    """
    goal = min(max(present, joint.range_min), joint.range_max)
    beyond_deg = abs(_degrees(present - goal))
    if beyond_deg > _BEYOND_RANGE_DEG:
        raise UserError(
            f"{servo_name(servo_id)} stands {beyond_deg:.0f}° outside its calibrated range and "
            "would turn back there when it is switched on: move it back by hand, or calibrate the "
            "arm again."
        )
    return goal


def _let_go(bus: ServoBus, states: Sequence[ServoState]) -> None:
    """Leave servos that were switched on with limit 0 as they were found, where they answer."""
    for servo_id, state in zip(SERVO_IDS, states, strict=True):
        with contextlib.suppress(BusError):
            bus.write(servo_id, reg.TORQUE_ENABLE, 0)
            bus.write(servo_id, reg.TORQUE_LIMIT, state.torque_limit)


def _degrees(ticks: int) -> float:
    return ticks * 360.0 / reg.TICKS_PER_TURN
