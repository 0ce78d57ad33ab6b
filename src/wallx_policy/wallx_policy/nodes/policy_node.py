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
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from wallx_msgs.msg import ActionChunk, PolicyStatus
from wallx_policy.backends.base import Backend, BackendSettings
from wallx_policy.backends.registry import load_backend
from wallx_policy.chunks import ChunkOrigin
from wallx_policy.conditioning import Conditioner, Conditioning
from wallx_policy.contract import ActionKind, Camera
from wallx_policy.images import to_rgb
from wallx_policy.nodes.ask_server import AskServer
from wallx_policy.nodes.execution_inputs import ExecutionInputs
from wallx_policy.nodes.graph_check import camera_topics, describe_graph, image_type
from wallx_policy.nodes.inference_loop import InferenceLoop
from wallx_policy.nodes.instruction_runs import InstructionRuns
from wallx_policy.nodes.policy_messages import (
    chunk_message,
    fill_status,
    image_payload,
    joint_positions,
    object_poses,
    stamp_ns,
)
from wallx_policy.nodes.text_worker import TextWorker
from wallx_policy.observation import AssemblerSettings, ObservationAssembler
from wallx_policy.policy_parameters import PARAMETERS
from wallx_policy.runtime import Clocks, InferredChunk, NoChunk, PolicyRuntime, RuntimeState
from wallx_policy.subtasks import Subtasks
from wallx_policy.text_tasks import TextTasks, no_text

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
        self._text: TextWorker | None = None
        self._execution: ExecutionInputs | None = None
        self._conditioning = Conditioning.OFF
        self._inputs: list[Subscription] = []
        self._instruction = self.p.instruction
        self._parameter_instruction = self.p.instruction
        self._sent: tuple[Any, ...] = ()
        self._sent_ns = 0
        self._chunk_publisher = self.create_publisher(ActionChunk, "action_chunk", reliable())
        self._status_publisher = self.create_publisher(PolicyStatus, "policy/status", latched())
        self.subscribe_any_durability(String, "instruction", self._on_instruction)
        self._runs = InstructionRuns(self, self.p.success_check, lambda: self._runtime)
        self._questions = AskServer(self, self._text_worker)
        self.create_service(Trigger, "policy/renew_subtask", self._on_renew_subtask)
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
                options={
                    "expert_keep_gripper_open": self.p.expert_keep_gripper_open,
                    "model_settings": self.p.model_settings,
                },
            ),
        )
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.p.torch_threads)
        self._backend = backend
        self.get_logger().info(f"backend {backend.name}: {backend.description.summary}")
        self._conditioning = self._choose_conditioning(backend)
        if self.p.subtask_period_s > 0.0 and not backend.writes_text:
            raise UserError(
                f"subtask_period_s is {self.p.subtask_period_s:g}, but {no_text(backend.name)}; "
                "or set it to 0"
            )
        self._cameras = camera_topics(backend, self.p.camera_topics)
        expected = replace(backend.contract, cameras=self._cameras)
        differences = expected.differences(describe_graph(self, backend, self._cameras))
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
            conditioner=Conditioner(self._conditioning, self.counters, self._lookahead_s(backend)),
            subtasks=Subtasks(self.p.subtask_period_s),
        )
        self._subscribe(backend, self._runtime)
        if self._conditioning is not Conditioning.OFF:
            self._execution = ExecutionInputs(self)
        self._loop = InferenceLoop(
            self.p.inference_period_s,
            partial(self._infer, self._runtime, self._execution),
            self._publish,
            lambda periods: self.count("observations_dropped", periods),
            self._crash,
        )
        self._loop.start()
        if backend.writes_text:
            self._text = TextWorker(TextTasks(self._runtime), self._crash)
            self._text.start()

    def deactivate(self) -> None:
        """Stop inferring; nothing is published afterwards."""
        if self._loop is not None and not self._loop.stop(STOP_TIMEOUT_S):
            self.get_logger().warning("an inference is still running; its result is discarded")
        if self._text is not None and not self._text.stop(STOP_TIMEOUT_S):
            self.get_logger().warning("a text is still being written; it is discarded")
        self._loop = self._text = self._runtime = None
        if self._execution is not None:
            self._execution.destroy()
        self._execution = None
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
        values = {"backend": self.p.backend}
        if self._runtime is not None:
            values["chunk conditioning"] = self._runtime.conditioner.says
        return level, reason, values

    def _choose_conditioning(self, backend: Backend) -> Conditioning:
        wanted = Conditioning(self.p.chunk_conditioning)
        if backend.continues or wanted is Conditioning.OFF:
            return wanted
        if wanted is Conditioning.AUTO:
            return Conditioning.OFF
        raise UserError(
            f"chunk_conditioning is {wanted.value}, but backend {backend.name} cannot continue a "
            "chunk: set it to auto or off"
        )

    def _lookahead_s(self, backend: Backend) -> float:
        """How much earlier than due safety executes the points of this backend's chunks."""
        reached = backend.contract.action_kind is ActionKind.STATE
        return self.p.state_lookahead_s if reached else 0.0

    def _crash(self) -> None:
        """A bug: end with its trace instead of living on without inferring."""
        self.finish(FAILED_STATUS)

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
        message_type, suffix = image_type(self.p.image_transport)
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

    def _on_renew_subtask(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        runtime, refusal = self._runtime, self._text_worker()
        if runtime is None or isinstance(refusal, str):
            response.success, response.message = False, str(refusal)
        else:
            response.success, response.message = runtime.request_subtask()
        return response

    def _text_worker(self) -> TextWorker | str:
        """Return who writes text, or why nobody does."""
        if self._backend is None or self._runtime is None:
            return "the policy is not active"
        return self._text or no_text(self._backend.name)

    # In the loop's thread.

    def _infer(
        self, runtime: PolicyRuntime, execution: ExecutionInputs | None
    ) -> InferredChunk | NoChunk:
        if execution is not None:
            execution.feed(runtime)
        return runtime.infer()

    def _publish(self, inferred: InferredChunk) -> None:
        """Publish a chunk that is due; called by the loop's thread."""
        runtime = self._runtime
        if runtime is None or not runtime.still_wanted(inferred):
            return
        total_s = (self.ros_now_ns() - inferred.chunk.stamp_ns) * 1e-9
        self._chunk_publisher.publish(chunk_message(inferred.chunk, self.p.frame_id, total_s))
        runtime.note_published(inferred, total_s)

    # Status.

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
        self._questions.check()
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
            fill_status(message, status, *runtime.timing())
        self._status_publisher.publish(message)


def main() -> None:
    """Entry point of the executable."""
    sys.exit(run_node(PolicyNode))
