"""The safety layer as a ROS node: a 100 Hz loop around the Supervisor."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

# Matrices are tiny here: BLAS threads would only disturb the loop. Must precede numpy's import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from so101_driver.calibration import Calibration
from so101_driver.joints import data_path
from so101_driver.nodes import safety_messages as convert
from so101_driver.nodes.node_base import (
    FAILED_STATUS,
    NodeBase,
    best_effort,
    latched,
    reliable,
    run_node,
)
from so101_driver.nodes.polled import PolledSubscription
from so101_driver.safety import (
    ArmState,
    Chunk,
    EventKind,
    EventResult,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
    effective_limits,
)
from so101_driver.safety_parameters import PARAMETERS
from wallx_msgs.msg import ActionChunk, DriverStatus, SafetyStatus
from wallx_msgs.srv import SelectSource, SetMode

_STATUS_PERIOD_S = 0.1
_QOS_CHECK_PERIOD_S = 1.0
_PERIODS_KEPT = 1000
_GIL_INTERVAL_S = 0.0005
_GC_EVERY_TICKS = 100
_CLOCK_READS = 5
_CLOCK_READ_NS = 500_000
_ANSWER_TIMEOUT_S = 8.0
"""Longer than arming waits for the driver's torque."""
_BRAKING_TIMEOUT_S = 2.0
_ENDING_TIMEOUT_S = 9.0
"""Braking and 8 s of parking."""


