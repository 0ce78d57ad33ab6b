"""Where commands go: to the driver, and to ros2_control's controllers where asked for."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from builtin_interfaces.msg import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from so101_driver.nodes.node_base import reliable
from so101_driver.nodes.safety_messages import stamp_message
from so101_driver.safety import Command, Output


class SafetyOutputs:
    """Publishers of commands.

    Args:
        node: The owner.
        forward_topic: Topic of a forward position controller; empty for none.
        trajectory_topic: Topic of a joint trajectory controller; empty for none.
    """

    def __init__(self, node: Node, forward_topic: str, trajectory_topic: str) -> None:
        self._commands = node.create_publisher(JointState, "joint_commands", reliable())
        self._shadow = node.create_publisher(JointState, "safety/shadow_commands", reliable())
        # Both controllers subscribe with the system's default settings, which are reliable.
        self._forward = self._trajectory = None
        if forward_topic:
            self._forward = node.create_publisher(Float64MultiArray, forward_topic, reliable(1))
        if trajectory_topic:
            self._trajectory = node.create_publisher(JointTrajectory, trajectory_topic, reliable(1))
        self.prepare((), 0.0)

    def prepare(self, joint_names: Sequence[str], period_s: float) -> None:
        """Make the messages that are sent again and again with other numbers."""
        names = list(joint_names)
        self._joint_message = JointState(name=names)
        self._forward_message = Float64MultiArray()
        # The stamp stays zero, which begins at once; the command is due one period later.
        due = Duration(nanosec=round(period_s * 1e9))
        self._point = JointTrajectoryPoint(time_from_start=due)
        self._trajectory_message = JointTrajectory(joint_names=names, points=[self._point])

    def send(self, command: Command, time_ns: int) -> None:
        """Publish a command, stamped with its tick."""
        positions, velocities = command.positions_rad, command.velocities_rad_s
        if command.output is Output.NONE or positions is None or velocities is None:
            return
        position, velocity = array("d", positions.tolist()), array("d", velocities.tolist())
        message = self._joint_message
        message.header.stamp = stamp_message(time_ns)
        message.position, message.velocity = position, velocity
        if command.output is Output.SHADOW:
            self._shadow.publish(message)
            return
        self._commands.publish(message)
        if self._forward is not None:
            self._forward_message.data = position
            self._forward.publish(self._forward_message)
        if self._trajectory is not None:
            self._point.positions, self._point.velocities = position, velocity
            self._trajectory.publish(self._trajectory_message)
