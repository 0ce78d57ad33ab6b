"""Every change of state or reason of the driver, as data; `docs/states.md` is generated from it."""

from __future__ import annotations

from dataclasses import dataclass

from so101_driver.driver_reasons import ReasonCode as Code
from so101_driver.safety.types import DriverState


@dataclass(frozen=True, slots=True)
class DriverTransition:
    """Changes to one state on one condition; as safety's ``Transition``."""

    before: tuple[DriverState, ...]
    after: DriverState
    codes: tuple[Code, ...]
    when: str
    arm: str


_UNKNOWN, UNCONFIGURED, INACTIVE, ACTIVE, HOLDING, FAULT = DriverState
_HOLDS = "holds its last goal"
_FOLLOWS = "follows `joint_commands`"

DRIVER_TRANSITIONS = (
    DriverTransition(
        (UNCONFIGURED,), INACTIVE, (Code.NOT_ACTIVE,), "configured", "as before: no port is open"
    ),
    DriverTransition((INACTIVE,), UNCONFIGURED, (Code.NOT_CONFIGURED,), "cleaned up", "as before"),
    DriverTransition((ACTIVE, HOLDING, FAULT), INACTIVE, (Code.NOT_ACTIVE,), "deactivated", _HOLDS),
    DriverTransition(
        (INACTIVE, FAULT),
        HOLDING,
        (Code.NO_COMMANDS,),
        "activated, or `set_torque` after a fault: the arm stands at its goals",
        "holds; nothing was written",
    ),
    DriverTransition(
        (INACTIVE, FAULT, HOLDING),
        HOLDING,
        (Code.TORQUE_RAMP,),
        "activated, or `set_torque`: the arm is limp",
        "gets torque slowly, where it is",
    ),
    DriverTransition(
        (INACTIVE, FAULT, HOLDING),
        FAULT,
        (Code.AT_START, Code.POWER_CYCLED),
        "activated, or `set_torque`: the arm stands far from its goals, has other gains, or is "
        "partly limp",
        "is left as it is",
    ),
    DriverTransition(
        (HOLDING,),
        FAULT,
        (Code.AT_START,),
        "servos of an arm that was let go have torque again: somebody else has switched them on",
        "is left as it is",
    ),
    DriverTransition(
        (FAULT, HOLDING),
        FAULT,
        (Code.SETUP_FAILED,),
        "`set_torque`: the servos cannot be set up",
        "is left as it is",
    ),
    DriverTransition((HOLDING,), ACTIVE, (Code.NONE,), "a good command", _FOLLOWS),
    DriverTransition(
        (ACTIVE, HOLDING),
        ACTIVE,
        (Code.TORQUE_LIMITED,),
        "a servo has pressed longer than it stands",
        f"{_FOLLOWS}, with less torque in that servo",
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        ACTIVE,
        (Code.SERVO_HOT, Code.SUPPLY_VOLTAGE),
        "a servo comes within 10 °C of its Max_Temperature, or within 0.3 V of its voltage limits",
        f"{_FOLLOWS}; from 6 °C on, or with a low voltage, with less torque in that servo",
    ),
    DriverTransition(
        (ACTIVE,), ACTIVE, (Code.NONE,), "that servo has rested, or its supply is good", _FOLLOWS
    ),
    DriverTransition(
        (ACTIVE, HOLDING), HOLDING, (Code.NO_COMMANDS,), "commands stop, or did not begin", _HOLDS
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        HOLDING,
        (Code.DESYNC,),
        "a command is further than `desync_rad` from the goal",
        _HOLDS,
    ),
    DriverTransition(
        (ACTIVE, HOLDING, FAULT),
        HOLDING,
        (Code.MULTIPLE_SOURCES,),
        "`joint_commands` has a second publisher",
        _HOLDS,
    ),
    DriverTransition(
        (ACTIVE, HOLDING, FAULT),
        HOLDING,
        (Code.ESTOP,),
        "`estop`, and safety has stopped, is silent, or goes on as if nothing were",
        _HOLDS,
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        HOLDING,
        (Code.TORQUE_RAMP,),
        "`release`, or `set_torque` with false",
        "goes limp slowly",
    ),
    DriverTransition(
        (HOLDING, INACTIVE, FAULT), HOLDING, (Code.TORQUE_OFF,), "torque is gone", "is limp"
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        FAULT,
        (Code.SERVO_SILENT,),
        "one servo is silent for more than three cycles while others answer",
        _HOLDS,
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        HOLDING,
        (Code.BUS_SILENT,),
        "all servos are silent for 0.1 s while commands come, which are withheld",
        _HOLDS,
    ),
    DriverTransition(
        (ACTIVE, HOLDING), FAULT, (Code.BUS_SILENT,), "all servos are silent for 0.2 s", _HOLDS
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        FAULT,
        (Code.POWER_CYCLED,),
        "a servo that should hold has no torque",
        "holds with the other servos",
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        FAULT,
        (Code.SERVO_HOT, Code.SUPPLY_VOLTAGE),
        "a servo stays within 2 °C of its Max_Temperature for 10 s, or outside its voltage limits "
        "for 2 s",
        _HOLDS,
    ),
    DriverTransition(
        (FAULT,),
        FAULT,
        (Code.POWER_CYCLED,),
        "servos that had fallen silent come back without torque",
        "holds with the other servos",
    ),
    DriverTransition(
        (ACTIVE, HOLDING, FAULT),
        FAULT,
        (Code.PORT_LOST,),
        "the port is gone (the cable is unplugged)",
        "holds its last goal; the driver tries to open the port twice a second",
    ),
    DriverTransition(
        (FAULT,),
        HOLDING,
        (Code.NO_COMMANDS, Code.TORQUE_OFF, Code.TORQUE_RAMP),
        "the port is back, and the arm stands (or is limp) as it was left",
        "goes on holding, or with the torque's rise or fall that was cut short",
    ),
    DriverTransition(
        (FAULT,),
        FAULT,
        (
            Code.AT_START,
            Code.POWER_CYCLED,
            Code.SETUP_FAILED,
            Code.SERVO_SILENT,
            Code.BUS_SILENT,
            Code.SERVO_HOT,
            Code.SUPPLY_VOLTAGE,
        ),
        "the port is back, but the arm is not as it was left, or there was a fault before",
        "is left as it is",
    ),
    DriverTransition(
        (ACTIVE, HOLDING),
        FAULT,
        (Code.INTERNAL,),
        "the servo loop fails; the node ends",
        _HOLDS,
    ),
)

_ALLOWED = frozenset(
    (before, row.after, code)
    for row in DRIVER_TRANSITIONS
    for before in row.before
    for code in row.codes
)


def driver_allowed(before: DriverState, after: DriverState, code: Code) -> bool:
    """Whether the table has a change from one state to another for this reason."""
    return (before, after, code) in _ALLOWED
