"""The safety node in the test's process: starting, stopping and ending, whatever else goes on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import JointState
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.nodes.node_base import FAILED_STATUS, best_effort
from so101_driver.nodes.polled import PolledSubscription
from so101_driver.nodes.safety_node import SafetyNode
from so101_driver.nodes.safety_services import Requests
from so101_driver.safety import EventKind, EventResult, OperatorEvent
from std_msgs.msg import Bool

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]


@pytest.fixture
def node() -> Iterator[SafetyNode]:
    context = rclpy.Context()
    rclpy.init(context=context)
    values = {
        "limits_file": str(data_path("so101_limits.yaml")),
        "limits_profile": "cautious",
        "calibration": str(data_path("sim_calibration.json")),
        "geometry_file": str(data_path("so101_geometry.yaml")),
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    made = SafetyNode(context=context, namespace="/alone", parameter_overrides=overrides)
    yield made
    made.close()
    made.destroy_node()
    rclpy.shutdown(context=context)


def wait(true: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + 15.0
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_it_starts_again_after_a_stop(node: SafetyNode):
    for _ in range(2):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.diagnostics()[:2] == (DiagnosticStatus.OK, "inactive")
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        wait(lambda: node.diagnostics()[1] != "inactive")
        _level, message, values = node.diagnostics()
        assert message.startswith("not armed")
        assert values["state"] == "DISARMED"
        assert "missed -" not in message
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.diagnostics()[1] == "inactive"
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_core_ends_the_process_with_the_status_for_it(
    node: SafetyNode, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_arguments: Any) -> None:
        raise ArithmeticError("nine")

    monkeypatch.setattr("so101_driver.safety.supervisor.Supervisor.step", fail)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait(node._finish_requested.is_set)
    assert node.exit_code == FAILED_STATUS
    begun_s = time.monotonic()
    node.close()
    assert time.monotonic() - begun_s < 1.5, "there is nobody to wait for"


def start(node: SafetyNode) -> None:
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait(lambda: node.diagnostics()[1] != "inactive")


def test_a_deadman_switch_as_fast_as_the_loop_does_not_keep_the_process(
    node: SafetyNode, monkeypatch: pytest.MonkeyPatch
):
    take = Requests.take

    def take_with_report(requests: Requests) -> list[OperatorEvent]:
        return [*take(requests), OperatorEvent(EventKind.DEADMAN, 0, pressed=True)]

    monkeypatch.setattr(Requests, "take", take_with_report)
    start(node)
    node.request_stop(1)
    wait(node._finish_requested.is_set)
    begun_s = time.monotonic()
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert time.monotonic() - begun_s < 8.0


def test_the_button_is_heard_while_the_node_waits_for_something_else(node: SafetyNode):
    start(node)
    executor = MultiThreadedExecutor(node.EXECUTOR_THREADS, context=node.context)
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin)
    spinner.start()
    waiting, go_on = threading.Event(), threading.Event()

    def wait_long() -> None:
        waiting.set()
        go_on.wait(30.0)

    try:
        node.create_timer(0.01, wait_long)
        assert waiting.wait(15.0)
        button = node.create_publisher(Bool, "estop", 10)
        wait(button.get_subscription_count)
        button.publish(Bool(data=True))
        wait(lambda: node.diagnostics()[2]["state"] == "ESTOP")
    finally:
        go_on.set()
        executor.shutdown()
        spinner.join()


def test_nobody_arms_an_arm_whose_loop_is_to_end():
    requests, answers = Requests(), []
    assert requests.post(EventKind.ARM) is None
    requests.open()
    requests.post(EventKind.ARM)
    requests.close(answers.append)
    assert requests.post(EventKind.ARM) is None
    assert requests.ask(EventKind.ARM) == EventResult(0, False, "the safety node is not active")
    left = requests.take()
    assert [event.kind for event in left] == [EventKind.ARM, EventKind.DISARM]
    requests.answer([EventResult(left[1].number, True, "disarmed")])
    assert [answer.message for answer in answers] == ["disarmed"]


def test_of_what_comes_while_no_loop_runs_only_a_stop_is_kept():
    requests = Requests()
    for kind in (EventKind.ARM, EventKind.ESTOP, EventKind.DEADMAN, EventKind.ESTOP):
        requests.post(kind)
    requests.open()
    assert [event.kind for event in requests.take()] == [EventKind.ESTOP]
    requests.post(EventKind.ARM)
    requests.close(lambda _result: None)
    requests.open()
    assert requests.take() == []


@pytest.mark.parametrize(
    ("kind", "kept"),
    [(EventKind.ARM, False), (EventKind.RESET, False), (EventKind.ESTOP, True)],
)
def test_what_was_answered_with_a_failure_does_not_happen_later_unless_it_stops(
    monkeypatch: pytest.MonkeyPatch, kind: EventKind, kept: bool
):
    monkeypatch.setattr("so101_driver.nodes.safety_services._ANSWER_TIMEOUT_S", 0.01)
    requests = Requests()
    requests.open()
    assert requests.ask(kind).message == "the safety loop does not answer"
    assert bool(requests.take()) is kept


@pytest.mark.parametrize("away_s", [-60.0, 60.0], ids=["old", "ahead"])
def test_a_recording_beside_the_arm_does_not_hide_what_is_measured(node: SafetyNode, away_s: float):
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    publisher = node.create_publisher(JointState, "joint_states", 10)
    inputs = node._inputs
    witness = PolledSubscription(node, JointState, "joint_states", best_effort(10))
    wait(lambda: publisher.get_subscription_count() == 2)

    def send(position_rad: float, stamp_ns: int) -> None:
        message = JointState(name=list(JOINT_NAMES), position=[position_rad] * len(JOINT_NAMES))
        message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        publisher.publish(message)

    now_ns = node.ros_now_ns()
    send(0.1, now_ns)
    wait(lambda: inputs.arm_state().joints is not None)
    send(0.2, now_ns + 1)
    send(9.0, now_ns + 1 + round(away_s * 1e9))
    send(math.nan, now_ns + 1 + round(2 * away_s * 1e9))
    seen: list[Any] = []
    wait(lambda: seen.append(witness.take()) or len(list(filter(None, seen))) == 4)
    time.sleep(0.05)  # now all three wait to be taken at once
    assert inputs.arm_state().joints.positions_rad[0] == 0.2
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
