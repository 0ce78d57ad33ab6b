"""Values that go into and come out of the safety core; the words are those of wallx_msgs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from so101_driver.safety.reasons import ReasonCode

Array = NDArray[np.float64]


class State(IntEnum):
    """What the safety layer is doing; values of SafetyStatus.state."""

    DISARMED = 1
    HOLD = 2
    TRACKING = 3
    STOPPING = 4
    PARKING = 5
    ESTOP = 6
    FAULT = 7


class Mode(IntEnum):
    """How far chunks reach the arm, in ascending order; values of SafetyStatus.mode."""

    SHADOW = 1
    SCALED = 2
    FULL = 3


class Limit(IntFlag):
    """Limits and guards that can act; bits of SafetyStatus.active_limits."""

    POSITION = 1
    VELOCITY = 2
    ACCELERATION = 4
    JERK = 8
    WORKSPACE = 16
    TABLE = 32
    SELF_COLLISION = 64
    STALE_CHUNK = 128
    STALE_STATE = 256
    BAD_CHUNK = 512
    OTHER_SOURCE = 1024
    JOINT_BLOCKED = 2048
    TRACKING_MARGIN = 4096
    DESYNC = 8192
    CLOCK = 16384
    SUPPLY = 32768


class ActionKind(IntEnum):
    """What the points of a chunk are; values of ActionChunk.action_kind."""

    UNKNOWN = 0
    GOAL = 1
    STATE = 2


class Blend(Enum):
    """How overlapping chunks become one reference."""

    LATEST = "latest"
    ENSEMBLE = "ensemble"
    HALF = "half"


class DriverState(IntEnum):
    """Values of DriverStatus.state."""

    UNKNOWN = 0
    UNCONFIGURED = 1
    INACTIVE = 2
    ACTIVE = 3
    HOLDING = 4
    FAULT = 5


@dataclass(frozen=True, slots=True)
class JointReading:
    """One measurement of all joints.

    Attributes:
        positions_rad: One per joint; NaN marks a joint that did not answer.
        stamp_ns: ROS time of the measurement.
        received_ns: Steady time of its arrival.
    """

    positions_rad: tuple[float, ...]
    stamp_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class DriverReading:
    """What driver/status said last.

    Attributes:
        state: The driver's state.
        reason: Its own words.
        torque_on: One per joint.
        goal_rad: Goal register of each joint; NaN while unknown.
        desync: Whether it holds because a command was too far from its goal.
        voltage_v: Supply voltage at each servo; NaN while unknown.
        received_ns: Steady time of its arrival.
    """

    state: DriverState
    reason: str
    torque_on: tuple[bool, ...]
    goal_rad: tuple[float, ...]
    desync: bool
    received_ns: int
    voltage_v: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ArmState:
    """Everything known about the arm when a step begins; None where nothing was heard yet.

    Attributes:
        joints: Newest measurement; the same one may be given again.
        driver: Newest driver status; likewise.
        input_problem: A sentence when an input of the safety layer is not trustworthy (for example
            an emergency stop that no publisher's settings can reach); refuses arming.
    """

    joints: JointReading | None = None
    driver: DriverReading | None = None
    input_problem: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """An ActionChunk as received, unchecked: anything may be wrong with it.

    Attributes:
        stamp_ns: ROS time of the observation.
        source: Publisher's name.
        session: Random per activation of the publisher.
        sequence: Counts up within a session.
        joint_names: Columns of the points.
        points_rad: One sequence of positions per point.
        offsets_ns: time_from_start of each point.
        image_age_s: Point i is due at stamp + image_age_s + offset i.
        action_kind: Value of ActionChunk.action_kind.
        committed_steps: Leading points that the policy has promised not to change.
        observation_to_publish_s: Age of the observation when the chunk was sent, by the sender's
            clock; NaN where it is not known.
        received_ros_ns: ROS time of its arrival; None takes the tick's, which may be up to a period
            earlier.
    """

    stamp_ns: int
    source: str
    session: int
    sequence: int
    joint_names: tuple[str, ...]
    points_rad: Sequence[Sequence[float]]
    offsets_ns: tuple[int, ...]
    image_age_s: float
    action_kind: int
    committed_steps: int = 0
    observation_to_publish_s: float = math.nan
    received_ros_ns: int | None = None


class EventKind(Enum):
    """What an operator, a button or the node asks for."""

    ARM = "arm"
    DISARM = "disarm"
    ESTOP = "estop"
    RESET = "reset"
    PARK = "park"
    RETURN = "return"
    SET_MODE = "set_mode"
    SELECT_SOURCE = "select_source"
    DEADMAN = "deadman"
    TORQUE_REFUSED = "torque_refused"


@dataclass(frozen=True, slots=True)
class OperatorEvent:
    """One request; ``number`` names it in the results.

    Attributes:
        kind: What is asked.
        number: Chosen by the caller; 0 when nobody waits for the result.
        mode: For SET_MODE.
        scale: For SET_MODE; 0 keeps the present one.
        text: Source for SELECT_SOURCE, the driver's answer for TORQUE_REFUSED.
        pressed: For DEADMAN.
    """

    kind: EventKind
    number: int = 0
    mode: Mode | None = None
    scale: float = 0.0
    text: str = ""
    pressed: bool = False


@dataclass(frozen=True, slots=True)
class EventResult:
    """The answer to an OperatorEvent; arming answers when it is done, the rest at once."""

    number: int
    success: bool
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the state, or of the reason for it."""

    before: State
    after: State
    code: ReasonCode


class Output(Enum):
    """Where a step's command goes."""

    NONE = "none"
    COMMANDS = "joint_commands"
    SHADOW = "shadow_commands"


@dataclass(frozen=True, slots=True)
class Command:
    """Result of one step.

    Attributes:
        tick: As given to the step.
        output: Where the positions are to be published.
        positions_rad: Commanded positions; None before the first arming.
        velocities_rad_s: Finite difference of successive commands.
        state: State after the step.
        mode: Mode after the step.
        active_limits: Limits that acted in this step.
        request_torque: Ask the driver for torque now; true once per arming.
        results: Answers to events of this or earlier steps.
        changes: Every change of state or reason in this step, in order.
    """

    tick: int
    output: Output
    positions_rad: Array | None
    velocities_rad_s: Array | None
    state: State
    mode: Mode
    active_limits: Limit
    request_torque: bool
    results: tuple[EventResult, ...]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """What SafetyStatus tells, loop timing apart; NaN where nothing is known yet.

    ``mode_s`` is the time spent following chunks in each mode.
    """

    state: State
    mode: Mode
    scale: float
    source: str
    reason: str
    active_limits: Limit
    counts: Mapping[Limit, int]
    chunk_age_s: float
    clock_skew_s: float
    intent_clipped: float
    missed_ticks: int
    reason_code: str = ""
    following_error_rad: tuple[float, ...] = ()
    path_rate: float = 1.0
    clearance_m: float = math.nan
    clearance_name: str = ""
    servo_part: str = ""
    mode_s: Mapping[Mode, float] = field(default_factory=dict)
