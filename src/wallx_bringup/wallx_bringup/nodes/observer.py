"""Listens to a running graph from the process that started it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from visualization_msgs.msg import MarkerArray
from wallx_policy.backends.base import ObjectPose
from wallx_policy.nodes.policy_messages import object_poses
from wallx_policy.success import lift_height, red_cube_in_tray

from wallx_bringup.session import RunningGraph
from wallx_msgs.msg import PolicyStatus, SafetyStatus

_CUBE = "red_cube"
_STATE_NAMES = {
    getattr(SafetyStatus, name): name.removeprefix("STATE_")
    for name in dir(SafetyStatus)
    if name.startswith("STATE_")
}


class Observer:
    """What the graph says of itself, for a progress line; figures come from the bag instead.

    Attributes:
        state: Name of the safety node's state, empty before the first status.
        reason: Its sentence.
        subtask: What the policy says it is doing.
        lift_m: How far the red cube is above where it started; None without a simulator.
        in_tray: Whether it lies in the tray now.
    """

    def __init__(self, graph: RunningGraph) -> None:
        self.state = ""
        self.reason = ""
        self.subtask = ""
        self.lift_m: float | None = None
        self.in_tray = False
        self._first: Mapping[str, ObjectPose] | None = None
        graph.join()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=graph.domain_id)
        self._node = rclpy.create_node(
            "observer",
            namespace=graph.namespace,
            context=self._context,
            start_parameter_services=False,
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self._node.create_subscription
        create(SafetyStatus, "safety/status", self._on_safety, latched)
        create(PolicyStatus, "policy/status", self._on_policy, latched)
        create(MarkerArray, "sim/objects", self._on_objects, 1)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def spin(self, timeout_s: float) -> None:
        """Handle one message, waiting for it up to ``timeout_s``."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _on_safety(self, message: SafetyStatus) -> None:
        self.state = _STATE_NAMES.get(message.state, str(message.state))
        self.reason = message.reason

    def _on_policy(self, message: PolicyStatus) -> None:
        self.subtask = message.subtask

    def _on_objects(self, message: MarkerArray) -> None:
        stamped = object_poses(message)
        if stamped is None or _CUBE not in stamped[1]:
            return
        poses = stamped[1]
        self._first = self._first or poses
        self.lift_m = lift_height(self._first[_CUBE], poses[_CUBE])
        self.in_tray = red_cube_in_tray(poses)
