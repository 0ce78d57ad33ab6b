"""Only the newest picture reaches the listener, and a camera that was unplugged comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from so101_driver.camera_capture import CameraCapture, StampedPicture
from so101_driver.camera_source import Description, Picture, SourceError, SourceKind
from so101_driver.camera_stamps import Arrival, StampMapper, StampSource

PICTURE = np.zeros((4, 6, 3), np.uint8)


class FakeSource:
    """A camera whose cable a test can pull; ``step`` lets one picture through."""

    def __init__(self, live: bool = True, rate_hz: float = 100.0) -> None:
        self.live = live
        self.unusable = 0
        self.rate_hz = rate_hz
        self.size = self.offers = (6, 4)
        self.plugged = True
        self.refuses = ""
        self.stamps = False
        self.opens = 0
        self.closed = False
        self.threads: set[int] = set()
        self._allowed = threading.Semaphore(0)

    def step(self, pictures: int = 1) -> None:
        for _ in range(pictures):
            self._allowed.release()

    def open(self) -> None:
        self.opens += 1
        self.threads.add(threading.get_ident())
        if not self.plugged or self.refuses:
            raise SourceError(self.refuses or "camera fake is not there.")
        self.closed = False

    def read(self) -> Picture:
        self.threads.add(threading.get_ident())
        if self.live:
            assert self._allowed.acquire(timeout=10.0), "the test let no picture through"
        if not self.plugged:
            raise SourceError("camera fake sends nothing.")
        device_ns = time.monotonic_ns() if self.stamps else None
        return Picture(*self.size, bgr=PICTURE, device_ns=device_ns)

    def describe(self) -> Description:
        return Description(SourceKind.DEVICE, "fake", *self.offers, self.rate_hz, "MJPG")

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed = True


def until(done: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


class Listener:
    def __init__(self) -> None:
        self.pictures: list[StampedPicture] = []
        self.changes: list[str] = []
        self.crashes: list[Exception] = []
        self.busy = threading.Event()
        self.may_take = threading.Event()
        self.may_take.set()

    def deliver(self, picture: StampedPicture) -> None:
        self.busy.set()
        self.may_take.wait(5.0)
        self.pictures.append(picture)


@pytest.fixture
def started() -> Iterator[Callable[[FakeSource], tuple[CameraCapture, Listener]]]:
    captures: list[tuple[CameraCapture, FakeSource]] = []

    def start(source: FakeSource) -> tuple[CameraCapture, Listener]:
        listener = Listener()
        capture = CameraCapture(
            source,
            StampMapper(0.0),
            lambda: Arrival(time.monotonic_ns(), time.monotonic_ns()),
            listener.deliver,
            listener.changes.append,
            listener.crashes.append,
            reconnect_s=0.02,
        )
        capture.start()
        captures.append((capture, source))
        return capture, listener

    yield start
    for capture, source in captures:
        capture._stop.set()
        source.step()  # a real device gives a picture, or gives up after two seconds
        assert capture.stop()


def test_pictures_arrive_in_order_with_increasing_stamps(started) -> None:
    source = FakeSource()
    _, listener = started(source)
    for count in range(1, 6):
        source.step()
        until(lambda count=count: len(listener.pictures) == count)
    stamps = [picture.stamp_ns for picture in listener.pictures]
    assert stamps == sorted(set(stamps))


def test_a_slow_listener_gets_the_newest_and_the_rest_is_counted(started) -> None:
    source = FakeSource()
    capture, listener = started(source)
    listener.may_take.clear()
    source.step()
    assert listener.busy.wait(5.0)
    source.step(4)
    until(lambda: capture.counters["pictures"] == 5)
    listener.may_take.set()
    until(lambda: len(listener.pictures) == 2)
    time.sleep(0.02)
    assert len(listener.pictures) == 2
    assert capture.counters["dropped"] == 3


def test_an_unplugged_camera_comes_back_without_a_restart(started) -> None:
    source = FakeSource()
    capture, listener = started(source)
    source.step()
    until(lambda: len(listener.pictures) == 1)
    source.plugged = False
    source.step()
    until(lambda: source.opens >= 3)
    assert source.closed, "a device that stays open gets another name when it is plugged in"
    assert capture.problem == "camera fake is not there."
    source.plugged = True
    until(lambda: capture.problem == "")
    source.step()
    until(lambda: len(listener.pictures) == 2)
    assert listener.changes == ["camera fake sends nothing.", ""]
    assert capture.counters["reconnections"] == 1


def test_a_camera_that_comes_back_may_stamp_its_pictures_again(started) -> None:
    source = FakeSource()
    capture, _ = started(source)
    source.step()
    until(lambda: capture._stamps.source is StampSource.ARRIVAL)
    source.plugged = False
    source.step()
    until(lambda: bool(capture.problem))
    source.plugged = source.stamps = True
    until(lambda: not capture.problem)
    source.step()
    until(lambda: capture.counters["pictures"] == 2)
    assert capture._stamps.source is StampSource.DEVICE


def test_a_camera_that_comes_back_with_a_wrong_size_stays_out_and_says_why(started) -> None:
    source = FakeSource()
    capture, listener = started(source)
    source.plugged = False
    source.step()
    until(lambda: bool(capture.problem))
    source.plugged, source.refuses = True, "camera fake: wanted 640x480, got 320x240."
    until(lambda: "wanted 640x480" in capture.problem)
    assert not listener.pictures


def test_a_size_that_changes_while_it_runs_is_never_published(started) -> None:
    source = FakeSource()
    _, listener = started(source)
    source.step()
    until(lambda: len(listener.pictures) == 1)
    source.size = (3, 2)
    source.step()
    until(lambda: source.opens == 1)
    assert listener.changes[0] == "camera fake has changed from 6x4 to 3x2."
    source.size = (6, 4)
    source.step(2)
    until(lambda: len(listener.pictures) >= 2)
    assert {picture.picture.width for picture in listener.pictures} == {6}


def test_what_comes_back_with_another_size_stays_out_until_it_has_the_old_one(started) -> None:
    """A file is taken as it is, but who listens was promised the size of the first one."""
    source = FakeSource()
    capture, listener = started(source)
    source.plugged = False
    source.step()
    until(lambda: bool(capture.problem))
    source.plugged, source.size, source.offers = True, (3, 2), (3, 2)
    until(lambda: capture.problem == "camera fake has changed from 6x4 to 3x2.")
    assert source.closed
    source.size = source.offers = (6, 4)
    until(lambda: not capture.problem)
    source.step()
    until(lambda: bool(listener.pictures))
    assert listener.changes == ["camera fake sends nothing.", ""]
    assert {picture.picture.width for picture in listener.pictures} == {6}


def test_files_are_paced(started) -> None:
    source = FakeSource(live=False, rate_hz=50.0)
    _, listener = started(source)
    until(lambda: len(listener.pictures) >= 21)
    stamps_s = np.array([picture.stamp_ns for picture in listener.pictures]) * 1e-9
    # Ten periods; a busy machine may make either end late.
    spans_s = stamps_s[10:] - stamps_s[:-10]
    assert spans_s.max() > 0.199
    assert spans_s.min() < 0.4


def test_one_thread_only_touches_the_device(started) -> None:
    source = FakeSource()
    capture, _ = started(source)
    source.step()
    source.plugged = False
    source.step()
    until(lambda: source.opens >= 1)
    source.step()
    assert capture.stop()
    assert len(source.threads) == 1
    assert source.closed


def test_a_bug_in_the_listener_is_reported_instead_of_silence(started) -> None:
    source = FakeSource()
    capture, listener = started(source)

    def broken(_picture: StampedPicture) -> None:
        raise RuntimeError("bug")

    capture._deliver = broken
    source.step()
    until(lambda: bool(listener.crashes))
    assert str(listener.crashes[0]) == "bug"
