"""Value types of the driver core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from so101_driver.driver_reasons import Reason
from so101_driver.overload_guard import GuardConfig
from so101_driver.registers import Register
from so101_driver.servo_health import HealthConfig, Strain

Array = NDArray[np.float64]


class DriverState(Enum):
    """What the driver does with commands."""

    ACTIVE = "active"
    HOLDING = "holding"
    FAULT = "fault"


class Refusal(Enum):
    """Why one command was not carried out; the value names its counter."""

    JOINTS = "refused_joints"
    NON_FINITE = "refused_non_finite"
    STALE = "refused_stale"
    FUTURE = "refused_future"
    ORDER = "refused_order"
    MULTIPLE_SOURCES = "refused_multiple_sources"
    FAULT = "refused_fault"
    ESTOP = "refused_estop"
    TORQUE = "refused_torque"
    DESYNC = "refused_desync"


class StartAction(Enum):
    """What an arm is found in, and so what is done with it."""

    ADOPT = "adopt"
    """It stands at its goal: take over without touching torque."""
    GIVE_TORQUE = "give torque"
    """It is limp: switch it on where it is."""
    FAULT = "fault"
    """Neither: leave it alone."""


class TorquePhase(Enum):
    """Torque as the driver wants it."""

    OFF = "off"
    RISING = "rising"
    ON = "on"
    FALLING = "falling"


@dataclass(frozen=True, slots=True, eq=False)
class DriverConfig:
    """Limits and times of the driver core.

    Attributes:
        position_limits_rad: [6, 2], the same as the safety layer's.
        max_speed_rad_s: [6], what goals may move by.
        command_max_age_s: Older commands are refused.
        command_max_future_s: How far a stamp may be ahead of the clock.
        command_timeout_s: Without a command for this long the driver reports that it holds.
        desync_rad: A command further from the last goal than this makes it hold.
        resync_rad: How near a command must come to end that.
        adopt_rad: How far from its goal a standing arm may hang (gripper apart).
        max_bad_cycles: Consecutive missing replies of one servo, while others answer, that are
            tolerated.
        bus_silence_s: How long all servos may be silent at once.
        torque_ramp_s: Time in which torque rises.
        release_s: Time in which ``driver/release`` lets the arm down.
        estop_acknowledge_s: Time that safety has to react to an estop before the driver freezes.
        guard: How far torque limits are lowered on servos that press too long.
        health: When heat and a wrong supply are acted upon.
    """

    position_limits_rad: Array
    max_speed_rad_s: Array
    command_max_age_s: float = 0.1
    command_max_future_s: float = 0.02
    command_timeout_s: float = 0.1
    desync_rad: float = 0.35
    resync_rad: float = 0.02
    adopt_rad: float = 0.25
    max_bad_cycles: int = 3
    bus_silence_s: float = 0.2
    torque_ramp_s: float = 0.5
    release_s: float = 3.0
    estop_acknowledge_s: float = 0.3
    guard: GuardConfig = field(default_factory=GuardConfig)
    health: HealthConfig = field(default_factory=HealthConfig)


@dataclass(frozen=True, slots=True)
class Write:
    """One register of all servos, to be written at once: ``{servo id: value}``."""

    register: Register
    values: Mapping[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """One message of ``joint_commands``.

    Attributes:
        names: Must be JOINT_NAMES, in their order.
        stamp_ns: ROS time of the tick it is for.
        position_rad: One per joint.
        velocity_rad_s: One per joint, or none.
    """

    names: tuple[str, ...]
    stamp_ns: int
    position_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What becomes of a command: a write, or the reason why there is none."""

    write: Write | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, eq=False)
class JointSample:
    """One cycle's measurement; NaN for a servo that did not answer.

    Attributes:
        stamp_ns: Steady time that no reading is older than.
        position_rad: [6].
        velocity_rad_s: [6].
    """

    stamp_ns: int
    position_rad: Array
    velocity_rad_s: Array


@dataclass(frozen=True, slots=True, eq=False)
class DriverSnapshot:
    """State of the driver core at a time; arrays are [6].

    Attributes:
        state: What it does.
        reason: Why; its sentence is empty while following with full force.
        torque_enabled: As last read from the servos; false until torque has risen to its limit.
        goal_rad: Goal registers, NaN while unknown.
        reading_age_s: Age of the last good position, infinite before the first.
        torque_limit: 0..1.
        limited: Joints of the arm (name, share of full torque) whose limit is lowered because they
            pressed too long. A gripper that grips is left out: its limit falls in every grasp.
        strains: Servos that are hot, or whose supply is too low or too high.
    """

    state: DriverState
    reason: Reason
    torque_enabled: tuple[bool, ...]
    goal_rad: Array
    reading_age_s: Array
    torque_limit: Array
    limited: tuple[tuple[str, float], ...] = ()
    strains: tuple[Strain, ...] = ()
