"""What the teleoperation loop knows about the follower and the safety layer."""

from __future__ import annotations

import time

import numpy as np
from sensor_msgs.msg import JointState

from so101_driver.joints import JOINT_NAMES
from so101_driver.nodes.node_base import NodeBase, best_effort, latched
from so101_driver.nodes.polled import PolledSubscription
from so101_driver.nodes.safety_messages import joint_reading
from so101_driver.teleop_types import Array, FollowerView, SafetyState
from wallx_msgs.msg import DriverStatus, SafetyStatus

_STREAM_AGE_NS = 200_000_000
"""Commands and measurements come at 100 Hz."""
_STATUS_AGE_NS = 1_000_000_000
"""Reports come at 10 Hz."""

_STATES = {
    SafetyStatus.STATE_DISARMED: SafetyState.DISARMED,
    SafetyStatus.STATE_HOLD: SafetyState.HOLD,
    SafetyStatus.STATE_TRACKING: SafetyState.TRACKING,
    SafetyStatus.STATE_STOPPING: SafetyState.STOPPING,
    SafetyStatus.STATE_PARKING: SafetyState.PARKING,
    SafetyStatus.STATE_ESTOP: SafetyState.ESTOP,
    SafetyStatus.STATE_FAULT: SafetyState.FAULT,
}


class TeleopInputs:
    """Newest messages about the follower, taken by the loop itself."""

    def __init__(self, node: NodeBase) -> None:
        self._commands = _Newest(node, JointState, "joint_commands", best_effort(1))
        self._measured = _Newest(node, JointState, "joint_states", best_effort(1))
        self._driver = _Newest(node, DriverStatus, "driver/status", latched())
        self._safety = _Newest(node, SafetyStatus, "safety/status", latched())
        self._all = (self._commands, self._measured, self._driver, self._safety)

    def forget(self) -> None:
        """Drop what waited while nobody looked: nobody knows how old it is."""
        for source in self._all:
            source.forget()

    def follower(self) -> FollowerView:
        """The follower as it is known now."""
        now_ns = time.monotonic_ns()
        for source in self._all:
            source.update(now_ns)
        status = self._safety.fresh(now_ns, _STATUS_AGE_NS)
        if status is None:
            return FollowerView(self._pose(now_ns))
        return FollowerView(
            self._pose(now_ns),
            _STATES.get(status.state, SafetyState.UNKNOWN),
            status.source,
            status.reason,
        )

    def _pose(self, now_ns: int) -> Array | None:
        """Commanded pose; without commands the servos' goals, of a limp arm the measurement.

        Not the measurement of an arm that stands: it hangs below its goals, and would sink a little
        with every engagement.
        """
        commanded = self._commands.fresh(now_ns, _STREAM_AGE_NS)
        if commanded is not None:
            return _positions(commanded)
        driver = self._driver.fresh(now_ns, _STATUS_AGE_NS)
        if driver is not None and driver.torque_enabled and all(driver.torque_enabled):
            goal = np.array(driver.goal_position)
            return goal if goal.shape == (len(JOINT_NAMES),) else None
        measured = self._measured.fresh(now_ns, _STREAM_AGE_NS)
        return None if measured is None else _positions(measured)


class _Newest:
    """The newest message of a topic and when it was taken."""

    def __init__(self, node: NodeBase, kind: type, topic: str, qos: object) -> None:
        self._subscription = PolledSubscription(node, kind, topic, qos)
        self._message: object = None
        self._taken_ns = 0

    def update(self, now_ns: int) -> None:
        message = self._subscription.newest()
        if message is not None:
            self._message, self._taken_ns = message, now_ns

    def forget(self) -> None:
        self._subscription.newest()
        self._message = None

    def fresh(self, now_ns: int, max_age_ns: int) -> object:
        return self._message if now_ns - self._taken_ns <= max_age_ns else None


def _positions(message: JointState) -> Array | None:
    reading = joint_reading(message, JOINT_NAMES, 0)
    if reading is None or len(reading.positions_rad) != len(JOINT_NAMES):
        return None
    return np.array(reading.positions_rad)
