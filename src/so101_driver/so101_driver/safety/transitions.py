"""Every change of state or reason of the safety layer, as data.

`docs/states.md` is generated from this. Tests drive every row, and fuzzing allows no other change.
"""

from __future__ import annotations

from dataclasses import dataclass

from so101_driver.safety.reasons import ReasonCode as Code
from so101_driver.safety.types import State


@dataclass(frozen=True, slots=True)
class Transition:
    """Changes to one state on one condition.

    Attributes:
        before: States in which they begin.
        after: State in which they end; the same where only the reason changes.
        codes: Reason codes that they have; with several, each stands for its own condition.
        when: Event or condition.
        arm: What the arm does from then on.
    """

    before: tuple[State, ...]
    after: State
    codes: tuple[Code, ...]
    when: str
    arm: str


DISARMED, HOLD, TRACKING, STOPPING, PARKING, ESTOP, FAULT = State
_ARMED = (HOLD, TRACKING, STOPPING, PARKING)
_AS_BEFORE = "as before: safety commands nothing"
_BRAKES = "brakes within the limits"
_HOLDS = "holds"
_LATCHED = "brakes within the limits, then holds with torque until `reset`"

TRANSITIONS = (
    # Arming.
    Transition(
        (DISARMED,),
        DISARMED,
        (
            Code.INPUT_NOT_HEARD,
            Code.JOINT_STATES,
            Code.DRIVER_SILENT,
            Code.DRIVER_NOT_READY,
            Code.CLOCK_SKEW,
            Code.GOAL_UNKNOWN,
            Code.START_POSE,
            Code.SUPPLY_VOLTAGE,
        ),
        "`arm` is refused, or cannot go on",
        _AS_BEFORE,
    ),
    Transition(
        (DISARMED,), DISARMED, (Code.WAITING_FOR_TORQUE,), "`arm`, and torque is off", _AS_BEFORE
    ),
    Transition(
        (DISARMED,),
        DISARMED,
        (Code.TORQUE_REFUSED,),
        "the driver refuses torque, or has none on after 6 s",
        _AS_BEFORE,
    ),
    Transition(
        (DISARMED,),
        DISARMED,
        (Code.WAITING_FOR_CHUNKS,),
        "`arm:=auto`, everything is ready, but nobody sends chunks",
        _AS_BEFORE,
    ),
    Transition(
        (DISARMED,),
        HOLD,
        (Code.ARMED,),
        "`arm`, and everything is ready",
        "holds where the servos' goals are",
    ),
    # Chunks.
    Transition(
        (HOLD,),
        HOLD,
        (
            Code.CHUNK_BAD,
            Code.CHUNK_STALE,
            Code.CHUNK_SOURCE,
            Code.CHUNK_CLOCK,
            Code.DEADMAN,
            Code.JOINT_BLOCKED,
        ),
        "a chunk is refused",
        _HOLDS,
    ),
    Transition((HOLD, STOPPING), TRACKING, (Code.FOLLOWING,), "a good chunk", "follows it"),
    Transition(
        (TRACKING,),
        STOPPING,
        (Code.CHUNK_STALE,),
        "the newest chunk gets older than its timeout",
        _BRAKES,
    ),
    Transition((TRACKING,), STOPPING, (Code.CLOCK_JUMP,), "ROS time jumps", _BRAKES),
    Transition((TRACKING,), STOPPING, (Code.SOURCE_CHANGED,), "`select_source`", _BRAKES),
    # Contact, deadman, operator.
    Transition(
        (TRACKING, PARKING),
        STOPPING,
        (Code.JOINT_BLOCKED,),
        "a joint hangs too far behind its command",
        _BRAKES,
    ),
    Transition((HOLD,), HOLD, (Code.JOINT_BLOCKED,), "a joint is pushed away", _HOLDS),
    Transition((HOLD,), HOLD, (Code.JOINT_FREED,), "a blocked joint follows again", _HOLDS),
    Transition(
        (TRACKING, PARKING),
        STOPPING,
        (Code.DEADMAN,),
        "the deadman switch is released or silent",
        _BRAKES,
    ),
    Transition(
        (TRACKING, STOPPING, PARKING),
        STOPPING,
        (Code.MODE_CHANGED,),
        "`set_mode` to the same or a lower mode",
        _BRAKES,
    ),
    Transition((TRACKING, STOPPING, PARKING), STOPPING, (Code.DISARMED,), "`disarm`", _BRAKES),
    Transition(
        (STOPPING,),
        HOLD,
        (
            Code.CHUNK_STALE,
            Code.CLOCK_JUMP,
            Code.SOURCE_CHANGED,
            Code.JOINT_BLOCKED,
            Code.DEADMAN,
            Code.MODE_CHANGED,
            Code.RETURNED,
            Code.MOVE_TIMEOUT,
        ),
        "at rest",
        _HOLDS,
    ),
    Transition(
        (STOPPING,),
        DISARMED,
        (
            Code.DISARMED,
            Code.PARKED,
            Code.JOINT_BLOCKED,
            Code.DEADMAN,
            Code.MODE_CHANGED,
            Code.MOVE_TIMEOUT,
        ),
        "at rest, after `disarm` or `park`, also when parking was cut short",
        "the servos hold; safety commands nothing",
    ),
    Transition(
        (DISARMED, HOLD),
        DISARMED,
        (Code.DISARMED,),
        "`disarm`",
        "the servos hold; safety commands nothing",
    ),
    Transition((DISARMED,), DISARMED, (Code.MODE_CHANGED,), "`set_mode`", _AS_BEFORE),
    Transition((HOLD,), HOLD, (Code.MODE_CHANGED,), "`set_mode`", _HOLDS),
    Transition(
        (HOLD,),
        DISARMED,
        (Code.MODE_CHANGED,),
        "`set_mode` from SHADOW, whose commands never reached the arm",
        "the servos hold; safety commands nothing",
    ),
    # Planned motion.
    Transition(
        (*_ARMED,), PARKING, (Code.PARKING,), "`park`", "brakes, then goes to the rest pose"
    ),
    Transition((HOLD,), PARKING, (Code.RETURNING,), "`return`", "goes to the ready pose"),
    Transition((PARKING,), STOPPING, (Code.PARKED,), "the arm is in its rest pose", _HOLDS),
    Transition((PARKING,), STOPPING, (Code.RETURNED,), "the arm is in its ready pose", _HOLDS),
    Transition(
        (PARKING,), STOPPING, (Code.MOVE_TIMEOUT,), "parking or returning takes over 8 s", _BRAKES
    ),
    # What ends everything.
    Transition(
        _ARMED,
        DISARMED,
        (Code.DRIVER_NOT_FOLLOWING,),
        "the driver reports DESYNC or torque off, or holds for 1 s (not in SHADOW)",
        "the servos hold; safety commands nothing",
    ),
    Transition(
        (DISARMED, *_ARMED, FAULT), ESTOP, (Code.ESTOP,), "`estop`, topic or service", _LATCHED
    ),
    Transition(
        _ARMED,
        FAULT,
        (Code.JOINT_STATES,),
        "no good joint states for 0.2 s",
        _LATCHED,
    ),
    Transition(_ARMED, FAULT, (Code.JOINT_JUMPED,), "a joint is measured to jump", _LATCHED),
    Transition(
        _ARMED,
        FAULT,
        (Code.DRIVER_SILENT,),
        "the driver has not reported for 1 s (not in SHADOW)",
        _LATCHED,
    ),
    Transition(
        _ARMED,
        FAULT,
        (Code.DRIVER_NOT_READY,),
        "the driver is in a fault or not active (not in SHADOW)",
        _LATCHED,
    ),
    Transition((ESTOP, FAULT), DISARMED, (Code.RESET,), "`reset` at rest", _AS_BEFORE),
)

_ALLOWED = frozenset(
    (before, row.after, code) for row in TRANSITIONS for before in row.before for code in row.codes
)


def allowed(before: State, after: State, code: Code) -> bool:
    """Whether the table has a change from one state to another for this reason."""
    return (before, after, code) in _ALLOWED


def all_changes() -> frozenset[tuple[State, State, Code]]:
    """Every change that the table allows."""
    return _ALLOWED
