"""Value types of teleoperation; joint arrays are [6], in the order of JOINT_NAMES, in radians."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ClutchMode(Enum):
    """How engaging avoids a jump."""

    ALIGN = "align"
    """Refuses until leader and follower are close; what is left fades."""
    OFFSET = "offset"
    """Takes any distance, which fades."""
    RELATIVE = "relative"
    """Takes any distance, which stays."""


class TeleopState(Enum):
    """What the node does."""

    NO_LEADER = "NO_LEADER"
    """The leader cannot be read; nothing is sent."""
    DISENGAGED = "DISENGAGED"
    """The leader is read; nothing is sent."""
    TAKING_OVER = "TAKING_OVER"
    """Engaging: safety was asked to follow this source and comes to rest; nothing is sent."""
    WAITING_FOR_ARM = "WAITING_FOR_ARM"
    """Engaged while the follower is not armed: its own pose is sent."""
    FOLLOWING = "FOLLOWING"
    """The leader leads."""


ENGAGED = (TeleopState.TAKING_OVER, TeleopState.WAITING_FOR_ARM, TeleopState.FOLLOWING)


class SafetyState(Enum):
    """What the safety layer says it does."""

    UNKNOWN = "UNKNOWN"
    """It has not reported lately."""
    DISARMED = "DISARMED"
    HOLD = "HOLD"
    TRACKING = "TRACKING"
    STOPPING = "STOPPING"
    PARKING = "PARKING"
    ESTOP = "ESTOP"
    FAULT = "FAULT"


@dataclass(frozen=True, slots=True, eq=False)
class LeaderSample:
    """One complete reading of the leader.

    Attributes:
        stamp_ns: Steady time that no value is older than.
        position_rad: Joint angles by the leader's own calibration, the gripper in the follower's
            angles of 0 and 100 percent.
    """

    stamp_ns: int
    position_rad: Array


@dataclass(frozen=True, slots=True, eq=False)
class FollowerView:
    """What is known about the other arm and the safety layer.

    Attributes:
        pose_rad: Where the follower is commanded to be; before it is, its servos' goals, or where
            it is found. None while unknown.
        safety: What the safety layer does.
        source: Whose targets it follows; empty: the first that come.
        reason: Its sentence.
    """

    pose_rad: Array | None = None
    safety: SafetyState = SafetyState.UNKNOWN
    source: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TeleopSettings:
    """Settings of the core; see teleop_parameters for their meaning."""

    source: str = "teleop"
    align_rad: float = 0.2
    fade_rad_s: float = 0.3
    not_followed_s: float = 1.0


class EndCode(Enum):
    """Why an engagement was refused or ended; the value names its counter."""

    REQUEST = "ended_request"
    LEADER = "ended_leader"
    NO_SAFETY = "ended_no_safety"
    STOPPED = "ended_stopped"
    DISARMED = "ended_disarmed"
    PARKING = "ended_parking"
    OTHER_SOURCE = "ended_other_source"
    NOT_FOLLOWED = "ended_not_followed"
    NOT_TAKEN_OVER = "ended_not_taken_over"
    NO_POSE = "ended_no_pose"
    NOT_ALIGNED = "ended_not_aligned"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engagement has come to; ``code`` says why it ended, None while it lasts."""

    success: bool
    sentence: str
    code: EndCode | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one cycle asks the node to do.

    Attributes:
        target_rad: What to publish, or None.
        session: Number of the engagement it belongs to; a new one begins a new session of chunks.
        select_source: Whether safety is to be asked to follow this source.
        answer: To the newest request to engage, or the end of an engagement.
    """

    target_rad: Array | None
    session: int
    select_source: bool = False
    answer: Answer | None = None
