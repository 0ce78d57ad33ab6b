"""The safety node in the test's process: it starts again after a stop; a failure ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from so101_driver.joints import data_path
from so101_driver.nodes.node_base import FAILED_STATUS
from so101_driver.nodes.safety_node import SafetyNode

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
