"""What is done with the six servos before and when torque is given; every write is read back.

These steps take tens of milliseconds each and run while the arm is not following commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from so101_driver import registers as reg
from so101_driver.bus import ServoBus
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS
from so101_driver.overload_guard import OverloadRegisters
from so101_driver.readings import STATE_ADDRESS, STATE_SIZE, ServoState, servo_name
from so101_driver.registers import Memory, Register

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


def identify(bus: ServoBus) -> None:
    """Check that six STS3215 answer.

    Raises:
        UserError: Names the silent servos, or one of another model.
    """
    silent = [servo_id for servo_id in SERVO_IDS if not bus.ping(servo_id)]
    if len(silent) == len(SERVO_IDS):
        raise UserError(
            f"no servo answers on {bus.port}: switch the arm's power supply on and check the cable "
            "between the bus adapter and the first servo."
        )
    if silent:
        names = ", ".join(servo_name(servo_id) for servo_id in silent)
        verb = "does" if len(silent) == 1 else "do"
        raise UserError(
            f"{names} {verb} not answer on {bus.port} while the others do: check the cable that "
            "leads there, then its id and baud rate."
        )
    for servo_id in SERVO_IDS:
        model = bus.read(servo_id, reg.MODEL)
        if model != reg.MODEL_NUMBER:
            raise UserError(
                f"{servo_name(servo_id)} on {bus.port} is model {model}, not an STS3215 "
                f"({reg.MODEL_NUMBER}): this driver cannot move it safely."
            )


def check_calibration(bus: ServoBus, calibration: Calibration) -> None:
    """Check that the servos hold the numbers of this calibration file.

    Raises:
        UserError: The file is of another arm, or of an earlier calibration of this one.
    """
    for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True):
        joint = calibration.joints[name]
        for register, wanted in (
            (reg.HOMING_OFFSET, joint.homing_offset),
            (reg.MIN_POSITION, joint.range_min),
            (reg.MAX_POSITION, joint.range_max),
        ):
            held = bus.read(servo_id, register)
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
        wanted = list(SETTINGS)
        if servo_id == SERVO_IDS[GRIPPER]:
            wanted += GRIPPER_SETTINGS
        wanted.append((reg.PHASE, bus.read(servo_id, reg.PHASE) & ~_PHASE_ANGLE_FEEDBACK))
        for register, value in wanted:
            held = bus.read(servo_id, register)
            if held != value:
                found.append(Difference(servo_id, register, held, value))
    return found


def apply(bus: ServoBus, wanted: Iterable[Difference]) -> None:
    """Write settings and read each one back; only what differs, for the EEPROM's sake."""
    wanted = list(wanted)
    for servo_id in {difference.servo_id for difference in wanted}:
        mine = [difference for difference in wanted if difference.servo_id == servo_id]
        unlock = any(difference.register.memory is Memory.EEPROM for difference in mine)
        if unlock:
            bus.write(servo_id, reg.LOCK, 0)
        for difference in mine:
            bus.write(servo_id, difference.register, difference.wanted)
        if unlock:
            bus.write(servo_id, reg.LOCK, 1)


def read_states(bus: ServoBus) -> tuple[ServoState, ...]:
    """Read what every servo is doing, in the order of SERVO_IDS."""
    return tuple(
        ServoState.from_reading(bus.read_block(servo_id, STATE_ADDRESS, STATE_SIZE))
        for servo_id in SERVO_IDS
    )


def read_torque_limits(bus: ServoBus) -> tuple[int, ...]:
    """Return each servo's own largest torque, 0..1000: what its limit is after power-on."""
    return tuple(bus.read(servo_id, reg.MAX_TORQUE) for servo_id in SERVO_IDS)


def read_overload(bus: ServoBus) -> tuple[OverloadRegisters, ...]:
    """Return what each servo's own protection is set to; the factory's where it is switched off."""
    address = reg.PROTECTION_TIME.address
    found = []
    for servo_id in SERVO_IDS:
        block = bus.read_block(servo_id, address, 2)
        percent = block.value(reg.OVERLOAD_TORQUE, address) or reg.OVERLOAD_TORQUE.default
        time = block.value(reg.PROTECTION_TIME, address) or reg.PROTECTION_TIME.default
        found.append(OverloadRegisters(percent / 100, time * reg.PROTECTION_TIME_S))
    return tuple(found)


def give_torque(bus: ServoBus, calibration: Calibration) -> tuple[int, ...]:
    """Switch a limp arm on where it is, with torque limit 0; returns the goals in ticks.

    The order matters: writing a goal switches the torque of an STS3215 on by itself, and whatever
    goal stands in it then becomes the target.
    """
    for servo_id in SERVO_IDS:
        bus.write(servo_id, reg.TORQUE_LIMIT, 0)
    goals = []
    for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True):
        joint = calibration.joints[name]
        present = bus.read(servo_id, reg.PRESENT_POSITION)
        # The servo clamps goals to its range; an arm may rest a little beyond it.
        goal = min(max(present, joint.range_min), joint.range_max)
        bus.write(servo_id, reg.GOAL_POSITION, goal)
        goals.append(goal)
    for servo_id in SERVO_IDS:
        bus.write(servo_id, reg.TORQUE_ENABLE, 1)
    return tuple(goals)
