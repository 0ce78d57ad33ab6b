"""Between ROS messages and the safety core's values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState

from so101_driver.safety import (
    Chunk,
    DriverReading,
    DriverState,
    JointReading,
    Mode,
    Status,
)
from wallx_msgs.msg import ActionChunk, DriverStatus, LimitCount, SafetyStatus

DESYNC_CODE = "DESYNC"
"""The driver's reason code when a command was too far from its goal."""


def stamp_ns(stamp: Time) -> int:
    """Nanoseconds of a message's time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_message(time_ns: int) -> Time:
    """A message's time from nanoseconds."""
    return Time(sec=int(time_ns // 1_000_000_000), nanosec=int(time_ns % 1_000_000_000))


def joint_reading(
    message: JointState, joint_names: tuple[str, ...], received_ns: int
) -> JointReading | None:
    """A measurement in the arm's order of joints; NaN for a joint that the message lacks.

    None for a message about other joints only.
    """
    positions = tuple(message.position)
    names = tuple(message.name)
    if names != joint_names:
        by_name = dict(zip(names, positions, strict=False))
        if names and not any(name in by_name for name in joint_names):
            return None
        positions = tuple(by_name.get(name, math.nan) for name in joint_names)
    return JointReading(positions, stamp_ns(message.header.stamp), received_ns)


def driver_reading(message: DriverStatus, received_ns: int) -> DriverReading:
    """What the driver says about itself."""
    try:
        state = DriverState(message.state)
    except ValueError:
        state = DriverState.UNKNOWN
    return DriverReading(
        state=state,
        reason=message.reason,
        torque_on=tuple(message.torque_enabled),
        goal_rad=tuple(message.goal_position),
        desync=message.reason_code == DESYNC_CODE,
        received_ns=received_ns,
        voltage_v=tuple(message.voltage_v),
    )


def chunk(message: ActionChunk, received_ros_ns: int) -> Chunk:
    """A chunk, unchecked, with the ROS time at which it came."""
    points = message.trajectory.points
    return Chunk(
        stamp_ns=stamp_ns(message.header.stamp),
        source=message.source,
        session=message.session,
        sequence=message.sequence,
        joint_names=tuple(message.trajectory.joint_names),
        points_rad=[point.positions for point in points],
        offsets_ns=tuple(stamp_ns(point.time_from_start) for point in points),
        image_age_s=message.image_age_s,
        action_kind=message.action_kind,
        committed_steps=message.committed_steps,
        observation_to_publish_s=message.observation_to_publish_s,
        received_ros_ns=received_ros_ns,
    )


def mode(number: int) -> Mode | None:
    """A mode from a request, or None."""
    try:
        return Mode(number)
    except ValueError:
        return None


def status_message(status: Status, periods_s: Sequence[float], time_ns: int) -> SafetyStatus:
    """The status; ``periods_s`` are median, 99th percentile and maximum of the loop's periods."""
    message = SafetyStatus(
        state=int(status.state),
        mode=int(status.mode),
        scale=float(status.scale),
        source=status.source,
        reason=status.reason,
        active_limits=int(status.active_limits),
        limit_counts=[
            LimitCount(bit=int(limit), name=str(limit.name), count=int(count))
            for limit, count in status.counts.items()
        ],
        chunk_age_s=float(status.chunk_age_s),
        clock_skew_s=float(status.clock_skew_s),
        intent_clipped=float(status.intent_clipped),
        loop_period_p50_s=periods_s[0],
        loop_period_p99_s=periods_s[1],
        loop_period_max_s=periods_s[2],
        missed_ticks=int(status.missed_ticks),
        reason_code=status.reason_code,
        following_error=[float(error) for error in status.following_error_rad],
        path_rate=float(status.path_rate),
        clearance_m=float(status.clearance_m),
        clearance_name=status.clearance_name,
        servo_part=status.servo_part,
        shadow_s=float(status.mode_s.get(Mode.SHADOW, 0.0)),
        scaled_s=float(status.mode_s.get(Mode.SCALED, 0.0)),
        full_s=float(status.mode_s.get(Mode.FULL, 0.0)),
    )
    message.header.stamp = stamp_message(time_ns)
    return message
