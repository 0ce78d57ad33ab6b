"""Policy node: observations in, ActionChunks out; inference runs beside the executor."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.nodes.node_base import (
    FAILED_STATUS,
    NodeBase,
    best_effort,
    latched,
    reliable,
    run_node,
)
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from wallx_msgs.msg import ActionChunk, PolicyStatus, StageLatency
from wallx_policy.backends.base import Backend, BackendSettings
from wallx_policy.backends.registry import load_backend
from wallx_policy.chunks import ChunkOrigin
from wallx_policy.contract import Camera
from wallx_policy.contract_checks import GraphDescription
from wallx_policy.images import to_rgb
from wallx_policy.nodes.inference_loop import InferenceLoop
from wallx_policy.nodes.instruction_runs import InstructionRuns
from wallx_policy.nodes.policy_messages import (
    chunk_message,
    image_payload,
    joint_positions,
    object_poses,
    stamp_ns,
)
from wallx_policy.observation import AssemblerSettings, ObservationAssembler
from wallx_policy.policy_parameters import PARAMETERS
from wallx_policy.runtime import Clocks, InferredChunk, PolicyRuntime, RuntimeState

STATUS_PERIOD_S = 1.0
CHECK_PERIOD_S = 0.1
STOP_TIMEOUT_S = 1.0

_STATES = {
    RuntimeState.WAITING: PolicyStatus.STATE_WAITING,
    RuntimeState.RUNNING: PolicyStatus.STATE_RUNNING,
    RuntimeState.FAULT: PolicyStatus.STATE_FAULT,
}


class PolicyNode(NodeBase):
    """Runs one backend."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__()
        self._backend: Backend | None = None
        self._cameras: tuple[Camera, ...] = ()
        self._runtime: PolicyRuntime | None = None
        self._loop: InferenceLoop | None = None
        self._inputs: list[Subscription] = []
        self._instruction = self.p.instruction
        self._parameter_instruction = self.p.instruction
        self._sent: tuple[Any, ...] = ()
        self._sent_ns = 0
        self._chunk_publisher = self.create_publisher(ActionChunk, "action_chunk", reliable())
        self._status_publisher = self.create_publisher(PolicyStatus, "policy/status", latched())
        self.subscribe_any_durability(String, "instruction", self._on_instruction)
        self._runs = InstructionRuns(self, self.p.success_check, lambda: self._runtime)
        self.create_timer(CHECK_PERIOD_S, self._on_timer)

    # Lifecycle.

    def configure(self) -> None:
        """Load the backend and compare its contract with the graph."""
        backend = load_backend(
            self.p.backend,
            BackendSettings(
                checkpoint=self.p.checkpoint,
                device=self.p.device,
                dtype=self.p.dtype,
                calibration=self.p.calibration,
                options={"expert_keep_gripper_open": self.p.expert_keep_gripper_open},
            ),
        )
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.p.torch_threads)
        self._backend = backend
        self.get_logger().info(f"backend {backend.name}: {backend.description.summary}")
        self._cameras = self._camera_topics(backend)
        expected = replace(backend.contract, cameras=self._cameras)
        differences = expected.differences(self._describe_graph(backend))
        if differences:
            raise UserError(
                f"the graph does not fit the contract of backend {backend.name}: "
                + "; ".join(differences)
            )

    def activate(self) -> None:
        """Subscribe to the inputs and start inferring."""
        backend = self._backend
        if backend is None:
            raise UserError("the policy must be configured before it is activated")
        settings = AssemblerSettings(
            views=tuple(camera.view for camera in self._cameras),
            needs_objects=backend.needs.objects,
            image_age_s=backend.contract.image_age_s,
            max_skew_s=self.p.max_skew_s,
            max_age_s=self.p.max_observation_age_s,
        )
        self._runtime = PolicyRuntime(
            backend=backend,
            assembler=ObservationAssembler(settings, to_rgb),
            origin=ChunkOrigin(backend.name, secrets.randbits(64)),
            clocks=Clocks(steady_ns=time.monotonic_ns, ros_ns=self.ros_now_ns),
            instruction=self._instruction,
            min_latency_s=self.p.min_latency_s,
            counters=self.counters,
        )
        self._subscribe(backend, self._runtime)
        self._loop = InferenceLoop(
            self.p.inference_period_s,
            self._runtime.infer,
            self._publish,
            lambda periods: self.count("observations_dropped", periods),
            # A bug: end with its trace instead of living on without inferring.
            lambda: self.finish(FAILED_STATUS),
        )
        self._loop.start()

    def deactivate(self) -> None:
        """Stop inferring; nothing is published afterwards."""
        if self._loop is not None and not self._loop.stop(STOP_TIMEOUT_S):
            self.get_logger().warning("an inference is still running; its result is discarded")
        self._loop = None
        self._runtime = None
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []

    def cleanup(self) -> None:
        """Free the backend."""
        if self._backend is not None:
            self._backend.close()
        self._backend = None

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Say what policy/status says."""
        state, reason = self._state()
        level = {
            PolicyStatus.STATE_FAULT: DiagnosticStatus.ERROR,
            PolicyStatus.STATE_WAITING: DiagnosticStatus.WARN,
        }.get(state, DiagnosticStatus.OK)
        return level, reason, {"backend": self.p.backend}

    # The contract check.

    def _camera_topics(self, backend: Backend) -> tuple[Camera, ...]:
        """Return the contract's cameras with the topics that the user gave."""
        cameras = {camera.view: camera for camera in backend.contract.cameras}
        for entry in filter(None, (part.strip() for part in self.p.camera_topics.split(","))):
            view, equals, topic = entry.partition("=")
            if not equals or view not in cameras:
                raise UserError(
                    f"camera_topics has {entry!r}; it must be view=topic with a view of the "
                    f"contract: {', '.join(cameras) or 'this backend takes no images'}"
                )
            cameras[view] = Camera(view, cameras[view].width, cameras[view].height, topic)
        return tuple(cameras.values())

    def _image_type(self) -> tuple[type, str]:
        if self.p.image_transport == "raw":
            return Image, "image_raw"
        return CompressedImage, "image_raw/compressed"

    def _describe_graph(self, backend: Backend) -> GraphDescription:
        """Listen to every input until each has sent something usable."""
        message_type, suffix = self._image_type()
        wanted = {"joint_states": (JointState, reliable())}
        topics = {camera.view: f"{camera.topic}/{suffix}" for camera in self._cameras}
        for topic in topics.values():
            wanted[topic] = (message_type, best_effort(2))
        if backend.needs.objects:
            wanted["sim/objects"] = (MarkerArray, reliable())

        def complete(received: Mapping[str, Any]) -> bool:
            # NaN marks a servo that has not answered yet.
            return all(value == value for value in received["joint_states"].position)

        received = self.collect_messages(wanted, self.p.graph_timeout_s, complete)
        if backend.needs.objects and "sim/objects" not in received:
            raise UserError(
                f"backend {backend.name} needs the simulator's object poses, but nothing came on "
                f"sim/objects for {self.p.graph_timeout_s:g} s: start the simulator, or choose "
                "another backend"
            )
        sizes = {}
        for view, topic in topics.items():
            if topic in received:
                try:
                    height, width, _channels = to_rgb(image_payload(received[topic])).shape
                except ValueError as error:
                    raise UserError(f"image of {topic} is unusable: {error}") from error
                sizes[view] = (width, height)
        joints = received.get("joint_states", JointState())
        return GraphDescription(
            cameras=sizes,
            joint_names=tuple(joints.name),
            state_rad=tuple(joints.position),
            calibration=Calibration.load(self.p.calibration) if self.p.calibration else None,
            # Remapped, so that the sentence names what the user wrote.
            camera_topics={view: self.resolve_topic_name(topic) for view, topic in topics.items()},
        )

    # Inputs.

    def _subscribe(self, backend: Backend, runtime: PolicyRuntime) -> None:
        def on_joints(message: JointState) -> None:
            position_rad = joint_positions(message)
            if position_rad is None:
                self.count("joint_states without all joints")
            else:
                runtime.add_state(stamp_ns(message.header.stamp), position_rad)

        def on_image(view: str, message: CompressedImage | Image) -> None:
            runtime.add_image(view, stamp_ns(message.header.stamp), image_payload(message))

        def on_objects(message: MarkerArray) -> None:
            found = object_poses(message)
            if found is not None:
                runtime.set_objects(*found)

        self._inputs = [self.create_subscription(JointState, "joint_states", on_joints, 50)]
        message_type, suffix = self._image_type()
        for camera in self._cameras:
            self._inputs.append(
                self.create_subscription(
                    message_type,
                    f"{camera.topic}/{suffix}",
                    partial(on_image, camera.view),
                    best_effort(2),
                )
            )
        if backend.needs.objects or self.p.success_check:
            self._inputs.append(
                self.create_subscription(MarkerArray, "sim/objects", on_objects, reliable())
            )

    def _on_instruction(self, message: String) -> None:
        self._set_instruction(message.data)

    def _set_instruction(self, text: str) -> None:
        self._instruction = text
        if self._runtime is not None:
            self._runtime.set_instruction(text)

    # Outputs.

    def _publish(self, inferred: InferredChunk) -> None:
        """Publish a chunk that is due; called by the loop's thread."""
        runtime = self._runtime
        if runtime is None or not runtime.still_wanted(inferred):
            return
        total_s = (self.ros_now_ns() - inferred.chunk.stamp_ns) * 1e-9
        self._chunk_publisher.publish(chunk_message(inferred.chunk, self.p.frame_id, total_s))
        runtime.note_published(inferred, total_s)

    def _state(self) -> tuple[int, str]:
        if self._backend is None:
            return PolicyStatus.STATE_UNCONFIGURED, "not configured"
        runtime = self._runtime
        if runtime is None:
            return PolicyStatus.STATE_INACTIVE, "not active"
        status = runtime.status()
        return _STATES[status.state], status.reason

    def _on_timer(self) -> None:
        if self.p.instruction != self._parameter_instruction:
            self._parameter_instruction = self.p.instruction
            self._set_instruction(self.p.instruction)
        self._runs.check()
        self._publish_status()

    def _publish_status(self) -> None:
        """Publish what changed at once, and everything once a second."""
        runtime = self._runtime
        status = runtime.status() if runtime is not None else None
        state, reason = self._state()
        now_ns = time.monotonic_ns()
        said = (state, reason, self._instruction, status and (status.subtask, status.last_error))
        if said == self._sent and now_ns - self._sent_ns < STATUS_PERIOD_S * 1e9:
            return
        self._sent, self._sent_ns = said, now_ns
        backend = self._backend
        message = PolicyStatus(
            state=state,
            reason=reason,
            backend=self.p.backend,
            checkpoint=backend.description.checkpoint if backend else self.p.checkpoint,
            contract_hash=backend.contract.hash if backend else "",
            device=backend.description.device if backend else self.p.device,
            instruction=self._instruction,
            observations_dropped=self.counters["observations_dropped"],
            observations_late=self.counters["observations_late"],
        )
        message.header.stamp = self.get_clock().now().to_msg()
        if runtime is not None and status is not None:
            message.instruction = status.instruction
            message.subtask = status.subtask
            message.last_error = status.last_error
            message.chunks_published = status.chunks_published
            message.chunk_rate_hz, stages = runtime.timing()
            message.latencies = [
                StageLatency(stage=stage, p50_s=p50, p99_s=p99)
                for stage, (p50, p99) in stages.items()
            ]
        self._status_publisher.publish(message)


def main() -> None:
    """Entry point of the executable."""
    sys.exit(run_node(PolicyNode))
