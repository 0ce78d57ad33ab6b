"""Another arm on the real graph: seven joints, moved by a controller that is not ours.

The controller listens to ros2_control's topics and publishes joint states, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from builtin_interfaces.msg import Time
from node_bench import NodeBench
from sensor_msgs.msg import JointState
from so101_driver.nodes.node_base import latched
from so101_driver.safety import Limits
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from wallx_msgs.msg import ActionChunk, SafetyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(90)]

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "seven_joint_arm"
LIMITS = Limits.from_file(EXAMPLE / "limits.yaml", "cautious")
JOINTS = LIMITS.joint_names
START_RAD = np.array([0.2, -0.4, 0.1, -1.2, 0.0, 0.3, 0.5])
PERIOD_S = 0.01
FORWARD, TRAJECTORY = "forward_position_controller/commands", "jtc/joint_trajectory"


class Arm(NodeBench):
    """A controller that follows one of the two topics with a lag, and its joint states."""

    def __init__(self, folder: Path, context: rclpy.Context) -> None:
        super().__init__(folder, context)
        self.position = START_RAD.copy()
        self.goal = START_RAD.copy()
        self.sequence = 0
        self.commands: list[JointState] = []
        self.forwarded: list[Float64MultiArray] = []
        self.trajectories: list[JointTrajectory] = []
        self.statuses: list[SafetyStatus] = []
        node = self.node
        self.joint_states = node.create_publisher(JointState, "joint_states", 10)
        self.chunks = node.create_publisher(ActionChunk, "action_chunk", 10)
        node.create_subscription(JointState, "joint_commands", self.commands.append, 1000)
        node.create_subscription(Float64MultiArray, FORWARD, self._on_forward, 10)
        node.create_subscription(JointTrajectory, TRAJECTORY, self._on_trajectory, 10)
        node.create_subscription(SafetyStatus, "safety/status", self.statuses.append, latched())
        node.create_timer(0.01, self._cycle)

    def start(self, **parameters: Any) -> None:
        values = {
            "driver": "none",
            "mode": "full",
            "limits_file": EXAMPLE / "limits.yaml",
            "limits_profile": "cautious",
            "servo_dead_time_s": 0.02,
            "servo_lag_s": 0.04,
            # A busy test machine may stall everything at once; that is not what is tested here.
            "joint_state_timeout_s": 1.0,
            "chunk_timeout_s": 0.5,
            **parameters,
        }
        self.launch("so101_driver.nodes.safety_node", values)
        self.wait(lambda: self.statuses and self.joint_states.get_subscription_count(), "its start")

    @property
    def situation(self) -> str:
        return self.reason

    @property
    def reason(self) -> str:
        return self.statuses[-1].reason if self.statuses else "no status"

    def arm(self) -> None:
        self.wait(lambda: self.call(Trigger, "safety/arm").success, "arming")

    def go(self, target_rad: np.ndarray, duration_s: float) -> None:
        """Send chunks, ten a second, along a straight way from the last command to its end."""
        start_rad = np.array(self.commands[-1].position)
        begun_s = time.monotonic()

        def send() -> None:
            elapsed_s = time.monotonic() - begun_s
            message = ActionChunk(source="test", session=1, sequence=self.sequence, action_kind=1)
            self.sequence += 1
            message.header.stamp = self.node.get_clock().now().to_msg()
            message.trajectory.joint_names = list(JOINTS)
            for index in range(20):
                share = min((elapsed_s + 0.05 * index) / duration_s, 1.0)
                positions = start_rad + share * (target_rad - start_rad)
                point = JointTrajectoryPoint(positions=positions.tolist())
                point.time_from_start.nanosec = index * 50_000_000
                message.trajectory.points.append(point)
            self.chunks.publish(message)

        def is_there() -> bool:
            return np.allclose(self.commands[-1].position, target_rad, atol=0.01)

        self.repeat(send, 0.1, is_there, "the target")

    def _on_forward(self, message: Float64MultiArray) -> None:
        self.forwarded.append(message)
        self.goal = np.array(message.data)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        self.trajectories.append(message)
        self.goal = np.array(message.points[-1].positions)

    def _cycle(self) -> None:
        # 40 ms of lag; joints sorted by name backwards, as no order is promised.
        self.position += (self.goal - self.position) * 0.2
        stamp = self.node.get_clock().now().to_msg()
        states = JointState(name=[*JOINTS][::-1], position=self.position[::-1].tolist())
        base = JointState(name=["left_wheel", "right_wheel"], position=[1.0, 2.0])
        for message in (states, base):
            message.header.stamp = stamp
            self.joint_states.publish(message)


def assert_legal(commands: list[JointState]) -> None:
    """Plain finite differences of successive commands; a missed tick or message ends a run."""
    positions = np.array([message.position for message in commands])
    assert (positions >= LIMITS.lower_rad - 1e-9).all()
    assert (positions <= LIMITS.upper_rad + 1e-9).all()
    stamps_s = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in commands]
    successive = np.abs(np.diff(stamps_s) - PERIOD_S) < 0.3 * PERIOD_S
    assert successive.mean() > 0.5
    largest = (LIMITS.velocity_rad_s, LIMITS.acceleration_rad_s2, LIMITS.jerk_rad_s3)
    for order, limit in enumerate(largest, start=1):
        runs = np.lib.stride_tricks.sliding_window_view(successive, order).all(axis=1)
        differences = np.abs(np.diff(positions, order, axis=0))[runs] / PERIOD_S**order
        assert (differences <= limit * 1.000001).all(), order


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[Arm]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = Arm(tmp_path, context)
    yield made
    made.close()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("output", ["forward_topic", "trajectory_topic"])
def test_a_controller_of_ros2_control_is_armed_moved_held_and_parked(arm: Arm, output: str):
    topic = {"forward_topic": FORWARD, "trajectory_topic": TRAJECTORY}[output]
    arm.start(**{output: topic})
    arm.arm()
    arm.wait(lambda: len(arm.commands) > 20, "commands while holding")
    np.testing.assert_allclose(arm.commands[0].position, START_RAD, atol=1e-9)

    target = START_RAD + np.array([0.2, 0.2, -0.2, -0.2, 0.3, -0.2, 0.1])
    arm.go(target, 1.6)
    arm.wait(lambda: arm.statuses[-1].state == SafetyStatus.STATE_HOLD, "holding")
    assert "old" in arm.reason
    np.testing.assert_allclose(arm.commands[-1].position, target, atol=0.01)
    arm.wait(lambda: np.allclose(arm.position, target, atol=0.02), "the arm at the target")

    arm.end()
    np.testing.assert_allclose(arm.commands[-1].position, LIMITS.rest_rad, atol=0.01)

    assert all(message.name == list(JOINTS) for message in arm.commands)
    assert_legal(arm.commands)
    sent = {tuple(message.position): message for message in arm.commands}
    if output == "forward_topic":
        assert len(arm.forwarded) > 100
        assert all(tuple(message.data) in sent for message in arm.forwarded)
        assert not arm.trajectories
        return
    assert len(arm.trajectories) > 100
    assert not arm.forwarded
    for message in arm.trajectories:
        (point,) = message.points
        assert message.joint_names == list(JOINTS)
        # A stamp of zero begins at once; the point is due when the next command comes.
        assert message.header.stamp == Time()
        assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 10_000_000)
        assert len(point.velocities) == len(JOINTS)
        assert tuple(point.positions) in sent


def test_shadow_sends_nothing_to_controllers(arm: Arm):
    arm.start(mode="shadow", forward_topic=FORWARD, trajectory_topic=TRAJECTORY)
    shadows: list[JointState] = []
    arm.node.create_subscription(JointState, "safety/shadow_commands", shadows.append, 100)
    arm.arm()
    arm.wait(lambda: len(shadows) > 30, "shadow commands")
    assert not arm.commands
    assert not arm.forwarded
    assert not arm.trajectories
