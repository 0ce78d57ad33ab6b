"""Why the driver does not follow: one code for programs and one sentence for people each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from so101_driver.readings import servo_name
from so101_driver.servo_health import Strain, Trouble


class ReasonCode(Enum):
    """Values of DriverStatus.reason_code."""

    NONE = ""
    """Following."""
    NOT_CONFIGURED = "NOT_CONFIGURED"
    NOT_ACTIVE = "NOT_ACTIVE"
    # Holding.
    TORQUE_OFF = "TORQUE_OFF"
    TORQUE_RAMP = "TORQUE_RAMP"
    ESTOP = "ESTOP"
    MULTIPLE_SOURCES = "MULTIPLE_SOURCES"
    DESYNC = "DESYNC"
    NO_COMMANDS = "NO_COMMANDS"
    # Following, with less force.
    TORQUE_LIMITED = "TORQUE_LIMITED"
    # Following, perhaps with less force; faults when they last.
    SERVO_HOT = "SERVO_HOT"
    SUPPLY_VOLTAGE = "SUPPLY_VOLTAGE"
    # Faults.
    SERVO_SILENT = "SERVO_SILENT"
    BUS_SILENT = "BUS_SILENT"
    POWER_CYCLED = "POWER_CYCLED"
    AT_START = "AT_START"
    """A standing arm that cannot be taken over as it is."""
    SETUP_FAILED = "SETUP_FAILED"
    """The servos could not be checked or set up when torque was asked for."""
    PORT_LOST = "PORT_LOST"
    INTERNAL = "INTERNAL"
    """The driver itself failed."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A code and its sentence, without a full stop."""

    code: ReasonCode
    sentence: str


FOLLOWING = Reason(ReasonCode.NONE, "")
NOT_CONFIGURED = Reason(
    ReasonCode.NOT_CONFIGURED, "the driver is not configured: see its log for what is missing"
)
NOT_ACTIVE = Reason(
    ReasonCode.NOT_ACTIVE, "the driver is not active: activate it, which opens the arm's port"
)
TORQUE_OFF = Reason(
    ReasonCode.TORQUE_OFF, "torque is off: call safety/arm, or driver/set_torque with data: true"
)
TORQUE_RISING = Reason(
    ReasonCode.TORQUE_RAMP, "torque is rising: commands are followed when it is up"
)
TORQUE_FALLING = Reason(
    ReasonCode.TORQUE_RAMP, "the arm is being let down: support it and wait until torque is off"
)
ESTOP = Reason(ReasonCode.ESTOP, "an emergency stop is latched: call safety/reset, then safety/arm")
MULTIPLE_SOURCES = Reason(
    ReasonCode.MULTIPLE_SOURCES,
    "joint_commands has more than one publisher: end all but the safety node",
)
DESYNC = Reason(
    ReasonCode.DESYNC,
    "a command was too far from where the servos hold: call safety/arm, which starts from there",
)
NO_COMMANDS = Reason(
    ReasonCode.NO_COMMANDS, "no commands come: call safety/arm, if the safety node runs"
)
BUS_MUTE = Reason(
    ReasonCode.BUS_SILENT, "no servo answers at the moment: goals are withheld until they do"
)
BUS_SILENT = Reason(
    ReasonCode.BUS_SILENT,
    "no servo answers any more: check the power supply and the cable, then call driver/set_torque",
)


def servo_silent(servo_ids: Sequence[int], implausible: bool = False) -> Reason:
    """Some servos stopped answering, or answer what cannot be true, while others do."""
    trouble = "stopped answering: check the cable and whether the servo is hot"
    if implausible:
        trouble = "moved faster than a servo can: check its cable and what pushes the arm"
    return Reason(
        ReasonCode.SERVO_SILENT, f"{_names(servo_ids)} {trouble}, then call driver/set_torque"
    )


def power_cycled(servo_ids: Sequence[int]) -> Reason:
    """Some servos lost their torque while the arm stands."""
    return Reason(
        ReasonCode.POWER_CYCLED,
        f"{_names(servo_ids)} came back with power-on registers (torque off) while the others "
        "hold: check the power supply, support the arm, call driver/release, then "
        "driver/set_torque",
    )


def other_goal(joint_name: str, degrees: float) -> Reason:
    """The arm behind a port that came back holds elsewhere than the one that was lost."""
    return Reason(
        ReasonCode.AT_START,
        f"the port is back, but the goal of {joint_name} is {degrees:.0f}° away from the last one "
        "written: if it is the same arm, call driver/set_torque to take it over as it stands",
    )


def port_lost(sentence: str) -> Reason:
    """The port is gone, or nobody behind it can be taken over yet."""
    return Reason(ReasonCode.PORT_LOST, sentence)


def far_from_goal(joint_name: str, degrees: float) -> Reason:
    """A standing arm hangs too far from its goals to be taken over."""
    return Reason(
        ReasonCode.AT_START,
        f"{joint_name} is {degrees:.0f}° away from the goal in its servo, so the arm is left as it "
        "is: support it, call driver/release, then driver/set_torque",
    )


def switched_on(servo_ids: Sequence[int]) -> Reason:
    """Servos of an arm that was let go have torque again."""
    has = "has" if len(servo_ids) == 1 else "have"
    return Reason(
        ReasonCode.AT_START,
        f"{_names(servo_ids)} {has} torque although the arm was let go, so it is left as it is: "
        "call driver/set_torque to take it over, or support it and call driver/release",
    )


def other_settings(difference: str) -> Reason:
    """A standing arm has other gains; changing them would let it sag or jerk."""
    return Reason(
        ReasonCode.AT_START,
        f"{difference} while the arm stands, which would move it if changed now: support the arm, "
        "call driver/release, then driver/set_torque",
    )


def torque_limited(shares: Sequence[tuple[str, float]]) -> Reason:
    """Joints (name, share of full torque) that press longer than their servos stand."""
    limited = " and ".join(f"{name}'s torque is limited to {share:.0%}" for name, share in shares)
    return Reason(
        ReasonCode.TORQUE_LIMITED,
        f"{limited} to spare the servo: free it or lead it back, and its torque rises again",
    )


def strained(strains: Sequence[Strain]) -> Reason:
    """Servos that are hot, or whose supply is too low or too high."""
    return Reason(_strain_code(strains[0]), "; ".join(map(strain_sentence, strains)))


def strain_sentence(strain: Strain) -> str:
    """Say what a servo suffers from, without a full stop."""
    left = "" if strain.torque_share == 1.0 else f", torque limited to {strain.torque_share:.0%}"
    if strain.trouble is Trouble.HOT:
        return (
            f"{strain.joint} is at {strain.value:.0f} °C and lets go at {strain.limit:.0f} °C"
            f"{left}: let it rest"
        )
    side = "low" if strain.trouble is Trouble.LOW_VOLTAGE else "high"
    return (
        f"{strain.joint}'s supply is {side} ({strain.value:.1f} V, its limit {strain.limit:.1f} V)"
        f"{left}: check the power supply"
    )


def exhausted(strain: Strain) -> Reason:
    """A servo has been at its limit for too long: the arm stops moving before it lets go."""
    return Reason(
        _strain_code(strain),
        f"{strain_sentence(strain)}; the arm holds: support it or let it down (driver/release), "
        "and call driver/set_torque when that is over",
    )


def _strain_code(strain: Strain) -> ReasonCode:
    hot = strain.trouble is Trouble.HOT
    return ReasonCode.SERVO_HOT if hot else ReasonCode.SUPPLY_VOLTAGE


def _names(servo_ids: Sequence[int]) -> str:
    return " and ".join(map(servo_name, servo_ids))
