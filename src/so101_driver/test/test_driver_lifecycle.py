"""Driver nodes on a real graph: transitions again and again, two arms, a pulled cable.

In one process, so that leaks can be counted; the process as a whole is in test_driver_node.py.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from so101_driver.calibration import Calibration
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.nodes.driver_node import DriverNode
from so101_driver.nodes.node_base import latched
from so101_driver.sim import IdealArm, VirtualBus
from std_msgs.msg import Bool

from so101_driver import registers as reg
from wallx_msgs.msg import DriverStatus, SafetyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Graph:
    """Driver nodes, and one node that listens to and commands them."""

    def __init__(self, folder: Path, new_arm: Callable[[], IdealArm]) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.folder = folder
        self.new_arm = new_arm
        self.buses: dict[str, VirtualBus] = {}
        self.nodes: dict[str, DriverNode] = {}
        self.statuses: dict[str, DriverStatus] = {}
        self.commands: dict[str, Any] = {}
        self.diagnostics: dict[str, Any] = {}
        self.watcher = rclpy.create_node("watcher", context=self.context)
        self.watcher.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.watcher)
        self.spinner = threading.Thread(target=self.executor.spin, daemon=True)
        self.spinner.start()

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status

    def add(self, name: str, **changes: Any) -> DriverNode:
        bus = self.buses[name] = VirtualBus(self.new_arm())
        bus.start()
        link = self.folder / name
        link.symlink_to(bus.port)
        values = {
            "port": str(link),
            "calibration": str(data_path("sim_calibration.json")),
            "limits_file": str(data_path("so101_limits.yaml")),
            "limits_profile": "demo",
            "torque_ramp_s": 0.1,
            # A busy test machine may stall everything at once; that is not what is tested here.
            "bus_silence_s": 2.0,
            "max_bad_cycles": 50,
            **changes,
        }
        self.watcher.create_subscription(
            DriverStatus,
            f"/{name}/driver/status",
            lambda message: self.statuses.__setitem__(name, message),
            10,
        )
        self.commands[name] = self.watcher.create_publisher(
            JointState, f"/{name}/joint_commands", 10
        )
        node = self.nodes[name] = DriverNode(
            namespace=f"/{name}",
            context=self.context,
            parameter_overrides=[Parameter(key, value=value) for key, value in values.items()],
        )
        self.executor.add_node(node)
        return node

    def up(self, name: str) -> None:
        node = self.nodes[name]
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        self.wait(name, "NO_COMMANDS")

    def code(self, name: str) -> str:
        return self.statuses[name].reason_code if name in self.statuses else ""

    def wait(self, name: str, code: str) -> None:
        self.wait_until(code, lambda: self.code(name) == code)

    def wait_until(self, what: str, done: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline_s, f"no {what} in {timeout_s} s: {self.statuses}"
            time.sleep(0.01)

    def goals_rad(self, name: str) -> np.ndarray:
        servos = self.buses[name].servos
        return CALIBRATION.ticks_to_rad([servos[i].goal_ticks for i in SERVO_IDS])

    def enabled(self, name: str) -> list[int]:
        servos = self.buses[name].servos
        return [servos[i].memory.value(reg.TORQUE_ENABLE) for i in SERVO_IDS]

    def stream(self, seconds: float, **wanted: np.ndarray) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for name, position in wanted.items():
                message = JointState(name=list(JOINT_NAMES), position=position.tolist())
                message.header.stamp = self.watcher.get_clock().now().to_msg()
                self.commands[name].publish(message)
            time.sleep(0.01)

    def close(self) -> None:
        self.executor.shutdown()
        for node in self.nodes.values():
            node.close()
            node.destroy_node()
        for bus in self.buses.values():
            bus.close()
        self.watcher.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def graph(tmp_path: Path, new_arm: Callable[[], IdealArm]) -> Iterator[Graph]:
    made = Graph(tmp_path, new_arm)
    yield made
    made.close()


def resources() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_transitions_work_again_and_again_and_leave_nothing_behind(graph: Graph) -> None:
    node = graph.add("arm")
    used = []
    for round_ in range(6):
        assert node.trigger_configure() == SUCCESS
        for _ in range(2):
            assert node.trigger_activate() == SUCCESS
            graph.wait("arm", "NO_COMMANDS")
            assert node.trigger_deactivate() == SUCCESS
            graph.wait("arm", "NOT_ACTIVE")
            assert graph.enabled("arm") == [1] * 6, round_
        assert node.trigger_cleanup() == SUCCESS
        used.append(resources())
    assert used[-1] == used[1], used


def test_a_driver_that_cannot_start_can_be_started_later(graph: Graph, capfd: Any) -> None:
    node = graph.add("arm")
    graph.buses["arm"].mute(4)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == FAILURE
    assert "servo 4 (wrist_flex) does not answer" in capfd.readouterr().err
    graph.buses["arm"].mute(4, False)
    assert node.trigger_activate() == SUCCESS
    graph.wait("arm", "NO_COMMANDS")


def test_a_stop_that_was_pressed_before_the_arm_was_there_is_not_lost(graph: Graph) -> None:
    """A latched button is heard while the node starts; the arm comes later, and may go and come."""
    node = graph.add("stopped")
    button = graph.watcher.create_publisher(Bool, "/stopped/estop", latched())
    safety = graph.watcher.create_publisher(SafetyStatus, "/stopped/safety/status", latched())
    button.publish(Bool(data=True))
    graph.wait_until("press", lambda: node._estop_pressed)
    assert node.trigger_configure() == SUCCESS
    for _ in range(2):
        assert node.trigger_activate() == SUCCESS
        graph.wait("stopped", "ESTOP")
        assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    graph.wait("stopped", "ESTOP")
    safety.publish(SafetyStatus(state=SafetyStatus.STATE_ESTOP))
    graph.wait_until("safety's stop", lambda: node._safety_phase is SafetyPhase.STOPPED)
    safety.publish(SafetyStatus(state=SafetyStatus.STATE_HOLD))
    graph.wait("stopped", "NO_COMMANDS")
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    graph.wait("stopped", "NO_COMMANDS")


def test_counters_of_the_node_are_in_its_status_too(graph: Graph) -> None:
    node = graph.add("arm")
    graph.up("arm")
    node.count("commands_not_written")

    def counted() -> bool:
        counters = {counter.name: counter.count for counter in graph.statuses["arm"].counters}
        return counters.get("commands_not_written") == 1 and "missed_cycles" in counters

    graph.wait_until("counter", counted)


def test_two_arms_with_their_own_limits_do_not_hear_each_other(
    graph: Graph, tmp_path: Path
) -> None:
    content = yaml.safe_load(data_path("so101_limits.yaml").read_text(encoding="utf-8"))
    content["position_rad"]["shoulder_pan"] = [-0.3, 0.3]
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    graph.add("left")
    graph.add("right", limits_file=str(narrow), limits_profile="cautious")
    graph.up("left")
    graph.up("right")
    graph.wait_until(
        "listeners", lambda: all(c.get_subscription_count() for c in graph.commands.values())
    )
    left, right = graph.goals_rad("left"), graph.goals_rad("right")
    graph.stream(0.1, left=left)
    graph.stream(0.3, left=left + 0.05)
    assert graph.goals_rad("left") == pytest.approx(left + 0.05, abs=0.003)
    assert graph.goals_rad("right") == pytest.approx(right)

    # Far along shoulder_pan: each is stopped where its own limits are.
    aim = {name: graph.goals_rad(name) for name in ("left", "right")}
    graph.stream(0.1, **aim)
    for _ in range(40):
        for position in aim.values():
            position[0] = min(position[0] + 0.012, 0.45)
        graph.stream(0.01, **aim)
    graph.stream(0.3, **aim)
    assert graph.goals_rad("left")[0] == pytest.approx(0.45, abs=0.01)
    assert graph.goals_rad("right")[0] == pytest.approx(0.3, abs=0.003)

    # One arm's trouble is not the other's.
    graph.buses["left"].power_cycle(2)
    graph.wait("left", "POWER_CYCLED")
    graph.stream(0.3, right=graph.goals_rad("right"))
    assert graph.statuses["right"].state == DriverStatus.STATE_ACTIVE
    assert graph.enabled("right") == [1] * 6


def test_the_node_outlives_a_pulled_cable_and_tells_all_about_it(
    graph: Graph, tmp_path: Path
) -> None:
    node = graph.add("arm")
    graph.up("arm")
    goals = graph.goals_rad("arm")
    old, link = graph.buses["arm"], tmp_path / "arm"
    link.unlink()
    old.close()
    graph.wait("arm", "PORT_LOST")
    status = graph.statuses["arm"]
    assert status.state == DriverStatus.STATE_FAULT
    assert status.goal_position == pytest.approx(goals)
    graph.wait_until("older readings", lambda: graph.statuses["arm"].reading_age_s[0] > 0.5)

    bus = graph.buses["arm"] = VirtualBus(old.arm)
    bus.start()
    link.symlink_to(bus.port)
    graph.wait("arm", "NO_COMMANDS")
    assert graph.enabled("arm") == [1] * 6
    assert graph.goals_rad("arm") == pytest.approx(goals)
    assert not node._finish_requested.is_set()
    counters = {counter.name: counter.count for counter in graph.statuses["arm"].counters}
    assert counters["port_losses"] == counters["bus_reopened"] == 1
    graph.wait_until("diagnostics", lambda: "/arm/driver" in graph.diagnostics)
    graph.diagnostics.clear()
    graph.wait_until("diagnostics", lambda: "/arm/driver" in graph.diagnostics)
    told = {entry.key: entry.value for entry in graph.diagnostics["/arm/driver"].values}
    assert float(told["bus cycle p50 / p99 ms"].split(" / ")[0]) > 0.0
    assert set(counters) <= set(told)
    assert "°C" in told["elbow_flex"]


def test_hot_servos_are_in_status_and_diagnostics(graph: Graph) -> None:
    graph.add("arm")
    graph.up("arm")
    for servo in graph.buses["arm"].servos.values():
        servo.plant.temperature_c = 61.0
    graph.wait_until("warning", lambda: "lets go at 70 °C" in graph.statuses["arm"].reason)
    assert graph.code("arm") == "NO_COMMANDS"
    graph.wait_until(
        "warning",
        lambda: "lets go at" in getattr(graph.diagnostics.get("/arm/driver"), "message", ""),
    )
    graph.buses["arm"].servos[3].plant.temperature_c = 71.0
    graph.wait_until("error bit", lambda: graph.statuses["arm"].error_bits[2] == 4)
    status = graph.statuses["arm"]
    assert list(status.error_bits) == [0, 0, 4, 0, 0, 0]
    counters = {counter.name: counter.count for counter in status.counters}
    assert counters["bus_servo_3_temperature"] > 0
    assert "bus_servo_2_temperature" not in counters
