"""A preview says what a camera shows; black, frozen and missing ones are not taken for good."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from so101_driver.camera_health import Finding
from so101_driver.camera_preview import Preview, contact_sheet, preview
from so101_driver.camera_source import Description, Picture, SourceError, SourceKind


class Camera:
    """A live source that gives pictures of a function, and fails after some."""

    live = True
    unusable = 0

    def __init__(self, picture, fails_after: int = 1000) -> None:
        self._picture = picture
        self._left = fails_after
        self.count = 0
        self.closed = False

    def open(self) -> None:
        pass

    def read(self) -> Picture:
        if self._left == 0:
            raise SourceError("camera /dev/video0 sends nothing.")
        self._left -= 1
        self.count += 1
        return Picture(64, 48, bgr=self._picture(self.count))

    def describe(self) -> Description:
        return Description(SourceKind.DEVICE, "/dev/video0", 64, 48, 30.0, "MJPG")

    def close(self) -> None:
        self.closed = True


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(60, 200, (48, 64, 3), dtype=np.uint8)


def still(_count: int) -> np.ndarray:
    return noise(1)


def black(_count: int) -> np.ndarray:
    return np.zeros((48, 64, 3), np.uint8)


def look(camera: Camera) -> Preview:
    ticks = iter(range(0, 10**12, 500_000_000))
    return preview("/dev/video0", make=lambda _n, _s: camera, clock_ns=lambda: next(ticks))


@pytest.mark.parametrize(
    ("picture", "finding"),
    [(noise, Finding.GOOD), (still, Finding.FROZEN), (black, Finding.BLACK)],
)
def test_what_the_pictures_show_is_found(picture, finding: Finding) -> None:
    camera = Camera(picture)
    shown = look(camera)
    assert shown.finding is finding
    assert shown.good is (finding is Finding.GOOD)
    assert shown.rate_hz == pytest.approx(30.0), "15 pictures in the clock's half second"
    assert camera.closed


def test_one_moving_picture_is_enough_not_to_be_frozen() -> None:
    assert look(Camera(lambda count: noise(min(count, 20)))).good


def test_a_camera_gets_time_to_find_its_exposure() -> None:
    assert look(Camera(lambda count: noise(count) if count > 20 else black(count))).good


def test_a_camera_that_stops_is_a_problem_not_a_crash() -> None:
    camera = Camera(noise, fails_after=3)
    shown = look(camera)
    assert "sends nothing" in shown.problem
    assert not shown.good
    assert camera.closed


def test_a_video_file_is_looked_at_like_a_camera(tmp_path) -> None:
    path = tmp_path / "desk.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for count in range(5):
        writer.write(noise(count))
    writer.release()
    shown = preview(str(path))
    assert shown.good
    assert shown.rate_hz is None
    assert shown.bgr is not None
    assert shown.bgr.shape == (48, 64, 3)


def test_the_sheet_has_a_tile_for_each_with_the_picture_in_it() -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 2] = 255
    shown = [(Preview("a", bgr=red), "a"), (Preview("b", problem="gone"), "b")]
    sheet = contact_sheet(shown)
    assert sheet.shape == (416, 960, 3)
    assert tuple(sheet[100, 240]) == (0, 0, 255)
    assert (sheet[:350, 480:] == 32).all(), "nothing where there is no picture"
    assert sheet[370:, 480:].max() > 100, "but a caption"
    assert contact_sheet(shown * 2).shape == (832, 1440, 3)
