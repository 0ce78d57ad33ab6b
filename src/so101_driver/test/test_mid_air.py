"""A standing arm must not drop when its driver is killed or its cable pulled.

The real node as a process, the simulated arm in real time; what counts is the true height of the
tip in MuJoCo, which no driver sees.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
pytest.importorskip("mujoco")

import rclpy
from bus_proof.set_up import RAISED_RAD, set_up_servos
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.sim import FaultKind, VirtualBus
from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.realtime import RealTimeRunner

from wallx_msgs.msg import DriverStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

DROP_M = 0.005
_namespaces = (f"/mid_air{number}" for number in itertools.count())


class MidAir:
    """An arm that stands in mid-air, its true tip over time, and the driver's process."""

    def __init__(self, folder: Path) -> None:
        self.arm = ArmSimulation(start_rad=RAISED_RAD)
        set_up_servos(self.arm)
        self.bus = VirtualBus(self.arm, link=folder / "arm")
        self.runner = RealTimeRunner(self.arm)
        self.log = folder / "driver.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.namespace = next(_namespaces)
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("watcher", namespace=self.namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.status: DriverStatus | None = None
        self.node.create_subscription(DriverStatus, "driver/status", self._on_status, 10)
        self.commands = self.node.create_publisher(JointState, "joint_commands", 10)
        self.tip_m: list[tuple[float, np.ndarray]] = []
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_tip, daemon=True)
        self.bus.start()
        self.runner.start()
        self._watch.start()

    def _on_status(self, message: DriverStatus) -> None:
        self.status = message

    def _watch_tip(self) -> None:
        while not self._stop.wait(0.004):
            with self.arm.lock:
                tip = self.arm.tip_pose()[:3, 3].copy()
            self.tip_m.append((time.monotonic(), tip))

    def start_driver(self) -> None:
        values = {
            "port": self.bus.link,
            "calibration": data_path("sim_calibration.json"),
            "limits_file": data_path("so101_limits.yaml"),
            "limits_profile": "demo",
            # The test machine may be busy; that is not what is tested.
            "bus_silence_s": 2.0,
            "max_bad_cycles": 20,
        }
        arguments = [part for k, v in values.items() for part in ("-p", f"{k}:={v}")]
        module = "so101_driver.nodes.driver_node"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", module, "--ros-args",
                    "-r", f"__ns:={self.namespace}", *arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.status = None
        self.wait_for("NO_COMMANDS")

    def wait_for(self, code: str, timeout_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while self.status is None or self.status.reason_code != code:
            assert time.monotonic() < deadline_s, (code, self.status, self.log.read_text())
            self.executor.spin_once(timeout_sec=0.02)

    def follow(self, seconds: float, swing_rad: float) -> None:
        """Command a swing of the shoulder, or the same pose all the time."""
        begun_s = time.monotonic()
        start = np.array(self.status.goal_position)
        while (elapsed_s := time.monotonic() - begun_s) < seconds:
            goal = start.copy()
            goal[1] += swing_rad * (1 - np.cos(3.0 * elapsed_s)) / 2
            message = JointState(name=list(JOINT_NAMES), position=[float(v) for v in goal])
            message.header.stamp = self.node.get_clock().now().to_msg()
            self.commands.publish(message)
            self.executor.spin_once(timeout_sec=0.01)

    def drop_m(self, begin_s: float) -> float:
        """How far the tip has been below where it was at a time."""
        heights = [tip[2] for at_s, tip in self.tip_m if at_s >= begin_s]
        return heights[0] - min(heights)

    def settled_s(self) -> float:
        """Let the servos arrive at their last goals; returns the time then."""
        time.sleep(0.6)
        return time.monotonic()

    def close(self) -> None:
        self._stop.set()
        self._watch.join()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.runner.stop()
        self.bus.close()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def mid_air(tmp_path: Path) -> Iterator[MidAir]:
    made = MidAir(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("swing_rad", [0.0, 0.5], ids=["at rest", "moving"])
def test_a_killed_driver_is_replaced_without_a_drop(mid_air: MidAir, swing_rad: float) -> None:
    mid_air.start_driver()
    begun_s = time.monotonic()
    mid_air.follow(1.3, swing_rad)
    os.kill(mid_air.process.pid, signal.SIGKILL)
    mid_air.process.wait()
    if swing_rad:
        # The servos go on to the goals they have; from there nothing may drop.
        begun_s = mid_air.settled_s()
    goals = [servo.goal_ticks for servo in mid_air.arm.servos.values()]
    mid_air.start_driver()
    time.sleep(0.3)
    drop_m = mid_air.drop_m(begun_s)
    print(f"tip dropped by {drop_m * 1e3:.2f} mm while the driver was killed and restarted")
    assert drop_m < DROP_M
    assert [servo.goal_ticks for servo in mid_air.arm.servos.values()] == goals
    mid_air.follow(0.5, swing_rad)
    assert mid_air.status.state == DriverStatus.STATE_ACTIVE


@pytest.mark.parametrize("swing_rad", [0.0, 0.5], ids=["at rest", "moving"])
def test_a_pulled_cable_drops_nothing_and_the_node_goes_on(
    mid_air: MidAir, swing_rad: float
) -> None:
    mid_air.start_driver()
    begun_s = time.monotonic()
    mid_air.follow(1.3, swing_rad)
    with mid_air.bus.fault(FaultKind.UNPLUG):
        if swing_rad:
            begun_s = mid_air.settled_s()
        mid_air.wait_for("PORT_LOST")
        mid_air.follow(0.5, 0.0)
    mid_air.wait_for("NO_COMMANDS")
    time.sleep(0.3)
    drop_m = mid_air.drop_m(begun_s)
    print(f"tip dropped by {drop_m * 1e3:.2f} mm while the cable was out")
    assert drop_m < DROP_M
    assert mid_air.process.poll() is None
    mid_air.follow(0.5, swing_rad)
    assert mid_air.status.state == DriverStatus.STATE_ACTIVE