class SafetyNode(NodeBase):
    """Feeds the Supervisor from topics and services, and publishes what it decides."""

    PARAMETERS = PARAMETERS
    EXECUTOR_THREADS = 3
    """Buttons and timers; safety/arm, which waits for the driver; the other services, which must
    not. The loop itself takes joint states, driver status and chunks: an executor that wakes for
    each of them would compete with the loop for the interpreter."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._lock = threading.Lock()
        self._arm_state = ArmState()
        self._events: list[OperatorEvent] = []
        self._waiting: dict[int, Callable[[EventResult], None]] = {}
        self._numbers = 0
        self._deaf_topics: set[str] = set()
        self._supervisor: Supervisor | None = None
        self._thread: threading.Thread | None = None
        self._stop_loop = threading.Event()
        self._resting = threading.Event()
        self._ending = False
        self._periods_ns: deque[int] = deque(maxlen=_PERIODS_KEPT)
        self._last_status: SafetyStatus | None = None
        self._edges: deque[tuple[State, str]] = deque(maxlen=100)
        self._commands = self.create_publisher(JointState, "joint_commands", reliable())
        self._shadow = self.create_publisher(JointState, "safety/shadow_commands", reliable())
        self._status = self.create_publisher(SafetyStatus, "safety/status", latched())
        self._inputs: dict[str, QoSProfile] = {}
        self._joints = self._poll(JointState, "joint_states", best_effort(1))
        self._driver = self._poll(DriverStatus, "driver/status", latched())
        self._chunks = self._poll(ActionChunk, "action_chunk", reliable())
        self.subscribe_any_durability(Bool, "estop", self._on_estop)
        self._inputs["estop"] = reliable()
        if self.p.deadman:
            self._inputs["safety/deadman"] = best_effort(1)
            self.create_subscription(
                Bool, "safety/deadman", self._on_deadman, self._inputs["safety/deadman"]
            )
        self._set_torque = self.create_client(SetBool, "driver/set_torque")
        self.create_timer(_STATUS_PERIOD_S, self._log_edges)
        self.create_timer(_QOS_CHECK_PERIOD_S, self._check_publishers)
        waiting, quick = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        for kind in (EventKind.ARM, EventKind.DISARM, EventKind.ESTOP, EventKind.RESET):
            group = waiting if kind is EventKind.ARM else quick
            self._serve_trigger(kind, group)
        self._serve_trigger(EventKind.PARK, quick)
        self.create_service(SetMode, "safety/set_mode", self._on_set_mode, callback_group=quick)
        self.create_service(
            SelectSource, "safety/select_source", self._on_select_source, callback_group=quick
        )

    # Lifecycle.

    def configure(self) -> None:
        """Read the limits and build the core."""
        p = self.p
        limits = effective_limits(
            p.limits_file,
            p.limits_profile,
            data_path("so101.urdf"),
            Calibration.load(p.calibration),
        )
        settings = Settings(
            period_s=1.0 / p.rate_hz,
            mode=Mode[p.mode.upper()],
            scale=p.scale,
            auto_arm=p.arm == "auto",
            deadman_required=p.deadman,
            source=p.source,
            chunk_timeout_s=p.chunk_timeout_s,
            max_clock_skew_s=p.max_clock_skew_s,
            joint_state_timeout_s=p.joint_state_timeout_s,
            fit_tolerance_rad=p.fit_tolerance_rad,
            state_lookahead_s=p.state_lookahead_s,
            scaled_radius_rad=p.scaled_radius_rad,
            scaled_gripper=p.scaled_gripper,
        )
        self._supervisor = Supervisor(limits, settings)
        self._period_ns = round(1e9 / p.rate_hz)
        self._status_every = max(round(_STATUS_PERIOD_S * p.rate_hz), 1)

    def activate(self) -> None:
        """Start the loop."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        self._stop_loop.clear()
        self._take_chunks()  # those that came before are nobody's
        self._thread = threading.Thread(
            target=self._run, args=(supervisor,), name="safety loop", daemon=True
        )
        self._thread.start()

    def deactivate(self) -> None:
        """Brake, then stop the loop."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._resting.clear()
        self._post(EventKind.DISARM)
        self._resting.wait(_BRAKING_TIMEOUT_S)
        self._stop_loop.set()
        thread.join(_BRAKING_TIMEOUT_S)

    def cleanup(self) -> None:
        """Forget the core."""
        self._supervisor = None

    def request_stop(self, signal_count: int) -> None:
        """Park and end; asked twice, brake and end; asked again, end."""
        if self._thread is None or signal_count > 2:
            self.finish()
            return
        self._ending = True
        shadow = self._last_status is None or self._last_status.mode == SafetyStatus.MODE_SHADOW
        if signal_count > 1 or shadow:
            self._post(EventKind.DISARM)
            return

        def parked(result: EventResult) -> None:
            if not result.success:
                self._post(EventKind.DISARM)

        self._post(EventKind.PARK, parked)
        timer = threading.Timer(_ENDING_TIMEOUT_S, self._post, (EventKind.DISARM,))
        timer.daemon = True
        timer.start()

    # The loop.

    def _run(self, supervisor: Supervisor) -> None:
        # Everything made so far stays: the collector need not look at it again, and the loop
        # decides when it looks at the rest.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._loop(supervisor)
        except Exception as error:
            self.get_logger().fatal(f"the loop failed: {type(error).__name__}: {error}")
            self.finish(FAILED_STATUS)
            raise
        finally:
            gc.enable()
            gc.unfreeze()

    def _loop(self, supervisor: Supervisor) -> None:
        period_ns = self._period_ns
        start_ns = last_ns = time.monotonic_ns()
        tick = 0
        while not self._stop_loop.is_set():
            now_ns = time.monotonic_ns()
            due_ns = start_ns + tick * period_ns
            if due_ns > now_ns:
                time.sleep((due_ns - now_ns) * 1e-9)
                now_ns = time.monotonic_ns()
            # A tick whose time is over is missed, not made up for.
            tick = max(tick, (now_ns - start_ns) // period_ns)
            steady_ns = start_ns + tick * period_ns
            ros_ns = steady_ns + self._ros_minus_steady_ns()
            if tick:
                self._periods_ns.append(now_ns - last_ns)
            last_ns = now_ns
            self._tick(supervisor, tick, steady_ns, ros_ns)
            if tick % _GC_EVERY_TICKS == 0:
                gc.collect(1)
            tick += 1

    def _ros_minus_steady_ns(self) -> int:
        """Difference of the clocks; read again when the thread was interrupted in between."""
        best_ns, offset_ns = None, 0
        for _ in range(_CLOCK_READS):
            before_ns = time.monotonic_ns()
            ros_ns = self.ros_now_ns()
            after_ns = time.monotonic_ns()
            if best_ns is None or after_ns - before_ns < best_ns:
                best_ns = after_ns - before_ns
                offset_ns = ros_ns - (before_ns + after_ns) // 2
            if best_ns < _CLOCK_READ_NS:
                break
        return offset_ns

    def _tick(self, supervisor: Supervisor, tick: int, steady_ns: int, ros_ns: int) -> None:
        arm = self._read_arm()
        chunks = self._take_chunks()
        with self._lock:
            events, self._events = self._events, []
        command = supervisor.step(tick, steady_ns, ros_ns, arm, chunks, events)
        if command.output is Output.COMMANDS:
            self._commands.publish(convert.command_message(command, ros_ns))
        elif command.output is Output.SHADOW:
            self._shadow.publish(convert.command_message(command, ros_ns))
        if command.request_torque:
            self._request_torque()
        status = supervisor.status(steady_ns)
        shown = self._last_status
        changed = shown is None or (shown.state, shown.mode, shown.reason, shown.source) != (
            status.state,
            status.mode,
            status.reason,
            status.source,
        )
        if changed or tick % self._status_every == 0:
            message = convert.status_message(status, self._periods_ns, ros_ns)
            self._status.publish(message)
            self._last_status = message
            if shown is None or shown.state != status.state:
                self._edges.append((status.state, status.reason))
        for result in command.results:
            answer = self._waiting.pop(result.number, None)
            if answer is not None:
                answer(result)
        if command.output is Output.NONE and not events:
            self._resting.set()
            if self._ending and command.state in (State.DISARMED, State.ESTOP, State.FAULT):
                self.finish()

    def _log_edges(self) -> None:
        """Log changes of state; not in the loop, because writing text may block."""
        logger = self.get_logger()
        while self._edges:
            state, reason = self._edges.popleft()
            if state in (State.ESTOP, State.FAULT):
                logger.error(f"{state.name}: {reason}")
            else:
                logger.info(f"{state.name}: {reason}")

    def _request_torque(self) -> None:
        if not self._set_torque.service_is_ready():
            self._post(EventKind.TORQUE_REFUSED, text="driver/set_torque is not there")
            return

        def answered(future: Any) -> None:
            response = future.result()
            if response is None or not response.success:
                text = "no answer" if response is None else response.message
                self._post(EventKind.TORQUE_REFUSED, text=text)

        self._set_torque.call_async(SetBool.Request(data=True)).add_done_callback(answered)

    # Inputs.

    def _poll(self, kind: type, topic: str, qos: QoSProfile) -> PolledSubscription:
        self._inputs[topic] = qos
        return PolledSubscription(self, kind, topic, qos)

    def _check_publishers(self) -> None:
        """Find publishers of our inputs whose QoS settings keep their messages from us."""
        deaf = {
            topic
            for topic, qos in self._inputs.items()
            for info in self.get_publishers_info_by_topic(topic)
            if qos_check_compatible(info.qos_profile, qos)[0] == QoSCompatibility.ERROR
        }
        for topic in deaf - self._deaf_topics:
            self.count(f"incompatible_qos {topic}")
        self._deaf_topics = deaf

    def _input_problem(self) -> str:
        if not self._deaf_topics:
            return ""
        topics = ", ".join(sorted(self._deaf_topics))
        return f"a publisher of {topics} has QoS settings that the safety node cannot hear"

    def _read_arm(self) -> ArmState:
        """Take the newest joint states and driver status."""
        now_ns = time.monotonic_ns()
        joints, driver = self._joints.newest(), self._driver.newest()
        known = self._arm_state
        self._arm_state = ArmState(
            known.joints if joints is None else convert.joint_reading(joints, now_ns),
            known.driver if driver is None else convert.driver_reading(driver, now_ns),
            self._input_problem(),
        )
        return self._arm_state

    def _take_chunks(self) -> list[Chunk]:
        chunks = []
        while (taken := self._chunks.take()) is not None:
            chunks.append(convert.chunk(taken[0]))
        return chunks

    def _on_estop(self, message: Bool) -> None:
        # Also while inactive: a button that was pressed before must refuse arming later.
        if message.data and (self._thread is not None or not self._events):
            self._post(EventKind.ESTOP)

    def _on_deadman(self, message: Bool) -> None:
        if self._thread is not None:
            self._post(EventKind.DEADMAN, pressed=bool(message.data))

    def _post(
        self,
        kind: EventKind,
        answer: Callable[[EventResult], None] | None = None,
        **details: Any,
    ) -> int:
        """Hand a request to the loop; ``answer`` is called in the loop's thread."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            if answer is not None:
                self._waiting[number] = answer
            self._events.append(OperatorEvent(kind, number, **details))
        return number

    # Services.

    def _serve_trigger(self, kind: EventKind, group: MutuallyExclusiveCallbackGroup) -> None:
        def serve(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            return self._ask(response, kind)

        self.create_service(Trigger, f"safety/{kind.value}", serve, callback_group=group)

    def _on_set_mode(
        self, request: SetMode.Request, response: SetMode.Response
    ) -> SetMode.Response:
        return self._ask(
            response,
            EventKind.SET_MODE,
            mode=convert.mode(request.mode),
            scale=float(request.scale),
        )

    def _on_select_source(
        self, request: SelectSource.Request, response: SelectSource.Response
    ) -> SelectSource.Response:
        return self._ask(response, EventKind.SELECT_SOURCE, text=request.source)

    def _ask(self, response: Any, kind: EventKind, **details: Any) -> Any:
        """Wait for the loop's answer to a request."""
        answered = threading.Event()
        results: list[EventResult] = []

        def answer(result: EventResult) -> None:
            results.append(result)
            answered.set()

        response.success = False
        if self._thread is None:
            response.message = "the safety node is not active"
            return response
        number = self._post(kind, answer, **details)
        if answered.wait(_ANSWER_TIMEOUT_S):
            response.success = bool(results[0].success)
            response.message = results[0].message
        else:
            self._waiting.pop(number, None)
            response.message = "the safety loop does not answer"
        return response

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Return state, loop timing and what is wrong."""
        status = self._last_status
        if status is None or not self.active:
            return DiagnosticStatus.OK, "inactive", {}
        values = {
            "state": State(status.state).name,
            "mode": Mode(status.mode).name,
            "loop_period_p99_s": f"{status.loop_period_p99_s:.5f}",
            "missed_ticks": status.missed_ticks,
        }
        values |= {f"limit {count.name}": count.count for count in status.limit_counts}
        problem = self._input_problem()
        if problem:
            return DiagnosticStatus.ERROR, problem, values
        latched_state = status.state in (SafetyStatus.STATE_ESTOP, SafetyStatus.STATE_FAULT)
        level = DiagnosticStatus.ERROR if latched_state else DiagnosticStatus.OK
        return level, status.reason, values


def main() -> None:
    """Run the node."""
    # The loop must not wait for a callback's turn to end (default: after 5 ms).
    sys.setswitchinterval(_GIL_INTERVAL_S)
    sys.exit(run_node(SafetyNode))


if __name__ == "__main__":
    main()
