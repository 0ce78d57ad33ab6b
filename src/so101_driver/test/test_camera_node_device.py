"""The camera node with a device: what is on the wire of a webcam, and what a listener receives.

There is no webcam here; the node runs in this process with a stand-in for ``cv2.VideoCapture``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from so101_driver.camera_devices import CameraDevice, Mode
from so101_driver.camera_source import Picture
from so101_driver.camera_v4l2 import DeviceSource
from so101_driver.nodes import camera_node

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

PERIOD_S = 0.02
AGE_S = 0.015
"""How long before its delivery the stand-in says that a picture was taken."""


class Webcam:
    """A V4L2 camera as OpenCV shows it; ``plugged`` is its cable."""

    def __init__(self) -> None:
        self.plugged = True
        self.stamps = True
        self.sent: list[bytes] = []
        self._step = 0

    def isOpened(self) -> bool:
        return self.plugged

    def release(self) -> None:
        pass

    def set(self, _key: int, _value: float) -> bool:
        return True

    def get(self, key: int) -> float:
        if key == cv2.CAP_PROP_POS_MSEC:
            return 1e3 * (time.monotonic() - AGE_S) if self.stamps else 0.0
        return {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"MJPG")),
            cv2.CAP_PROP_FRAME_WIDTH: 64.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 48.0,
            cv2.CAP_PROP_FPS: 1 / PERIOD_S,
        }[key]

    def read(self) -> tuple[bool, Any]:
        time.sleep(PERIOD_S)
        if not self.plugged:
            return False, None
        self._step += 1
        picture = np.full((48, 64, 3), 90, np.uint8)
        picture[:24] = (0, 0, 255)  # red above, as OpenCV orders colours
        picture[24:, : self._step % 50] = 220
        data = cv2.imencode(".jpg", picture)[1].tobytes()
        self.sent.append(data)
        # The buffer is longer than the picture, as many drivers' are.
        return True, np.frombuffer(data + b"\0" * 100, np.uint8).reshape(1, -1)


class Bench:
    """The node, its webcam and a listener."""

    def __init__(self, context: rclpy.Context, path: Path) -> None:
        self.webcam = Webcam()
        self.path = path
        self.node: Any = None
        self._context = context
        self.listener = rclpy.create_node("listener", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.listener)
        self.reports = self.listen(DiagnosticArray, "/diagnostics")

    def start(self, **parameters: Any) -> None:
        given = {"device": str(self.path), "view": "face_view", "width": 64, "height": 48}
        given |= {"rate_hz": 1 / PERIOD_S, "reconnect_s": 0.1, **parameters}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        self.node = camera_node.CameraNode(context=self._context, parameter_overrides=overrides)
        self._executor.add_node(self.node)
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def listen(self, message_type: type, topic: str) -> list[Any]:
        messages: list[Any] = []
        self.listener.create_subscription(message_type, topic, messages.append, 10)
        return messages

    def wait(self, what: str, done: Callable[[], bool], timeout_s: float = 15.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline_s, f"no {what} within {timeout_s} s"
            self._executor.spin_once(timeout_sec=0.05)

    def reported(self, words: str) -> dict[str, str] | None:
        for array in reversed(self.reports):
            if words in array.status[0].message:
                return {entry.key: entry.value for entry in array.status[0].values}
        return None

    def close(self) -> None:
        if self.node is not None:
            self.node.close()
        self._executor.shutdown()
        for node in (self.node, self.listener):
            if node is not None:
                node.destroy_node()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    path = tmp_path / "video0"
    path.touch()
    context = rclpy.Context()
    rclpy.init(context=context)
    bench = Bench(context, path)
    modes = (Mode("MJPG", 64, 48, (50.0,)),)
    monkeypatch.setattr(
        camera_node,
        "make_source",
        lambda name, settings: DeviceSource(
            name,
            settings,
            opener=lambda *_: bench.webcam,
            probe=lambda device: CameraDevice(device, modes=modes),
        ),
    )
    yield bench
    bench.close()
    rclpy.shutdown(context=context)


def stamp_s(message: Any) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def test_the_cameras_own_jpeg_goes_out_and_raw_is_its_decoded_rgb(bench: Bench) -> None:
    compressed = bench.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    raw = bench.listen(Image, "camera/face_view/image_raw")
    bench.start()
    bench.wait("pictures", lambda: len(compressed) >= 5 and len(raw) >= 5)
    sent = set(bench.webcam.sent)
    assert all(bytes(message.data) in sent for message in compressed)
    pixels = np.frombuffer(raw[-1].data, np.uint8).reshape(48, 64, 3)
    assert pixels[5, 30, 0] > 200 > 60 > pixels[5, 30, 2], "red and blue are swapped"


def test_pictures_are_decoded_only_while_somebody_wants_them_raw(bench: Bench, monkeypatch) -> None:
    """Decoding is what costs: two cameras at 30 Hz must not take a core from the arm's loops."""
    decoded = []
    whole = Picture.rgb
    monkeypatch.setattr(Picture, "rgb", lambda picture: decoded.append(1) or whole(picture))
    compressed = bench.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    bench.start()
    bench.wait("pictures", lambda: len(compressed) >= 5)
    assert not decoded
    raw = bench.listen(Image, "camera/face_view/image_raw")
    bench.wait("raw pictures", lambda: len(raw) >= 1)
    assert decoded


def test_the_devices_stamps_are_used_and_mapped_to_ros_time(bench: Bench) -> None:
    compressed = bench.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    bench.start(latency_s=1.0)
    before_s = time.time()
    bench.wait("pictures", lambda: len(compressed) >= 5)
    assert before_s - 0.5 < stamp_s(compressed[0]), "the latency is not for stamped pictures"
    stamps = [stamp_s(message) for message in compressed]
    assert stamps == sorted(set(stamps))
    bench.wait("a report", lambda: bench.reported("pictures per second") is not None)
    values = bench.reported("pictures per second")
    assert values["stamps"] == "the device's own stamps"
    assert 1e3 * AGE_S - 1 <= float(values["latency_p50_ms"]) < 500


def test_without_stamps_the_latency_is_subtracted_and_said(bench: Bench) -> None:
    bench.webcam.stamps = False
    compressed = bench.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    bench.start(latency_s=0.9)
    bench.wait("pictures", lambda: len(compressed) >= 3)
    assert 0.89 < time.time() - stamp_s(compressed[-1]) < 3.0
    bench.wait("a report", lambda: bench.reported("pictures per second") is not None)
    values = bench.reported("pictures per second")
    assert values["stamps"] == "the time of arrival minus latency_s"


def test_an_unplugged_webcam_is_an_error_and_comes_back(bench: Bench) -> None:
    compressed = bench.listen(CompressedImage, "camera/face_view/image_raw/compressed")
    bench.start()
    bench.wait("pictures", lambda: len(compressed) >= 3)
    bench.webcam.plugged = False
    bench.path.unlink()
    bench.wait("an error", lambda: bench.reported("is not there") is not None)
    before = len(compressed)
    bench.webcam.plugged = True
    bench.path.touch()
    bench.wait("pictures again", lambda: len(compressed) >= before + 3)
    stamps = [stamp_s(message) for message in compressed]
    assert stamps == sorted(set(stamps))


def test_a_wrong_size_fails_the_transition_and_lets_the_device_go(bench: Bench, capsys) -> None:
    with pytest.raises(AssertionError):
        bench.start(width=640, height=480)
    assert "wanted MJPG 640x480, got MJPG 64x48; it offers MJPG 64x48@50" in capsys.readouterr().err
