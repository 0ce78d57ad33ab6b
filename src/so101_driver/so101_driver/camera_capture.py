"""Reads a camera in its own thread, keeps the newest picture only, comes back after unplugging."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from so101_driver.camera_source import CameraSource, Description, Picture, SourceError
from so101_driver.camera_stamps import Arrival, StampMapper


@dataclass(frozen=True, slots=True, eq=False)
class StampedPicture:
    """A picture and when it was taken.

    Attributes:
        picture: The picture.
        stamp_ns: ROS time at which it was taken.
        arrival: When it reached this process.
    """

    picture: Picture
    stamp_ns: int
    arrival: Arrival


class CameraCapture:
    """One thread reads the source, another one delivers the newest picture.

    Whoever listens was promised the size that the source has now, so no other one is delivered.

    Args:
        source: Already open.
        stamps: Makes stamps of arrivals.
        clock: Both clocks, read right after a picture came.
        deliver: Called with each newest picture, in the delivering thread.
        on_change: Called with one sentence when the camera was lost, and with "" when it is back.
        on_crash: Called with an exception that ended one of the threads: a bug.
        reconnect_s: How often a lost camera is looked for.

    Attributes:
        problem: One sentence while the camera is lost, otherwise empty.
        counters: Pictures, those replaced by newer ones before they were delivered, reconnections.
    """

    def __init__(
        self,
        source: CameraSource,
        stamps: StampMapper,
        clock: Callable[[], Arrival],
        deliver: Callable[[StampedPicture], None],
        on_change: Callable[[str], None],
        on_crash: Callable[[Exception], None],
        reconnect_s: float = 1.0,
    ) -> None:
        self.problem = ""
        self.counters: Counter[str] = Counter()
        self._source = source
        self._stamps = stamps
        self._clock = clock
        self._deliver = deliver
        self._on_change = on_change
        self._on_crash = on_crash
        self._reconnect_s = reconnect_s
        given = source.describe()
        self._size = given.width, given.height
        self._newest: StampedPicture | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (("capture", self._capture), ("deliver", self._hand_over))
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 3.0) -> bool:
        """End both threads and close the source; False if the device does not let go in time."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._on_crash(error)

    def _capture(self) -> None:
        try:
            while not self._stop.is_set():
                self._read_until_lost()
                self._reopen()
        finally:
            # In the thread that reads: OpenCV's objects are not for several.
            self._source.close()

    def _read_until_lost(self) -> None:
        given = self._source.describe()
        period_ns = int(1e9 / given.rate_hz)
        due_ns = self._clock().steady_ns
        while not self._stop.is_set():
            if not self._source.live:
                now_ns = self._clock().steady_ns
                # A reader that fell behind goes on from now instead of catching up.
                due_ns = max(due_ns + period_ns, now_ns)
                if self._stop.wait((due_ns - now_ns) * 1e-9):
                    return
            try:
                picture = self._source.read()
                self._check_size(picture)
            except SourceError as error:
                self.problem = str(error)
                self._source.close()
                self._on_change(self.problem)
                return
            self._take(picture)

    def _take(self, picture: Picture) -> None:
        arrival = self._clock()
        stamp_ns = self._stamps.stamp(picture.device_ns, arrival)
        if stamp_ns is None:
            return
        self.counters["pictures"] += 1
        with self._changed:
            if self._newest is not None:
                self.counters["dropped"] += 1
            self._newest = StampedPicture(picture, stamp_ns, arrival)
            self._changed.notify_all()

    def _reopen(self) -> None:
        while not self._stop.wait(self._reconnect_s):
            try:
                self._source.open()
                self._check_size(self._source.describe())
            except SourceError as error:
                self._source.close()
                # Why it is lost now may be another reason than at first, e.g. a wrong size.
                self.problem = str(error)
            else:
                self._stamps.reopened()
                self.counters["reconnections"] += 1
                self.problem = ""
                self._on_change("")
                return

    def _check_size(self, given: Picture | Description) -> None:
        if (given.width, given.height) != self._size:
            raise SourceError(
                f"camera {self._source.describe().name} has changed from "
                f"{self._size[0]}x{self._size[1]} to {given.width}x{given.height}."
            )

    def _hand_over(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._stop.is_set())
                newest, self._newest = self._newest, None
            if self._stop.is_set():
                return
            self._deliver(newest)
