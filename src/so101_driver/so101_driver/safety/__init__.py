"""The safety/interpolator layer: turns chunks into commands that the arm may always execute."""

from so101_driver.safety.limits import Limits, effective_limits
from so101_driver.safety.reasons import ReasonCode
from so101_driver.safety.settings import Settings
from so101_driver.safety.supervisor import Supervisor
from so101_driver.safety.types import (
    ActionKind,
    ArmState,
    Blend,
    Change,
    Chunk,
    Command,
    DriverReading,
    DriverState,
    EventKind,
    EventResult,
    JointReading,
    Limit,
    Mode,
    OperatorEvent,
    Output,
    State,
    Status,
)

__all__ = [
    "ActionKind",
    "ArmState",
    "Blend",
    "Change",
    "Chunk",
    "Command",
    "DriverReading",
    "DriverState",
    "EventKind",
    "EventResult",
    "JointReading",
    "Limit",
    "Limits",
    "Mode",
    "OperatorEvent",
    "Output",
    "ReasonCode",
    "Settings",
    "State",
    "Status",
    "Supervisor",
    "effective_limits",
]
