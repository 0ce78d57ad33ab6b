"""The safety node as a process, with a made-up driver: what is published in which state."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_bench import NodeBench, node_command
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.nodes.node_base import latched
from so101_driver.safety import Limits
from so101_driver.safety.geometry_file import load_geometry
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectoryPoint

from wallx_msgs.msg import ActionChunk, DriverStatus, SafetyStatus
from wallx_msgs.srv import SetMode

pytestmark = [pytest.mark.ros, pytest.mark.timeout(90)]

START_RAD = (0.1, -0.5, 0.6, 0.7, 0.0, 0.2)
MODULE = "so101_driver.nodes.safety_node"

WITHOUT_RIGHTS = """
import ctypes, os, resource, sys
for capability in (14, 23):  # IPC_LOCK, SYS_NICE: dropped by exec
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Bench(NodeBench):
    """A safety process, and a node that plays the driver, the policy and the operator."""

    def __init__(self, folder: Path, context: rclpy.Context, torque: bool = False) -> None:
        super().__init__(folder, context)
        self.torque = torque
        self.position = list(START_RAD)
        self.measuring = True
        self.desync = False
        self.session, self.sequence = 1, 0
        self.commands: list[JointState] = []
        self.shadows: list[JointState] = []
        self.statuses: list[SafetyStatus] = []
        self.diagnostics: list[DiagnosticStatus] = []
        node, group = self.node, ReentrantCallbackGroup()
        self.joint_states = node.create_publisher(JointState, "joint_states", 10)
        self.driver = node.create_publisher(DriverStatus, "driver/status", latched())
        self.chunks = node.create_publisher(ActionChunk, "action_chunk", 10)
        self.estop = node.create_publisher(Bool, "estop", 10)
        node.create_subscription(JointState, "joint_commands", self._on_command, 100)
        node.create_subscription(JointState, "safety/shadow_commands", self.shadows.append, 100)
        node.create_subscription(SafetyStatus, "safety/status", self.statuses.append, latched())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_service(SetBool, "driver/set_torque", self._on_torque, callback_group=group)
        node.create_timer(0.01, self._publish_joints)
        node.create_timer(0.1, self._publish_driver)

    def start(self, *, rights: bool = True, **parameters: Any) -> None:
        values = {
            "limits_file": data_path("so101_limits.yaml"),
            "limits_profile": "cautious",
            "calibration": data_path("sim_calibration.json"),
            # A busy test machine may stall everything at once; that is not what is tested here.
            "joint_state_timeout_s": 1.0,
            "chunk_timeout_s": 0.5,
            **parameters,
        }
        self.launch(MODULE, values, () if rights else ("-c", WITHOUT_RIGHTS))
        self.wait(lambda: self.statuses and self.joint_states.get_subscription_count(), "its start")

    @property
    def situation(self) -> str:
        return self.reason

    @property
    def reason(self) -> str:
        return self.statuses[-1].reason if self.statuses else "no status"

    def state(self, state: int) -> None:
        self.wait(lambda: self.statuses[-1].state == state, f"state {state}")

    def arm(self) -> None:
        """Arm as soon as the node has heard of the joints and the driver."""
        answers: list[Any] = []

        def armed() -> bool:
            answers.append(self.call(Trigger, "safety/arm"))
            return answers[-1].success

        self.wait(armed, "arming")

    def send_chunk(self, target: list[float]) -> None:
        message = ActionChunk(
            source="bench", session=self.session, sequence=self.sequence, action_kind=1
        )
        self.sequence += 1
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.trajectory.joint_names = list(JOINT_NAMES)
        for index in range(20):
            share = (index + 1) / 20
            point = JointTrajectoryPoint(
                positions=[p + (t - p) * share for p, t in zip(self.position, target, strict=True)]
            )
            point.time_from_start.nanosec = index * 40_000_000
            message.trajectory.points.append(point)
        self.chunks.publish(message)

    def follow(self, target: list[float], until: Callable[[], Any], what: str) -> None:
        """Send chunks that lead to a target, as often as a policy does, until something is true."""
        self.repeat(lambda: self.send_chunk(target), 0.08, until, what)

    def reach(self, target: list[float]) -> None:
        """Follow chunks to a target, and hold there."""

        def is_there() -> bool:
            return np.allclose(self.commands[-1].position, target, atol=0.01)

        self.follow(target, is_there, f"the pose {target}")
        self.state(SafetyStatus.STATE_HOLD)

    def hears_from(self, source: list[Any], count: int) -> Callable[[], bool]:
        """Whether so many more messages have come."""
        enough = len(source) + count
        return lambda: len(source) >= enough

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics += [
            status for status in message.status if status.name == f"{self.namespace}/safety"
        ]

    def _on_command(self, message: JointState) -> None:
        self.commands.append(message)
        self.position = list(message.position)

    def _on_torque(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.torque = request.data
        response.success = True
        self._publish_driver()
        return response

    def _publish_joints(self) -> None:
        if not self.measuring:
            return
        message = JointState(name=list(JOINT_NAMES), position=self.position)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.joint_states.publish(message)

    def _publish_driver(self) -> None:
        self.driver.publish(
            DriverStatus(
                state=DriverStatus.STATE_ACTIVE
                if self.torque and not self.desync
                else DriverStatus.STATE_HOLDING,
                reason="a command was too far away" if self.desync else "",
                reason_code="DESYNC" if self.desync else "",
                joint_names=list(JOINT_NAMES),
                torque_enabled=[self.torque] * 6,
                goal_position=self.position,
            )
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = Bench(tmp_path, context)
    yield made
    made.close()
    rclpy.shutdown(context=context)


def test_arms_follows_stops_and_parks_when_it_ends(bench: Bench):
    bench.start(mode="full")
    bench.state(SafetyStatus.STATE_DISARMED)
    bench.spin(0.3)
    assert bench.commands == []
    bench.arm()
    assert bench.torque
    bench.wait(lambda: len(bench.commands) > 20, "commands while holding")
    np.testing.assert_allclose(bench.commands[-1].position, START_RAD, atol=1e-9)

    target = [0.3, -0.3, 0.4, 0.5, 0.2, 0.5]
    bench.reach(target)
    assert "old" in bench.reason

    bench.end()
    rest = Limits.from_file(data_path("so101_limits.yaml"), "cautious").rest_rad
    np.testing.assert_allclose(bench.commands[-1].position[:5], rest[:5], atol=0.01)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in bench.commands]
    assert np.all(np.diff(stamps) > 0.0)


def test_shadow_publishes_nothing_that_moves(bench: Bench):
    bench.start(mode="shadow")
    bench.arm()
    assert not bench.torque
    bench.follow(
        [0.3, -0.3, 0.4, 0.5, 0.2, 0.5],
        lambda: len(bench.shadows) > 50 and bench.shadows[-1].position[0] > START_RAD[0],
        "shadow commands that move",
    )
    assert bench.commands == []
    refused = bench.call(SetMode, "safety/set_mode", mode=9)
    assert not refused.success
    bench.state(SafetyStatus.STATE_HOLD)
    raised = bench.call(SetMode, "safety/set_mode", mode=SafetyStatus.MODE_SCALED)
    assert raised.success, raised.message
    bench.state(SafetyStatus.STATE_DISARMED)
    assert bench.commands == []


def test_emergency_stop_and_lost_joint_states_latch(bench: Bench):
    bench.start(mode="full", arm="auto")

    def tracking() -> bool:
        bench.send_chunk(list(bench.position))
        return bool(bench.statuses) and bench.statuses[-1].state == SafetyStatus.STATE_TRACKING

    bench.wait(tracking, "automatic arming once chunks come")
    bench.estop.publish(Bool(data=True))
    bench.state(SafetyStatus.STATE_ESTOP)
    assert not bench.call(Trigger, "safety/arm").success
    bench.estop.publish(Bool(data=False))
    bench.spin(0.2)
    assert bench.statuses[-1].state == SafetyStatus.STATE_ESTOP
    assert bench.call(Trigger, "safety/reset").success
    bench.arm()
    bench.measuring = False
    bench.state(SafetyStatus.STATE_FAULT)
    assert "joint states" in bench.reason
    bench.spin(0.3)
    count = len(bench.commands)
    bench.spin(0.3)
    assert len(bench.commands) == count


def test_a_button_pressed_before_the_start_latches(bench: Bench):
    button = bench.node.create_publisher(Bool, "estop", latched())
    button.publish(Bool(data=True))
    bench.start(mode="full")
    bench.state(SafetyStatus.STATE_ESTOP)
    assert not bench.call(Trigger, "safety/arm").success


def test_a_deaf_button_refuses_arming(bench: Bench):
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    bench.node.create_publisher(Bool, "estop", best_effort)
    bench.start(mode="full")
    bench.wait(
        lambda: bench.diagnostics and bench.diagnostics[-1].level == DiagnosticStatus.ERROR,
        "the deaf button in diagnostics",
    )
    answer = bench.call(Trigger, "safety/arm")
    assert not answer.success
    assert "estop" in answer.message


def test_a_driver_that_reports_desync_disarms(bench: Bench):
    bench.start(mode="full")
    bench.arm()
    bench.spin(0.5)
    bench.desync = True
    bench.state(SafetyStatus.STATE_DISARMED)
    assert bench.statuses[-1].reason_code == "DRIVER_NOT_FOLLOWING"
    counts = {count.name: count.count for count in bench.statuses[-1].limit_counts}
    assert counts["DESYNC"] == 1
    bench.desync = False
    bench.spin(0.3)
    bench.arm()


def test_returns_to_the_ready_pose_and_a_signal_meanwhile_parks(bench: Bench):
    bench.start(mode="full")
    assert not bench.call(Trigger, "safety/return").success
    bench.arm()
    answer = bench.call(Trigger, "safety/return")
    assert answer.success, answer.message
    bench.state(SafetyStatus.STATE_HOLD)
    limits = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
    np.testing.assert_allclose(bench.commands[-1].position[:5], limits.ready_rad[:5], atol=0.01)

    away = [0.9, -0.3, 0.4, 0.5, 0.2, 0.5]
    bench.reach(away)
    assert bench.call(Trigger, "safety/return").success
    bench.wait(lambda: bench.commands[-1].position[0] < away[0] - 0.05, "the arm on its way")
    assert bench.statuses[-1].reason_code == "RETURNING"
    bench.end()
    np.testing.assert_allclose(bench.commands[-1].position[:5], limits.rest_rad[:5], atol=0.01)


def test_deactivated_in_motion_it_brakes_and_comes_back_disarmed(bench: Bench):
    def change(transition: int) -> None:
        request = Transition(id=transition)
        assert bench.call(ChangeState, "safety/change_state", transition=request).success

    bench.start(mode="full")
    bench.arm()
    bench.wait(lambda: bench.commands, "commands")
    bench.follow(
        [1.5, -0.5, 0.6, 0.7, 0.0, 0.2],
        lambda: bench.commands[-1].velocity[0] > 0.5,
        "the arm in motion",
    )
    change(Transition.TRANSITION_DEACTIVATE)
    bench.wait(lambda: not any(bench.commands[-1].velocity), "rest")
    positions = np.array([message.position for message in bench.commands])
    assert np.abs(np.diff(positions[-2:], axis=0)).max() < 1e-4
    refused = bench.call(Trigger, "safety/arm")
    assert (refused.success, refused.message) == (False, "the safety node is not active")

    bench.commands.clear()
    bench.statuses.clear()
    change(Transition.TRANSITION_ACTIVATE)
    bench.wait(lambda: bench.statuses, "its status")
    assert bench.statuses[-1].state == SafetyStatus.STATE_DISARMED
    bench.spin(0.3)
    assert bench.commands == []
    bench.arm()
    bench.wait(lambda: bench.commands, "commands")
    np.testing.assert_allclose(bench.commands[0].position, positions[-1], atol=1e-9)


@pytest.mark.parametrize("rate_hz", [50.0, 250.0])
def test_commands_come_at_the_rate_that_was_asked_for(bench: Bench, rate_hz: float):
    bench.start(mode="full", rate_hz=rate_hz)
    bench.arm()
    bench.follow(
        [0.3, -0.3, 0.4, 0.5, 0.2, 0.5],
        bench.hears_from(bench.commands, round(rate_hz)),
        "a second's commands",
    )
    stamps = np.array([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in bench.commands])
    assert len(stamps) > 25
    # Clocks are read anew for each tick: microseconds, or what the machine stalls for in between.
    assert np.median(np.diff(stamps)) == pytest.approx(1e9 / rate_hz, rel=0.02)
    assert bench.statuses[-1].loop_period_p50_s == pytest.approx(1.0 / rate_hz, rel=0.2)
    speeds = np.abs(np.diff([m.position for m in bench.commands], axis=0)) * rate_hz
    limits = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
    assert speeds.max() > 0.1
    assert (speeds <= limits.velocity_rad_s * 1.000001).all()


def test_geometry_keeps_commands_off_the_table(bench: Bench):
    bench.start(mode="full", geometry_file=data_path("so101_geometry.yaml"))
    bench.arm()
    target = [0.1, 0.9, 0.2, 0.7, 0.0, 0.2]

    def presses() -> bool:
        status = bench.statuses[-1]
        table = {count.name: count.count for count in status.limit_counts}["TABLE"]
        return table > 0 and "table" in status.clearance_name and abs(status.clearance_m) < 0.005

    bench.follow(target, presses, "the arm at the table")
    bench.follow(target, bench.hears_from(bench.commands, 50), "more commands")
    kinematics = Kinematics.from_urdf(data_path("so101.urdf"))
    geometry = load_geometry(data_path("so101_geometry.yaml"), kinematics, JOINT_NAMES)
    assert geometry.clearances(np.array([target])).min() < -0.05
    sent = np.array([message.position for message in bench.commands])
    assert geometry.clearances(sent).min() > -1e-6
    bench.wait(lambda: bench.diagnostics, "diagnostics")
    # Nothing is wrong but ticks that a busy machine misses.
    missed = r"; the loop missed \d+ ticks in the last second"
    message = re.sub(missed, "", bench.diagnostics[-1].message)
    assert message in {status.reason for status in bench.statuses}


def test_refused_real_time_is_a_warning_and_the_node_goes_on(bench: Bench):
    bench.start(rights=False, mode="full", realtime_priority=30, lock_memory=True)
    bench.wait(lambda: bench.diagnostics and bench.statuses, "diagnostics")
    bench.wait(lambda: "rtprio" in bench.diagnostics[-1].message, "the warning")
    warning = bench.diagnostics[-1]
    assert warning.level == DiagnosticStatus.WARN
    for words in ("rtprio 30", "memlock unlimited", "geometry is off"):
        assert words in warning.message
        assert words in bench.log.read_text()
    bench.arm()
    bench.wait(lambda: len(bench.commands) > 20, "commands")


def test_granted_real_time_is_the_loops_alone(bench: Bench):
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(30))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("this user may not raise a priority")
    bench.start(mode="full", realtime_priority=30)
    bench.wait(lambda: bench.diagnostics and bench.statuses, "diagnostics")
    threads = [int(task.name) for task in Path(f"/proc/{bench.process.pid}/task").iterdir()]
    urgent = [os.sched_getparam(t).sched_priority for t in threads if os.sched_getscheduler(t)]
    assert urgent == [30]
    assert "rtprio" not in bench.diagnostics[-1].message


def test_missing_limits_are_one_sentence(tmp_path: Path):
    done = subprocess.run(
        node_command(
            MODULE,
            {
                "limits_file": "nowhere.yaml",
                "limits_profile": "cautious",
                "calibration": data_path("sim_calibration.json"),
            },
        ),
        capture_output=True,
        text=True,
        timeout=40,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr
