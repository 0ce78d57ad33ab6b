"""Stands in for your policy: ten chunks a second that swing every joint by 0.1 rad around its pose.

Start it with ``python docs/examples/seven_joint_arm/stand_in_policy.py``.
"""

import contextlib
import math
import random

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectoryPoint

from wallx_msgs.msg import ActionChunk

POINTS, STEP_S = 20, 0.05
SWING_RAD, SWING_PERIOD_S = 0.1, 6.0


class StandInPolicy(Node):
    """Publishes what an action-chunking policy publishes."""

    def __init__(self) -> None:
        super().__init__("stand_in_policy")
        self._joints: JointState | None = None
        self._begun_s = 0.0
        # Random per run: the safety node tells a restarted policy from an old one by it.
        self._session = random.getrandbits(63)
        self._sequence = 0
        self._chunks = self.create_publisher(ActionChunk, "action_chunk", 10)
        self.create_subscription(JointState, "joint_states", self._on_joints, 10)
        self.create_timer(0.1, self._predict)

    def _on_joints(self, message: JointState) -> None:
        if self._joints is None:
            self._joints = message
            self._begun_s = self._now_s()

    def _now_s(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _predict(self) -> None:
        if self._joints is None:
            return
        chunk = ActionChunk(
            source="stand_in_policy",
            session=self._session,
            sequence=self._sequence,
            action_kind=ActionChunk.ACTION_KIND_GOAL,
        )
        self._sequence += 1
        # The time at which the camera saw what the chunk answers to.
        chunk.header.stamp = self.get_clock().now().to_msg()
        chunk.trajectory.joint_names = sorted(self._joints.name)
        pose = dict(zip(self._joints.name, self._joints.position, strict=True))
        elapsed_s = self._now_s() - self._begun_s
        for index in range(POINTS):
            phase = 2.0 * math.pi * (elapsed_s + index * STEP_S) / SWING_PERIOD_S
            swing_rad = SWING_RAD * math.sin(phase)
            chunk.trajectory.points.append(
                JointTrajectoryPoint(
                    positions=[pose[name] + swing_rad for name in chunk.trajectory.joint_names],
                    time_from_start=Duration(seconds=index * STEP_S).to_msg(),
                )
            )
        self._chunks.publish(chunk)


def main() -> None:
    """Run until Ctrl-C."""
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(StandInPolicy())


if __name__ == "__main__":
    main()
