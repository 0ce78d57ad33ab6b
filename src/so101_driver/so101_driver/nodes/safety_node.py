"""The safety layer as a ROS node: the Supervisor in a loop, between topics and services."""

from __future__ import annotations

import math
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
from std_srvs.srv import SetBool

from so101_driver.nodes import safety_messages as convert
from so101_driver.nodes.loop import ControlLoop
from so101_driver.nodes.node_base import FAILED_STATUS, NodeBase, latched, run_node
from so101_driver.nodes.safety_diagnostics import Health, diagnose
from so101_driver.nodes.safety_inputs import SafetyInputs
from so101_driver.nodes.safety_outputs import SafetyOutputs
from so101_driver.nodes.safety_services import Requests, SafetyServices
from so101_driver.realtime import lock_memory
from so101_driver.safety import EventKind, EventResult, Output, State, Status, Supervisor
from so101_driver.safety_parameters import PARAMETERS
from so101_driver.safety_setup import SafetySetup, build_setup
from wallx_msgs.msg import SafetyStatus

_STATUS_PERIOD_S = 0.1
_GIL_INTERVAL_S = 0.0005
_CLOCK_READS = 5
_CLOCK_READ_NS = 500_000
_BRAKING_TIMEOUT_S = 8.0
"""An SO-101 rests within half a second; another arm's limits may be slower."""
_STOP_TIMEOUT_S = 2.0
_ENDING_TIMEOUT_S = 9.0
"""Braking and 8 s of parking."""


