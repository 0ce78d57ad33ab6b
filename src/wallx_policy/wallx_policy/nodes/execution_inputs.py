"""What becomes of chunks: the commands made of them, and what safety says it does."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import JointState
from so101_driver.nodes.node_base import best_effort, latched
from so101_driver.nodes.polled import PolledSubscription
from so101_driver.safety.types import Mode, State

from wallx_msgs.msg import SafetyStatus
from wallx_policy.chunk_prefix import Following
from wallx_policy.nodes.policy_messages import joint_positions, stamp_ns
from wallx_policy.runtime import PolicyRuntime

COMMANDS_WAITING = 200
"""Two seconds at 100 Hz; of a longer inference the oldest are lost, and no prefix is made."""


class ExecutionInputs:
    """Subscribes, best effort, and hands over what has come."""

    def __init__(self, node: Node) -> None:
        self._commands = PolledSubscription(
            node, JointState, "joint_commands", best_effort(COMMANDS_WAITING)
        )
        self._safety = PolledSubscription(node, SafetyStatus, "safety/status", latched())

    def feed(self, runtime: PolicyRuntime) -> None:
        """Give a runtime all that has come since the last call."""
        while (taken := self._commands.take()) is not None:
            message = taken[0]
            positions_rad = joint_positions(message)
            if positions_rad is not None:
                runtime.add_command(stamp_ns(message.header.stamp), positions_rad)
        status = self._safety.newest()
        if status is not None:
            runtime.set_following(following(status))

    def destroy(self) -> None:
        """Stop listening."""
        self._commands.destroy()
        self._safety.destroy()


def following(status: SafetyStatus) -> Following:
    """Return what safety does; None for a number that this version does not know."""
    known = {int(state): state for state in State}, {int(mode): mode for mode in Mode}
    return Following(known[0].get(status.state), known[1].get(status.mode))
