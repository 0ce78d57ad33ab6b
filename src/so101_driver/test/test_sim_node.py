"""The simulator as a process: what it publishes, how it ends, and that it leaves nothing behind.

It has to outlast the driver when everything is stopped at once, and its renderer must not outlast
it when it is killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
pytest.importorskip("mujoco")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from so101_driver import protocol
from so101_driver import registers as reg
from wallx_msgs.msg import WireLog
from wallx_msgs.srv import ResetScene

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.fixture
def sim(node_process: Callable[[str], Any]) -> Any:
    """One simulator process and a listener in this process."""
    return node_process("sim_node")


def link(sim: Any) -> Path:
    return sim.folder / "run" / "arm"


def start(sim: Any, *parameters: str) -> None:
    sim.start(f"port_link:={link(sim)}", *parameters)


def children(sim: Any) -> list[psutil.Process]:
    return psutil.Process(sim.process.pid).children(recursive=True)


def open_port(sim: Any) -> int:
    sim.wait("port", link(sim).exists)
    return os.open(link(sim), os.O_RDWR | os.O_NOCTTY)


def answers(port: int) -> bool:
    os.write(port, protocol.ping(1))
    time.sleep(0.1)
    return protocol.status(1) in os.read(port, 4096)


def test_publishes_cameras_objects_diagnostics_and_the_wire(sim: Any) -> None:
    start(sim, "frame_prefix:=left_")
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
    sim.wait("pictures", lambda: all(len(messages) >= 2 for messages in pictures.values()))
    sim.wait("objects", lambda: bool(objects))
    sim.wait("active diagnostics", lambda: any(d.status[0].values for d in diagnostics))

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

    port = open_port(sim)
    os.write(port, protocol.sync_write(42, {1: reg.GOAL_POSITION.encode(2100)}))
    sim.wait("wire log", lambda: bool(wire))
    os.close(port)
    assert list(wire[-1].servo_ids) == [1]
    assert list(wire[-1].goal_ticks) == [2100]


def test_reset_places_the_cubes_by_seed(sim: Any) -> None:
    start(sim, "cameras:=false", "seed:=1")
    objects = sim.listen(MarkerArray, "sim/objects")
    client = sim.node.create_client(ResetScene, "sim/reset")
    sim.wait("objects", lambda: bool(objects))
    sim.wait("reset service", client.service_is_ready)

    def position_after(seed: int) -> tuple[float, float]:
        future = client.call_async(ResetScene.Request(seed=seed))
        sim.wait("reset", future.done)
        assert future.result().success, future.result().message
        # The message may still be one of before: a later stamp than now is surely after.
        now_s = time.time()
        sim.wait("fresh objects", lambda: _stamp_s(objects[-1].markers[0]) > now_s)
        position = objects[-1].markers[0].pose.position
        return position.x, position.y

    first = position_after(11)
    assert position_after(12) != pytest.approx(first, abs=1e-3)
    assert position_after(11) == pytest.approx(first, abs=1e-4)


def _stamp_s(marker: Any) -> float:
    return marker.header.stamp.sec + marker.header.stamp.nanosec * 1e-9


def test_faults_come_from_a_file_and_from_a_topic(sim: Any, tmp_path: Path) -> None:
    script = tmp_path / "faults.yaml"
    script.write_text("- {fault: mute, servo: 4}\n")
    start(sim, "cameras:=false", f"faults:={script}")
    faults = sim.node.create_publisher(String, "sim/fault", 10)

    def say(text: str, answer: str) -> None:
        sim.wait("subscriber", lambda: faults.get_subscription_count() > 0)
        faults.publish(String(data=text))
        sim.wait(answer, lambda: answer in sim.text())

    port = open_port(sim)
    assert heard(port) == [1, 2, 3, 5, 6]
    say("clear", "faults cleared")
    assert heard(port) == [1, 2, 3, 4, 5, 6]
    say("fault: mute, servo: 9", "there is no servo 9")
    say("rubbish", "'rubbish' is no fault")
    say("fault: [mute]", "is none of drop")
    first = os.readlink(link(sim))
    say("fault: unplug", "fault unplug injected")
    sim.wait("unplugged", lambda: not os.path.lexists(link(sim)))
    os.close(port)
    faults.publish(String(data="clear"))
    port = open_port(sim)
    assert heard(port) == [1, 2, 3, 4, 5, 6]
    assert first.startswith("/dev/pts/")
    os.close(port)


def heard(port: int) -> list[int]:
    os.write(port, protocol.sync_read(range(1, 7), 56, 4))
    time.sleep(0.1)
    return [packet.servo_id for packet in protocol.StatusParser().feed(os.read(port, 4096))]


def test_keeps_answering_after_signals_until_the_driver_closes_the_port(sim: Any) -> None:
    start(sim)
    port = open_port(sim)
    sim.wait("renderer", lambda: "servos answer" in sim.text() and children(sim))
    renderer = children(sim)
    sim.process.send_signal(signal.SIGINT)
    sim.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert not sim.ended()
    assert answers(port)
    os.close(port)
    sim.wait("end", sim.ended, 10.0)
    assert sim.process.returncode == 0, sim.text()
    assert not link(sim).is_symlink()
    assert not any(child.is_running() for child in renderer)


def test_does_not_wait_for_the_driver_forever(sim: Any) -> None:
    start(sim, "cameras:=false", "ending_timeout_s:=0.5")
    port = open_port(sim)
    sim.process.send_signal(signal.SIGTERM)
    sim.wait("end", sim.ended, 10.0)
    os.close(port)
    assert "still has the port open" in sim.text()


def test_renderer_dies_with_a_killed_simulator_and_a_new_one_takes_over_the_link(
    sim: Any,
) -> None:
    shared_before = set(os.listdir("/dev/shm"))
    start(sim)
    sim.wait("renderer", lambda: "servos answer" in sim.text() and bool(children(sim)))
    renderer = children(sim)
    sim.process.kill()
    sim.process.wait()
    psutil.wait_procs(renderer, timeout=10.0)
    # Whoever adopts orphans may reap late: a zombie here has ended.
    assert not [c for c in renderer if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    left = set(os.listdir("/dev/shm")) - shared_before
    assert not [name for name in left if "fastrtps" not in name and "fastdds" not in name]

    assert link(sim).is_symlink()
    start(sim, "cameras:=false")
    sim.wait("new port", lambda: "servos answer" in sim.text())
    port = open_port(sim)
    assert answers(port)
    os.close(port)


def test_a_link_that_leads_to_no_pseudo_terminal_is_left_alone(sim: Any, tmp_path: Path) -> None:
    """It may be a real arm's, given by mistake."""
    device = tmp_path / "ttyACM0"
    device.touch()
    link(sim).parent.mkdir()
    link(sim).symlink_to(device)
    start(sim, "cameras:=false")
    sim.wait("end", sim.ended)
    assert sim.process.returncode == 1
    assert "exists already" in sim.text()
    assert os.readlink(link(sim)) == str(device)


def test_dead_renderer_ends_the_simulator_with_a_sentence(sim: Any) -> None:
    start(sim)
    sim.wait("renderer", lambda: "servos answer" in sim.text() and bool(children(sim)))
    for child in children(sim):
        child.kill()
    sim.wait("end", sim.ended, 15.0)
    assert sim.process.returncode == 1
    assert "the renderer stopped" in sim.text()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (("calibration:=/no/such.json",), "cannot read the calibration /no/such.json"),
        (("port_link:=/proc/arm",), "cannot make the link /proc/arm"),
        (("faults:=/no/such.yaml",), "cannot read the fault script /no/such.yaml"),
        (("camera_rate_hz:=500.0",), "camera_rate_hz must be at most 60"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(
    sim: Any, parameters: tuple[str, ...], sentence: str
) -> None:
    start(sim, *parameters)
    sim.wait("end", sim.ended)
    assert sim.process.returncode == 1
    assert sentence in sim.text()
    assert "Traceback" not in sim.text()