class SafetyNode(NodeBase):
    """Feeds the Supervisor and publishes what it decides."""

    PARAMETERS = PARAMETERS
    EXECUTOR_THREADS = 4
    """Buttons; timers; safety/arm, which waits for the driver; the other services."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._setup: SafetySetup | None = None
        self._supervisor: Supervisor | None = None
        self._loop: ControlLoop | None = None
        self._warnings: list[str] = []
        self._resting = threading.Event()
        self._ending = False
        self._last_status: SafetyStatus | None = None
        self._missed_before = 0
        self._edges: deque[tuple[State, str, str]] = deque(maxlen=100)
        self._requests = Requests()
        self._outputs = SafetyOutputs(self, self.p.forward_topic, self.p.trajectory_topic)
        self._inputs = SafetyInputs(self, self._requests, self.p.deadman)
        SafetyServices(self, self._requests)
        self._status = self.create_publisher(SafetyStatus, "safety/status", latched())
        self._set_torque = self.create_client(SetBool, "driver/set_torque")
        self.create_timer(_STATUS_PERIOD_S, self._log_edges)

    # Lifecycle.

    def configure(self) -> None:
        """Read the files and build the core."""
        setup = build_setup(self.p)
        self._setup = setup
        self._supervisor = Supervisor(setup.limits, setup.settings, setup.geometry)
        self._last_status, self._missed_before = None, 0
        self._inputs.joint_names = setup.limits.joint_names
        self._inputs.needs_driver = setup.settings.needs_driver
        self._outputs.prepare(setup.limits.joint_names, setup.settings.period_s)
        self._status_every = max(round(_STATUS_PERIOD_S / setup.settings.period_s), 1)

    def activate(self) -> None:
        """Start the loop."""
        setup = self._setup
        if setup is None:
            return
        self._inputs.chunks()  # those that came before are nobody's
        loop = ControlLoop(
            setup.settings.period_s, self._tick, self._on_failure, self.p.realtime_priority
        )
        refused = lock_memory() if self.p.lock_memory else ""
        self._loop = loop
        self._requests.open()
        loop.start()
        self._warnings = [*setup.warnings, loop.priority_problem, refused]
        self._warnings = [warning for warning in self._warnings if warning]
        for warning in self._warnings:
            self.get_logger().warning(warning)

    def deactivate(self) -> None:
        """Brake, then stop the loop."""
        loop = self._loop
        if loop is None:
            return
        disarmed = threading.Event()
        self._requests.close(lambda _result: disarmed.set())
        if disarmed.wait(_STOP_TIMEOUT_S):
            # Only ticks after that one tell whether the arm rests.
            self._resting.clear()
            self._resting.wait(_BRAKING_TIMEOUT_S)
        loop.stop(_STOP_TIMEOUT_S)
        self._loop = None
        self._log_edges()

    def cleanup(self) -> None:
        """Forget the core."""
        self._supervisor = self._setup = None

    def request_stop(self, signal_count: int) -> None:
        """Park and end; asked twice, brake and end; asked again, end."""
        if self._loop is None or signal_count > 2:
            self.finish()
            return
        self._ending = True
        shadow = self._last_status is None or self._last_status.mode == SafetyStatus.MODE_SHADOW
        if signal_count > 1 or shadow:
            self._requests.post(EventKind.DISARM)
            return

        def parking(result: EventResult) -> None:
            if not result.success:
                self._requests.post(EventKind.DISARM)

        self._requests.post(EventKind.PARK, parking)
        timer = threading.Timer(_ENDING_TIMEOUT_S, self._requests.post, (EventKind.DISARM,))
        timer.daemon = True
        timer.start()

    # In the loop's thread.

    def _tick(self, tick: int, steady_ns: int) -> None:
        supervisor = self._supervisor
        if supervisor is None:
            return
        ros_ns = steady_ns + _ros_minus_steady_ns(self.ros_now_ns)
        inputs = self._inputs
        command = supervisor.step(
            tick, steady_ns, ros_ns, inputs.arm_state(), inputs.chunks(), self._requests.take()
        )
        self._outputs.send(command, ros_ns)
        if command.request_torque:
            self._request_torque()
        if tick % self._status_every == 0 or command.changes:
            self._report(supervisor.status(steady_ns), ros_ns)
        self._requests.answer(command.results)
        if command.output is Output.NONE:
            self._resting.set()
            if self._ending and command.state in (State.DISARMED, State.ESTOP, State.FAULT):
                self.finish()

    def _report(self, status: Status, ros_ns: int) -> None:
        """Publish the status, ten times a second and on every change of state or reason."""
        message = convert.status_message(status, self._periods_s(), ros_ns)
        self._status.publish(message)
        shown, self._last_status = self._last_status, message
        if shown is None or (shown.state, shown.mode) != (status.state, status.mode):
            self._edges.append((status.state, status.reason_code, status.reason))

    def _periods_s(self) -> tuple[float, ...]:
        """Median, 99th percentile and maximum of the loop's periods."""
        loop = self._loop
        return (math.nan,) * 3 if loop is None else loop.periods.quantiles_s(0.5, 0.99, 1.0)

    def _request_torque(self) -> None:
        if not self._set_torque.service_is_ready():
            self._requests.post(EventKind.TORQUE_REFUSED, text="driver/set_torque is not there")
            return

        def answered(future: Any) -> None:
            response = future.result()
            if response is None or not response.success:
                text = "no answer" if response is None else response.message
                self._requests.post(EventKind.TORQUE_REFUSED, text=text)

        self._set_torque.call_async(SetBool.Request(data=True)).add_done_callback(answered)

    def _on_failure(self, error: Exception) -> None:
        self._loop = None
        self._requests.close(lambda _result: None)
        self.get_logger().fatal(f"the loop failed: {type(error).__name__}: {error}")
        self.finish(FAILED_STATUS)

    # In the executor's threads.

    def _log_edges(self) -> None:
        """Log changes of state and mode; not in the loop, because writing text may block."""
        logger = self.get_logger()
        while self._edges:
            state, code, reason = self._edges.popleft()
            line = f"{state.name} ({code}): {reason}"
            if state in (State.ESTOP, State.FAULT):
                logger.error(line)
            else:
                logger.info(line)

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Return state, loop timing and what is wrong."""
        status, setup = self._last_status, self._setup
        if status is None or setup is None or not self.active:
            return DiagnosticStatus.OK, "inactive", {}
        missed, self._missed_before = status.missed_ticks - self._missed_before, status.missed_ticks
        health = Health(self._inputs.problem, self._warnings, missed, setup.settings.skew_warning_s)
        return diagnose(status, setup.limits.joint_names, health)


def _ros_minus_steady_ns(ros_now_ns: Callable[[], int]) -> int:
    """Difference of the clocks; read again when the thread was interrupted in between."""
    best_ns, offset_ns = None, 0
    for _ in range(_CLOCK_READS):
        before_ns = time.monotonic_ns()
        ros_ns = ros_now_ns()
        after_ns = time.monotonic_ns()
        if best_ns is None or after_ns - before_ns < best_ns:
            best_ns = after_ns - before_ns
            offset_ns = ros_ns - (before_ns + after_ns) // 2
        if best_ns < _CLOCK_READ_NS:
            break
    return offset_ns


def main() -> None:
    """Run the node."""
    # The loop must not wait for a callback's turn to end (default: after 5 ms).
    sys.setswitchinterval(_GIL_INTERVAL_S)
    sys.exit(run_node(SafetyNode))


if __name__ == "__main__":
    main()
