"""The simulator as a process: what it publishes, how it ends, and that it leaves nothing behind.

It has to outlast the driver when everything is stopped at once, and its renderer must not outlast
it when it is killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
pytest.importorskip("mujoco")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_bench import NodeBench, bench
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from so101_driver import protocol
from so101_driver import registers as reg
from wallx_msgs.msg import WireLog
from wallx_msgs.srv import ResetScene

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


class Sim(NodeBench):
    """One simulator process and a listener in this process."""

    def __init__(self, folder: Path, context: rclpy.Context) -> None:
        super().__init__(folder, context)
        self.link = folder / "run" / "arm"

    def start(self, **parameters: Any) -> None:
        self.launch("so101_driver.nodes.sim_node", {"port_link": self.link, **parameters})

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def open_port(self) -> int:
        self.wait(self.link.exists, "port")
        return os.open(self.link, os.O_RDWR | os.O_NOCTTY)


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Sim]:
    with bench(Sim, tmp_path) as sim:
        yield sim


def answers(port: int) -> bool:
    os.write(port, protocol.ping(1))
    time.sleep(0.1)
    return protocol.status(1) in os.read(port, 4096)


def test_publishes_cameras_objects_diagnostics_and_the_wire(sim: Sim) -> None:
    sim.start(frame_prefix="left_")
    pictures = {
        (view, kind): sim.listen(message_type, f"camera/{view}/{kind}")
        for view in ("face_view", "wrist_view")
        for kind, message_type in (
            ("image_raw/compressed", CompressedImage),
            ("image_raw", Image),
            ("camera_info", CameraInfo),
        )
    }
    objects = sim.listen(MarkerArray, "sim/objects")
    wire = sim.listen(WireLog, "sim/wire_log")
    diagnostics = sim.listen(DiagnosticArray, "/diagnostics")
    sim.wait(lambda: all(len(messages) >= 2 for messages in pictures.values()), "pictures")
    sim.wait(lambda: bool(objects), "objects")
    sim.wait(lambda: any(d.status[0].values for d in diagnostics), "active diagnostics")

    raw = pictures["face_view", "image_raw"][-1]
    assert (raw.width, raw.height, raw.encoding) == (320, 240, "rgb8")
    image = np.frombuffer(raw.data, np.uint8).reshape(240, 320, 3).astype(int)
    red = (image[..., 0] > 150) & (image[..., 1] < 80) & (image[..., 2] < 80)
    assert red.sum() > 20, "the red cube is not in the picture, or red and blue are swapped"
    assert raw.header.frame_id == "left_face_view_camera_optical_frame"
    info = pictures["wrist_view", "camera_info"][-1]
    assert (info.width, info.height) == (240, 240)
    jpeg = pictures["wrist_view", "image_raw/compressed"][-1]
    assert bytes(jpeg.data[:2]) == b"\xff\xd8"
    stamp_s = jpeg.header.stamp.sec + jpeg.header.stamp.nanosec * 1e-9
    assert 0.0 < time.time() - stamp_s < 5.0

    markers = {marker.ns: marker for marker in objects[-1].markers}
    assert set(markers) == {"red_cube", "green_cube", "blue_cube", "tray", "table"}
    assert markers["red_cube"].pose.position.z == pytest.approx(0.0125, abs=0.002)
    assert markers["red_cube"].header.frame_id == "left_base_link"

    port = sim.open_port()
    os.write(port, protocol.sync_write(42, {1: reg.GOAL_POSITION.encode(2100)}))
    sim.wait(lambda: bool(wire), "wire log")
    os.close(port)
    assert list(wire[-1].servo_ids) == [1]
    assert list(wire[-1].goal_ticks) == [2100]


def test_reset_places_the_cubes_by_seed(sim: Sim) -> None:
    sim.start(cameras=False, seed=1)
    objects = sim.listen(MarkerArray, "sim/objects")
    client = sim.node.create_client(ResetScene, "sim/reset")
    sim.wait(lambda: bool(objects), "objects")
    sim.wait(client.service_is_ready, "reset service")

    def position_after(seed: int) -> tuple[float, float]:
        future = client.call_async(ResetScene.Request(seed=seed))
        sim.wait(future.done, "reset")
        assert future.result().success, future.result().message
        # The message may still be one of before: a later stamp than now is surely after.
        now_s = time.time()
        sim.wait(lambda: _stamp_s(objects[-1].markers[0]) > now_s, "fresh objects")
        position = objects[-1].markers[0].pose.position
        return position.x, position.y

    first = position_after(11)
    assert position_after(12) != pytest.approx(first, abs=1e-3)
    assert position_after(11) == pytest.approx(first, abs=1e-4)


def _stamp_s(marker: Any) -> float:
    return marker.header.stamp.sec + marker.header.stamp.nanosec * 1e-9


def test_faults_come_from_a_file_and_from_a_topic(sim: Sim, tmp_path: Path) -> None:
    script = tmp_path / "faults.yaml"
    script.write_text("- {fault: mute, servo: 4}\n")
    sim.start(cameras=False, faults=script)
    faults = sim.node.create_publisher(String, "sim/fault", 10)

    def say(text: str, answer: str) -> None:
        sim.wait(lambda: faults.get_subscription_count() > 0, "subscriber")
        faults.publish(String(data=text))
        sim.wait(lambda: answer in sim.text(), answer)

    port = sim.open_port()
    assert heard(port) == [1, 2, 3, 5, 6]
    say("clear", "faults cleared")
    assert heard(port) == [1, 2, 3, 4, 5, 6]
    say("fault: mute, servo: 9", "there is no servo 9")
    say("rubbish", "'rubbish' is no fault")
    say("fault: [mute]", "is none of drop")
    first = os.readlink(sim.link)
    say("fault: unplug", "fault unplug injected")
    sim.wait(lambda: not os.path.lexists(sim.link), "unplugged")
    os.close(port)
    faults.publish(String(data="clear"))
    port = sim.open_port()
    assert heard(port) == [1, 2, 3, 4, 5, 6]
    assert first.startswith("/dev/pts/")
    os.close(port)


def heard(port: int) -> list[int]:
    os.write(port, protocol.sync_read(range(1, 7), 56, 4))
    time.sleep(0.1)
    return [packet.servo_id for packet in protocol.StatusParser().feed(os.read(port, 4096))]


def test_keeps_answering_after_signals_until_the_driver_closes_the_port(sim: Sim) -> None:
    sim.start()
    port = sim.open_port()
    sim.wait(lambda: "servos answer" in sim.text() and sim.children(), "renderer")
    renderer = sim.children()
    sim.process.send_signal(signal.SIGINT)
    sim.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert not sim.ended()
    assert answers(port)
    os.close(port)
    sim.wait(sim.ended, "end", 10.0)
    assert sim.process.returncode == 0, sim.text()
    assert not sim.link.is_symlink()
    assert not any(child.is_running() for child in renderer)


def test_does_not_wait_for_the_driver_forever(sim: Sim) -> None:
    sim.start(cameras=False, ending_timeout_s=0.5)
    port = sim.open_port()
    sim.process.send_signal(signal.SIGTERM)
    sim.wait(sim.ended, "end", 10.0)
    os.close(port)
    assert "still has the port open" in sim.text()


def test_renderer_dies_with_a_killed_simulator_and_a_new_one_takes_over_the_link(
    sim: Sim,
) -> None:
    shared_before = set(os.listdir("/dev/shm"))
    sim.start()
    sim.wait(lambda: "servos answer" in sim.text() and bool(sim.children()), "renderer")
    renderer = sim.children()
    sim.process.kill()
    sim.process.wait()
    psutil.wait_procs(renderer, timeout=10.0)
    # Whoever adopts orphans may reap late: a zombie here has ended.
    assert not [c for c in renderer if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    left = set(os.listdir("/dev/shm")) - shared_before
    assert not [name for name in left if "fastrtps" not in name and "fastdds" not in name]

    assert sim.link.is_symlink()
    sim.start(cameras=False)
    sim.wait(lambda: "servos answer" in sim.text(), "new port")
    port = sim.open_port()
    assert answers(port)
    os.close(port)


def test_a_link_that_leads_to_no_pseudo_terminal_is_left_alone(sim: Sim, tmp_path: Path) -> None:
    """It may be a real arm's, given by mistake."""
    device = tmp_path / "ttyACM0"
    device.touch()
    sim.link.parent.mkdir()
    sim.link.symlink_to(device)
    sim.start(cameras=False)
    sim.wait(sim.ended, "end")
    assert sim.process.returncode == 1
    assert "exists already" in sim.text()
    assert os.readlink(sim.link) == str(device)


def test_dead_renderer_ends_the_simulator_with_a_sentence(sim: Sim) -> None:
    sim.start()
    sim.wait(lambda: "servos answer" in sim.text() and bool(sim.children()), "renderer")
    for child in sim.children():
        child.kill()
    sim.wait(sim.ended, "end", 15.0)
    assert sim.process.returncode == 1
    assert "the renderer stopped" in sim.text()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"calibration": "/no/such.json"}, "cannot read the calibration /no/such.json"),
        ({"port_link": "/proc/arm"}, "cannot make the link /proc/arm"),
        ({"faults": "/no/such.yaml"}, "cannot read the fault script /no/such.yaml"),
        ({"camera_rate_hz": 500.0}, "camera_rate_hz must be at most 60"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(
    sim: Sim, parameters: dict[str, Any], sentence: str
) -> None:
    sim.start(**parameters)
    sim.wait(sim.ended, "end")
    assert sim.process.returncode == 1
    assert sentence in sim.text()
    assert "Traceback" not in sim.text()
