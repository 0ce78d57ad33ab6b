"""The driver as a process on a pseudo-terminal: it must never drop, jerk or wrongly move an arm.

It is killed, ended, misconfigured and commanded from two sides; what counts is what the virtual
servos were told.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from node_bench import NodeBench, node_command
from node_bench import bench as node_bench
from sensor_msgs.msg import JointState
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.nodes.node_base import latched
from so101_driver.sim import VirtualBus
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from so101_driver import registers as reg
from wallx_msgs.msg import DriverStatus, SafetyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))
MODULE = "so101_driver.nodes.driver_node"


def parameters(serial_port: Any, **changes: Any) -> dict[str, Any]:
    return {
        "port": serial_port,
        "calibration": data_path("sim_calibration.json"),
        "limits_file": data_path("so101_limits.yaml"),
        "limits_profile": "demo",
        # A busy test machine may stall everything at once; that is not what is tested here.
        "bus_silence_s": 2.0,
        "max_bad_cycles": 20,
        **changes,
    }


class Bench(NodeBench):
    """A driver process, the virtual servos that it drives, and a node that watches and commands."""

    def __init__(self, folder: Path, context: rclpy.Context, servos: VirtualBus) -> None:
        super().__init__(folder, context)
        self.servos = servos
        self.joint_states: list[JointState] = self.listen(JointState, "joint_states")
        self.statuses: list[DriverStatus] = self.listen(DriverStatus, "driver/status")
        self.commands = self.node.create_publisher(JointState, "joint_commands", 10)
        self.writes: list[tuple[int, int, bytes]] = []
        for servo in servos.servos.values():
            self._log_writes(servo)

    @property
    def situation(self) -> str:
        return self.statuses[-1].reason if self.statuses else "no status"

    def _log_writes(self, servo: Any) -> None:
        write = servo.write

        def logged(address: int, data: bytes, now_s: float) -> bool:
            self.writes.append((servo.servo_id, address, bytes(data)))
            return write(address, data, now_s)

        servo.write = logged

    def start(self, **changes: Any) -> None:
        self.launch(MODULE, {**parameters(self.servos.port), **changes})

    def started(self, **changes: Any) -> None:
        """Start and wait until commands would be followed."""
        self.start(**changes)
        self.statuses.clear()
        self.wait_for_state("NO_COMMANDS")
        self.wait(lambda: self.commands.get_subscription_count() > 0, "match")

    def wait_for_state(self, reason: str) -> DriverStatus:
        def reached() -> bool:
            return (
                bool(self.statuses)
                and (reason == self.statuses[-1].reason_code or reason in self.statuses[-1].reason)
                and (
                    self.statuses[-1].state
                    in (DriverStatus.STATE_HOLDING, DriverStatus.STATE_FAULT)
                )
            )

        self.wait(reached, f"state '{reason}'")
        return self.statuses[-1]

    def command(self, position_rad: Sequence[float], publisher: Any = None) -> None:
        message = JointState(name=list(JOINT_NAMES), position=[float(v) for v in position_rad])
        message.header.stamp = self.node.get_clock().now().to_msg()
        (publisher or self.commands).publish(message)

    def stream(self, position_rad: Sequence[float], seconds: float, publisher: Any = None) -> None:
        end_s = time.monotonic() + seconds
        self.stream_until(position_rad, lambda: time.monotonic() >= end_s, "time", publisher)

    def stream_until(
        self,
        position_rad: Sequence[float],
        done: Callable[[], Any],
        what: str,
        publisher: Any = None,
    ) -> None:
        """Command a position at 100 Hz until something is true."""
        self.repeat(lambda: self.command(position_rad, publisher), 0.01, done, what)

    def goals(self) -> list[int]:
        return [self.servos.servos[i].goal_ticks for i in SERVO_IDS]

    def goals_rad(self) -> np.ndarray:
        return CALIBRATION.ticks_to_rad(self.goals())

    def enabled(self) -> list[int]:
        return [self.servos.servos[i].memory.value(reg.TORQUE_ENABLE) for i in SERVO_IDS]

    def counter(self, name: str) -> int:
        return sum(counter.count for counter in self.statuses[-1].counters if counter.name == name)

    def end_by(self, signal_number: int, timeout_s: float = 10.0) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout_s)


@pytest.fixture
def bench(calibrated_servos: VirtualBus, tmp_path: Path) -> Iterator[Bench]:
    with node_bench(Bench, tmp_path, calibrated_servos) as made:
        yield made


def test_limp_arm_is_switched_on_without_motion_and_then_follows(bench: Bench) -> None:
    before = [bench.servos.servos[i].position_rad for i in SERVO_IDS]
    bench.started()
    after = [bench.servos.servos[i].position_rad for i in SERVO_IDS]
    assert after == pytest.approx(before, abs=0.002)
    assert bench.enabled() == [1] * 6
    status = bench.statuses[-1]
    assert list(status.torque_enabled) == [True] * 6
    assert status.torque_limit == pytest.approx([1.0] * 5 + [0.5])
    assert status.goal_position == pytest.approx(bench.goals_rad())

    start = bench.goals_rad()
    assert bench.joint_states[-1].position == pytest.approx(start, abs=0.003)
    assert list(bench.joint_states[-1].effort) == []
    bench.stream(start, 0.1)
    bench.stream(start + 0.1, 0.5)
    assert bench.goals_rad() == pytest.approx(start + 0.1, abs=0.002)
    assert any(status.state == DriverStatus.STATE_ACTIVE for status in bench.statuses)
    stamps = [s.header.stamp.sec + s.header.stamp.nanosec * 1e-9 for s in bench.joint_states]
    assert (np.diff(stamps) > 0).all()
    bench.wait_for_state("NO_COMMANDS")
    assert bench.enabled() == [1] * 6


def test_every_status_says_why_and_the_first_one_of_an_arm_has_its_voltage(bench: Bench) -> None:
    bench.started()
    idle = (DriverStatus.STATE_UNCONFIGURED, DriverStatus.STATE_INACTIVE)
    awake = [status for status in bench.statuses if status.state not in idle]
    assert np.isfinite([status.voltage_v for status in awake]).all()
    assert {status.reason_code for status in awake} <= {"TORQUE_RAMP", "NO_COMMANDS"}
    for status in bench.statuses:
        assert status.reason
        assert status.reason_code


def test_a_servo_that_presses_too_long_loses_force_and_the_status_says_so(bench: Bench) -> None:
    bench.started()
    bench.servos.servos[2].plant.duty = 1.0
    limited = pytest.approx([1.0, 0.7, 1.0, 1.0, 1.0, 0.5])
    bench.stream_until(
        bench.goals_rad(), lambda: bench.statuses[-1].torque_limit == limited, "lower limit"
    )
    status = bench.statuses[-1]
    assert status.state == DriverStatus.STATE_ACTIVE
    assert status.reason_code == "TORQUE_LIMITED"
    assert "shoulder_lift's torque is limited to 70%" in status.reason
    assert bench.servos.servos[2].memory.value(reg.TORQUE_LIMIT) == 700
    assert bench.counter("torque_limited_shoulder_lift") == 1
    bench.servos.servos[2].plant.duty = 0.1
    bench.stream_until(
        bench.goals_rad(), lambda: bench.statuses[-1].reason_code == "", "full force"
    )
    memory = bench.servos.servos[2].memory
    bench.wait(lambda: memory.value(reg.TORQUE_LIMIT) == 1000, "full limit")


def test_killed_driver_leaves_the_arm_standing_and_the_next_one_adopts_it(bench: Bench) -> None:
    bench.started()
    start = bench.goals_rad()
    bench.stream(start, 0.1)
    bench.stream(start + 0.1, 0.3)
    bench.end_by(signal.SIGKILL)
    goals = bench.goals()
    assert bench.enabled() == [1] * 6
    bench.writes.clear()
    bench.started()
    assert bench.writes == [], "adopting must not write anything"
    assert bench.goals() == goals
    assert bench.statuses[-1].goal_position == pytest.approx(bench.goals_rad())
    bench.stream(bench.goals_rad(), 0.2)
    assert bench.goals() == goals


def test_non_finite_and_stale_commands_are_refused_and_counted(bench: Bench) -> None:
    bench.started()
    goals, writes = bench.goals(), bench.servos.goal_writes
    for bad in (math.nan, math.inf):
        bench.stream([0.0, bad, 0.0, 0.0, 0.0, 0.0], 0.1)
    message = JointState(name=list(JOINT_NAMES), position=(bench.goals_rad() + 0.05).tolist())
    message.header.stamp.sec = 1_700_000_000
    bench.commands.publish(message)
    bench.wait(
        lambda: bench.counter("refused_non_finite") > 0 and bench.counter("refused_stale") == 1,
        "refusals",
    )
    assert (bench.goals(), bench.servos.goal_writes) == (goals, writes)


def test_two_publishers_make_the_arm_hold(bench: Bench) -> None:
    bench.started()
    bench.stream(bench.goals_rad(), 0.2)
    second = bench.node.create_publisher(JointState, "joint_commands", 10)
    bench.wait(lambda: second.get_subscription_count() > 0, "match")

    def noticed() -> bool:
        return bench.statuses[-1].reason_code == "MULTIPLE_SOURCES"

    bench.stream_until(bench.goals_rad(), noticed, "notice of the second", second)
    goals, writes = bench.goals(), bench.servos.goal_writes
    bench.stream(bench.goals_rad() + 0.05, 0.3, second)
    bench.stream(bench.goals_rad() + 0.05, 0.3)
    assert (bench.goals(), bench.servos.goal_writes) == (goals, writes)
    bench.stream_until(bench.goals_rad() + 0.05, noticed, "MULTIPLE_SOURCES")
    assert bench.counter("refused_multiple_sources") > 0


def test_torque_is_given_and_taken_on_request_only(bench: Bench) -> None:
    safety = bench.node.create_publisher(SafetyStatus, "safety/status", latched())
    safety.publish(SafetyStatus(state=SafetyStatus.STATE_HOLD))
    bench.started()
    bench.wait(lambda: safety.get_subscription_count() > 0, "match")
    answer = bench.call(SetBool, "driver/set_torque", data=True)
    assert (answer.success, answer.message) == (True, "torque is on or rising already")
    answer = bench.call(SetBool, "driver/set_torque", data=False)
    assert not answer.success
    assert "DISARMED" in answer.message
    assert bench.enabled() == [1] * 6

    safety.publish(SafetyStatus(state=SafetyStatus.STATE_DISARMED))
    bench.stream(bench.goals_rad(), 0.2)
    answer = bench.call(SetBool, "driver/set_torque", data=False)
    assert answer.success
    bench.wait_for_state("TORQUE_OFF")
    bench.wait(lambda: bench.enabled() == [0] * 6, "limp arm")
    goals = bench.goals()
    bench.stream(bench.goals_rad() + 0.05, 0.1)
    assert bench.goals() == goals, "a goal write would switch the torque on"

    assert bench.call(SetBool, "driver/set_torque", data=True).success
    bench.wait_for_state("NO_COMMANDS")
    assert bench.enabled() == [1] * 6


def test_release_lowers_the_torque_before_it_is_off(bench: Bench) -> None:
    bench.started(release_s=0.5)
    bench.writes.clear()
    assert bench.call(Trigger, "driver/release").success
    bench.wait_for_state("TORQUE_OFF")
    bench.wait(lambda: bench.enabled() == [0] * 6, "limp arm")
    first = [write for write in bench.writes if write[0] == 1]
    off = [address for _, address, _ in first].index(reg.TORQUE_ENABLE.address)
    limits = [reg.TORQUE_LIMIT.decode(data) for _, address, data in first[:off] if address == 48]
    assert len(limits) > 10
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == 0


def test_estop_without_safety_freezes_the_arm(bench: Bench) -> None:
    bench.started()
    bench.stream(bench.goals_rad(), 0.1)
    button = bench.node.create_publisher(Bool, "estop", latched())
    button.publish(Bool(data=True))
    bench.wait_for_state("ESTOP")
    button.publish(Bool(data=False))
    goals = bench.goals()
    bench.stream(bench.goals_rad() + 0.05, 0.2)
    bench.wait_for_state("ESTOP")
    assert bench.goals() == goals
    assert bench.enabled() == [1] * 6


def test_servo_back_from_a_power_failure_is_not_commanded(bench: Bench) -> None:
    bench.started()
    bench.servos.power_cycle(2)
    status = bench.wait_for_state("servo 2 (shoulder_lift)")
    assert status.state == DriverStatus.STATE_FAULT
    assert status.reason_code == "POWER_CYCLED"
    writes = bench.servos.goal_writes
    bench.stream(bench.goals_rad(), 0.2)
    assert bench.servos.goal_writes == writes
    assert bench.enabled() == [1, 0, 1, 1, 1, 1]


def test_a_servo_that_falls_silent_is_nan_and_then_a_fault(bench: Bench) -> None:
    bench.started(max_bad_cycles=3)
    bench.joint_states.clear()
    bench.servos.mute(5)
    status = bench.wait_for_state("servo 5 (wrist_roll)")
    assert status.state == DriverStatus.STATE_FAULT
    assert status.reason_code == "SERVO_SILENT"
    silent = [message.position[4] for message in bench.joint_states][-3:]
    assert all(math.isnan(value) for value in silent)
    assert not math.isnan(bench.joint_states[-1].position[0])
    assert bench.enabled() == [1] * 6


def test_ending_executes_commands_until_they_stop_and_leaves_the_arm_holding(bench: Bench) -> None:
    bench.started()
    start = bench.goals_rad()
    bench.stream(start, 0.2)
    bench.process.send_signal(signal.SIGINT)
    bench.stream(start + 0.1, 0.6)
    assert bench.process.poll() is None
    assert bench.goals_rad() == pytest.approx(start + 0.1, abs=0.002)
    assert bench.process.wait(10) == 0
    assert bench.enabled() == [1] * 6


def test_ending_may_let_the_arm_down(bench: Bench) -> None:
    bench.started(on_exit="ramp_down", release_s=0.5)
    assert bench.end_by(signal.SIGTERM) == 0
    assert bench.enabled() == [0] * 6


def test_ending_waits_until_an_arm_that_is_being_let_down_is_limp(bench: Bench) -> None:
    """Servos keep a lowered torque limit until their supply is cut."""
    bench.started(release_s=0.8)
    assert bench.call(Trigger, "driver/release").success
    assert bench.end_by(signal.SIGINT) == 0
    assert bench.enabled() == [0] * 6
    limits = [bench.servos.servos[i].memory.value(reg.TORQUE_LIMIT) for i in SERVO_IDS]
    assert limits == [1000] * 5 + [500]


# Refusing to start.


def test_a_driver_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    """The other reasons are in test_driver_refusals.py."""
    port = tmp_path / "ttyACM0"
    command = node_command(MODULE, parameters(port, port_wait_s=0.2))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1, ended.stderr
    (sentence,) = [line for line in ended.stderr.splitlines() if line.strip()]
    assert f"the port {port} does not exist" in sentence


def test_a_port_that_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    link = tmp_path / "arm"
    bench.start(port=link, port_wait_s=20.0)
    latest = bench.listen(DriverStatus, "driver/status", latched())
    bench.wait(lambda: latest and latest[-1].reason_code == "NOT_ACTIVE", "node")
    bench.spin(0.3)
    assert not bench.ended()
    link.symlink_to(bench.servos.port)
    bench.wait_for_state("NO_COMMANDS")
