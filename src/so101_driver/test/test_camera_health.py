"""A covered, blind or stuck camera must not pass for a good one, nor a dim scene for a broken one.

The pictures are made up: levels and noise as small webcams have them.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from so101_driver.camera_health import Finding, FrozenWatch, look
from so101_driver.camera_monitor import CameraMonitor, Level

S = 1_000_000_000


def scene(level: float = 120.0, spread: float = 40.0, noise: float = 0.0, seed: int = 0):
    rows, columns = np.mgrid[0:480, 0:640]
    picture = level + spread * np.sin(columns / 40.0) * np.cos(rows / 30.0)
    if noise:
        picture = picture + np.random.default_rng(seed).normal(0.0, noise, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "finding"),
    [
        (scene(), Finding.GOOD),
        (scene(level=60, spread=20), Finding.GOOD),
        (scene(level=3, spread=0, noise=2), Finding.BLACK),
        (np.zeros((480, 640), np.uint8), Finding.BLACK),
        (scene(level=20, spread=8), Finding.DARK),
        (scene(level=300, spread=60), Finding.OVEREXPOSED),
        (np.full((480, 640), 255, np.uint8), Finding.OVEREXPOSED),
        (np.full((480, 640), 128, np.uint8), Finding.BLANK),
    ],
)
def test_what_one_picture_shows(picture, finding: Finding) -> None:
    assert look(picture).finding is finding


def test_a_bright_window_or_a_dark_corner_is_no_fault() -> None:
    window = scene()
    window[:200, :300] = 255
    assert look(window).finding is Finding.GOOD
    corner = scene()
    corner[:, :400] = 0
    assert look(corner).finding is Finding.GOOD


def test_a_lamp_in_a_dark_room_is_dark_and_not_black() -> None:
    picture = np.zeros((480, 640), np.uint8)
    picture[:24] = 200
    assert look(picture).finding is Finding.DARK


def test_every_finding_says_what_to_do() -> None:
    assert len({finding.value for finding in Finding}) == len(Finding)


def test_identical_pictures_are_frozen_after_the_time_and_not_before() -> None:
    watch = FrozenWatch(5.0)
    assert not watch.update(scene(), 0)
    assert not watch.update(scene(), 5 * S - 1)
    assert watch.update(scene(), 5 * S)
    assert not watch.update(scene(level=121), 6 * S)


def test_a_live_camera_looking_at_a_still_scene_is_not_frozen() -> None:
    """Sensor noise survives JPEG and the reduced size at which pictures are compared."""
    watch = FrozenWatch(5.0)
    for i in range(30):
        encoded = cv2.imencode(".jpg", scene(noise=1.0, seed=i), (cv2.IMWRITE_JPEG_QUALITY, 75))[1]
        small = cv2.imdecode(encoded, cv2.IMREAD_REDUCED_GRAYSCALE_4)
        assert not watch.update(small, i * S)


def test_almost_identical_pictures_are_frozen_too() -> None:
    """A device may encode the same picture again: a few pixels differ by one level."""
    watch = FrozenWatch(5.0)
    for i in range(11):
        picture = scene()
        picture[i, :50] += 1
        frozen = watch.update(picture, i * S)
    assert frozen


def test_slow_changes_add_up_and_a_restart_begins_anew() -> None:
    watch = FrozenWatch(2.0)
    for i in range(20):
        picture = scene()
        picture[: 6 * i] += 1  # sunrise: never enough from one picture to the next
        assert not watch.update(picture, i * S)
    watch = FrozenWatch(2.0)
    watch.update(scene(), 0)
    watch.forget()
    assert not watch.update(scene(), 10 * S)


def test_zero_never_reports() -> None:
    watch = FrozenWatch(0.0)
    watch.update(scene(), 0)
    assert not watch.update(scene(), 1000 * S)


def run(monitor: CameraMonitor, seconds: float, rate_hz: float, picture=None, start_ns: int = 0):
    """Publish pictures for some time; returns the end."""
    for i in range(round(seconds * rate_hz)):
        now_ns = start_ns + round(i / rate_hz * S)
        monitor.published(now_ns, 0.04)
        if picture is not None and monitor.due(now_ns):
            monitor.looked(picture, now_ns)
    return start_ns + round(seconds * S)


def test_a_good_camera_reports_its_rate_and_delay() -> None:
    monitor = CameraMonitor(30.0)
    monitor.started(0)
    report = monitor.report(run(monitor, 4.0, 30.0, scene()))
    assert report.level is Level.OK
    assert float(report.values["rate_hz"]) == pytest.approx(30.0, abs=1.0)
    assert report.values["latency_p50_ms"] == "40.0"
    assert report.values["picture"] == "good"


@pytest.mark.parametrize(
    ("picture", "word"),
    [(np.zeros((60, 80), np.uint8), "black"), (scene(), "frozen")],
)
def test_black_and_frozen_pictures_warn_and_are_counted(picture, word: str) -> None:
    monitor = CameraMonitor(30.0, frozen_after_s=2.0)
    monitor.started(0)
    report = monitor.report(run(monitor, 4.0, 30.0, picture))
    assert report.level is Level.WARN
    assert report.message.startswith(f"the picture is {word}")
    assert int(report.values[f"{word} pictures seen"]) >= 4
    assert report.values["picture"] == word


def test_a_finding_is_told_once_when_it_comes_and_once_when_it_goes() -> None:
    monitor = CameraMonitor(30.0)
    monitor.started(0)
    black = np.zeros((60, 80), np.uint8)
    told = [monitor.looked(p, i * S) for i, p in enumerate([scene(), black, black, scene()])]
    assert told == [None, Finding.BLACK, None, Finding.GOOD]


def test_pictures_are_looked_at_twice_a_second_only() -> None:
    monitor = CameraMonitor(30.0)
    monitor.started(0)
    looks = 0
    for i in range(60):
        if monitor.due(i * S // 30):
            looks += 1
            monitor.looked(scene(), i * S // 30)
    assert looks == 4


def test_a_slow_a_silent_and_a_lost_camera() -> None:
    monitor = CameraMonitor(30.0)
    monitor.started(0)
    end_ns = run(monitor, 4.0, 12.0)
    slow = monitor.report(end_ns)
    assert (slow.level, slow.message[:21]) == (Level.WARN, "12.0 pictures per sec")
    silent = monitor.report(end_ns + 2 * S)
    assert silent.level is Level.ERROR
    assert "no picture for 2." in silent.message
    lost = monitor.report(end_ns, "camera /dev/video0 is not there.")
    assert (lost.level, lost.message) == (Level.ERROR, "camera /dev/video0 is not there.")


def test_a_slow_camera_is_not_called_silent_between_two_pictures() -> None:
    monitor = CameraMonitor(0.5)
    monitor.started(0)
    end_ns = run(monitor, 20.0, 0.5)
    assert monitor.report(end_ns + S).level is Level.OK
