"""The camera node on the real graph: what a policy, a recorder or any tool receives from it.

It plays videos and folders that the tests write; the messages must be those of the simulator's
cameras, or a policy that works in simulation would not work on the arm.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from node_bench import NodeBench, bench
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

TOPICS = {"image_raw/compressed": CompressedImage, "image_raw": Image, "camera_info": CameraInfo}


class Camera(NodeBench):
    """One camera process and a listener in this process."""

    def __init__(self, folder: Path, context: rclpy.Context) -> None:
        super().__init__(folder, context)
        self.reports = self.listen(DiagnosticArray, "/diagnostics")

    def start(self, device: Path | str, **parameters: Any) -> None:
        given = {"device": device, "view": "face_view", **parameters}
        self.launch("so101_driver.nodes.camera_node", given)

    def reported(self, level: int, words: str) -> dict[str, str] | None:
        """Values of the newest report with this level and these words."""
        for array in reversed(self.reports):
            status = array.status[0]
            if ord(status.level) == level and words in status.message:
                return {entry.key: entry.value for entry in status.values}
        return None


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Camera]:
    with bench(Camera, tmp_path) as camera:
        yield camera


def picture(step: int = 0) -> np.ndarray:
    """Red above, as OpenCV orders colours; a bar below that moves."""
    array = np.full((48, 64, 3), 100, np.uint8)
    array[:24] = (0, 0, 255)
    array[24:, 4 * step : 4 * step + 8] = 250
    return array


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "face.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for step in range(12):
        writer.write(picture(step))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for step in range(5):
        cv2.imwrite(str(path / f"{step}.jpg"), picture(step))
    return path


def stamp_s(message: Any) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def test_publishes_what_the_simulated_cameras_publish(camera: Camera, video: Path) -> None:
    received = {kind: camera.listen(t, f"camera/face_view/{kind}") for kind, t in TOPICS.items()}
    camera.start(video, frame_prefix="left_")
    camera.wait(lambda: all(len(messages) >= 12 for messages in received.values()), "pictures")

    raw = received["image_raw"][-1]
    assert (raw.width, raw.height, raw.encoding, raw.step) == (64, 48, "rgb8", 192)
    pixels = np.frombuffer(raw.data, np.uint8).reshape(48, 64, 3)
    assert pixels[5, 30, 0] > 200 > 60 > pixels[5, 30, 2], "red and blue are swapped"
    compressed = received["image_raw/compressed"][-1]
    assert compressed.format == "rgb8; jpeg compressed bgr8"
    decoded = cv2.imdecode(np.frombuffer(compressed.data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (48, 64, 3)
    assert decoded[5, 30, 2] > 200
    info = received["camera_info"][-1]
    assert (info.width, info.height, list(info.k)) == (64, 48, [0.0] * 9)
    for message in (raw, compressed, info):
        assert message.header.frame_id == "left_face_view_camera_optical_frame"

    stamps = [stamp_s(message) for message in received["image_raw/compressed"]]
    assert stamps == sorted(set(stamps))
    assert 0.0 <= time.time() - stamps[-1] < 5.0
    # Four periods of 20 Hz; a busy machine may make either end late.
    spans_s = np.array(stamps[4:]) - stamps[:-4]
    assert spans_s.max() > 0.199
    assert spans_s.min() < 0.35


def test_the_policy_takes_its_pictures(camera: Camera, video: Path) -> None:
    """Through the policy's own conversion, so that a change of either side is noticed."""
    messages = pytest.importorskip("wallx_policy.nodes.policy_messages")
    images = pytest.importorskip("wallx_policy.images")
    compressed = camera.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    raw = camera.listen(Image, "camera/face_view/image_raw")
    camera.start(video)
    camera.wait(lambda: len(compressed) >= 2 and len(raw) >= 2, "pictures")
    for message in (compressed[-1], raw[-1]):
        rgb = images.to_rgb(messages.image_payload(message))
        assert rgb.shape == (48, 64, 3)
        assert rgb[5, 30, 0] > 200


def test_jpeg_files_pass_through_unchanged_and_raw_is_made_only_for_its_listeners(
    camera: Camera, folder: Path
) -> None:
    compressed = camera.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    camera.start(folder)
    camera.wait(lambda: len(compressed) >= 6, "pictures")
    files = {path.read_bytes() for path in folder.iterdir()}
    assert all(bytes(message.data) in files for message in compressed)
    assert camera.node.count_publishers("camera/face_view/image_raw") == 1
    raw = camera.listen(Image, "camera/face_view/image_raw")
    camera.wait(lambda: len(raw) >= 2, "raw pictures")


