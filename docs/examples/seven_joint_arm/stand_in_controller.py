"""Stands in for your arm: follows the forward controller's topic, publishes joint_states at 100 Hz.

Start it with ``python docs/examples/seven_joint_arm/stand_in_controller.py``.
"""

import contextlib

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

NAMES = [f"joint_{number}" for number in range(1, 8)]
START_RAD = [0.2, -0.4, 0.1, -1.2, 0.0, 0.3, 0.5]


class StandInController(Node):
    """Joints that follow their goals with a lag of 40 ms."""

    def __init__(self) -> None:
        super().__init__("stand_in_controller")
        self._position = list(START_RAD)
        self._goal = list(START_RAD)
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)
        self.create_subscription(
            Float64MultiArray, "forward_position_controller/commands", self._on_command, 10
        )
        self.create_timer(0.01, self._cycle)

    def _on_command(self, message: Float64MultiArray) -> None:
        self._goal = list(message.data)

    def _cycle(self) -> None:
        self._position = [
            position + 0.2 * (goal - position)
            for position, goal in zip(self._position, self._goal, strict=True)
        ]
        message = JointState(name=NAMES, position=self._position)
        message.header.stamp = self.get_clock().now().to_msg()
        self._joint_states.publish(message)


def main() -> None:
    """Run until Ctrl-C."""
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(StandInController())


if __name__ == "__main__":
    main()
