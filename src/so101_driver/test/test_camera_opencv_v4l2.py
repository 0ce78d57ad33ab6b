"""OpenCV's own V4L2 code against a stand-in for the kernel: what the other tests take for granted.

``v4l2_stand_in.c`` answers the system calls of one device path, with the structures of the kernel's
header. This shows that this version of OpenCV hands out JPEG files and stamps as the driver gave
them; a real camera is still something else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = [
    pytest.mark.skipif(
        COMPILER is None or not Path("/usr/include/linux/videodev2.h").exists(),
        reason="needs a C compiler and the kernel's headers",
    ),
    pytest.mark.timeout(120),
]

PROGRAM = """
import sys, time
from pathlib import Path
from so101_driver.camera_devices import describe_modes, probe
from so101_driver.camera_source import SourceError, SourceSettings
from so101_driver.camera_v4l2 import DeviceSource

path = sys.argv[1]
device = probe(path)
print("device", device.name, device.bus, describe_modes(device.modes))
source = DeviceSource(path, SourceSettings())
source.open()
got = source.describe()
print("got", got.width, got.height, got.fourcc, got.rate_hz, got.notes)
whole = Path(sys.argv[2]).read_bytes()
for _ in range(5):
    picture = source.read()
    age_ms = (time.monotonic_ns() - picture.device_ns) * 1e-6
    same = picture.jpeg == whole
    print("picture", same, 9 <= age_ms < 2000, picture.rgb()[10, 10, 0] > 200)
try:
    DeviceSource(path, SourceSettings(width=320, height=240)).open()
except SourceError as error:
    print("refused", error)
unplugged = Path(path + ".unplugged")
unplugged.touch()
try:
    source.read()
except SourceError as error:
    print("lost", error)
source.close()
try:
    source.open()
except SourceError as error:
    print("still lost", error)
unplugged.unlink()
source.open()
print("back", source.read().width)
source.close()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a program says that goes through a camera's life."""
    folder = tmp_path_factory.mktemp("v4l2")
    library = folder / "stand_in.so"
    source = Path(__file__).with_name("v4l2_stand_in.c")
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    picture = np.full((480, 640, 3), 90, np.uint8)
    picture[:240] = (0, 0, 255)  # red above, as OpenCV orders colours
    jpeg, device = folder / "picture.jpg", folder / "video0"
    cv2.imwrite(str(jpeg), picture)
    device.touch()
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "STAND_IN_DEVICE": str(device),
        "STAND_IN_JPEG": str(jpeg),
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(device), str(jpeg)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def line(said: list[str], start: str) -> str:
    return next(text for text in said if text.startswith(start))


def test_the_kernels_lists_are_read(said: list[str]) -> None:
    assert line(said, "device") == "device Stand-in usb-1.2 MJPG 640x480@30"


def test_size_format_and_rate_are_read_back(said: list[str]) -> None:
    assert line(said, "got") == "got 640 480 MJPG 30.0 ()"


def test_jpeg_files_and_stamps_arrive_as_the_driver_gave_them(said: list[str]) -> None:
    pictures = [text for text in said if text.startswith("picture")]
    assert pictures == ["picture True True True"] * 5


def test_a_size_that_the_driver_changes_is_refused(said: list[str]) -> None:
    text = line(said, "refused")
    assert "wanted MJPG 320x240, got MJPG 640x480; it offers MJPG 640x480@30." in text


def test_an_unplugged_device_is_noticed_and_opened_again(said: list[str]) -> None:
    assert "sends nothing: it was unplugged" in line(said, "lost")
    assert "cannot be opened: No such device" in line(said, "still lost")
    assert line(said, "back") == "back 640"
