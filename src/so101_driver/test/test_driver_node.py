"""The driver as a process on a pseudo-terminal: it must never drop, jerk or wrongly move an arm.

It is killed, ended, misconfigured and commanded from two sides; what counts is what the virtual
servos were told.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from so101_driver.bus import ServoBus
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim import VirtualBus
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from so101_driver import registers as reg
from wallx_msgs.msg import DriverStatus, SafetyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))
_namespaces = (f"/arm{number}" for number in itertools.count())


def parameters(serial_port: str, **changes: Any) -> list[str]:
    values = {
        "port": serial_port,
        "calibration": data_path("sim_calibration.json"),
        "limits_file": data_path("so101_limits.yaml"),
        "limits_profile": "demo",
        # A busy test machine may stall everything at once; that is not what is tested here.
        "bus_silence_s": 2.0,
        "max_bad_cycles": 20,
        **changes,
    }
    return [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]


def command_line(*arguments: str) -> list[str]:
    module = "so101_driver.nodes.driver_node"
    return [sys.executable, "-m", module, "--ros-args", *arguments]


class Bench:
    """A driver process, the virtual servos that it drives, and a node that watches and commands."""

    def __init__(self, servos: VirtualBus, folder: Path, context: rclpy.Context) -> None:
        self.servos = servos
        self.process: subprocess.Popen[bytes] | None = None
        self.namespace = next(_namespaces)
        self.log = folder / "driver.log"
        self.node = rclpy.create_node("watcher", namespace=self.namespace, context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.joint_states: list[JointState] = []
        self.statuses: list[DriverStatus] = []
        self.node.create_subscription(JointState, "joint_states", self.joint_states.append, 10)
        self.node.create_subscription(DriverStatus, "driver/status", self.statuses.append, 10)
        self.commands = self.node.create_publisher(JointState, "joint_commands", 10)
        self.writes: list[tuple[int, int, bytes]] = []
        for servo in servos.servos.values():
            self._log_writes(servo)

    def _log_writes(self, servo: Any) -> None:
        write = servo.write

        def logged(address: int, data: bytes, now_s: float) -> bool:
            self.writes.append((servo.servo_id, address, bytes(data)))
            return write(address, data, now_s)

        servo.write = logged

    def start(self, **changes: Any) -> None:
        arguments = parameters(self.servos.port, **changes)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command_line("-r", f"__ns:={self.namespace}", *arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def started(self, **changes: Any) -> None:
        """Start and wait until commands would be followed."""
        self.start(**changes)
        self.statuses.clear()
        self.wait_for_state("NO_COMMANDS")
        self.wait("match", lambda: self.commands.get_subscription_count() > 0)

    def wait(self, what: str, done: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            log = self.log.read_text(errors="replace") if self.log.exists() else ""
            last = self.statuses[-1].reason if self.statuses else "no status"
            assert time.monotonic() < deadline_s, f"no {what} in {timeout_s} s ({last}):\n{log}"
            self.executor.spin_once(timeout_sec=0.02)

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

        self.wait(f"state '{reason}'", reached)
        return self.statuses[-1]

    def command(self, position_rad: Sequence[float], publisher: Any = None) -> None:
        message = JointState(name=list(JOINT_NAMES), position=[float(v) for v in position_rad])
        message.header.stamp = self.node.get_clock().now().to_msg()
        (publisher or self.commands).publish(message)

    def stream(self, position_rad: Sequence[float], seconds: float, publisher: Any = None) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.command(position_rad, publisher)
            next_s = time.monotonic() + 0.01
            while (left_s := next_s - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left_s)

    def call(self, service_type: type, name: str, request: Any) -> Any:
        client = self.node.create_client(service_type, name)
        self.wait(f"service {name}", client.service_is_ready)
        future = client.call_async(request)
        self.wait(f"answer of {name}", future.done)
        return future.result()

    def goals(self) -> list[int]:
        return [self.servos.servos[i].goal_ticks for i in SERVO_IDS]

    def goals_rad(self) -> np.ndarray:
        return CALIBRATION.ticks_to_rad(self.goals())

    def enabled(self) -> list[int]:
        return [self.servos.servos[i].memory.value(reg.TORQUE_ENABLE) for i in SERVO_IDS]

    def counter(self, name: str) -> int:
        return sum(counter.count for counter in self.statuses[-1].counters if counter.name == name)

    def end(self, signal_number: int, timeout_s: float = 10.0) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def bench(
    calibrated_servos: VirtualBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = Bench(calibrated_servos, tmp_path, context)
    yield made
    made.close()
    rclpy.shutdown(context=context)


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
    bench.stream(bench.goals_rad(), 2.5)
    status = bench.statuses[-1]
    assert status.state == DriverStatus.STATE_ACTIVE
    assert status.reason_code == "TORQUE_LIMITED"
    assert "shoulder_lift's torque is limited to 70%" in status.reason
    assert status.torque_limit == pytest.approx([1.0, 0.7, 1.0, 1.0, 1.0, 0.5])
    assert bench.servos.servos[2].memory.value(reg.TORQUE_LIMIT) == 700
    assert bench.counter("torque_limited_shoulder_lift") == 1
    bench.servos.servos[2].plant.duty = 0.1
    bench.stream(bench.goals_rad(), 3.0)
    assert bench.servos.servos[2].memory.value(reg.TORQUE_LIMIT) == 1000
    assert bench.statuses[-1].reason_code == ""


def test_killed_driver_leaves_the_arm_standing_and_the_next_one_adopts_it(bench: Bench) -> None:
    bench.started()
    start = bench.goals_rad()
    bench.stream(start, 0.1)
    bench.stream(start + 0.1, 0.3)
    bench.end(signal.SIGKILL)
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
        "refusals",
        lambda: bench.counter("refused_non_finite") > 0 and bench.counter("refused_stale") == 1,
    )
    assert (bench.goals(), bench.servos.goal_writes) == (goals, writes)


def test_two_publishers_make_the_arm_hold(bench: Bench) -> None:
    bench.started()
    bench.stream(bench.goals_rad(), 0.2)
    second = bench.node.create_publisher(JointState, "joint_commands", 10)
    bench.wait("match", lambda: second.get_subscription_count() > 0)
    goals, writes = bench.goals(), bench.servos.goal_writes
    bench.stream(bench.goals_rad() + 0.05, 0.3, second)
    bench.stream(bench.goals_rad() + 0.05, 0.3)
    assert (bench.goals(), bench.servos.goal_writes) == (goals, writes)
    assert bench.statuses[-1].reason_code == "MULTIPLE_SOURCES"
    assert bench.counter("refused_multiple_sources") > 0


def test_torque_is_given_and_taken_on_request_only(bench: Bench) -> None:
    safety = bench.node.create_publisher(SafetyStatus, "safety/status", latched())
    safety.publish(SafetyStatus(state=SafetyStatus.STATE_HOLD))
    bench.started()
    bench.wait("match", lambda: safety.get_subscription_count() > 0)
    answer = bench.call(SetBool, "driver/set_torque", SetBool.Request(data=True))
    assert (answer.success, answer.message) == (True, "torque is on or rising already")
    answer = bench.call(SetBool, "driver/set_torque", SetBool.Request(data=False))
    assert not answer.success
    assert "DISARMED" in answer.message
    assert bench.enabled() == [1] * 6

    safety.publish(SafetyStatus(state=SafetyStatus.STATE_DISARMED))
    bench.stream(bench.goals_rad(), 0.2)
    answer = bench.call(SetBool, "driver/set_torque", SetBool.Request(data=False))
    assert answer.success
    bench.wait_for_state("TORQUE_OFF")
    bench.wait("limp arm", lambda: bench.enabled() == [0] * 6)
    goals = bench.goals()
    bench.stream(bench.goals_rad() + 0.05, 0.1)
    assert bench.goals() == goals, "a goal write would switch the torque on"

    assert bench.call(SetBool, "driver/set_torque", SetBool.Request(data=True)).success
    bench.wait_for_state("NO_COMMANDS")
    assert bench.enabled() == [1] * 6


def test_release_lowers_the_torque_before_it_is_off(bench: Bench) -> None:
    bench.started(release_s=0.5)
    bench.writes.clear()
    assert bench.call(Trigger, "driver/release", Trigger.Request()).success
    bench.wait_for_state("TORQUE_OFF")
    bench.wait("limp arm", lambda: bench.enabled() == [0] * 6)
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
    assert bench.end(signal.SIGTERM) == 0
    assert bench.enabled() == [0] * 6


def test_ending_waits_until_an_arm_that_is_being_let_down_is_limp(bench: Bench) -> None:
    """Servos keep a lowered torque limit until their supply is cut."""
    bench.started(release_s=0.8)
    assert bench.call(Trigger, "driver/release", Trigger.Request()).success
    assert bench.end(signal.SIGINT) == 0
    assert bench.enabled() == [0] * 6
    limits = [bench.servos.servos[i].memory.value(reg.TORQUE_LIMIT) for i in SERVO_IDS]
    assert limits == [1000] * 5 + [500]


def latched() -> Any:
    from so101_driver.nodes.node_base import latched as qos

    return qos()


# Refusing to start.


def refused(port: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> str:
    ended = subprocess.run(
        command_line(*parameters(port, **changes)), capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1, ended.stderr
    sentences = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(sentences) == 1, ended.stderr
    return sentences[0]


def test_missing_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(tmp_path / "ttyACM0")
    assert f"the port {port} does not exist" in refused(port, monkeypatch, port_wait_s=0.2)


def test_busy_port(calibrated_servos: VirtualBus, monkeypatch: pytest.MonkeyPatch) -> None:
    with ServoBus(calibrated_servos.port):
        sentence = refused(calibrated_servos.port, monkeypatch)
    assert "in use by another program" in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_forbidden_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = tmp_path / "ttyACM0"
    port.touch(mode=0)
    assert "dialout" in refused(str(port), monkeypatch)


def test_silent_servo(calibrated_servos: VirtualBus, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated_servos.mute(3)
    assert "servo 3 (elbow_flex) does not answer" in refused(calibrated_servos.port, monkeypatch)


def test_calibration_for_other_joints(
    calibrated_servos: VirtualBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.json"
    text = data_path("sim_calibration.json").read_text()
    path.write_text(text.replace("elbow_flex", "knee"))
    sentence = refused(calibrated_servos.port, monkeypatch, calibration=path)
    assert "has no elbow_flex and has knee" in sentence


def test_calibration_of_another_arm(
    calibrated_servos: VirtualBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.json"
    path.write_text(data_path("sim_calibration.json").read_text().replace("3066", "3000"))
    sentence = refused(calibrated_servos.port, monkeypatch, calibration=path)
    assert "servo 3 (elbow_flex) holds max_position 3066" in sentence
    assert [s.memory.value(reg.TORQUE_ENABLE) for s in calibrated_servos.servos.values()] == [0] * 6


def test_real_port_under_simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "use_sim_time" in refused("/dev/null", monkeypatch, use_sim_time="true")


def test_a_port_that_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    link = tmp_path / "arm"
    bench.start(port=link, port_wait_s=20.0)
    time.sleep(1.0)
    assert bench.process.poll() is None
    link.symlink_to(bench.servos.port)
    bench.wait_for_state("NO_COMMANDS")
