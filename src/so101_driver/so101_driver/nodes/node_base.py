"""What every node shares: parameters from data, lifecycle, autostart, ordered ending."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from so101_driver.errors import UserError
from so101_driver.parameter_spec import COMMON, NodeParameters, Parameter

REFUSED_STATUS = 1
"""Exit status of a node that cannot start; whoever runs the graph ends it."""

FAILED_STATUS = 70
"""Exit status of a node that failed while at work; the others go on and the arm holds."""


def reliable(depth: int = 10) -> QoSProfile:
    """RELIABLE, VOLATILE, KEEP_LAST: what publishers of the suite offer unless said."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def best_effort(depth: int = 1) -> QoSProfile:
    """BEST_EFFORT, VOLATILE, KEEP_LAST: for readers that want only the newest message."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched(depth: int = 1) -> QoSProfile:
    """RELIABLE, TRANSIENT_LOCAL: a late subscriber receives the newest message."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


class NodeBase(LifecycleNode):
    """A lifecycle node whose parameters come from a NodeParameters and which ends in order.

    Subclasses set ``PARAMETERS`` and implement ``configure``, ``activate``, ``deactivate`` and
    ``cleanup``; these raise UserError for what a user can fix. ``request_stop`` is called for each
    SIGINT or SIGTERM and must lead to ``finish``.

    Attributes:
        p: Parameter values by name.
        counters: Named event counters, shown in diagnostics.
        active: Whether the node is in the lifecycle's active state.
    """

    PARAMETERS: NodeParameters
    EXECUTOR_THREADS = 1

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(self.PARAMETERS.node, **node_arguments)
        self.counters: Counter[str] = Counter()
        self.active = False
        self.exit_code = 0
        self._finish_requested = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self.p = SimpleNamespace()
        self._specs = {spec.name: spec for spec in (*COMMON, *self.PARAMETERS.parameters)}
        self._declare_all()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics)

    # What subclasses implement.

    def configure(self) -> None:
        """Validate everything and build the core; raise UserError for what a user can fix."""

    def activate(self) -> None:
        """Open I/O, start timers and threads."""

    def deactivate(self) -> None:
        """Undo activate."""

    def cleanup(self) -> None:
        """Undo configure."""

    def request_stop(self, signal_count: int) -> None:
        """React to the n-th SIGINT or SIGTERM; the default finishes at once."""
        self.finish()

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Return level, message and values for /diagnostics; counters are added to the values."""
        return DiagnosticStatus.OK, "active" if self.active else "inactive", {}

    # What subclasses use.

    def count(self, name: str, increment: int = 1) -> None:
        """Add to a named counter."""
        self.counters[name] += increment

    def finish(self, exit_code: int = 0) -> None:
        """End the process; callable from any thread, the first exit code wins."""
        if not self._finish_requested.is_set():
            self.exit_code = exit_code
            self._finish_requested.set()
            self.wake()

    def wake(self) -> None:
        """Wake the main thread."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    def ros_now_ns(self) -> int:
        """ROS time in nanoseconds."""
        return self.get_clock().now().nanoseconds

    def subscribe_any_durability(
        self,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        on_incompatible: Callable[[str], None] | None = None,
        **subscription_arguments: Any,
    ) -> None:
        """Subscribe so that volatile and transient-local publishers are both heard.

        A transient-local publisher reaches the callback twice, so the callback must be idempotent.
        ``on_incompatible(topic)`` is called when a publisher cannot be heard at all (best effort).
        """

        def report(_event: Any) -> None:
            self.count(f"incompatible_qos {topic}")
            if on_incompatible is not None:
                on_incompatible(topic)

        self.create_subscription(
            message_type,
            topic,
            callback,
            reliable(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=report, use_default_callbacks=False
            ),
            **subscription_arguments,
        )
        self.create_subscription(
            message_type,
            topic,
            callback,
            latched(),
            # A volatile publisher does not match this one by design.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            **subscription_arguments,
        )

    def collect_messages(
        self,
        wanted: Mapping[str, tuple[type, QoSProfile]],
        timeout_s: float,
        enough: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> dict[str, Any]:
        """Return the newest message of each topic, waiting up to ``timeout_s`` for the first ones.

        Works while configuring, whatever executor runs this node, because it uses a node and an
        executor of its own. Topics that stayed silent are missing from the result. ``enough`` may
        ask for more than one message of each topic.
        """
        received: dict[str, Any] = {}
        node = rclpy.create_node(
            f"{self.get_name()}_graph_check",
            namespace=self.get_namespace(),
            context=self.context,
            use_global_arguments=False,
            start_parameter_services=False,
        )
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)
        try:
            for topic, (message_type, qos) in wanted.items():
                # Resolved here, so that this node's remappings apply to the temporary one.
                node.create_subscription(
                    message_type,
                    self.resolve_topic_name(topic),
                    lambda message, topic=topic: received.__setitem__(topic, message),
                    qos,
                )
            deadline_s = time.monotonic() + timeout_s
            while time.monotonic() < deadline_s and not self._finish_requested.is_set():
                if len(received) == len(wanted) and (enough is None or enough(received)):
                    break
                executor.spin_once(timeout_sec=0.05)
        finally:
            executor.shutdown()
            node.destroy_node()
        return received

    # Lifecycle.

    def _transition(self, step: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except UserError as error:
            self._report_failure(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            traceback.print_exc()
            self._report_failure(f"unexpected {type(error).__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _report_failure(self, sentence: str) -> None:
        print(f"{self.get_fully_qualified_name()}: {sentence}", file=sys.stderr, flush=True)

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Lifecycle callback; see ``configure``."""
        return self._transition(self.configure)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Lifecycle callback; see ``activate``."""

        def step() -> None:
            LifecycleNode.on_activate(self, state)
            self.activate()
            self.active = True

        return self._transition(step)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Lifecycle callback; see ``deactivate``."""

        def step() -> None:
            self.active = False
            self.deactivate()
            LifecycleNode.on_deactivate(self, state)

        return self._transition(step)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Lifecycle callback; see ``cleanup``."""
        return self._transition(self.cleanup)

    def autostart(self) -> None:
        """Configure and activate; a failure ends the process with status 1."""
        for transition in (self.trigger_configure, self.trigger_activate):
            if self._finish_requested.is_set():
                return
            if transition() != TransitionCallbackReturn.SUCCESS:
                self.finish(REFUSED_STATUS)
                return

    def close(self) -> None:
        """Deactivate and clean up whatever is up; used when the process ends."""
        if self.active:
            self.active = False
            self._transition(self.deactivate)
        self._transition(self.cleanup)

    # Parameters.

    def _declare_all(self) -> None:
        overrides = self._parameter_overrides
        internal = ("use_sim_time", "start_type_description_service")
        for name in overrides:
            if name not in self._specs and name not in internal and "qos_overrides" not in name:
                raise UserError(
                    f"node {self.get_name()} has no parameter '{name}'; "
                    f"it has: {', '.join(sorted(self._specs))}."
                )
        for spec in self._specs.values():
            override = overrides.get(spec.name)
            if spec.required and override is None:
                raise UserError(
                    f"parameter '{spec.name}' of node {self.get_name()} is missing: give it, "
                    f"e.g. {spec.name}:={spec.example} ({spec.description})"
                )
            if override is not None:
                problem = spec.problem(override.value)
                if problem:
                    raise UserError(f"node {self.get_name()}: {problem}.")
                if type(spec.example) is float and type(override.value) is int:
                    overrides[spec.name] = RosParameter(spec.name, value=float(override.value))
            self.declare_parameter(spec.name, _ros_value(spec.example), _descriptor(spec))
            value = self.get_parameter(spec.name).value
            setattr(self.p, spec.name, tuple(value) if type(spec.example) is tuple else value)

    def _on_set_parameters(self, parameters: Sequence[RosParameter]) -> SetParametersResult:
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            problem = spec.problem(parameter.value) if spec else None
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        for parameter in parameters:
            if parameter.name in self._specs:
                setattr(self.p, parameter.name, parameter.value)
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        level, message, values = self.diagnostics()
        status = DiagnosticStatus(
            level=level, name=self.get_fully_qualified_name(), message=str(message)
        )
        for key, value in {**values, **dict(self.counters)}.items():
            status.values.append(KeyValue(key=str(key), value=str(value)))
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(array)


def _ros_value(value: Any) -> Any:
    return list(value) if type(value) is tuple else value


def _descriptor(spec: Parameter) -> ParameterDescriptor:
    unit = f" [{spec.unit}]" if spec.unit else ""
    descriptor = ParameterDescriptor(
        description=spec.description + unit, read_only=bool(spec.read_only)
    )
    if spec.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(spec.choices)
    if spec.minimum is not None or spec.maximum is not None:
        if type(spec.example) is int:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=int(-(2**62) if spec.minimum is None else spec.minimum),
                    to_value=int(2**62 if spec.maximum is None else spec.maximum),
                )
            ]
        else:
            huge = sys.float_info.max
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(-huge if spec.minimum is None else spec.minimum),
                    to_value=float(huge if spec.maximum is None else spec.maximum),
                )
            ]
    return descriptor


