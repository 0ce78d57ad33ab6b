"""A real camera must give what was asked for, or be refused with a sentence that helps.

No camera exists where these tests run: a stand-in for ``cv2.VideoCapture`` behaves as OpenCV's V4L2
code does, and a stand-in for ``ioctl`` fills the kernel's structures.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from so101_driver.camera_devices import CameraDevice, Mode, describe_modes, list_cameras, probe
from so101_driver.camera_source import SourceError, SourceSettings
from so101_driver.camera_v4l2 import DeviceSource

MODES = (
    Mode("YUYV", 640, 480, (30.0, 15.0)),
    Mode("MJPG", 1280, 720, (30.0,)),
    Mode("MJPG", 640, 480, (30.0,)),
    Mode("MJPG", 320, 240, (30.0,)),
)


def jpeg(width: int, height: int, level: int = 90) -> bytes:
    picture = np.full((height, width, 3), level, np.uint8)
    picture[: height // 2] = (0, 0, 255)  # red above, as OpenCV orders colours
    return cv2.imencode(".jpg", picture)[1].tobytes()


class FakeCapture:
    """A V4L2 camera as OpenCV shows it: sizes snap to the nearest that is offered."""

    def __init__(self, modes: tuple[Mode, ...] = MODES, **changes: Any) -> None:
        self.modes = modes
        self.fourcc = "YUYV"
        self.size = (640, 480)
        self.rate_hz = 30.0
        self.convert = True
        self.opened = True
        self.controls: dict[int, float] = {}
        self.refused: set[int] = set()
        self.stamp_ms = 5_000_000.0
        self.sends: Callable[[], Any] | None = None
        self.released = False
        for name, value in changes.items():
            setattr(self, name, value)

    def isOpened(self) -> bool:
        return self.opened

    def release(self) -> None:
        self.released = True

    def set(self, key: int, value: float) -> bool:
        if key in self.refused:
            return False
        if key == cv2.CAP_PROP_FOURCC:
            letters = int(value).to_bytes(4, "little").decode()
            if letters in {mode.fourcc for mode in self.modes}:
                self.fourcc = letters
        elif key == cv2.CAP_PROP_FRAME_WIDTH:
            self._width = int(value)
        elif key == cv2.CAP_PROP_FRAME_HEIGHT:
            sizes = [(m.width, m.height) for m in self.modes if m.fourcc == self.fourcc]
            self.size = min(sizes, key=lambda s: abs(s[0] - self._width) + abs(s[1] - value))
        elif key == cv2.CAP_PROP_FPS:
            self.rate_hz = min(value, 30.0)
        elif key == cv2.CAP_PROP_CONVERT_RGB:
            self.convert = bool(value)
        else:
            self.controls[key] = value
        return True

    def get(self, key: int) -> float:
        return {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*self.fourcc)),
            cv2.CAP_PROP_FRAME_WIDTH: float(self.size[0]),
            cv2.CAP_PROP_FRAME_HEIGHT: float(self.size[1]),
            cv2.CAP_PROP_FPS: self.rate_hz,
            cv2.CAP_PROP_POS_MSEC: self.stamp_ms,
        }[key]

    def read(self) -> tuple[bool, Any]:
        self.stamp_ms += 33.333
        if self.sends is not None:
            return self.sends()
        data = jpeg(*self.size)
        if self.fourcc == "MJPG" and not self.convert:
            return True, np.frombuffer(data, np.uint8).reshape(1, -1)
        return True, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture
def device(tmp_path: Path):
    """Makes a source of a fake camera; the device file exists."""
    path = tmp_path / "video0"
    path.touch()

    def make(camera: FakeCapture, modes: tuple[Mode, ...] = MODES, **settings: Any) -> DeviceSource:
        return DeviceSource(
            str(path),
            SourceSettings(**settings),
            opener=lambda _name, _api: camera,
            probe=lambda name: CameraDevice(name, "USB Camera", modes=modes),
        )

    return make


def test_mjpg_is_asked_for_and_passed_on_as_the_camera_compressed_it(device) -> None:
    camera = FakeCapture()
    source = device(camera)
    source.open()
    got = source.describe()
    assert (got.fourcc, got.width, got.height, got.rate_hz) == ("MJPG", 640, 480, 30.0)
    assert camera.convert is False
    picture = source.read()
    assert picture.to_jpeg(10) == picture.jpeg == jpeg(640, 480)
    assert picture.device_ns == pytest.approx(camera.stamp_ms * 1e6)
    red = picture.rgb()[100, 100].astype(int)
    assert red[0] > 200 > 60 > red[2], "red and blue are swapped"


def test_a_build_of_opencv_that_decodes_anyway_works_too(device) -> None:
    camera = FakeCapture(refused={cv2.CAP_PROP_CONVERT_RGB})
    source = device(camera)
    source.open()
    picture = source.read()
    assert picture.jpeg is None
    assert picture.rgb()[100, 100, 0] > 200
    assert picture.to_jpeg()[:2] == b"\xff\xd8"


def test_a_wrong_size_is_refused_with_what_was_wanted_got_and_is_offered(device) -> None:
    camera = FakeCapture()
    source = device(camera, width=800, height=600)
    with pytest.raises(SourceError) as refusal:
        source.open()
    sentence = str(refusal.value)
    assert "video0: wanted MJPG 800x600, got MJPG 640x480; it offers" in sentence
    assert "MJPG 1280x720@30, 640x480@30, 320x240@30" in sentence
    assert "\n" not in sentence
    assert camera.released, "the device must be free for others"


def test_a_driver_that_says_one_size_and_sends_another_is_refused(device) -> None:
    small = np.frombuffer(jpeg(320, 240), np.uint8).reshape(1, -1)
    source = device(FakeCapture(sends=lambda: (True, small)))
    with pytest.raises(SourceError, match="got MJPG 320x240"):
        source.open()


def test_a_camera_without_mjpg_is_refused_with_the_formats_that_it_has(device) -> None:
    modes = (Mode("YUYV", 640, 480, (30.0,)),)
    with pytest.raises(SourceError, match=r"wanted MJPG.*got YUYV 640x480; it offers YUYV"):
        device(FakeCapture(modes), modes).open()
    source = device(FakeCapture(modes), modes, fourcc="YUYV")
    source.open()
    assert source.read().bgr.shape == (480, 640, 3)


def test_another_rate_is_told_and_taken(device) -> None:
    source = device(FakeCapture(), rate_hz=60.0)
    source.open()
    assert source.describe().rate_hz == 30.0
    assert source.describe().notes == ("asked for 60 pictures per second, the camera gives 30",)


def test_focus_is_switched_off_and_automatic_exposure_on_by_default(device) -> None:
    camera = FakeCapture()
    device(camera).open()
    assert camera.controls[cv2.CAP_PROP_AUTOFOCUS] == 0
    assert camera.controls[cv2.CAP_PROP_AUTO_EXPOSURE] == 3
    assert camera.controls[cv2.CAP_PROP_AUTO_WB] == 1
    assert cv2.CAP_PROP_FOCUS not in camera.controls


def test_fixed_exposure_focus_and_white_balance_are_set_in_the_drivers_units(device) -> None:
    camera = FakeCapture()
    device(camera, exposure_s=0.01, focus=40, white_balance_k=4600).open()
    assert camera.controls[cv2.CAP_PROP_AUTO_EXPOSURE] == 1
    assert camera.controls[cv2.CAP_PROP_EXPOSURE] == pytest.approx(100)
    assert camera.controls[cv2.CAP_PROP_FOCUS] == 40
    assert camera.controls[cv2.CAP_PROP_AUTO_WB] == 0
    assert camera.controls[cv2.CAP_PROP_WB_TEMPERATURE] == 4600


def test_only_refused_controls_that_were_asked_for_are_told(device) -> None:
    keys = {cv2.CAP_PROP_AUTOFOCUS, cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE}
    plain = device(FakeCapture(refused=keys))
    plain.open()
    assert plain.describe().notes == ()
    asked = device(FakeCapture(refused=keys), exposure_s=0.02, autofocus=True)
    asked.open()
    assert asked.describe().notes == (
        "the camera does not take autofocus",
        "the camera does not take exposure_s",
    )


def test_cut_off_pictures_are_skipped_and_counted(device) -> None:
    whole = jpeg(640, 480)
    queue = [whole, whole[: len(whole) // 2], b"\0" * 100, whole + b"\0" * 64]
    source = device(
        FakeCapture(sends=lambda: (True, np.frombuffer(queue.pop(0), np.uint8).reshape(1, -1)))
    )
    source.open()
    assert source.read().jpeg == whole
    assert source.unusable == 2


def test_a_camera_that_sends_only_rubbish_is_given_up(device) -> None:
    rubbish = np.zeros((1, 100), np.uint8)
    with pytest.raises(SourceError, match="incomplete pictures only"):
        device(FakeCapture(sends=lambda: (True, rubbish))).open()


def test_an_unplugged_camera_is_told_and_let_go(device, tmp_path: Path) -> None:
    camera = FakeCapture()
    source = device(camera)
    source.open()
    camera.sends = lambda: (False, None)
    with pytest.raises(SourceError, match="video0 sends nothing: it was unplugged"):
        source.read()
    source.close()
    source.close()
    assert camera.released
    (tmp_path / "video0").unlink()
    with pytest.raises(SourceError, match="is not there"):
        source.open()


def test_a_camera_in_use_and_one_without_permission_are_told_apart(device, tmp_path) -> None:
    with pytest.raises(SourceError, match="another program may be using it"):
        device(FakeCapture(opened=False)).open()
    source = DeviceSource(
        str(tmp_path / "video0"),
        SourceSettings(),
        opener=lambda *_: FakeCapture(),
        probe=lambda name: CameraDevice(name, problem=f"{name} may not be opened by you: join"),
    )
    with pytest.raises(SourceError, match="may not be opened by you"):
        source.open()


# The kernel's lists.


def fake_ioctl(modes: tuple[Mode, ...], capabilities: int = 0x84200001, own: int = 0x04200001):
    """An ioctl of a camera with these modes, whose structures are laid out as in videodev2.h."""

    def code(fourcc: str) -> int:
        return int.from_bytes(fourcc.encode(), "little")

    formats = list(dict.fromkeys(mode.fourcc for mode in modes))

    def end() -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def ioctl(_handle: int, request: int, data: bytearray) -> int:
        assert (request >> 16) & 0x3FFF == len(data), "the request's size is not the structure's"
        number = request & 0xFF
        if number == 0:
            struct.pack_into("=16s32s32sIII", data, 0, b"uvcvideo", b"USB Cam", b"usb-1.2", 0,
                             capabilities, own)  # fmt: skip
            return 0
        (index,) = struct.unpack_from("=I", data)
        if number == 2:
            if index >= len(formats):
                end()
            struct.pack_into("=I", data, 44, code(formats[index]))
        elif number == 74:
            (wanted,) = struct.unpack_from("=I", data, 4)
            sizes = [(m.width, m.height) for m in modes if code(m.fourcc) == wanted]
            if index >= len(sizes):
                end()
            struct.pack_into("=III", data, 8, 1, *sizes[index])
        else:
            wanted, width, height = struct.unpack_from("=III", data, 4)
            rates = [
                rate
                for m in modes
                if (code(m.fourcc), m.width, m.height) == (wanted, width, height)
                for rate in m.rates_hz
            ]
            if index >= len(rates):
                end()
            struct.pack_into("=III", data, 16, 1, 1, round(rates[index]))
        return 0

    return ioctl


def test_formats_sizes_and_rates_are_read_from_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "video0"
    path.touch()
    device = probe(str(path), (), fake_ioctl(MODES))
    assert device == CameraDevice(str(path), "USB Cam", "usb-1.2", (), MODES)
    assert describe_modes(device.modes) == (
        "YUYV 640x480@30; MJPG 1280x720@30, 640x480@30, 320x240@30"
    )


def test_cameras_are_listed_in_order_with_their_stable_names(tmp_path: Path) -> None:
    for name in ("video10", "video2", "videofoo", "ttyACM0"):
        (tmp_path / name).touch()
    links = tmp_path / "v4l" / "by-id"
    links.mkdir(parents=True)
    (links / "usb-Cam_123-video-index0").symlink_to("../../video10")
    found = list_cameras(tmp_path, fake_ioctl(MODES[:1]))
    assert [Path(device.path).name for device in found] == ["video2", "video10"]
    assert found[1].links == (str(links / "usb-Cam_123-video-index0"),)


def test_metadata_files_and_other_devices_are_no_cameras(tmp_path: Path) -> None:
    path = tmp_path / "video1"
    path.touch()
    assert probe(str(path), (), fake_ioctl(MODES, own=0x04A00000)) is None
    assert probe(str(path)) is None, "a plain file answers no ioctl"


def test_a_device_that_cannot_be_opened_stays_in_the_list_with_the_reason(tmp_path: Path) -> None:
    device = probe(str(tmp_path / "video7"))
    assert device is not None
    assert "cannot be opened: No such file" in device.problem


def test_a_camera_with_any_size_up_to_a_largest_one(tmp_path: Path) -> None:
    path = tmp_path / "video0"
    path.touch()
    usual = fake_ioctl((Mode("MJPG", 1, 1, ()),))

    def ioctl(handle: int, request: int, data: bytearray) -> int:
        usual(handle, request, data)
        if request & 0xFF == 74:
            struct.pack_into("=I6I", data, 8, 3, 32, 1920, 8, 32, 1080, 8)
        return 0

    assert probe(str(path), (), ioctl).modes == (Mode("MJPG", 1920, 1080, ()),)