def test_a_calibration_reaches_camera_info(camera: Camera, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "face.yaml"
    path.write_text(
        "image_width: 64\nimage_height: 48\ndistortion_model: plumb_bob\n"
        "camera_matrix: {data: [60, 0, 32, 0, 61, 24, 0, 0, 1]}\n"
        "distortion_coefficients: {data: [0.1, 0, 0, 0, 0]}\n"
        "rectification_matrix: {data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}\n"
        "projection_matrix: {data: [60, 0, 32, 0, 0, 61, 24, 0, 0, 0, 1, 0]}\n"
    )
    infos = camera.listen(CameraInfo, "camera/face_view/camera_info")
    camera.start(video, calibration=path)
    camera.wait(lambda: bool(infos), "camera_info")
    assert list(infos[0].k) == [60, 0, 32, 0, 61, 24, 0, 0, 1]
    assert list(infos[0].d) == [0.1, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_camera_that_vanishes_is_reported_and_taken_again_without_a_restart(
    camera: Camera, video: Path, folder: Path, kind: str
) -> None:
    path = video if kind == "video" else folder
    compressed = camera.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    camera.start(path, reconnect_s=0.2)
    camera.wait(lambda: len(compressed) >= 3, "pictures")
    away = path.with_name("away")
    path.rename(away)
    camera.wait(lambda: camera.reported(2, path.name) is not None, "an error")
    before = len(compressed)
    away.rename(path)
    camera.wait(lambda: len(compressed) >= before + 3, "new pictures")
    camera.reports.clear()
    camera.wait(lambda: camera.reported(0, "pictures per second") is not None, "recovery")
    assert camera.reported(0, "pictures")["reconnections"] == "1"
    assert "is back" in camera.text()
    stamps = [stamp_s(message) for message in compressed]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(("level", "word"), [(0, "black"), (120, "blank")])
def test_empty_pictures_are_reported(camera: Camera, tmp_path: Path, level: int, word: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.jpg"), np.full((48, 64, 3), level, np.uint8))
    camera.start(folder)
    camera.wait(lambda: camera.reported(1, f"the picture is {word}") is not None, "a warning")
    values = camera.reported(1, word)
    assert int(values[f"{word} pictures seen"]) >= 1
    assert camera.text().count(f"the picture is {word}") == 1, "said once, not for every picture"


def test_a_frozen_picture_is_reported(camera: Camera, tmp_path: Path) -> None:
    folder = tmp_path / "still"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.jpg"), picture())
    camera.start(folder, frozen_after_s=1.0)
    camera.wait(lambda: camera.reported(1, "the picture is frozen") is not None, "a warning")
    assert camera.reported(1, "frozen")["picture"] == "frozen"


def test_diagnostics_show_rate_delay_size_and_the_source_of_stamps(
    camera: Camera, video: Path
) -> None:
    camera.start(video)
    camera.wait(lambda: camera.reported(0, "pictures per second") is not None, "a report")
    values = camera.reported(0, "pictures per second")
    assert values["size"] == "64x48"
    assert values["stamps"] == "the time at which the file's picture was due"
    assert {"rate_hz", "latency_p50_ms", "pictures", "device", "brightness"} <= set(values)
    assert camera.reports[-1].status[0].name == f"{camera.namespace}/camera"
    assert camera.text().count("pictures are stamped by") == 1


@pytest.mark.parametrize(
    ("device", "parameters", "sentence"),
    [
        ("VIDEO", {"width": 640, "height": 480}, "wanted 640x480, got 64x48"),
        ("VIDEO", {"width": 640}, "give both width and height"),
        ("VIDEO", {"calibration": "/no/such.yaml"}, "/no/such.yaml does not exist"),
        ("VIDEO", {"pixel_format": "H264"}, "pixel_format must be one of MJPG, YUYV"),
        ("/dev/video77", {}, "camera /dev/video77 is not there"),
        ("/no/such.mp4", {}, "camera /no/such.mp4: No such file or directory"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(
    camera: Camera, video: Path, device: str, parameters: dict[str, Any], sentence: str
) -> None:
    camera.start(video if device == "VIDEO" else device, **parameters)
    camera.wait(camera.ended, "end")
    assert camera.process.returncode == 1
    assert sentence in camera.text()
    assert "Traceback" not in camera.text()


def test_the_lifecycle_opens_and_lets_go_and_signals_end_it(camera: Camera, video: Path) -> None:
    compressed = camera.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    camera.start(video, autostart=False)
    client = camera.node.create_client(ChangeState, "camera/change_state")
    camera.wait(client.service_is_ready, "service")

    def change(transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        future = client.call_async(request)
        camera.wait(future.done, "transition")
        return future.result().success

    assert change(1)  # configure
    assert not compressed
    for _ in range(2):
        assert change(3)  # activate
        before = len(compressed)
        camera.wait(lambda before=before: len(compressed) >= before + 3, "pictures")
        held = os.listdir(f"/proc/{camera.process.pid}/fd")
        assert str(video) in {
            os.path.realpath(f"/proc/{camera.process.pid}/fd/{fd}") for fd in held
        }
        assert change(4)  # deactivate
        held = os.listdir(f"/proc/{camera.process.pid}/fd")
        assert str(video) not in {
            os.path.realpath(f"/proc/{camera.process.pid}/fd/{fd}") for fd in held
        }
    assert change(2)  # clean up
    video.rename(video.with_name("away"))
    assert not change(1), "configuring must fail where there is nothing to open"
    assert not camera.ended()
    camera.process.send_signal(signal.SIGINT)
    camera.wait(camera.ended, "end", 10.0)
    assert camera.process.returncode == 0, camera.text()