def run_node(node_class: Callable[[], NodeBase], arguments: Sequence[str] | None = None) -> int:
    """Run one node until it finishes; returns the exit status of the process.

    The executor runs in a thread, so that the main thread can react to signals at once: launch and
    terminals signal every process at the same time, and what a signal means is the node's decision.
    """
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = node_class()
    except UserError as error:
        print(str(error), file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 1

    signals = 0

    def on_signal(_signum: int, _frame: Any) -> None:
        nonlocal signals
        signals += 1
        node.wake()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    # The wallx runner starts nodes with these blocked, so that none is lost during the imports.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))

    if node.EXECUTOR_THREADS > 1:
        executor = MultiThreadedExecutor(num_threads=node.EXECUTOR_THREADS)
    else:
        executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:
            # A bug in a callback: end with a trace instead of living on half dead.
            traceback.print_exc()
            node.finish(FAILED_STATUS)

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    starter = threading.Thread(target=node.autostart, name="autostart", daemon=True)
    if node.p.autostart:
        starter.start()

    handled = 0
    while not node._finish_requested.is_set():
        select.select([node._wake_read], [], [], 1.0)
        while handled < signals and not node._finish_requested.is_set():
            handled += 1
            node.request_stop(handled)
        if select.select([node._wake_read], [], [], 0)[0]:
            os.read(node._wake_read, 4096)

    if starter.ident is not None:
        starter.join(timeout=2.0)
    executor.shutdown(timeout_sec=2.0)
    node.close()
    spinner.join(timeout=2.0)
    if spinner.is_alive():
        # A thread stuck in middleware must not keep the process, nor crash it at exit.
        _exit_now(node.exit_code or 1)
    if starter.is_alive():
        # Ended while still loading, which is no failure.
        _exit_now(node.exit_code)
    node.destroy_node()
    rclpy.try_shutdown()
    if any(t.daemon and t is not threading.current_thread() for t in threading.enumerate()):
        # One that is still in a library's code, as in an inference of seconds, would be torn out of
        # it by the interpreter's end; C++ answers that with an abort.
        _exit_now(node.exit_code)
    return node.exit_code


def _exit_now(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
