"""A driver that cannot start says what to do in one sentence, and has touched nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from so101_driver.bus import ServoBus
from so101_driver.joints import data_path
from so101_driver.nodes.driver_node import DriverNode
from so101_driver.sim import VirtualBus

from so101_driver import registers as reg

pytestmark = pytest.mark.ros

SUCCESS = TransitionCallbackReturn.SUCCESS
CALIBRATION = data_path("sim_calibration.json")


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Configures and activates a node that must fail; returns its sentence."""
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def run(port: str, **changes: Any) -> str:
        values = {
            "port": port,
            "calibration": str(CALIBRATION),
            "limits_file": str(data_path("so101_limits.yaml")),
            "limits_profile": "demo",
            **changes,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = DriverNode(context=context, parameter_overrides=overrides)
        nodes.append(node)
        if node.trigger_configure() == SUCCESS:
            assert node.trigger_activate() != SUCCESS
        (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        return sentence

    yield run
    for node in nodes:
        node.close()
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_busy_port(refused: Any, calibrated_servos: VirtualBus) -> None:
    with ServoBus(calibrated_servos.port):
        assert "in use by another program" in refused(calibrated_servos.port)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_port(refused: Any, tmp_path: Path) -> None:
    port = tmp_path / "ttyACM0"
    port.touch(mode=0)
    assert "dialout" in refused(str(port))


def test_a_silent_servo(refused: Any, calibrated_servos: VirtualBus) -> None:
    calibrated_servos.mute(3)
    assert "servo 3 (elbow_flex) does not answer" in refused(calibrated_servos.port)


def test_a_calibration_for_other_joints(
    refused: Any, calibrated_servos: VirtualBus, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    path.write_text(CALIBRATION.read_text().replace("elbow_flex", "knee"))
    sentence = refused(calibrated_servos.port, calibration=str(path))
    assert "has no elbow_flex and has knee" in sentence


def test_a_calibration_of_another_arm(
    refused: Any, calibrated_servos: VirtualBus, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    path.write_text(CALIBRATION.read_text().replace("3066", "3000"))
    sentence = refused(calibrated_servos.port, calibration=str(path))
    assert "servo 3 (elbow_flex) holds max_position 3066" in sentence
    memories = [servo.memory for servo in calibrated_servos.servos.values()]
    assert [memory.value(reg.TORQUE_ENABLE) for memory in memories] == [0] * 6


def test_a_joint_that_would_turn_back_into_its_range(
    refused: Any, calibrated_servos: VirtualBus
) -> None:
    servo = calibrated_servos.servos[3]
    servo.position_rad += 2.2
    assert "elbow_flex) stands" in refused(calibrated_servos.port)
    assert servo.memory.value(reg.TORQUE_ENABLE) == 0


def test_a_real_port_under_simulated_time(refused: Any) -> None:
    assert "use_sim_time" in refused("/dev/null", use_sim_time=True)
