"""What the safety loop listens to: the arm, the policy, the buttons."""

from __future__ import annotations

import time

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from so101_driver.nodes import safety_messages as convert
from so101_driver.nodes.node_base import NodeBase, best_effort, latched, reliable
from so101_driver.nodes.polled import PolledSubscription
from so101_driver.nodes.safety_services import Requests
from so101_driver.safety import ArmState, Chunk, EventKind
from wallx_msgs.msg import ActionChunk, DriverStatus

_QOS_CHECK_PERIOD_S = 1.0
_JOINT_STATES_KEPT = 5
"""Other publishers may share the topic, for example those of a mobile base."""


class SafetyInputs:
    """Joint states, driver status and chunks, taken by the loop; buttons, posted to it.

    The loop takes what comes often: an executor that wakes for each message would compete with it
    for the interpreter.

    Attributes:
        joint_names: Of the arm; set before the first ``arm_state``.
        needs_driver: Whether ``driver/status`` counts; likewise.
    """

    def __init__(self, node: NodeBase, requests: Requests, deadman: bool) -> None:
        self.joint_names: tuple[str, ...] = ()
        self.needs_driver = True
        self._node = node
        self._requests = requests
        self._arm = ArmState()
        self._deaf_topics: set[str] = set()
        self._qos: dict[str, QoSProfile] = {"estop": reliable()}
        self._joints = self._poll(JointState, "joint_states", best_effort(_JOINT_STATES_KEPT))
        self._driver = self._poll(DriverStatus, "driver/status", latched())
        self._chunks = self._poll(ActionChunk, "action_chunk", reliable())
        # What else the node does may take its time: writing to a terminal that somebody paused.
        buttons = MutuallyExclusiveCallbackGroup()
        node.subscribe_any_durability(Bool, "estop", self._on_estop, callback_group=buttons)
        if deadman:
            qos = self._qos["safety/deadman"] = best_effort(1)
            node.create_subscription(
                Bool, "safety/deadman", self._on_deadman, qos, callback_group=buttons
            )
        node.create_timer(_QOS_CHECK_PERIOD_S, self._check_publishers)

    @property
    def problem(self) -> str:
        """Why an input cannot be trusted, or ""."""
        if not self._deaf_topics:
            return ""
        topics = ", ".join(sorted(self._deaf_topics))
        return f"a publisher of {topics} has QoS settings that the safety node cannot hear"

    def arm_state(self) -> ArmState:
        """The joint states nearest to now, and the newest driver status."""
        now_ns = time.monotonic_ns()
        joints, driver = self._arm.joints, self._arm.driver
        came = []
        while (taken := self._joints.take()) is not None:
            reading = convert.joint_reading(taken[0], self.joint_names, now_ns)
            if reading is None:
                self._node.count("joint_states of other joints")
            else:
                came.append(reading)
        if came:
            # Not the last: a recording played beside the arm must not hide what is measured now.
            ros_ns = self._node.ros_now_ns()
            joints = min(came, key=lambda reading: abs(ros_ns - reading.stamp_ns))
        if self.needs_driver:
            status = self._driver.newest()
            if status is not None:
                driver = convert.driver_reading(status, now_ns)
        self._arm = ArmState(joints, driver, self.problem)
        return self._arm

    def chunks(self) -> list[Chunk]:
        """The chunks that came since the last call."""
        chunks = []
        while (taken := self._chunks.take()) is not None:
            # Read after taking: what delays this thread must not look like a clock that is ahead.
            chunks.append(convert.chunk(taken[0], self._node.ros_now_ns()))
        return chunks

    def _poll(self, kind: type, topic: str, qos: QoSProfile) -> PolledSubscription:
        self._qos[topic] = qos
        return PolledSubscription(self._node, kind, topic, qos)

    def _check_publishers(self) -> None:
        """Find publishers of our inputs whose QoS settings keep their messages from us."""
        deaf = {
            topic
            for topic, qos in self._qos.items()
            for info in self._node.get_publishers_info_by_topic(topic)
            if qos_check_compatible(info.qos_profile, qos)[0] == QoSCompatibility.ERROR
        }
        for topic in deaf - self._deaf_topics:
            self._node.count(f"incompatible_qos {topic}")
        self._deaf_topics = deaf

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self._requests.post(EventKind.ESTOP)

    def _on_deadman(self, message: Bool) -> None:
        self._requests.post(EventKind.DEADMAN, pressed=bool(message.data))
